"""One search from many seeds: one after the other, or stepped as one; a run directory for each.

`workdir/seed_0`, `workdir/seed_1`, … are run directories like that of a single search. `workdir` itself holds what they
have in common: `config.json` (which seeds, how batched), `run.lock`, and the checkpoints of seeds that are stepped as
one, in which their states lie together.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.checks import check_seed
from jaxnas.errors import ArchitectureError, NonFiniteLossError, RunEndedError, RunError
from jaxnas.model.graph import graph_or_none
from jaxnas.model.serialization import read_json
from jaxnas.oneshot.engine import loop as search_loop
from jaxnas.oneshot.engine.loop import Lane, Method
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import SearchResult, read_result
from jaxnas.programs.layout import BATCHINGS, default_batching, make_layout
from jaxnas.runs import directory as runs
from jaxnas.runs.callback import Run, Step
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.progress import epoch_line
from jaxnas.runs.session import Running, Session


def first_seed(seed: int | None, seeds: Sequence[int] | None, batching: str | None) -> int:
    """The seed of a search, or the first of its seeds.

    Raises:
      ValueError: if they are unsound or contradict each other.
    """
    if seeds is None:
        if batching is not None:
            raise ValueError(f"batching={batching!r} says how several searches are run; give their seeds as well.")
        return 0 if seed is None else seed
    if seed is not None:
        raise ValueError(f"give seed or seeds, not both; got seed={seed!r} and seeds={seeds!r}.")
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, (Sequence, np.ndarray)):
        raise ValueError(f"seeds must be a list of integers; got {seeds!r}.")
    if not len(seeds):
        raise ValueError("seeds is empty: there is nothing to search.")
    for each in seeds:
        check_seed(each)
    twice = sorted({int(each) for each in seeds if list(seeds).count(each) > 1})
    if twice:
        raise ValueError(f"seeds must differ, but {', '.join(map(str, twice))} is given more than once.")
    if batching not in (None, *BATCHINGS):
        raise ValueError(f"batching must be one of {list(BATCHINGS)} or None; got {batching!r}.")
    return int(seeds[0])


def run(
    plan: Plan, method: Method, running: Running, *, seeds: Sequence[int] | None, batching: str | None
) -> SearchResult | list[SearchResult]:
    """Runs a search, or the same search from many seeds.

    Args:
      plan: of the seed, or of the first of the seeds.
      method: the algorithm.
      running: where to, what follows it, when to save and to stop.
      seeds: None for a single search.
      batching: one of `jaxnas.programs.layout.BATCHINGS`, or None: that with which the run in `workdir` was begun, else
        `jaxnas.programs.layout.default_batching`.

    Returns:
      What the single search found, or what each seed found, in order. Where time ran out in a sequence, the seeds that
      had not begun are missing.

    Raises:
      Interrupted, NonFiniteLossError, RunError: see `jaxnas.darts.search`.
    """
    if seeds is None:
        return search_loop.run(plan, method, running)
    seeds = [int(seed) for seed in seeds]
    top = RunDirectory(running.workdir)
    batching = batching or _begun_with(top.path, seeds) or default_batching(len(seeds), one_path=method.one_path)
    config = search_loop.configuration(plan, method)
    config = {**{name: value for name, value in config.items() if name != "seed"}, "seeds": seeds, "batching": batching}
    plans = [plan.with_seed(seed) for seed in seeds]
    if batching == "sequence":
        with top.open(config, resume=running.resume):
            found = _in_sequence(plans, method, running)
    else:
        found = _as_one(plans, method, running, config)
    if len(found) == len(seeds) and any(one.error for one in found):
        raise _failure(seeds, found)
    return [one.result for one in found]


class _Found(NamedTuple):
    """What the search with one seed gave: a result, and why it failed if it did."""

    result: SearchResult
    error: NonFiniteLossError | None = None


def _in_sequence(plans: Sequence[Plan], method: Method, running: Running) -> list[_Found]:
    """Runs each seed by itself, with the same programs. Gives less than all where time has run out."""
    began, found, idle = time.perf_counter(), list[_Found](), True
    ended = _ended(plans, [search_loop.configuration(plan, method) for plan in plans], running)
    programs = search_loop.prepare(plans[0], method, steps_per_call=running.steps_per_call)
    for number, (plan, before) in enumerate(zip(plans, ended, strict=True), 1):
        own, left = _own(running, plan.seed), None
        if running.max_minutes is not None:
            left = running.max_minutes - (time.perf_counter() - began) / 60
            own = dataclasses.replace(own, max_minutes=max(left, 0.0))
        if before is not None:
            found.append(before)
            continue
        if left is not None and left < 0 and not idle:
            break
        idle = False
        if running.progress is True:
            print(f"seed {plan.seed}, {number} of {len(plans)}", flush=True)
        try:
            found.append(_Found(search_loop.run(plan, method, own, programs)))
        except NonFiniteLossError as error:
            if running.progress is True:
                print(f"seed {plan.seed} failed: {error}", flush=True)
            found.append(_Found(error.result, error))
    return found


def _as_one(plans: Sequence[Plan], method: Method, running: Running, config: dict[str, Any]) -> list[_Found]:
    """Runs all seeds as lanes of one program. Gives nothing where time has run out before all have ended."""
    settings: dict[str, Any] = {"batching": config["batching"]}
    if running.workdir is not None:
        settings["graph"] = graph_or_none(plans[0].model_fn, plans[0].dataset.example())
    configs = [{**search_loop.configuration(plan, method), **settings} for plan in plans]
    with _Batch(running, config) as batch, contextlib.ExitStack() as stack:
        ended = _ended(plans, configs, running)
        for plan, own, before in zip(plans, configs, ended, strict=True):
            lane = Lane(plan, own, Session(batch.own(plan), own, batch))
            if before is None:
                stack.enter_context(lane.session)
            else:
                lane.result, lane.error = before
            batch.lanes.append(lane)
        layout = make_layout(config["batching"], len(plans), one_path=method.one_path)
        programs = search_loop.prepare(plans[0], method, layout=layout, steps_per_call=running.steps_per_call)
        results = search_loop.advance(batch.lanes, method, programs, batch)
        if not batch.stopped:
            batch.directory.remove_checkpoints()
        return [_Found(result, lane.error) for result, lane in zip(results, batch.lanes, strict=True)]


class _Batch(Session):
    """The session of seeds that run as one: it saves and stops them together, and tells the callbacks of each.

    Attributes:
      lanes: the seeds.
    """

    def __init__(self, running: Running, config: dict[str, Any]):
        progress = running.progress is True  # a function is called with the record of each seed
        super().__init__(dataclasses.replace(running, progress=progress, callbacks=()), config)
        self.lanes: list[Lane] = []
        self._asked_for = running

    def __enter__(self) -> _Batch:
        super().__enter__()
        return self

    def own(self, plan: Plan) -> Running:
        """How the run of one seed is carried out."""
        own = _own(self._asked_for, plan.seed)
        if own.progress is not True:
            return own
        return dataclasses.replace(
            own, progress=lambda record: self.say(f"seed {plan.seed}  {epoch_line(record, plan.epochs)}")
        )

    def begin(self, run: Run, position: Position) -> None:
        of_all = dataclasses.replace(run, workdir=self.directory.path, config=dict(self._config), history=[])
        super().begin(of_all, position)
        self.say(f"seeds {_listed([lane.plan.seed for lane in self.lanes])} as one: {self._config['batching']}")
        for lane in self._active:
            lane.session.begin(lane.described(run.steps), position)

    def tell(self, step: Step) -> None:
        super().tell(step)
        metrics = jax.device_get(step.metrics)
        for place, lane in enumerate(self.lanes):
            if lane.result is None:
                lane.session.tell(step._replace(metrics={name: values[place] for name, values in metrics.items()}))

    @property
    def _active(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.result is None]


def _own(running: Running, seed: int) -> Running:
    """How the run of one seed is carried out: in a directory of its own, with callbacks of its own."""
    workdir = None if running.workdir is None else runs.seed_folder(running.workdir, seed)
    return dataclasses.replace(running, workdir=workdir, callbacks=[copy.copy(each) for each in running.callbacks])


def _begun_with(path: Path | None, seeds: list[int]) -> str | None:
    """How the run that is in a directory was batched, if it is one of these seeds."""
    if path is None or not (path / "config.json").exists():
        return None
    with contextlib.suppress(ArchitectureError):
        config = read_json(path / "config.json")
        if isinstance(config, dict) and config.get("seeds") == seeds:
            return config.get("batching")
    return None


def _ended(plans: Sequence[Plan], configs: Sequence[dict[str, Any]], running: Running) -> list[_Found | None]:
    """What the seeds that have ended had found; None for each of the others.

    Raises:
      RunEndedError: if all have finished.
      RunError: if all have ended, but not all of them well; if one is of another configuration.
    """
    if running.workdir is None or not running.resume:
        return [None] * len(plans)
    found: list[_Found | None] = []
    for plan, config in zip(plans, configs, strict=True):
        path = runs.seed_folder(running.workdir, plan.seed)
        found.append(_read_back(path, plan) if RunDirectory(path).has_ended(config) else None)
    if all(found):
        RunDirectory(running.workdir).remove_checkpoints()  # a process may have been killed just before
        failed = [plan.seed for plan, one in zip(plans, found, strict=True) if one and one.error]
        if not failed:
            raise RunEndedError(
                f"{running.workdir}: all its seeds have finished. Choose another directory, or more seeds."
            )
        first = runs.seed_folder(running.workdir, failed[0])
        raise RunError(
            f"{running.workdir}: all its seeds have ended; {_listed(failed)} failed, {first / 'result.json'} says "
            f"where. Remove {first} to search it again."
        )
    return found


def _read_back(path: Path, plan: Plan) -> _Found:
    result = read_result(path, space=plan.space, model_fn=plan.model_fn, example=plan.dataset.example())
    ended = runs.read_result(path)
    if ended.get("status") != "failed":
        return _Found(result)
    return _Found(result, NonFiniteLossError(ended["error"], epoch=ended["epoch"], step=ended["step"], result=result))


def _failure(seeds: list[int], found: Sequence[_Found]) -> NonFiniteLossError:
    """One error for all seeds that failed; `result` is the list of all results."""
    failed = {seed: one.error for seed, one in zip(seeds, found, strict=True) if one.error is not None}
    seed, error = next(iter(failed.items()))
    also = [f"seed {other} in epoch {e.epoch}, step {e.step}" for other, e in failed.items() if other != seed]
    message = f"seed {seed}: {error}"
    message += f" So it was with {_listed(also)}." if also else ""
    message += " The other seeds have finished." if len(failed) < len(seeds) else ""
    results = [one.result for one in found]
    return NonFiniteLossError(
        f"{message} `error.result` is the list of all results.", epoch=error.epoch, step=error.step, result=results
    )


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items))
