"""What follows a run: logs, early stopping, and your own. See `Callback`."""

from jaxnas.callbacks.early_stopping import (
    AlphaEntropy,
    HessianEigenvalue,
    NoImprovement,
    SkipConnections,
    StableRanking,
)
from jaxnas.callbacks.tensorboard import TensorBoard
from jaxnas.runs.callback import Callback, Run, Step, Stop

__all__ = [
    "AlphaEntropy",
    "Callback",
    "HessianEigenvalue",
    "NoImprovement",
    "Run",
    "SkipConnections",
    "StableRanking",
    "Step",
    "Stop",
    "TensorBoard",
]
