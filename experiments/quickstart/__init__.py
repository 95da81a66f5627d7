"""NNI's quickstart: search, export, apply, retrain. `python -m experiments.quickstart --help`."""

from experiments.quickstart.net import Net
from experiments.quickstart.steps import run

__all__ = ["Net", "run"]
