"""What a long run does beside its steps: it saves, reports, and stops when it should."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from jaxnas.checks import check_answer
from jaxnas.errors import Interrupted, RunError
from jaxnas.programs.epoch import Call, gathered
from jaxnas.programs.layout import ONE, Layout
from jaxnas.runs.callback import Step, Stop
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.interruption import Interruption
from jaxnas.runs.lane import Lane
from jaxnas.runs.options import Running
from jaxnas.runs.progress import Progress

State = TypeVar("State")

_MOMENT = 5.0
"""Seconds by which a run may exceed `max_minutes` to finish its epoch."""


class Session:
    """One run from beginning to end, with one lane or with several whose states are stepped as one.

    Args:
      running: how the run is carried out.
      directory: where its checkpoints lie. A single lane has the same one.
      config: what to write to the directory's `config.json`.

    Attributes:
      lanes: the seeds, in order; `add` appends.
      layout: of the lanes' states.
      stopped: whether the run has stopped at its time limit; what it has done is saved then.
    """

    def __init__(self, running: Running, directory: RunDirectory, config: Mapping[str, Any], layout: Layout = ONE):
        self.lanes: list[Lane] = []
        self.layout = layout
        self.stopped = False
        self._running, self._directory, self._config = running, directory, config
        self._interruption = Interruption()
        self._progress = Progress() if running.progress is True else None
        self._stack = contextlib.ExitStack()
        self._began = self._saved = time.perf_counter()
        self._reviewing = 0.0

    def __enter__(self) -> Session:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._directory.open(self._config, resume=self._running.resume))
            if self._directory.path is not None:  # else there is nowhere to save to
                stack.enter_context(self._interruption)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, lane: Lane) -> None:
        """Takes a lane in, and opens its directory if it has one of its own. One that has ended keeps its place."""
        if lane.directory is not self._directory and not lane.ended:
            self._stack.enter_context(lane.directory.open(lane.run.config, resume=self._running.resume))
        self.lanes.append(lane)

    @property
    def active(self) -> list[Lane]:
        """The lanes that have not ended."""
        return [lane for lane in self.lanes if not lane.ended]

    @property
    def seconds(self) -> float:
        """Seconds since the run began or was resumed."""
        return time.perf_counter() - self._began

    def resume(self, state: State) -> tuple[State, Position]:
        """The state and position to continue from: those given, and the beginning, if nothing is saved.

        Raises:
          RunError: if everything that is saved is damaged, belongs to another model, or has as many epochs already.
        """
        found, position = self._directory.restore(kept := self.layout.kept(state))
        if found is not kept:
            state, position = self._as_laid_out(found, position)
        epochs, path = self.lanes[0].run.epochs, self._directory.path
        if position.epoch >= epochs:  # another configuration, by force
            raise RunError(f"{path}: has {position.epoch} epochs already; epochs={epochs} leaves nothing to do.")
        if self._directory.changed and position != (start := Position(position.epoch)):
            said = f"{path}: epoch {position.epoch + 1} begins again, since the run was stopped within it."
            warnings.warn(said, RuntimeWarning, stacklevel=2)
            position = start
        for lane in self.active:
            lane.run.history[:] = lane.directory.rewind(position.epoch)
        return state, position

    def _as_laid_out(self, kept: State, position: Position) -> tuple[State, Position]:
        """What was saved, with what the layout adds on the devices that there are now."""
        if self.layout.kept is ONE.kept:
            return kept, position
        join, parts = self.layout.join, self.layout.parts
        metrics = {name: join(parts(values)) for name, values in position.metrics.items()}
        return self.layout.place(join(parts(kept))), dataclasses.replace(position, metrics=metrics)

    def begin(self, position: Position) -> None:
        """Tells all callbacks that the run begins, or is resumed."""
        first = self.lanes[0].run
        if self._progress is not None and not self._one:
            self._begin_progress(dataclasses.replace(first, history=[]), position)
            seeds = ", ".join(str(lane.run.seed) for lane in self.lanes)
            self._progress.say(f"seeds {seeds} as one: {self._config['batching']}")
        for lane in self.active:
            for callback in lane.callbacks:
                callback.on_begin(lane.run)
                self._stack.callback(callback.on_end)
        if self._progress is not None and self._one:
            self._begin_progress(first, position)

    def _begin_progress(self, run: Any, position: Position) -> None:
        assert self._progress is not None
        self._progress.on_begin(run)
        self._stack.callback(self._progress.on_end)
        if run.history or position != Position():
            self._progress.say(f"resuming {_where(position)} of {run.epochs}")

    def follow(
        self, position: Position, steps_before: int, steps: int, sound: Callable[[Any], bool]
    ) -> Callable[[Call], bool]:
        """What an epoch calls after each compiled call; it says whether to stop there.

        Args:
          position: at the beginning of the phase, or where in it the run is resumed.
          steps_before: steps of the epoch's earlier phases.
          steps: of the whole epoch.
          sound: whether a state may be saved. If it may not, the epoch stops there, for the lane to fail.
        """
        entered = time.perf_counter()
        compiled, paced = 0.0, (entered, position.step)

        def after_call(call: Call) -> bool:
            nonlocal compiled, paced
            now, new = time.perf_counter(), call.compile_seconds - compiled
            if new:
                compiled, paced = call.compile_seconds, (now, call.done)
            self._tell(Step(position.epoch, steps_before + call.done, steps, call.settled, new))
            since, first = paced
            needed = (call.steps - call.done) * (now - since) / max(call.done - first, 1)
            stop = self._asked or self._out_of_time(needed)
            if not (stop or self._save_is_due) or not np.any(call.fine):
                return False
            if not sound(call.state):
                return True
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

    def _tell(self, step: Step) -> None:
        if self._progress is not None:
            self._progress.on_step_end(step)
        if not any(lane.callbacks for lane in self.active):
            return
        metrics = step.metrics if self._one else jax.device_get(step.metrics)
        for place, lane in enumerate(self.lanes):
            if not lane.ended:
                own = step if self._one else step._replace(metrics={k: v[place] for k, v in metrics.items()})
                for callback in lane.callbacks:
                    callback.on_step_end(own)

    def check(self, position: Position, state: Any) -> None:
        """Saves and stops the run if a signal has asked for it."""
        if self._asked:
            self.save(position, state)
            self._stop(position)

    def may_review(self, position: Position, state: Any) -> bool:
        """Whether there is time for what follows an epoch's steps, judging by the last one; if not, saves and stops."""
        self.check(position, state)
        if self._out_of_time(self._reviewing):
            self.save(position, state)
            self._stop(position)
        return not self.stopped

    @contextlib.contextmanager
    def reviewing(self, position: Position, state: Any) -> Iterator[None]:
        """For all that follows an epoch's steps: if it fails, the steps are saved."""
        started = time.perf_counter()
        try:
            yield
        except Exception:
            with contextlib.suppress(RunError):  # what went wrong first is what matters
                self.save(position, state)
            raise
        self._reviewing = time.perf_counter() - started

    def end_epoch(self, lane: Lane, state: Any, record: dict[str, Any]) -> Stop | None:
        """Tells a lane's callbacks of an epoch, and adds it to the history."""
        stops = [callback.on_epoch_end(state, record) for callback in lane.callbacks]
        for callback, stop in zip(lane.callbacks, stops, strict=True):
            check_answer(callback, stop, Stop)
        if self._progress is not None:
            self._progress.epoch(record, lane.run.epochs, "" if self._one else f"seed {lane.run.seed}  ")
        lane.run.history.append(record)
        lane.directory.log(record)
        return next((stop for stop in stops if stop is not None), None)

    def next_epoch(self, position: Position, state: Any) -> None:
        """Saves between epochs, and stops if the time is over or a signal has asked for it."""
        self.save(position, state)
        if self._asked or self._out_of_time(math.inf):
            self._stop(position)

    def save(self, position: Position, state: Any) -> None:
        """Writes a checkpoint. Raises RunError if it cannot be written."""
        others = [lane.directory for lane in self.lanes if lane.directory is not self._directory]
        position = dataclasses.replace(position, metrics=self.layout.kept(position.metrics))
        state = self.layout.kept(state)
        self._directory.save(position, state, keep=self._running.keep_checkpoints, beside=others)
        self._saved = time.perf_counter()

    def finish(self, lane: Lane, result: Mapping[str, Any], variables: Any, stop: Stop | None) -> None:
        """Writes that a lane has finished, and says and writes why if a callback has stopped it."""
        history = lane.run.history
        ended = {"status": "finished", "epochs": len(history), **result}
        if stop is not None:
            self.say(f"stopped after epoch {len(history)}: {stop.reason}", lane)
            ended["stopped"] = stop.reason
        ended["seconds"] = sum(record["seconds"] for record in history)
        lane.directory.finish(ended, variables, keep_checkpoints=not self._one)

    def end(self) -> None:
        """Removes what was kept for all lanes together, once all have ended."""
        if not self._one:
            self._directory.remove_checkpoints()

    def say(self, text: str, lane: Lane | None = None) -> None:
        """Prints a line, if progress is printed: of one lane, or of the whole run."""
        if self._progress is not None:
            about = f"seed {lane.run.seed}  " if lane is not None and not self._one else ""
            self._progress.say(f"{about}{text}")

    def _stop(self, position: Position) -> None:
        number = self._interruption.received
        if number is not None:
            message = f"interrupted by {number.name} {_where(position)}; saved in {self._directory.path}"
            message += "; the same call resumes from there."
            print(message, file=sys.stderr, flush=True)
            raise Interrupted(message, signal=number)
        self.stopped = True
        epochs = self.lanes[0].run.epochs
        self.say(f"stopped at the time limit {_where(position)} of {epochs}; the same call resumes from here")

    @property
    def _one(self) -> bool:
        """Whether this is the session of a single lane, which shares its directory."""
        return len(self.lanes) == 1 and self.lanes[0].directory is self._directory

    @property
    def _asked(self) -> bool:
        return self._interruption.received is not None

    @property
    def _save_is_due(self) -> bool:
        minutes = self._running.checkpoint_minutes
        there = self._directory.path is not None and minutes is not None
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
