"""NNI's quickstart: search, export, apply, retrain. `python -m jaxnas.quickstart --help`."""

from jaxnas.quickstart.net import Net
from jaxnas.quickstart.steps import run

__all__ = ["Net", "run"]
