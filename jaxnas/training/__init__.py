"""Training plain models."""

from jaxnas.training.retrain import FitResult, fit, paper_optimizer

__all__ = ["FitResult", "fit", "paper_optimizer"]
