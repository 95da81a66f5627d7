"""jaxnas compared with PyTorch and NNI: `python -m experiments.speed --help`."""
