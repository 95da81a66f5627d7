"""A search in stages: one search after the other, each of a model that the one before it has restricted.

The stages before the last have run directories of their own, `workdir/stage_1`, `workdir/stage_2`, …; the last one has
`workdir` itself, so that what is found, and the report of how, is where it is for any search. A stage that has ended is
read from its directory. So an interrupted search resumes in the stage in which it was.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnas.data import Dataset, as_dataset
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.model import functional
from jaxnas.model.architecture import LAYER
from jaxnas.model.fixed import inherit
from jaxnas.model.naming import describe_model
from jaxnas.model.restrict import restrict
from jaxnas.model.restriction import read_step, restricted_spec
from jaxnas.model.space import Space
from jaxnas.oneshot.engine import seeds as many
from jaxnas.oneshot.engine.base import Before, Method, Procedure, Stage
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS, completed
from jaxnas.oneshot.engine.plan import Plan, first_seed, make_plan
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.task import configuration, make_task
from jaxnas.programs.devices import described, find_mesh
from jaxnas.programs.layout import single
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.entering import check_ours
from jaxnas.runs.options import Running, running_of
from jaxnas.runs.reading import CONFIG, RESULT, stage_folder


def first_stage(model_fn: Any, data: Any, method: Method, options: Mapping[str, Any]) -> tuple[Plan, Procedure]:
    """The first stage of a search in stages, checked; arguments as `run`."""
    search, _, first = _met(model_fn, data, method, options)
    plan = search.plan(0, (), first)
    check_stages(method, plan.space)
    return plan, search.procedure(plan, None)


def run(model_fn: Any, data: Any, method: Method, options: Mapping[str, Any]) -> SearchResult | list[SearchResult]:
    """Runs a method that has stages.

    Args:
      model_fn, data: see `jaxnas.search`.
      method: with stages.
      options: those that were given.

    Raises:
      ArchitectureError: if the stages do not fit the model's choices.
      ValueError: for seeds that are to be stepped as one: from the second stage on each has a model of its own.
      For others see `jaxnas.search`.
    """
    search, common, first = _met(model_fn, data, method, options)
    running = running_of(common)
    if common["seeds"] is None:
        return search(first, running)[0]
    return _each(search, [int(seed) for seed in common["seeds"]], running)


def _met(model_fn: Any, data: Any, method: Method, options: Mapping[str, Any]) -> tuple[_Search, dict[str, Any], int]:
    """The search, the options that all stages have in common, and the first seed, checked."""
    common = completed(method, options)
    first = first_seed(common["seed"], common["seeds"], common["batching"])
    if common["seeds"] is not None and common["batching"] not in (None, "sequence"):
        raise ValueError(
            f"batching={common['batching']!r} steps several seeds as one, but after the first stage of {method.name} "
            'each has a smaller model of its own; use batching="sequence".'
        )
    dataset = as_dataset(data, data_dir=common["data_dir"])
    return _Search(model_fn, dataset, method, options), common, first


def _each(search: _Search, seeds: Sequence[int], running: Running) -> list[SearchResult]:
    """Runs it from each seed, one after the other."""
    top, began = RunDirectory(running.workdir), []
    config = {**search.configuration(search.plan(0, (), seeds[0])), "seeds": list(seeds), "batching": "sequence"}
    del config["seed"]

    def one(seed: int, own: Running) -> SearchResult:
        result, fresh = search(seed, own, read=True)
        began.extend([seed] if fresh else [])
        return result

    with top.open(config, resume=running.resume):
        found = many.in_sequence(dict.fromkeys(seeds), running, one)
    if not began:
        many.check_some_left(found, seeds, running.workdir)
    if len(found) == len(seeds) and any(each.error for each in found):
        raise many.failure(list(seeds), found)
    return [each.result for each in found]


@dataclasses.dataclass(frozen=True)
class _Search:
    """A method with stages that has met its model; called with a seed it searches.

    Attributes:
      model_fn, dataset, method: of the search.
      given: the options that were given.
    """

    model_fn: Any
    dataset: Dataset
    method: Method
    given: Mapping[str, Any]

    def plan(self, number: int, left: Sequence[Mapping[str, tuple]], seed: int) -> Plan:
        """That of a stage, from 0; `left` says what the stages before it have left."""
        stage = self.method.stages[number]
        defaults = {**SEARCH_DEFAULTS, **stage.method.defaults, **self.method.defaults, **stage.options}
        own = {**defaults, **self.given, "seed": seed, "seeds": None, "batching": None, "data": self.dataset}
        plan = make_plan(_restricted(self.model(number), left), own)
        return dataclasses.replace(plan, stage=number)

    def model(self, number: int) -> Any:
        """The model of a stage, with all candidates."""
        change = self.method.stages[number].model
        return self.model_fn if change is None else change(functional.build(self.model_fn))

    def procedure(self, plan: Plan, before: Before | None) -> Procedure:
        """That of a plan's stage."""
        stages, number = self.method.stages, plan.stage
        found = stages[number].method.build(plan)
        algorithm, begin = found.algorithm, stages[number].begin
        if number + 1 < len(stages) and (algorithm.logits is None or algorithm.mixture is None):
            raise ArchitectureError(
                f"stage {number + 1} of {self.method.name}, {stages[number].method.name}, has no logits by which "
                "candidates could be kept for the next stage; use a method that learns logits."
            )
        if begin is not None and before is not None:
            first = algorithm.init
            algorithm = algorithm._replace(
                init=lambda rng, batch: begin(first(rng, batch), before, jax.random.fold_in(rng, len(stages)))
            )
        candidates = [spec.n_candidates for spec in plan.space.values() if spec.kind == LAYER]
        about = f"stage {number + 1} of {len(stages)}: layers have up to {max(candidates, default=0)} candidates"
        about += f"; {found.about}" if found.about else ""
        return found._replace(algorithm=algorithm, about=about)

    def configuration(self, plan: Plan, procedure: Procedure | None = None) -> dict[str, Any]:
        """What `config.json` says of a stage; without a procedure what all have in common."""
        stage = self.method.stages[plan.stage].method
        own = dataclasses.replace(self.method, build=stage.build)
        config = configuration(plan, own, procedure or stage.build(plan))
        return {**config, "model": describe_model(self.model_fn)} | ({"stage": plan.stage + 1} if procedure else {})

    def __call__(self, seed: int, running: Running, *, read: bool = False) -> tuple[SearchResult, bool]:
        """Runs all stages, or those that are left.

        Args:
          seed: the seed.
          running: how.
          read: whether a search that has ended is read, instead of refused.

        Returns:
          The result of the last stage, or of that in which time ran out; and whether there was anything left to do.
        """
        stages, began = self.method.stages, time.perf_counter()
        beside = [stage_folder("", number).name for number in range(1, len(stages))]
        _check_workdir(running, beside)
        left: list[dict[str, tuple]] = []
        results: list[SearchResult] = []
        before, fresh, ended = None, False, True
        for number in range(len(stages)):
            last, own = number + 1 == len(stages), running
            if not last and running.workdir is not None:
                own = dataclasses.replace(own, workdir=stage_folder(running.workdir, number + 1))
            if running.max_minutes is not None:
                own = dataclasses.replace(
                    own, max_minutes=max(running.max_minutes - (time.perf_counter() - began) / 60, 0)
                )
            plan = self.plan(number, left, seed)
            if not number:
                check_stages(self.method, plan.space)
            procedure = self.procedure(plan, before)
            config, there = self.configuration(plan, procedure), RunDirectory(own.workdir)
            if (read or not last) and running.resume and there.has_ended(config, resume=running.resume):
                assert there.path is not None
                found = many.read_back(there.path, plan)
                if found.error is not None:
                    raise found.error
                result = found.result
            else:
                mesh = find_mesh(own.devices, own.mesh, batch_size=plan.batch_size)
                config |= described(mesh)
                layout, calls = single(mesh), own.steps_per_call
                task, program = make_task([plan], procedure, layout, mesh=mesh, steps_per_call=calls)
                names = beside if last else ()
                result, ended = many.run_to_end(task, program, plan, config, own, shared=True, beside=names)
                fresh = True
            if last or not ended:
                return dataclasses.replace(result, stages=tuple(results)), fresh
            left.append(_kept(stages[number], plan.space, procedure, result))
            before = self._before(result, number, left) if stages[number + 1].begin is not None else None
            results.append(dataclasses.replace(result, state=None))
        raise AssertionError("a method with stages has a last one")

    def _before(self, result: SearchResult, number: int, left: Sequence[Mapping[str, tuple]]) -> Before:
        """What the stage after that number may begin from."""
        model = restrict(self.model(number), _all(left))
        space, logits = result.space, {}
        for key, values in result.alphas.items():
            kept = left[-1].get(key, space[key].labels)
            logits[key] = np.asarray(values)[[space[key].labels.index(label) for label in kept]]
        return Before(model, inherit(model, result.variables, result.example), logits)


