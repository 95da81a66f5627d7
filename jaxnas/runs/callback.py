"""What a callback is, and how it ends a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxnas.data import Dataset
from jaxnas.model.space import Space
from jaxnas.programs.evaluation import LossFn


class Stop(NamedTuple):
    """What `on_epoch_end` returns to end a run after this epoch.

    Attributes:
      reason: why, as a sentence without a full stop; it is printed and written to `result.json`.
      epoch: the epoch (from 0) whose architecture is the result. Default: this one.
    """

    reason: str
    epoch: int | None = None


class Step(NamedTuple):
    """What `on_step_end` is told.

    Attributes:
      epoch: the epoch under way, from 0.
      step: its steps done.
      steps: its steps in all.
      metrics: `{name: [k]}`, device arrays that are there already, of one of the last compiled calls (k steps).
      compile_seconds: what the last call took if it had to be compiled, else 0.
    """

    epoch: int
    step: int
    steps: int
    metrics: dict[str, jax.Array]
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Run:
    """A search or a training, as callbacks see it.

    Attributes:
      workdir: its directory, or None.
      config: what `config.json` holds.
      epochs: epochs in all.
      steps: steps of a whole epoch.
      history: the records of the epochs done; it grows while the run goes on, and on a resumed run it begins with
        those from before.
      model_fn: the model.
      dataset: its data.
      space: what is searched; None in a training.
      loss_fn: (output, labels) -> scalar mean.
      arch_examples: int `[n]`, the training examples on which the architecture is decided; None in a training.
      batch_size: examples per batch.
      seed: of the run.
    """

    workdir: Path | None
    config: dict[str, Any]
    epochs: int
    steps: int
    history: list[dict[str, Any]]
    model_fn: Any
    dataset: Dataset
    loss_fn: LossFn
    batch_size: int
    seed: int
    space: Space | None = None
    arch_examples: Any = None


class Callback:
    """Something that follows a run. Subclass it and override what you need.

    A run that goes on after an interruption calls `on_begin` anew, with the history so far: keep nothing else that a
    decision depends on, and put it into `metrics` if it costs something.
    """

    def on_begin(self, run: Run) -> None:
        """Called before the first step."""

    def on_step_end(self, step: Step) -> None:
        """Called after each compiled call of one or more steps."""

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        """Called after each epoch and its validation.

        Args:
          state: the algorithm's state (for DARTS with `alphas`), or the training's.
          metrics: the epoch's record, before it is added to the history: `epoch`, means of the step metrics, scores,
            `arch`, `probabilities`, … (see the algorithm's `search`). What is added to it is recorded too; it must
            be JSON-able.

        Returns:
          `Stop(reason)` to end the run here; else None.
        """

    def on_end(self) -> None:
        """Called when the run ends, however it ends."""
