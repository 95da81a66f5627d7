"""Training plain models, and reading them back."""

from jaxnas.training.retrain import FitResult, fit, paper_optimizer
from jaxnas.training.saved import load_model

__all__ = ["FitResult", "fit", "load_model", "paper_optimizer"]
