"""Methods whose architecture is learnt by gradients: assembled from parts.

A step moves the logits down the validation loss of the relaxed architecture, then the weights down the training loss.
DARTS is `differentiable("darts")`; other methods exchange a part, or add one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnas.model import functional
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.model.trees import shapes_of
from jaxnas.oneshot.engine.base import Algorithm, Derivation, Method, Procedure, SearchState
from jaxnas.oneshot.engine.options import SearchOptions
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.parts import hypergradient as hypergradients
from jaxnas.oneshot.parts.derivation import by_weight
from jaxnas.oneshot.parts.freezing import Freezing
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd, given
from jaxnas.oneshot.parts.part import ModelPart, Seen, text_of
from jaxnas.oneshot.parts.penalty import Penalty
from jaxnas.oneshot.parts.perturbation import Perturb
from jaxnas.oneshot.parts.relaxation import Relaxation, Train, decide, softmax
from jaxnas.oneshot.parts.supernet import Supernet, supernet
from jaxnas.programs.evaluation import LossFn, MetricsFn, accuracy, cross_entropy
from jaxnas.runs.loop import Phase

CallWith = Callable[[Plan], Callable[[jax.Array], dict[str, Any]] | None]
"""(plan) -> (t) -> {argument: value}, of the model's call; or None for nothing."""

_SAMPLE, _PERTURB = 1, 2  # what a step's keys are folded with


class Parts(NamedTuple):
    """What a method is assembled from; see `differentiable`."""

    relax: Callable[[Space], Relaxation] = softmax
    penalties: Sequence[Callable[[Space], Penalty]] = ()
    perturb: Callable[[Space], Perturb] | None = None
    hypergradient: hypergradients.Hypergradient = hypergradients.first_order
    single_level: bool = False
    train_on: Callable[[Space], Train] | None = None
    in_turns: bool = False
    freeze: ModelPart[Freezing] | None = None

    def described(self) -> dict[str, Any]:
        """The parts as `config.json` has them."""
        own: dict[str, Any] = {} if self.train_on is None else {"train_on": text_of(self.train_on)}
        own |= {"in_turns": True} if self.in_turns else {}
        own |= {} if self.freeze is None else {"freeze": text_of(self.freeze)}
        return {
            **own,
            "relax": text_of(self.relax),
            "penalties": [text_of(each) for each in self.penalties],
            "perturb": None if self.perturb is None else text_of(self.perturb),
            "hypergradient": text_of(self.hypergradient),
            "single_level": self.single_level,
        }


@short_repr
@struct.dataclass
class DifferentiableState(SearchState):
    """State of a search whose architecture is learnt by gradients.

    Attributes:
      alphas: `{key: float [n_candidates]}`, the logits.
      arch_opt_state: optax state of the logits.
      matching: which operations are frozen, where a part freezes them; else `()`.
    """

    alphas: dict[str, jax.Array]
    arch_opt_state: optax.OptState
    matching: Any = ()


