"""The loop of every run, a search or a training: epochs of compiled steps, a review after each, history, files."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxnas.errors import NonFiniteLossError
from jaxnas.model.serialization import export
from jaxnas.programs.epoch import Epoch, EpochProgram, first_bad, own_buffers
from jaxnas.programs.watching import Spoiled, find_spoiled, host_copy, not_finite
from jaxnas.runs.callback import Stop
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.lane import Lane
from jaxnas.runs.progress import bad_validation_message, non_finite_message, spoiled_message
from jaxnas.runs.session import Session


class Phase(NamedTuple):
    """A stretch of an epoch, all of whose steps get the same kinds of batch.

    Attributes:
      steps: number of steps.
      weight_batch: examples of the weights' part of the data per step; None for none.
      arch_batch: examples of the architecture's part per step; None for none.
    """

    steps: int
    weight_batch: int | None
    arch_batch: int | None = None


class Draw(NamedTuple):
    """What is random in a phase.

    Attributes:
      streams: for each batch of a step an index array `[steps, B]`, or None.
      augment: key of the augmentation.
      review: key of the review after the phase.
    """

    streams: tuple[np.ndarray | None, ...]
    augment: jax.Array
    review: jax.Array


class Review(NamedTuple):
    """What is said of a state after an epoch.

    Attributes:
      record: what goes into the history: scores, and in a search `probabilities` `{key: [n_candidates]}`.
      arch: the architecture that would be derived now; None in a training.
      trials: the architectures scored for it, best first.
      state: the state to continue with; None for the one reviewed.
      final: whether the same review, made as the last one, would add nothing.
    """

    record: dict[str, Any]
    arch: dict[str, Any] | None = None
    trials: tuple[Any, ...] = ()
    state: Any = None
    final: bool = True


class Task(Protocol):
    """What a run does, with any of its seeds."""

    @property
    def notes(self) -> Sequence[str]:
        """What to say when the run begins."""

    def begin(self, seed: int) -> Any:
        """The state at the beginning: a pytree with `variables`."""

    def phases(self, epoch: int) -> Sequence[Phase]:
        """What an epoch consists of."""

    def draw(self, seed: int, epoch: int, phase: int) -> Draw:
        """What is random in a phase of an epoch, of these numbers."""

    def review(self, seed: int, state: Any, at: Where, rng: jax.Array) -> Review:
        """Reviews a state after an epoch's steps."""

    def outcome(self, lane: Lane, state: Any, review: Review | None) -> Any:
        """What the run gives, ended by this review; None if it has stopped or failed within an epoch."""

    def summary(self, outcome: Any) -> dict[str, Any]:
        """What `result.json` says of an outcome: in a search its `arch`."""


class Where(NamedTuple):
    """What a review is told of its place in the run.

    Attributes:
      epoch: the epoch that has ended, from 0.
      last: whether the run ends with it.
      validated: whether the epoch is to be validated; always if it is the last.
      check: to be called between the parts of a long review; stops the run if a signal has asked for it.
    """

    epoch: int
    last: bool
    validated: bool
    check: Callable[[], None]


def run(task: Task, program: EpochProgram, session: Session) -> list[Any]:
    """Runs the lanes of a session, stepped as one, until all have ended or the session stops them.

    Args:
      task: what they do. They differ in nothing but their seeds.
      program: one compiled epoch, with the layout of the lanes' states.
      session: when to save and to stop; it has its lanes.

    Returns:
      What each lane gave (so far, if stopped). A lane whose loss was not finite has an `error`, and the last good
      result.

    Raises:
      Interrupted, RunError: see `jaxnas.runs.options.RunOptions`.
    """
    lanes, layout = session.lanes, program.layout
    begun = layout.join([task.begin(lane.run.seed) for lane in lanes])
    state, at = session.resume(layout.place(own_buffers(begun)))
    session.begin(at)
    for note in task.notes:
        session.say(note)

    def outcomes(reviews: Sequence[Review | None] | None = None) -> list[Any]:
        parts = zip(lanes, _states(program, state), reviews or [None] * len(lanes), strict=True)
        return [lane.result if lane.ended else task.outcome(lane, own, review) for lane, own, review in parts]

    while True:
        stepped, state, at, rngs = _run_phases(task, program, session, state, at)
        if session.stopped or not session.active:
            return outcomes()
        if stepped and not session.may_review(at, state):
            return outcomes()
        with session.reviewing(at, state):
            reviews, state = _review_all(task, program, session, state, at, rngs)
        if not session.active:
            session.end()
            return outcomes()
        at = Position(epoch=at.epoch + 1)
        session.next_epoch(at, state)
        if session.stopped:
            return outcomes(reviews)


