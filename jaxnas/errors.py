"""The errors jaxnas raises for bad input. Each message names what, where and what was expected."""

from __future__ import annotations

from typing import Any


class ArchitectureError(ValueError):
    """An architecture, a choice or an architecture file that does not fit."""


class DataError(ValueError):
    """Data of the wrong kind, shape or size."""


class RunError(ValueError):
    """A run directory that cannot be read or must not be overwritten."""


class RunEndedError(RunError):
    """A run directory holds a run of the same configuration that has finished: there is nothing left to do."""


class NonFiniteLossError(ArithmeticError):
    """A loss or gradient became NaN or infinite.

    Attributes:
      epoch, step: where it happened (both count from 0; `step` within the epoch).
      result: what was reached before: a `SearchResult` or `FitResult` whose values are those after
        the last step with finite losses and gradients.
    """

    def __init__(self, message: str, *, epoch: int, step: int, result: Any):
        super().__init__(message)
        self.epoch = epoch
        self.step = step
        self.result = result


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop by SIGTERM or Ctrl-C, and has saved what it had done.

    Attributes:
      signal: number of the signal.
    """

    def __init__(self, message: str, *, signal: int):
        super().__init__(message)
        self.signal = signal