def differentiable(
    name: str,
    *,
    relax: Callable[[Space], Relaxation] = softmax,
    penalties: Sequence[Callable[[Space], Penalty]] = (),
    perturb: Callable[[Space], Perturb] | None = None,
    hypergradient: hypergradients.Hypergradient = hypergradients.first_order,
    derive: Derivation = by_weight,
    single_level: bool = False,
    train_on: Callable[[Space], Train] | None = None,
    in_turns: bool = False,
    freeze: ModelPart[Freezing] | None = None,
    arch_optimizer: optax.GradientTransformation | None = None,
    own_arch_optimizer: Callable[[Plan], optax.GradientTransformation] = adam(),  # noqa: B008
    own_weight_optimizer: Callable[[Plan], optax.GradientTransformation] = cosine_sgd(),  # noqa: B008
    call_with: CallWith | None = None,
    settings: Mapping[str, Any] | None = None,
    **defaults: Unpack[SearchOptions],
) -> Method:
    """A method from parts.

    Args:
      name: of the method.
      relax: how logits become an architecture, `(space) -> Relaxation`.
      penalties: what is added to the architecture's loss, in this order, `(space) -> Penalty` each.
      perturb: how the mixture is changed under which the weights are trained, `(space) -> Perturb`, or None.
      hypergradient: how the gradient of the logits is taken; one of `jaxnas.oneshot.parts.hypergradient`.
      derive: how it decides.
      single_level: whether the logits are trained on the batch of the weights; then give `train_portion=1`.
      train_on: the architecture under which the weights are trained, `(space) -> (logits, rng, t) -> arch`, such as
        `parts.uniform_path`. Default: that of `relax`, drawn anew.
      in_turns: an epoch first passes over the weights' data, then over the logits'. Default: every step moves both.
      freeze: which candidates' weights are trained no more, such as `parts.gradient_matching()`.
      arch_optimizer: any optax optimiser, of the logits. Default: the method's own.
      own_arch_optimizer, own_weight_optimizer: `(plan) -> optimiser`, the method's own, where none is given. Default:
        those of the DARTS paper, Adam 3e-4 and SGD 0.025 -> 0.001.
      call_with: what else the model is called with in training, such as `parts.skip_dropout(0.4)`.
      settings: what `config.json` says of the method. Default: its parts.
      **defaults: the method's defaults of search options.

    Returns:
      A `Method`, for `jaxnas.search`.

    Raises:
      ValueError: for turns with a hypergradient, a single level, or freezing, which need both batches in a step.
    """
    parts = Parts(relax, tuple(penalties), perturb, hypergradient, single_level, train_on, in_turns, freeze)
    if in_turns and (single_level or hypergradient is not hypergradients.first_order):
        raise ValueError("in_turns trains the logits without the weights' batch: use first_order, and two levels.")
    if freeze is not None and (in_turns or single_level):
        raise ValueError("freeze compares the gradients of two batches in a step: use two levels, and not in_turns.")

    def build(plan: Plan) -> Procedure:
        turn = len(plan.arch_examples) // plan.batch_size if in_turns else 0
        pure = algorithm(
            plan.model_fn,
            plan.space,
            parts,
            weight_optimizer=plan.weight_optimizer or own_weight_optimizer(plan),
            arch_optimizer=given(plan, arch_optimizer) or own_arch_optimizer(plan),
            steps=plan.steps + (plan.epochs - plan.warmup_epochs) * turn,
            grad_clip=plan.grad_clip,
            loss_fn=plan.loss_fn,
            metrics=plan.metrics,
            example=plan.dataset.example(),
            call_with=None if call_with is None else call_with(plan),
        )

        def phases(epoch: int) -> list[Phase]:
            arch_batch = None if epoch < plan.warmup_epochs else plan.batch_size
            if in_turns:
                weights = Phase(plan.steps_per_epoch, plan.batch_size, None)
                return [weights] if arch_batch is None else [weights, Phase(turn, None, arch_batch)]
            return [Phase(plan.steps_per_epoch, plan.batch_size, arch_batch)]

        return Procedure(pure, phases, derive, {"arch_optimizer": "paper" if arch_optimizer is None else "custom"})

    described = {**parts.described(), "derive": text_of(derive)}
    described |= {} if call_with is None else {"call_with": text_of(call_with)}
    return Method(name, build, described if settings is None else settings, dict(defaults))