def _states(program: EpochProgram, state: Any) -> list[Any]:
    """The states of the lanes, each by itself."""
    return [jax.device_put(own) for own in program.layout.parts(state)]


def _run_phases(
    task: Task, program: EpochProgram, session: Session, state: Any, at: Position
) -> tuple[bool, Any, Position, list[jax.Array]]:
    """Runs what is left of an epoch's steps. Gives whether there was any, the state, the position, and review keys."""
    lanes, layout, phases = session.lanes, program.layout, task.phases(at.epoch)
    steps, steps_before, stepped, rngs = sum(phase.steps for phase in phases), 0, False, list[jax.Array]()
    for i, phase in enumerate(phases):
        drawn = [task.draw(lane.run.seed, at.epoch, i) for lane in lanes]
        rngs = [each.review for each in drawn]
        while i >= at.phase:  # once, unless a lane fails within it
            entered, before = time.perf_counter(), host_copy(state)
            streams = layout.join([each.streams for each in drawn])
            augment = layout.join([each.augment for each in drawn])
            sound = functools.partial(_all_sound, program, session, before)
            follow = session.follow(at, steps_before, steps, sound)
            ran = program.run(state, augment, streams, start=at.step, before=at.metrics, after_call=follow)
            state, stepped = ran.state, stepped or ran.done > at.step
            spoiled = functools.partial(find_spoiled, program, before, augment, streams, start=at.step)
            _fail_where_not_finite(task, program, session, before, ran, spoiled, at.epoch, steps_before)
            if session.stopped or not session.active:
                return stepped, state, at, rngs
            at = dataclasses.replace(
                at,
                step=ran.done,
                metrics=ran.metrics,
                seconds=at.seconds + time.perf_counter() - entered,
                compile_seconds=at.compile_seconds + ran.compile_seconds,
            )
            if ran.done == phase.steps:
                means = {name: [float(own[name].mean()) for own in layout.parts(ran.metrics)] for name in ran.metrics}
                at = dataclasses.replace(at, phase=i + 1, step=0, metrics={}, record=at.record | means)
        steps_before += phase.steps
    return stepped, state, at, rngs


def _all_sound(program: EpochProgram, session: Session, before: Any, state: Any) -> bool:
    """Whether no lane that has not ended has a state with values that were finite before the phase, and are not now."""
    parts = zip(session.lanes, program.layout.parts(before), program.layout.parts(state), strict=True)
    return all(lane.ended or not_finite(was, now) is None for lane, was, now in parts)


def _review_all(
    task: Task, program: EpochProgram, session: Session, state: Any, at: Position, rngs: list[jax.Array]
) -> tuple[list[Review | None], Any]:
    """Reviews every lane that has not ended, and ends its epoch. Gives the reviews, and the state to continue with."""
    states = _states(program, state)
    check = functools.partial(session.check, at, state)
    reviews: list[Review | None] = []
    for place, lane in enumerate(session.lanes):
        ended = lane.ended
        reviews.append(None if ended else _end_epoch(task, session, lane, states[place], at, place, rngs[place], check))
    changed = [
        own if found is None or found.state is None else found.state for own, found in zip(states, reviews, strict=True)
    ]
    if any(new is not old for new, old in zip(changed, states, strict=True)):
        state = program.layout.place(own_buffers(program.layout.join(changed)))
    return reviews, state


