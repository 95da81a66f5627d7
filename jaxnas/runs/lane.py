"""A run with one seed: by itself, or one of several whose states are stepped as one."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from jaxnas.errors import NonFiniteLossError
from jaxnas.runs.callback import Callback, Run
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.options import Running
from jaxnas.runs.progress import Reporter


@dataclasses.dataclass
class Lane:
    """One seed of a session.

    Attributes:
      run: what is run, as callbacks see it; its `history` grows.
      directory: its files.
      callbacks: what follows it.
      result: what it gave, once it has ended.
      error: why it ended, if it failed.
    """

    run: Run
    directory: RunDirectory
    callbacks: list[Callback]
    result: Any = None
    error: NonFiniteLossError | None = None

    @property
    def ended(self) -> bool:
        """Whether it has ended, well or not. It then only keeps its place among the others."""
        return self.result is not None


def make_lane(run: Run, running: Running, directory: RunDirectory, *, shared: bool = False) -> Lane:
    """A lane with the callbacks that a run asks for; with copies of them if other lanes have the same (`shared`)."""
    callbacks = [copy.copy(each) for each in running.callbacks] if shared else list(running.callbacks)
    if callable(running.progress):
        callbacks.append(Reporter(running.progress))
    return Lane(run, directory, callbacks)