def algorithm(
    model_fn: Any,
    space: Space,
    parts: Parts = Parts(),  # noqa: B008
    *,
    weight_optimizer: optax.GradientTransformation,
    arch_optimizer: optax.GradientTransformation,
    steps: int,
    grad_clip: float | None = 5.0,
    loss_fn: LossFn = cross_entropy,
    metrics: MetricsFn = accuracy,
    example: Any = None,
    call_with: Callable[[jax.Array], dict[str, Any]] | None = None,
) -> Algorithm:
    """The same as pure functions, for a loop of one's own.

    Args:
      model_fn, space: what is searched.
      parts: what the method is assembled from.
      weight_optimizer, arch_optimizer: any optax optimisers. The virtual step of a second order is one step of
        `weight_optimizer` from its present state, without `grad_clip`, as in the DARTS paper's code.
      steps: steps of the whole search; `t`, the share of it done, is the state's step over this.
      grad_clip: largest global norm of the weights' gradient, or None.
      loss_fn, metrics: of (output, labels).
      example: an input of the model, of which only the shape matters, for parts that look at the model.
      call_with: `(t) -> {argument: value}`, what the model is called with in training beside its input.

    Returns:
      `Algorithm(init, step, derive)` over a `DifferentiableState`. Metrics of a step: `train_loss`, `train_<metric>`,
      `weight_grad_norm` (before clipping), and, if the architecture was updated, `valid_loss`, `valid_<metric>` (both
      without penalties), `arch_grad_norm`, and with penalties `arch_loss`, their sum with `valid_loss`. Of first order
      a step may have a validation batch alone, and then leaves the weights as they are.
    """
    model = functional.model_fns(model_fn)
    relaxation = parts.relax(space)
    if parts.perturb is not None and (relaxation.one_path or parts.train_on is not None):
        raise ValueError("perturb changes the weights of a mixture; give a relaxation of weights, and no train_on.")
    seen = Seen(model_fn, space, example, relaxation)

    def weights(t: jax.Array) -> Supernet:
        called = {} if call_with is None else call_with(t)
        own = model._replace(apply=functools.partial(model.apply, **called))
        return supernet(own, optimizer=weight_optimizer, grad_clip=grad_clip, loss_fn=loss_fn, metrics=metrics)

    steps_of = _Steps(
        model=model,
        weights=weights,
        relaxation=relaxation,
        penalties=[each.for_model(seen) if isinstance(each, ModelPart) else each(space) for each in parts.penalties],
        perturb=None if parts.perturb is None else parts.perturb(space),
        train_on=relaxation.arch if parts.train_on is None else parts.train_on(space),
        freeze=None if parts.freeze is None else parts.freeze.for_model(seen),
        parts=parts,
        weight_optimizer=weight_optimizer,
        arch_optimizer=arch_optimizer,
        steps=steps,
    )
    return Algorithm(
        steps_of.init,
        steps_of.step,
        derive=lambda state: decide(space, jax.device_get(relaxation.probabilities(state.alphas))),
        watched=("train_loss", "valid_loss", "arch_loss", "weight_grad_norm", "arch_grad_norm"),
        logits=lambda state: state.alphas,
        mixture=relaxation.probabilities,
        one_path=relaxation.one_path,
    )


