"""NNI's quickstart, line by line: search, export, apply, retrain. `python -m experiments.quickstart --help`."""

from experiments.quickstart.net import Net

__all__ = ["Net"]
