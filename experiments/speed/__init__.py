"""jaxnas beside PyTorch and NNI: `python -m experiments.speed --help`."""