def check_stages(method: Method, space: Space) -> None:
    """Makes sure that each stage can keep what it is to keep, before the first begins.

    Raises:
      ArchitectureError: from `keep`, for more candidates than there are, or nothing to shrink.
    """
    specs = dict(space)
    for stage in method.stages[:-1]:
        assert stage.keep is not None
        now = Space(specs)
        step = read_step(stage.keep(now)({key: np.ones(spec.n_candidates) for key, spec in specs.items()}))
        specs = {key: restricted_spec((step,), key, spec) for key, spec in specs.items()}


def _kept(stage: Stage, space: Space, procedure: Procedure, result: SearchResult) -> dict[str, tuple]:
    """What a stage leaves of the choices for the next one."""
    assert stage.keep is not None
    assert procedure.algorithm.mixture is not None
    mixture = jax.device_get(procedure.algorithm.mixture(result.alphas))
    return stage.keep(space)(mixture)


def _restricted(model_fn: Any, left: Sequence[Mapping[str, tuple]]) -> Any:
    return restrict(model_fn, _all(left)) if left else model_fn


def _all(left: Sequence[Mapping[str, tuple]]) -> dict[str, tuple]:
    """What all stages have left: of each choice what the last one to name it said."""
    return {key: value for each in left for key, value in each.items()}


def _check_workdir(running: Running, beside: Sequence[str]) -> None:
    """Raises RunError if the directory holds another run, or other files, before the first stage begins."""
    if running.workdir is None:
        return
    path = RunDirectory(running.workdir).path
    assert path is not None
    check_ours(path, known=False, beside=beside)
    if (path / CONFIG).exists() and not (path / beside[-1] / RESULT).exists():
        raise RunError(
            f"{path} holds a run already, and {beside[-1]}, the stage before the last, has not ended: it is another "
            "run. Choose another directory."
        )
