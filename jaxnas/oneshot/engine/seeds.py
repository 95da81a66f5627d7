"""One search from one seed, or from many: one after the other, or stepped as one; a run directory for each.

`workdir/seed_0`, `workdir/seed_1`, … are run directories like that of a single search. `workdir` itself holds what they
have in common: `config.json` (which seeds, how batched), `run.lock`, and the checkpoints of seeds that are stepped as
one, in which their states lie together.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from jaxnas.errors import ArchitectureError, NonFiniteLossError, RunEndedError, RunError
from jaxnas.model.graph import graph_or_none
from jaxnas.model.serialization import read_json
from jaxnas.oneshot.engine.base import Method, Procedure
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import SearchResult, read_result
from jaxnas.oneshot.engine.task import SearchTask, configuration, make_task
from jaxnas.programs.devices import SEEDS, Devices, described, device_count, find_mesh
from jaxnas.programs.epoch import EpochProgram
from jaxnas.programs.layout import default_batching, make_layout, single
from jaxnas.runs import directory as runs
from jaxnas.runs import loop
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.lane import make_lane
from jaxnas.runs.options import Running
from jaxnas.runs.session import Session


def run_to_end(
    task: SearchTask,
    program: EpochProgram,
    plan: Plan,
    config: Mapping[str, Any],
    running: Running,
    *,
    shared: bool = False,
    beside: Sequence[str] = (),
) -> tuple[SearchResult, bool]:
    """Runs the search with one seed; if its callbacks are shared with other seeds, with copies of them.

    Args:
      task, program, plan, config, running: the search.
      shared: whether its callbacks are.
      beside: see `RunDirectory`.

    Returns:
      The result, and whether it has ended rather than stopped at its time limit.

    Raises:
      Interrupted, NonFiniteLossError, RunError: see `jaxnas.search`.
    """
    directory = RunDirectory(running.workdir, beside=beside)
    config = {**config, **_graph(plan, running)}
    with Session(running, directory, config) as session:
        session.add(make_lane(task.run_of(plan.seed, directory, config), running, directory, shared=shared))
        [result] = loop.run(task, program, session)
        if (error := session.lanes[0].error) is not None:
            raise error
        return result, session.lanes[0].ended


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
    asked = batching or _began_with(top.path, seeds)
    where = running.devices, running.mesh
    batching, mesh = batching_and_mesh(asked, len(seeds), *where, one_path=one_path, batch_size=plan.batch_size)
    configs = [configuration(each, method, procedure) for each in plans]
    configs = [{**each, **described(mesh)} for each in configs]
    config = {**configs[0], "seeds": seeds, "batching": batching}
    del config["seed"]
    if batching == "sequence":
        with top.open(config, resume=running.resume):
            found = _in_sequence(plans, procedure, configs, running, mesh)
    else:
        found = _as_one(plans, procedure, configs, running, config, mesh)
    if len(found) == len(seeds) and any(one.error for one in found):
        raise failure(seeds, found)
    return [one.result for one in found]


def batching_and_mesh(
    asked: str | None, count: int, devices: Devices, mesh: Mesh | None, *, one_path: bool, batch_size: int
) -> tuple[str, Mesh | None]:
    """How so many searches run, and on which mesh; see `find_mesh`.

    Without `devices` and `mesh`, `"shard"` has no mesh on a CPU: it is a search on each device.
    """
    if asked == "shard" and mesh is not None and SEEDS not in mesh.axis_names:
        raise ValueError(f'batching="shard" spreads seeds over an axis {SEEDS!r} of a mesh; this one has none.')
    if mesh is not None:
        asked = asked or ("shard" if SEEDS in mesh.axis_names else "sequence")
    elif asked is None:
        there = None if devices is None else device_count(devices)
        asked = default_batching(count, one_path=one_path, devices=there)
    searches = count if asked == "shard" else 1
    return asked, find_mesh(devices, mesh, batch_size=batch_size, searches=searches)


class Found(NamedTuple):
    """What the search with one seed gave: a result, and why it failed if it did."""

    result: SearchResult
    error: NonFiniteLossError | None = None


def _in_sequence(
    plans: Sequence[Plan],
    procedure: Procedure,
    configs: Sequence[dict[str, Any]],
    running: Running,
    mesh: Mesh | None,
) -> list[Found]:
    """Runs each seed by itself, with the same programs. Gives less than all where time has run out."""
    ended = _ended(plans, configs, running)
    task, program = make_task(plans, procedure, single(mesh), mesh=mesh, steps_per_call=running.steps_per_call)
    of_seed = {plan.seed: (plan, config) for plan, config in zip(plans, configs, strict=True)}
    return in_sequence(
        {plan.seed: before for plan, before in zip(plans, ended, strict=True)},
        running,
        lambda seed, own: run_to_end(task, program, *of_seed[seed], own, shared=True)[0],
    )


def in_sequence(
    ended: Mapping[int, Found | None], running: Running, search: Callable[[int, Running], SearchResult]
) -> list[Found]:
    """Runs a search for each seed that has not ended, one after the other.

    Args:
      ended: seed -> what it had found, or None.
      running: how all of them are carried out.
      search: `(seed, running) -> result`, one of them.

    Returns:
      What each gave, less than all where time has run out.
    """
    began, found, idle = time.perf_counter(), list[Found](), True
    for number, (seed, before) in enumerate(ended.items(), 1):
        own, left = dataclasses.replace(running, workdir=_folder(running, seed)), None
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
            print(f"seed {seed}, {number} of {len(ended)}", flush=True)
        try:
            found.append(Found(search(seed, own)))
        except NonFiniteLossError as error:
            if running.progress is True:
                print(f"seed {seed} failed: {error}", flush=True)
            found.append(Found(error.result, error))
    return found


def _as_one(
    plans: Sequence[Plan],
    procedure: Procedure,
    configs: Sequence[dict[str, Any]],
    running: Running,
    config: dict[str, Any],
    mesh: Mesh | None,
) -> list[Found]:
    """Runs all seeds as lanes of one program. Gives nothing where time has run out before all have ended."""
    common = {"batching": config["batching"], **_graph(plans[0], running)}
    configs = [{**own, **common} for own in configs]
    top = RunDirectory(running.workdir)
    layout = make_layout(config["batching"], len(plans), one_path=procedure.algorithm.one_path, mesh=mesh)
    with Session(running, top, config, layout) as session:
        ended = _ended(plans, configs, running, top.checkpoints)
        task, program = make_task(plans, procedure, layout, mesh=mesh, steps_per_call=running.steps_per_call)
        for plan, own, before in zip(plans, configs, ended, strict=True):
            directory = RunDirectory(_folder(running, plan.seed), top.checkpoints)
            lane = make_lane(task.run_of(plan.seed, directory, own), running, directory, shared=True)
            if before is not None:
                lane.result, lane.error = before
            session.add(lane)
        results = loop.run(task, program, session)
        return [Found(result, lane.error) for result, lane in zip(results, session.lanes, strict=True)]


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
) -> list[Found | None]:
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
    found: list[Found | None] = []
    for plan, config in zip(plans, configs, strict=True):
        path = runs.seed_folder(running.workdir, plan.seed)
        directory = RunDirectory(path, checkpoints)
        found.append(read_back(path, plan) if directory.has_ended(config, resume=running.resume) else None)
    check_some_left(found, [plan.seed for plan in plans], running.workdir)
    return found


def check_some_left(found: Sequence[Found | None], seeds: Sequence[int], workdir: Any) -> None:
    """Raises RunEndedError if all seeds have finished, RunError if all have ended, but not all of them well."""
    if all(found):
        RunDirectory(workdir).remove_checkpoints()  # a process may have been killed just before
        failed = [seed for seed, one in zip(seeds, found, strict=True) if one and one.error]
        if not failed:
            raise RunEndedError(f"{workdir}: all its seeds have finished. Choose another directory, or more seeds.")
        first = runs.seed_folder(workdir, failed[0])
        raise RunError(
            f"{workdir}: all its seeds have ended; {_listed(failed)} failed, {first / 'result.json'} says "
            f"where. Remove {first} to search it again."
        )


def read_back(path: Path, plan: Plan) -> Found:
    """What a search that has ended had found."""
    result = read_result(
        path,
        space=plan.space,
        model_fn=plan.model_fn,
        example=plan.dataset.example(),
        preprocessing=plan.dataset.preprocessing,
    )
    ended = runs.read_result(path)
    if ended.get("status") != "failed":
        return Found(result)
    return Found(result, NonFiniteLossError(ended["error"], epoch=ended["epoch"], step=ended["step"], result=result))


def failure(seeds: list[int], found: Sequence[Found]) -> NonFiniteLossError:
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
