"""The search loop that all algorithms share: epochs, validation, history, files."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.data.batches import epoch_batches
from jaxnas.errors import NonFiniteLossError
from jaxnas.model.graph import graph_or_none
from jaxnas.model.serialization import export
from jaxnas.oneshot.engine.base import Algorithm
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import Candidate, SearchResult
from jaxnas.programs.epoch import Epoch, first_bad, make_epoch, own_buffers
from jaxnas.programs.layout import ONE, Layout
from jaxnas.programs.validation import RECALIBRATION_BATCHES, Validate, make_validation
from jaxnas.runs.callback import Run, Stop
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.progress import non_finite_message
from jaxnas.runs.session import Running, Session

_WATCHED = ("train_loss", "valid_loss", "reward", "weight_grad_norm", "arch_grad_norm", "controller_grad_norm")


class Phase(NamedTuple):
    """A stretch of an epoch, all of whose steps get the same kinds of batch.

    Attributes:
      steps: number of steps.
      weight_batch: examples of the weights' part of the data per step; None for none.
      arch_batch: examples of the architecture's part per step; None for none.
    """

    steps: int
    weight_batch: int | None
    arch_batch: int | None


class Review(NamedTuple):
    """What an algorithm says of its state after an epoch.

    Attributes:
      arch: the architecture that would be derived now.
      record: what goes into the history: scores, and `probabilities` `{key: [n_candidates]}`.
      candidates: the architectures scored for it, best first.
    """

    arch: dict[str, Any]
    record: dict[str, Any]
    candidates: tuple[Candidate, ...] = ()


class Method(NamedTuple):
    """What an algorithm brings to the loop.

    Attributes:
      algorithm: its state has `variables`.
      phases: `(epoch) -> ` what the epoch consists of.
      review: `(plan, state, validate, rng, *, last) -> Review`, called after every epoch; `validate` scores on the
        architecture's part of the data (see `Score`), or is None where the epoch is not validated.
      settings: what to write to `config.json` besides the plan.
      one_path: whether a step computes one candidate of each choice only.
    """

    algorithm: Algorithm
    phases: Callable[[int], Sequence[Phase]]
    review: Callable[..., Review]
    settings: Mapping[str, Any]
    one_path: bool


Score = Callable[..., dict[str, float]]
"""(variables, arch, *, examples=the architecture's, recalibrate=False) -> {"loss": float, metric: float}."""


class Programs(NamedTuple):
    """What is compiled or put on the device once, for all seeds of a search.

    Attributes:
      run_epoch: see `jaxnas.programs.epoch.make_epoch`.
      validate: see `jaxnas.programs.validation.make_validation`.
      data: the training data `(images, labels)`, where `run_epoch` wants them.
      layout: how the states lie of the seeds that `run_epoch` steps at once.
    """

    run_epoch: Callable[..., Epoch]
    validate: Validate
    data: tuple[jax.Array, jax.Array]
    layout: Layout


@dataclasses.dataclass
class Lane:
    """The search with one seed, by itself or as one of several that are stepped as one.

    Attributes:
      plan: with its seed.
      config: what its `config.json` holds.
      session: its files, history and callbacks.
      result: what it found, once it has ended.
      error: why it ended, if it failed.
    """

    plan: Plan
    config: dict[str, Any]
    session: Session
    result: SearchResult | None = None
    error: NonFiniteLossError | None = None

    def described(self, steps: int) -> Run:
        """As callbacks see it, with so many steps per epoch."""
        plan = self.plan
        return Run(
            workdir=self.session.directory.path,
            config=self.config,
            epochs=plan.epochs,
            steps=steps,
            history=self.session.history,
            model_fn=plan.model_fn,
            dataset=plan.dataset,
            loss_fn=plan.loss_fn,
            batch_size=plan.batch_size,
            seed=plan.seed,
            space=plan.space,
            arch_examples=plan.arch_examples,
        )

    def found(self, state: Any, arch: dict[str, Any], candidates: tuple[Candidate, ...] = ()) -> SearchResult:
        """The result in a state."""
        return SearchResult(
            arch=arch,
            alphas=jax.device_get(getattr(state, "alphas", {})),
            variables=state.variables,
            history=self.session.history,
            space=self.plan.space,
            model_fn=self.plan.model_fn,
            example=self.plan.dataset.example(),
            state=state,
            candidates=candidates,
        )


def configuration(plan: Plan, method: Method) -> dict[str, Any]:
    """What `config.json` holds, but for the dataflow among the choices, which takes a moment to find."""
    return {**plan.settings(), **method.settings}


def prepare(plan: Plan, method: Method, *, layout: Layout = ONE, steps_per_call: int | None = None) -> Programs:
    """Makes what all seeds of a search share; `plan` may be that of any of them."""
    data = jnp.asarray(plan.dataset.x_train), jnp.asarray(plan.dataset.y_train)
    step = method.algorithm.step
    run_epoch = make_epoch(step, plan.dataset, watched=_WATCHED, steps_per_call=steps_per_call, layout=layout)
    validate = make_validation(
        plan.model_fn,
        plan.dataset,
        plan.loss_fn,
        plan.metrics,
        images=data[0],
        labels=data[1],
        calibration_images=data[0],
        batch_size=plan.batch_size,
    )
    return Programs(run_epoch, validate, layout.share(data), layout)


def run(plan: Plan, method: Method, running: Running, programs: Programs | None = None) -> SearchResult:
    """Runs a search.

    Args:
      plan: from `jaxnas.oneshot.engine.plan`.
      method: the algorithm.
      running: where to, what follows it, when to save and to stop.
      programs: from `prepare`, if they are there already.

    Raises:
      Interrupted, NonFiniteLossError, RunError: see `jaxnas.darts.search`.
    """
    config = configuration(plan, method)
    if running.workdir is not None:
        config["graph"] = graph_or_none(plan.model_fn, plan.dataset.example())
    with Session(running, config) as session:
        programs = programs or prepare(plan, method, steps_per_call=running.steps_per_call)
        lane = Lane(plan, config, session)
        [result] = advance([lane], method, programs, session)
        if lane.error is not None:
            raise lane.error
        return result


def advance(lanes: Sequence[Lane], method: Method, programs: Programs, session: Session) -> list[SearchResult]:
    """Goes on with searches that are stepped as one until all have ended, or `session` stops them.

    Args:
      lanes: the searches, which differ in nothing but their seeds. Those that have ended already only keep their place.
      method, programs: what they share.
      session: when to save and to stop; of a single search its own.

    Returns:
      What each found (so far, if stopped). A lane whose loss was not finite has an `error`, and the last good result.

    Raises:
      Interrupted, RunError: see `jaxnas.darts.search`.
    """
    plan, layout, phases = lanes[0].plan, programs.layout, method.phases
    sample = plan.dataset.example(plan.batch_size), programs.data[1][: plan.batch_size]
    begun = layout.join([method.algorithm.init(lane.plan.key("init"), sample) for lane in lanes])
    state, at = session.resume(layout.place(own_buffers(begun)))
    for lane in lanes:
        if lane.result is None:
            lane.session.rewind(at)
    session.begin(lanes[0].described(sum(phase.steps for phase in phases(plan.epochs - 1))), at)

    def states() -> list[Any]:
        return [jax.device_put(own) for own in layout.parts(state)]

    def results(reviews: Sequence[Review | None] | None = None) -> list[SearchResult]:
        found = []
        for lane, own, review in zip(lanes, states(), reviews or [None] * len(lanes), strict=True):
            so_far = review or Review(method.algorithm.derive(own), {})
            found.append(lane.result or lane.found(own, so_far.arch, so_far.candidates))
        return found

    while True:
        epoch_phases, steps_before = phases(at.epoch), 0
        steps = sum(phase.steps for phase in epoch_phases)
        stepped = False
        for i, phase in enumerate(epoch_phases):
            keys = [_keys(lane.plan, at.epoch, i) for lane in lanes]
            if i >= at.phase:
                entered, follow = time.perf_counter(), session.follow(at, steps_before, steps)
                streams = layout.join(
                    [_streams(lane.plan, own.shuffle, phase) for lane, own in zip(lanes, keys, strict=True)]
                )
                augment_rng = layout.join([own.augment for own in keys])
                resumed = {"start": at.step, "before": at.metrics, "after_call": follow}
                ran = programs.run_epoch(state, augment_rng, *programs.data, streams, **resumed)
                state, stepped = ran.state, stepped or ran.done > at.step
                metrics = layout.parts(ran.metrics)
                for j, lane in enumerate(lanes):
                    if lane.result is None and first_bad(metrics[j], _WATCHED) is not None:
                        _fail(lane, method, states()[j], metrics[j], at.epoch, steps_before)
                        if len(lanes) > 1:  # else the error says it
                            lane.session.say(f"failed: {lane.error}")
                if session.stopped or all(lane.result for lane in lanes):
                    return results()
                means = {name: [float(own[name].mean()) for own in metrics] for name in ran.metrics}
                at = Position(
                    epoch=at.epoch,
                    phase=i + 1,
                    record=at.record | means,
                    seconds=at.seconds + time.perf_counter() - entered,
                    compile_seconds=at.compile_seconds + ran.compile_seconds,
                )
            steps_before += phase.steps
        if stepped and not session.may_review(at, state):
            return results()

        with session.reviewing(at, state):
            check = functools.partial(session.check, at, state)
            reviews = [
                None if lane.result else _end_epoch(lane, method, programs, own, at, j, own_keys.review, check)
                for j, (lane, own, own_keys) in enumerate(zip(lanes, states(), keys, strict=True))
            ]
        if all(lane.result for lane in lanes):
            return results()
        at = Position(epoch=at.epoch + 1)
        session.next_epoch(at, state)
        if session.stopped:
            return results(reviews)


def _end_epoch(
    lane: Lane,
    method: Method,
    programs: Programs,
    state: Any,
    at: Position,
    place: int,
    rng: jax.Array,
    check: Callable[[], None],
) -> Review:
    """Reviews a lane, which has this place among all, and ends its epoch, and the lane if that was the last one."""
    plan, session, entered = lane.plan, lane.session, time.perf_counter()
    rows = min(RECALIBRATION_BATCHES, plan.steps_per_epoch)
    calibration = plan.weight_examples[: rows * plan.batch_size].reshape(rows, plan.batch_size)

    def score(
        variables: Any, arch: Any, *, examples: np.ndarray = plan.arch_examples, recalibrate: bool = False
    ) -> dict[str, float]:
        check()
        return programs.validate(variables, arch, examples, calibration if recalibrate else None)

    last = at.epoch + 1 == plan.epochs
    validated = last or (at.epoch + 1) % plan.validate_every == 0
    found = method.review(plan, state, score if validated else None, rng, last=last)
    record = {
        "epoch": at.epoch,
        **{name: values[place] for name, values in at.record.items()},
        **found.record,
        "arch": found.arch,
        "seconds": at.seconds + time.perf_counter() - entered,
        "compile_seconds": at.compile_seconds,
    }
    stop = session.end_epoch(state, record)
    if stop is not None and not last:
        if stop.epoch is None:
            found = method.review(plan, state, score, rng, last=True)
        else:
            found = Review(session.history[stop.epoch]["arch"], {})
    if last or stop is not None:
        _finish(session, found, state.variables, stop)
        lane.result = lane.found(state, found.arch, found.candidates)
    return found


def _finish(session: Session, found: Review, variables: Any, stop: Stop | None) -> None:
    if session.directory.path is not None:
        export(found.arch, session.directory.path / "final_arch.json")
    scored = session.history[-1 if stop is None or stop.epoch is None else stop.epoch]
    scores = {k: v for k, v in scored.items() if isinstance(v, float) and not k.endswith("seconds")}
    candidates = [candidate._asdict() for candidate in found.candidates]
    session.finish({"arch": found.arch, **scores, "candidates": candidates}, variables, stop)


def _fail(lane: Lane, method: Method, state: Any, metrics: dict[str, np.ndarray], epoch: int, before: int) -> None:
    """Ends a lane one of whose losses or gradients was not finite, in a phase with `before` steps before it."""
    bad = first_bad(metrics, _WATCHED)
    assert bad is not None
    directory, step = lane.session.directory, before + bad
    message = non_finite_message(metrics, _WATCHED, epoch, bad, directory.path, steps_before=before)
    result = lane.found(state, method.algorithm.derive(state))
    failed = {"status": "failed", "error": message, "epoch": epoch, "step": step}
    ended = {**failed, "arch": result.arch, "alphas": result.alphas}
    directory.finish(ended, result.variables, keep_checkpoints=True)
    lane.result, lane.error = result, NonFiniteLossError(message, epoch=epoch, step=step, result=result)


class _Keys(NamedTuple):
    """Of one phase of an epoch."""

    shuffle: jax.Array
    augment: jax.Array
    review: jax.Array


def _keys(plan: Plan, epoch: int, phase: int) -> _Keys:
    epoch_rng = jax.random.fold_in(plan.key("epochs"), epoch)
    return _Keys(*jax.random.split(jax.random.fold_in(epoch_rng, phase), 3))


def _streams(plan: Plan, rng: jax.Array, phase: Phase) -> tuple[np.ndarray | None, np.ndarray | None]:
    def stream(rng: jax.Array, examples: np.ndarray, size: int | None) -> np.ndarray | None:
        return None if size is None else epoch_batches(rng, examples, steps=phase.steps, batch_size=size)

    weight_rng, arch_rng = jax.random.split(rng)
    return (
        stream(weight_rng, plan.weight_examples, phase.weight_batch),
        stream(arch_rng, plan.arch_examples, phase.arch_batch),
    )
