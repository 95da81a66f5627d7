"""A search as the loop of runs sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnas.data.batches import epoch_batches
from jaxnas.oneshot.engine.base import Method, Procedure, View
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.programs import devices
from jaxnas.programs.epoch import EpochProgram, make_epoch
from jaxnas.programs.examples import on_device
from jaxnas.programs.layout import Layout
from jaxnas.programs.validation import RECALIBRATION_BATCHES, Validate, make_validation
from jaxnas.runs.callback import Run
from jaxnas.runs.directory import RunDirectory
from jaxnas.runs.fingerprint import function_fingerprint
from jaxnas.runs.lane import Lane
from jaxnas.runs.loop import Draw, Phase, Review, Where
from jaxnas.runs.progress import whole_batches


@dataclasses.dataclass(frozen=True)
class SearchTask:
    """One search, from any of its seeds; see `jaxnas.runs.loop.Task`.

    Attributes:
      plans: of each seed.
      procedure: the method, which has met the model.
      validate: see `jaxnas.programs.validation.make_validation`.
      sample: a batch `(x, y)`; only its shapes matter.
      mesh: on which it runs; None for the default device.
    """

    plans: Mapping[int, Plan]
    procedure: Procedure
    validate: Validate
    sample: Any
    mesh: Mesh | None = None

    @property
    def notes(self) -> list[str]:
        said = devices.said(self.mesh)
        said += [] if self.procedure.about is None else [self.procedure.about]
        plan = next(iter(self.plans.values()))
        left = len(plan.weight_examples) % plan.batch_size
        if left and self.procedure.phases(0)[0].steps == plan.steps_per_epoch:
            said.append(whole_batches(left, plan.batch_size))
        if any(plan.train_portion == 1 for plan in self.plans.values()):
            said.append("train_portion is 1: the weights and the architecture share all training data; validation too")
        return said

    def begin(self, seed: int) -> Any:
        return self.procedure.algorithm.init(self.plans[seed].key("init"), self.sample)

    def phases(self, epoch: int) -> Sequence[Phase]:
        return self.procedure.phases(epoch)

    def draw(self, seed: int, epoch: int, phase: int) -> Draw:
        plan, form = self.plans[seed], self.procedure.phases(epoch)[phase]
        epoch_rng = jax.random.fold_in(plan.key("epochs"), epoch)
        shuffle, augment, review = jax.random.split(jax.random.fold_in(epoch_rng, phase), 3)
        weight_rng, arch_rng = jax.random.split(shuffle)

        def stream(rng: jax.Array, examples: np.ndarray, size: int | None) -> np.ndarray | None:
            return None if size is None else epoch_batches(rng, examples, steps=form.steps, batch_size=size)

        streams = (
            stream(weight_rng, plan.weight_examples, form.weight_batch),
            stream(arch_rng, plan.arch_examples, form.arch_batch),
        )
        return Draw(streams, augment, review)

    def review(self, seed: int, state: Any, at: Where, rng: jax.Array) -> Review:
        plan = self.plans[seed]
        rows = min(RECALIBRATION_BATCHES, plan.steps_per_epoch)
        calibration = plan.weight_examples[: rows * plan.batch_size].reshape(rows, plan.batch_size)

        def score(
            arch: Any, *, examples: np.ndarray | None = None, recalibrate: bool = False, variables: Any = None
        ) -> dict[str, float]:
            at.check()
            chosen = plan.arch_examples if examples is None else examples
            own = state.variables if variables is None else variables
            return self.validate(own, arch, chosen, calibration if recalibrate else None)

        validated = score if at.validated else None
        return self.procedure.derive(View(plan, self.procedure.algorithm, state, at.epoch, at.last, rng, validated))

    def outcome(self, lane: Lane, state: Any, review: Review | None) -> SearchResult:
        plan, algorithm = self.plans[lane.run.seed], self.procedure.algorithm
        found = review or Review({}, algorithm.derive(state))
        return SearchResult(
            arch=found.arch or {},
            alphas={} if algorithm.logits is None else jax.device_get(algorithm.logits(state)),
            variables=state.variables,
            history=lane.run.history,
            space=plan.space,
            model_fn=plan.model_fn,
            example=plan.dataset.example(),
            preprocessing=plan.dataset.preprocessing,
            state=state,
            trials=found.trials,
        )

    def summary(self, outcome: SearchResult) -> dict[str, Any]:
        trials = [{"arch": trial.arch, "score": trial.score, "metrics": trial.metrics} for trial in outcome.trials]
        return {"arch": outcome.arch, "alphas": outcome.alphas, "candidates": trials}

    def run_of(self, seed: int, directory: RunDirectory, config: dict[str, Any]) -> Run:
        """The search with one of its seeds, as callbacks see it."""
        plan, algorithm = self.plans[seed], self.procedure.algorithm
        return Run(
            workdir=directory.path,
            config=config,
            epochs=plan.epochs,
            steps=sum(phase.steps for phase in self.phases(plan.epochs - 1)),
            history=[],
            model_fn=plan.model_fn,
            dataset=plan.dataset,
            loss_fn=plan.loss_fn,
            batch_size=plan.batch_size,
            seed=seed,
            validate_every=plan.validate_every,
            space=plan.space,
            arch_examples=plan.arch_examples,
            logits=algorithm.logits,
            mixture=algorithm.mixture,
        )


def configuration(plan: Plan, method: Method, procedure: Procedure) -> dict[str, Any]:
    """What `config.json` holds, but for the dataflow among the choices, which takes a moment to find."""
    config = {**plan.settings(), "algorithm": method.name, **method.settings, **procedure.settings}
    if "fingerprints" in config:
        config["fingerprints"]["method"] = function_fingerprint(method.build)
    return config


def make_task(
    plans: Sequence[Plan],
    procedure: Procedure,
    layout: Layout,
    *,
    mesh: Mesh | None,
    steps_per_call: int | None,
) -> tuple[SearchTask, EpochProgram]:
    """A search from these plans, which differ in their seeds, and its compiled epoch, with a layout on a mesh."""
    plan, algorithm = plans[0], procedure.algorithm
    images, labels = on_device(plan.dataset.x_train), on_device(plan.dataset.y_train)
    program = make_epoch(
        algorithm.step,
        plan.dataset,
        images=images,
        labels=labels,
        watched=algorithm.watched,
        steps_per_call=steps_per_call,
        layout=layout,
        whole=(False, algorithm.divides),
    )
    validate = make_validation(
        plan.model_fn,
        plan.dataset,
        plan.loss_fn,
        procedure.metrics or plan.metrics,
        images=images,
        labels=labels,
        calibration_images=images,
        batch_size=plan.batch_size,
        mesh=devices.data_axis(mesh),
    )
    sample = plan.dataset.example(plan.batch_size), labels.rows(slice(plan.batch_size))
    return SearchTask({each.seed: each for each in plans}, procedure, validate, sample, mesh), program
