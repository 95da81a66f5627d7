"""One search from one seed, or from many: one after the other, or stepped as one; a run directory for each.

`workdir/seed_0`, `workdir/seed_1`, … are run directories like that of a single search. `workdir` itself holds what they
have in common: `config.json` (which seeds, how batched), `run.lock`, and the checkpoints of seeds that are stepped as
one, in which their states lie together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxnas.errors import ArchitectureError, NonFiniteLossError, RunEndedError, RunError
from jaxnas.model.graph import graph_or_none
from jaxnas.model.serialization import read_json
from jaxnas.oneshot.engine.base import Method, Procedure
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import SearchResult, read_result
from jaxnas.oneshot.engine.task import SearchTask, configuration, make_task
from jaxnas.programs.epoch import EpochProgram
from jaxnas.programs.layout import default_batching, make_layout
from jaxnas.runs import directory as runs
from jaxnas.runs import loop
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.lane import make_lane
from jaxnas.runs.options import Running
from jaxnas.runs.session import Session


def run_one(
    task: SearchTask,
    program: EpochProgram,
    plan: Plan,
    config: Mapping[str, Any],
    running: Running,
    *,
    shared: bool = False,
) -> SearchResult:
    """Runs the search with one seed; if its callbacks are shared with other seeds, with copies of them.

    Raises:
      Interrupted, NonFiniteLossError, RunError: see `jaxnas.search`.
    """
    directory = RunDirectory(running.workdir)
    config = {**config, **_graph(plan, running)}
    with Session(running, directory, config) as session:
        session.add(make_lane(task.run_of(plan.seed, directory, config), running, directory, shared=shared))
        [result] = loop.run(task, program, session)
        if (error := session.lanes[0].error) is not None:
            raise error
        return result


def run(
    plan: Plan, method: Method, running: Running, *, seeds: Sequence[int], batching: str | None
) -> list[SearchResult]:
    """Runs the same search from many seeds.

    Args:
      plan: of the first of the seeds.
      method: the method.
      running: where to, what follows it, when to save and to stop.
      seeds: the seeds.
      batching: one of `jaxnas.programs.layout.BATCHINGS`, or None: that with which the run in `workdir` began, else
        `jaxnas.programs.layout.default_batching`.

    Returns:
      What each seed found, in order. Where time ran out in a sequence, the seeds that had not begun are missing.

    Raises:
      Interrupted, NonFiniteLossError, RunError: see `jaxnas.search`.
    """
    seeds = [int(seed) for seed in seeds]
    top = RunDirectory(running.workdir)
    plans, procedure = [plan.with_seed(seed) for seed in seeds], method.build(plan)
    one_path = procedure.algorithm.one_path
    batching = batching or _began_with(top.path, seeds) or default_batching(len(seeds), one_path=one_path)
    configs = [configuration(each, method, procedure) for each in plans]
    config = {**configs[0], "seeds": seeds, "batching": batching}
    del config["seed"]
    if batching == "sequence":
        with top.open(config, resume=running.resume):
            found = _in_sequence(plans, procedure, configs, running)
    else:
        found = _as_one(plans, procedure, configs, running, config)
    if len(found) == len(seeds) and any(one.error for one in found):
        raise _failure(seeds, found)
    return [one.result for one in found]


class _Found(NamedTuple):
    """What the search with one seed gave: a result, and why it failed if it did."""

    result: SearchResult
    error: NonFiniteLossError | None = None


def _in_sequence(
    plans: Sequence[Plan], procedure: Procedure, configs: Sequence[dict[str, Any]], running: Running
) -> list[_Found]:
    """Runs each seed by itself, with the same programs. Gives less than all where time has run out."""
    began, found, idle = time.perf_counter(), list[_Found](), True
    ended = _ended(plans, configs, running)
    task, program = make_task(plans, procedure, steps_per_call=running.steps_per_call)
    for number, (plan, config, before) in enumerate(zip(plans, configs, ended, strict=True), 1):
        own, left = dataclasses.replace(running, workdir=_folder(running, plan.seed)), None
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
            found.append(_Found(run_one(task, program, plan, config, own, shared=True)))
        except NonFiniteLossError as error:
            if running.progress is True:
                print(f"seed {plan.seed} failed: {error}", flush=True)
            found.append(_Found(error.result, error))
    return found


def _as_one(
    plans: Sequence[Plan],
    procedure: Procedure,
    configs: Sequence[dict[str, Any]],
    running: Running,
    config: dict[str, Any],
) -> list[_Found]:
    """Runs all seeds as lanes of one program. Gives nothing where time has run out before all have ended."""
    common = {"batching": config["batching"], **_graph(plans[0], running)}
    configs = [{**own, **common} for own in configs]
    top = RunDirectory(running.workdir)
    with Session(running, top, config) as session:
        ended = _ended(plans, configs, running, top.checkpoints)
        layout = make_layout(config["batching"], len(plans), one_path=procedure.algorithm.one_path)
        task, program = make_task(plans, procedure, layout=layout, steps_per_call=running.steps_per_call)
        for plan, own, before in zip(plans, configs, ended, strict=True):
            directory = RunDirectory(_folder(running, plan.seed), top.checkpoints)
            lane = make_lane(task.run_of(plan.seed, directory, own), running, directory, shared=True)
            if before is not None:
                lane.result, lane.error = before
            session.add(lane)
        results = loop.run(task, program, session)
        return [_Found(result, lane.error) for result, lane in zip(results, session.lanes, strict=True)]


def _graph(plan: Plan, running: Running) -> dict[str, Any]:
    """The dataflow among the choices, for `config.json`; nothing where no files are written."""
    return {} if running.workdir is None else {"graph": graph_or_none(plan.model_fn, plan.dataset.example())}


def _folder(running: Running, seed: int) -> Path | None:
    """The run directory of one seed."""
    return None if running.workdir is None else runs.seed_folder(running.workdir, seed)


def _began_with(path: Path | None, seeds: list[int]) -> str | None:
    """How the run that is in a directory was batched, if it is one of these seeds."""
    if path is None or not (path / "config.json").exists():
        return None
    with contextlib.suppress(ArchitectureError):
        config = read_json(path / "config.json")
        if isinstance(config, dict) and config.get("seeds") == seeds:
            return config.get("batching")
    return None


def _ended(
    plans: Sequence[Plan], configs: Sequence[dict[str, Any]], running: Running, checkpoints: Path | None = None
) -> list[_Found | None]:
    """What the seeds that have ended had found; None for each of the others.

    Args:
      plans, configs: of each seed.
      running: where to.
      checkpoints: where those lie that the seeds have in common, if they do.

    Raises:
      RunEndedError: if all have finished.
      RunError: if all have ended, but not all of them well; if one is of another configuration.
    """
    if running.workdir is None or not running.resume:
        return [None] * len(plans)
    found: list[_Found | None] = []
    for plan, config in zip(plans, configs, strict=True):
        path = runs.seed_folder(running.workdir, plan.seed)
        directory = RunDirectory(path, checkpoints)
        found.append(_read_back(path, plan) if directory.has_ended(config, resume=running.resume) else None)
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
    result = read_result(
        path,
        space=plan.space,
        model_fn=plan.model_fn,
        example=plan.dataset.example(),
        preprocessing=plan.dataset.preprocessing,
    )
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
    message += f" The same happened with {_listed(also)}." if also else ""
    message += " The other seeds have finished." if len(failed) < len(seeds) else ""
    results = [one.result for one in found]
    return NonFiniteLossError(
        f"{message} `error.result` is the list of all results.", epoch=error.epoch, step=error.step, result=results
    )


def _listed(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items))
