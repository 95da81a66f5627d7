"""What a long run does beside its steps: it saves, tells, and stops when it should."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxnas.checks import check_at_least
from jaxnas.errors import Interrupted, RunError
from jaxnas.programs.epoch import Call, gathered
from jaxnas.runs import checkpoints
from jaxnas.runs.callback import Callback, Run, Step, Stop
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.interruption import Interruption
from jaxnas.runs.progress import Progress, progress_callback

State = TypeVar("State")

_MOMENT = 5.0
"""Seconds that a run may go on beyond `max_minutes` to end its epoch."""


@dataclasses.dataclass(frozen=True)
class Running:
    """How a run is carried out; nothing of it but `steps_per_call` changes what comes out.

    For the fields see `jaxnas.darts.search`.
    """

    workdir: str | os.PathLike | None
    resume: bool
    progress: bool | Callable[[dict], None]
    callbacks: Sequence[Callback]
    steps_per_call: int | None
    checkpoint_minutes: float | None
    keep_checkpoints: int
    max_minutes: float | None

    def __post_init__(self) -> None:
        check_at_least(1, keep_checkpoints=self.keep_checkpoints)
        for name in ("checkpoint_minutes", "max_minutes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, (int, float)) or not value >= 0):
                raise ValueError(f"{name} must be a number of minutes or None; got {value!r}.")
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be jaxnas.callbacks.Callback objects; got {callback!r}.")


class Session:
    """One run, from entering to leaving it. Outside a `with` it does nothing.

    Args:
      running: how the run is carried out.
      config: what to write to `config.json`.
      batch: the session of several seeds that run as one, if this is one of these: to save, to heed signals and time
        is then the batch's part.

    Attributes:
      directory: the run's files.
      history: the records of the epochs done.
      stopped: whether the run has been stopped in time, before its end; what it has done is saved then.
    """

    def __init__(self, running: Running, config: Mapping[str, Any], batch: Session | None = None):
        self.directory: RunDirectory = RunDirectory(running.workdir, batch.directory.checkpoints if batch else None)
        self.history: list[dict[str, Any]] = []
        self.stopped = False
        self._running, self._config, self._batch = running, config, batch
        self._interruption = Interruption()
        self._stack = contextlib.ExitStack()
        self._callbacks: list[Callback] = []
        self._began = self._saved = time.perf_counter()
        self._reviewing = 0.0

    def __enter__(self) -> Session:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.directory.open(self._config, resume=self._running.resume))
            if self.directory.path is not None and self._batch is None:  # else there is nowhere to save to
                stack.enter_context(self._interruption)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def seconds(self) -> float:
        """Time since the run began, or went on."""
        return time.perf_counter() - self._began

    def resume(self, state: State) -> tuple[State, Position]:
        """The state and position to go on from: those given, and the beginning, if nothing is saved.

        Raises:
          RunError: if all that is saved is damaged, or of another model.
        """
        return self.directory.restore(state)

    def rewind(self, position: Position) -> None:
        """Takes up the history where the state is. Raises RunError if it is damaged."""
        self.history = self.directory.rewind(position.epoch)

    def begin(self, run: Run, position: Position) -> None:
        """Tells all callbacks that the run begins, or goes on."""
        progress = progress_callback(self._running.progress)
        for callback in [*self._running.callbacks, *([progress] if progress else [])]:
            callback.on_begin(run)
            self._callbacks.append(callback)
            self._stack.callback(callback.on_end)
        if isinstance(progress, Progress) and (self.history or position != Position()):
            progress.say(f"going on {_where(position)} of {run.epochs}")

    def follow(self, position: Position, steps_before: int, steps: int) -> Callable[[Call], bool]:
        """What an epoch calls after each compiled call; it says whether to stop there.

        Args:
          position: at the beginning of the phase, or where in it the run goes on.
          steps_before: steps of the epoch's earlier phases.
          steps: of the whole epoch.
        """
        entered = time.perf_counter()
        compiled, paced = 0.0, (entered, position.step)

        def after_call(call: Call) -> bool:
            nonlocal compiled, paced
            now, new = time.perf_counter(), call.compile_seconds - compiled
            if new:
                compiled, paced = call.compile_seconds, (now, call.done)
            self.tell(Step(position.epoch, steps_before + call.done, steps, call.settled, new))
            since, first = paced
            needed = (call.steps - call.done) * (now - since) / max(call.done - first, 1)
            stop = self._asked or self._out_of_time(needed)
            if not (stop or self._save_is_due) or not np.any(call.fine):
                return False
            here = dataclasses.replace(
                position,
                step=call.done,
                metrics=gathered(call.collected),
                seconds=position.seconds + now - entered,
                compile_seconds=position.compile_seconds + compiled,
            )
            self.save(here, call.state)
            if stop:
                self._stop(here)
            return stop

        return after_call

    def tell(self, step: Step) -> None:
        """Tells all callbacks of a step."""
        for callback in self._callbacks:
            callback.on_step_end(step)

    def check(self, position: Position, state: Any) -> None:
        """Saves and stops the run if a signal has asked for it."""
        if self._asked:
            self.save(position, state)
            self._stop(position)

    def may_review(self, position: Position, state: Any) -> bool:
        """Whether there is time for what follows an epoch's steps, going by the last time; if not, saves and stops."""
        self.check(position, state)
        if self._out_of_time(self._reviewing):
            self.save(position, state)
            self._stop(position)
        return not self.stopped

    @contextlib.contextmanager
    def reviewing(self, position: Position, state: Any) -> Iterator[None]:
        """For all that follows an epoch's steps: if it fails, those are saved."""
        started = time.perf_counter()
        try:
            yield
        except Exception:
            with contextlib.suppress(RunError):  # what went wrong first is what matters
                self.save(position, state)
            raise
        self._reviewing = time.perf_counter() - started

    def end_epoch(self, state: Any, record: dict[str, Any]) -> Stop | None:
        """Tells the callbacks of an epoch, and adds it to the history."""
        stops = [callback.on_epoch_end(state, record) for callback in self._callbacks]
        self.history.append(record)
        self.directory.log(record)
        return next((stop for stop in stops if stop is not None), None)

    def next_epoch(self, position: Position, state: Any) -> None:
        """Saves between epochs, and stops if the time is over or a signal has asked for it."""
        self.save(position, state)
        if self._asked or self._out_of_time(math.inf):
            self._stop(position)

    def save(self, position: Position, state: Any) -> None:
        """Writes a checkpoint. Raises RunError if it cannot be written."""
        if self.directory.checkpoints is not None:
            checkpoints.save(self.directory.checkpoints, position, state, keep=self._running.keep_checkpoints)
        self._saved = time.perf_counter()

    def finish(self, result: Mapping[str, Any], variables: Any, stop: Stop | None) -> None:
        """Writes that the run has finished, and says and writes why if a callback has stopped it."""
        ended = {"status": "finished", "epochs": len(self.history), **result}
        if stop is not None:
            self.say(f"stopped after epoch {len(self.history)}: {stop.reason}")
            ended["stopped"] = stop.reason
        ended["seconds"] = sum(record["seconds"] for record in self.history)
        self.directory.finish(ended, variables, keep_checkpoints=self._batch is not None)

    def say(self, text: str) -> None:
        """Prints a line, if progress is printed."""
        if self._batch is not None:
            self._batch.say(f"seed {self._config['seed']}  {text}")
        for callback in self._callbacks:
            if isinstance(callback, Progress):
                callback.say(text)

    def _stop(self, position: Position) -> None:
        number = self._interruption.received
        if number is not None:
            message = f"interrupted by {number.name} {_where(position)}; saved in {self.directory.path}"
            message += "; the same call goes on from there."
            print(message, file=sys.stderr, flush=True)
            raise Interrupted(message, signal=number)
        self.stopped = True
        self.say(f"stopped in time {_where(position)} of {self._config['epochs']}; the same call goes on from here")

    @property
    def _asked(self) -> bool:
        return self._interruption.received is not None

    @property
    def _save_is_due(self) -> bool:
        minutes = self._running.checkpoint_minutes
        there = self.directory.path is not None and minutes is not None
        return there and time.perf_counter() - self._saved >= 60 * minutes  # type: ignore[operator]

    def _out_of_time(self, needed: float) -> bool:
        """Whether the time is over, and more than a moment is needed to end what is under way."""
        limit = self._running.max_minutes
        return limit is not None and self.seconds > 60 * limit and needed > _MOMENT


def _where(position: Position) -> str:
    if position.step:
        phase = f" of phase {position.phase + 1}" if position.phase else ""
        return f"after step {position.step}{phase} of epoch {position.epoch + 1}"
    return f"after the steps of epoch {position.epoch + 1}" if position.phase else f"after epoch {position.epoch}"