@dataclasses.dataclass(frozen=True)
class _Steps:
    """The parts, built for a space, and what they do in a step."""

    model: functional.ModelFns
    weights: Callable[[jax.Array], Supernet]
    relaxation: Relaxation
    penalties: Sequence[Penalty]
    perturb: Perturb | None
    train_on: Train
    freeze: Freezing | None
    parts: Parts
    weight_optimizer: optax.GradientTransformation
    arch_optimizer: optax.GradientTransformation
    steps: int

    def init(self, rng: jax.Array, sample_batch: Any) -> DifferentiableState:
        model_rng, alpha_rng, rng = jax.random.split(rng, 3)
        alphas = self.relaxation.init(alpha_rng)
        arch = self.relaxation.probabilities(alphas)
        variables = dict(self.model.init(model_rng, shapes_of(sample_batch[0]), arch))
        params = variables.pop("params", {})
        return DifferentiableState(
            params=params,
            model_state=variables,
            alphas=alphas,
            weight_opt_state=self.weight_optimizer.init(params),
            arch_opt_state=self.arch_optimizer.init(alphas),
            rng=rng,
            step=jnp.zeros((), jnp.int32),
            matching=() if self.freeze is None else self.freeze.init(params),
        )

    def step(
        self, state: DifferentiableState, train_batch: Any, valid_batch: Any
    ) -> tuple[DifferentiableState, dict[str, jax.Array]]:
        weight_rng, arch_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
        t = state.step.astype(jnp.float32) / self.steps
        report: dict[str, jax.Array] = {}
        before = state
        if valid_batch is not None:
            batch = train_batch if self.parts.single_level else valid_batch
            state, report = self._arch_step(state, train_batch, batch, (weight_rng, arch_rng), t)
        if train_batch is None:
            return state.replace(step=state.step + 1), report  # type: ignore[attr-defined]
        weights = self.weights(t)
        mixture = self.train_on(state.alphas, jax.random.fold_in(weight_rng, _SAMPLE), t)
        if self.perturb is not None:

            def loss_of_mixture(changed: Any) -> jax.Array:
                return weights.loss(state.params, state.model_state, changed, train_batch, weight_rng)[0]

            mixture = self.perturb(loss_of_mixture, mixture, jax.random.fold_in(weight_rng, _PERTURB), t)
        if self.freeze is None:
            state, trained = weights.train(state, mixture, train_batch, weight_rng)
        else:
            held_out = None if valid_batch is None else self._held_out(weights, before, valid_batch, arch_rng, t)
            found = weights.gradient(state.params, state.model_state, mixture, train_batch, weight_rng)
            state, trained = self._train_unfrozen(self.freeze, weights, state, found, held_out)
        return state.replace(step=state.step + 1), report | trained  # type: ignore[attr-defined]

    def _held_out(self, weights: Supernet, state: DifferentiableState, batch: Any, rng: jax.Array, t: jax.Array) -> Any:
        """The weights' gradient of the validation loss whose gradient moved the logits; XLA computes it once."""
        return weights.gradient(state.params, state.model_state, self._sample(state.alphas, rng, t), batch, rng)[1]

    def _train_unfrozen(
        self, freeze: Freezing, weights: Supernet, state: DifferentiableState, found: Any, held_out: Any
    ) -> tuple[DifferentiableState, dict[str, jax.Array]]:
        matching = state.matching if held_out is None else freeze.observe(state.matching, found[1], held_out)
        state = state.replace(matching=matching)  # type: ignore[attr-defined]
        state, report = weights.update(state, found, freeze.trained(matching, state.params))
        frozen = sum(each.sum() for each in jax.tree.leaves(matching.frozen))
        return state, report | {"frozen_operations": jnp.asarray(frozen, jnp.float32)}

    def _sample(self, alphas: Any, rng: jax.Array, t: jax.Array) -> dict[str, Any]:
        return self.relaxation.arch(alphas, jax.random.fold_in(rng, _SAMPLE), t)

    def _arch_step(
        self,
        state: DifferentiableState,
        train_batch: Any,
        valid_batch: Any,
        rngs: tuple[jax.Array, jax.Array],
        t: jax.Array,
    ) -> tuple[DifferentiableState, dict[str, jax.Array]]:
        def loss(params: Any, alphas: Any, batch: Any, rng: jax.Array, also: Sequence[Penalty] = ()) -> tuple:
            mixture = self._sample(alphas, rng, t)
            value, (scores, _) = self.weights(t).loss(params, state.model_state, mixture, batch, rng)
            total = value
            for penalty in also:
                total = penalty(total, alphas, mixture, t)
            return total, (value, scores)

        def virtual_step(params: Any, gradients: Any) -> Any:
            updates, _ = self.weight_optimizer.update(gradients, state.weight_opt_state, params)
            return optax.apply_updates(params, updates)

        gradient = self.parts.hypergradient(
            lambda params, alphas: loss(params, alphas, train_batch, rngs[0])[0],
            lambda params, alphas: loss(params, alphas, valid_batch, rngs[1], self.penalties),
            virtual_step,
        )
        (total, (value, scores)), gradients = gradient(state.params, state.alphas)
        updates, arch_opt_state = self.arch_optimizer.update(gradients, state.arch_opt_state, state.alphas)
        alphas = optax.apply_updates(state.alphas, updates)
        if self.relaxation.settle is not None:
            alphas = self.relaxation.settle(state.alphas, alphas, self._sample(state.alphas, rngs[1], t))
        state = state.replace(alphas=alphas, arch_opt_state=arch_opt_state)  # type: ignore[attr-defined]
        report = {"valid_loss": value, "arch_grad_norm": optax.global_norm(gradients)}
        report |= {"arch_loss": total} if self.penalties else {}
        return state, report | {f"valid_{name}": score for name, score in scores.items()}