def _end_epoch(
    task: Task,
    session: Session,
    lane: Lane,
    state: Any,
    at: Position,
    place: int,
    rng: jax.Array,
    check: Callable[[], None],
) -> Review:
    """Reviews a lane, which has this place among all, and ends its epoch, and the lane if that was the last one."""
    entered, run = time.perf_counter(), lane.run
    last = at.epoch + 1 == run.epochs
    where = Where(at.epoch, last, last or (at.epoch + 1) % run.validate_every == 0, check)
    found = task.review(run.seed, state, where, rng)
    record = {
        "epoch": at.epoch,
        **{name: values[place] for name, values in at.record.items()},
        **found.record,
        **({} if found.arch is None else {"arch": found.arch}),
        "seconds": at.seconds + time.perf_counter() - entered,
        "compile_seconds": at.compile_seconds,
    }
    stop = session.end_epoch(lane, state, record)
    if stop is not None and stop.epoch is not None and not last:
        found = Review({}, run.history[stop.epoch].get("arch"))
    elif stop is not None and not (last or (found.final and where.validated)):
        found = task.review(run.seed, state, where._replace(last=True, validated=True), rng)
    if last or stop is not None:
        _finish(task, session, lane, state, found, stop)
    return found


def _finish(task: Task, session: Session, lane: Lane, state: Any, found: Review, stop: Stop | None) -> None:
    outcome, history = task.outcome(lane, state, found), lane.run.history
    scored = history[-1 if stop is None or stop.epoch is None else stop.epoch]
    wrong = [name for name, value in scored.items() if name.endswith("_loss") and not _is_finite(value)]
    if wrong:
        epoch, where = scored["epoch"], lane.directory.path
        steps = sum(phase.steps for phase in task.phases(epoch))
        message = bad_validation_message(wrong, epoch, where)
        _fail(task, session, lane, outcome, message, epoch, steps)
        return
    _export(lane, found.arch)
    scores = {k: v for k, v in scored.items() if isinstance(v, float) and not k.endswith("seconds")}
    session.finish(lane, {**task.summary(outcome), **scores}, outcome.variables, stop)
    lane.result = outcome


def _is_finite(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))  # a record that was read from JSON has None for NaN


def _fail_where_not_finite(
    task: Task,
    program: EpochProgram,
    session: Session,
    before: Any,
    ran: Epoch,
    find: Callable[..., Spoiled | None],
    epoch: int,
    steps_before: int,
) -> None:
    """Ends the lanes one of whose losses, gradients or states was not finite, in a phase after so many steps.

    `find` makes the phase again to find the step that spoiled the state of the lane at a `place`.
    """
    layout, states = program.layout, _states(program, ran.state)
    parts = [layout.parts(each) for each in (ran.metrics, before)]
    for place, (lane, metrics, was) in enumerate(zip(session.lanes, *parts, strict=True)):
        if lane.ended:
            continue
        state, bad, where = states[place], first_bad(metrics, program.watched), lane.directory.path
        leaf = not_finite(was, state)
        if leaf is not None:
            found = find(place=place) or Spoiled(ran.done - 1 if bad is None else bad, leaf, was)
            step, state = steps_before + found.step, jax.device_put(found.state)
            message = spoiled_message(found.leaf, epoch, step, where)
        elif bad is not None:
            step = steps_before + bad
            message = non_finite_message(metrics, program.watched, epoch, bad, where, steps_before=steps_before)
        else:
            continue
        _fail(task, session, lane, task.outcome(lane, state, None), message, epoch, step)


def _fail(task: Task, session: Session, lane: Lane, result: Any, message: str, epoch: int, step: int) -> None:
    """Ends a lane that has failed, with what was reached before."""
    summary = task.summary(result)
    _export(lane, summary.get("arch"))
    failed = {"status": "failed", "error": message, "epoch": epoch, "step": step, **summary}
    lane.directory.finish(failed, result.variables, keep_checkpoints=True)
    lane.result, lane.error = result, NonFiniteLossError(message, epoch=epoch, step=step, result=result)
    if len(session.lanes) > 1:  # else the error says it
        session.say(f"failed: {lane.error}", lane)


def _export(lane: Lane, arch: dict[str, Any] | None) -> None:
    if arch and lane.directory.path is not None:
        export(arch, lane.directory.path / "final_arch.json")
