"""ENAS on CIFAR-10: search, comparison with random architectures, final training. `python -m experiments.enas --help`."""
