"""Methods whose architecture is learnt by gradients: assembled from parts.

A step moves the logits down the validation loss of the relaxed architecture, then the weights down the training loss.
DARTS is `differentiable("darts")`; other methods exchange a part, or add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jaxnas.model import functional
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import Algorithm, Derivation, Method, Procedure, SearchState
from jaxnas.oneshot.engine.options import SearchOptions
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.parts import hypergradient as hypergradients
from jaxnas.oneshot.parts.derivation import by_weight
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd, given
from jaxnas.oneshot.parts.part import text_of
from jaxnas.oneshot.parts.penalty import Penalty
from jaxnas.oneshot.parts.perturbation import Perturb
from jaxnas.oneshot.parts.relaxation import Relaxation, decide, softmax
from jaxnas.oneshot.parts.supernet import supernet
from jaxnas.programs.evaluation import LossFn, MetricsFn, accuracy, cross_entropy
from jaxnas.runs.loop import Phase

_SAMPLE, _PERTURB = 1, 2  # what a step's keys are folded with


@struct.dataclass
class DifferentiableState(SearchState):
    """State of a search whose architecture is learnt by gradients.

    Attributes:
      alphas: `{key: float [n_candidates]}`, the logits.
      arch_opt_state: optax state of the logits.
    """

    alphas: dict[str, jax.Array]
    arch_opt_state: optax.OptState


def differentiable(
    name: str,
    *,
    relax: Callable[[Space], Relaxation] = softmax,
    penalties: Sequence[Callable[[Space], Penalty]] = (),
    perturb: Callable[[Space], Perturb] | None = None,
    hypergradient: hypergradients.Hypergradient = hypergradients.first_order,
    derive: Derivation = by_weight,
    single_level: bool = False,
    arch_optimizer: optax.GradientTransformation | None = None,
    own_arch_optimizer: Callable[[Plan], optax.GradientTransformation] = adam(),  # noqa: B008
    own_weight_optimizer: Callable[[Plan], optax.GradientTransformation] = cosine_sgd(),  # noqa: B008
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
      arch_optimizer: any optax optimiser, of the logits. Default: the method's own.
      own_arch_optimizer, own_weight_optimizer: `(plan) -> optimiser`, the method's own, where none is given. Default:
        those of the DARTS paper, Adam 3e-4 and SGD 0.025 -> 0.001.
      settings: what `config.json` says of the method. Default: its parts.
      **defaults: the method's defaults of search options.

    Returns:
      A `Method`, for `jaxnas.search`.
    """
    described = {
        "relax": text_of(relax),
        "penalties": [text_of(each) for each in penalties],
        "perturb": None if perturb is None else text_of(perturb),
        "hypergradient": text_of(hypergradient),
        "derive": text_of(derive),
        "single_level": single_level,
    }

    def build(plan: Plan) -> Procedure:
        pure = algorithm(
            plan.model_fn,
            plan.space,
            weight_optimizer=plan.weight_optimizer or own_weight_optimizer(plan),
            arch_optimizer=given(plan, arch_optimizer) or own_arch_optimizer(plan),
            relax=relax,
            penalties=penalties,
            perturb=perturb,
            hypergradient=hypergradient,
            single_level=single_level,
            steps=plan.steps,
            grad_clip=plan.grad_clip,
            loss_fn=plan.loss_fn,
            metrics=plan.metrics,
        )

        def phases(epoch: int) -> list[Phase]:
            arch_batch = None if epoch < plan.warmup_epochs else plan.batch_size
            return [Phase(plan.steps_per_epoch, plan.batch_size, arch_batch)]

        return Procedure(pure, phases, derive, {"arch_optimizer": "paper" if arch_optimizer is None else "custom"})

    return Method(name, build, described if settings is None else settings, dict(defaults))


def algorithm(
    model_fn: Any,
    space: Space,
    *,
    weight_optimizer: optax.GradientTransformation,
    arch_optimizer: optax.GradientTransformation,
    steps: int,
    relax: Callable[[Space], Relaxation] = softmax,
    penalties: Sequence[Callable[[Space], Penalty]] = (),
    perturb: Callable[[Space], Perturb] | None = None,
    hypergradient: hypergradients.Hypergradient = hypergradients.first_order,
    single_level: bool = False,
    grad_clip: float | None = 5.0,
    loss_fn: LossFn = cross_entropy,
    metrics: MetricsFn = accuracy,
) -> Algorithm:
    """The same as pure functions, for a loop of one's own. For the parts see `differentiable`.

    Args:
      model_fn, space: what is searched.
      weight_optimizer, arch_optimizer: any optax optimisers. The virtual step of a second order is one step of
        `weight_optimizer` from its present state, without `grad_clip`, as in the DARTS paper's code.
      steps: steps of the whole search; `t`, the share of it done, is the state's step over this.

    Returns:
      `Algorithm(init, step, derive)` over a `DifferentiableState`. Metrics of a step: `train_loss`, `train_<metric>`,
      `weight_grad_norm` (before clipping), and, if the architecture was updated, `valid_loss`, `valid_<metric>` (both
      without penalties), `arch_grad_norm`, and with penalties `arch_loss`, their sum with `valid_loss`.
    """
    model = functional.model_fns(model_fn)
    relaxation, added = relax(space), [each(space) for each in penalties]
    perturbation = None if perturb is None else perturb(space)
    weights = supernet(model, optimizer=weight_optimizer, grad_clip=grad_clip, loss_fn=loss_fn, metrics=metrics)

    def sampled(alphas: Any, rng: jax.Array, t: jax.Array) -> dict[str, Any]:
        return relaxation.arch(alphas, jax.random.fold_in(rng, _SAMPLE), t)

    def init(rng: jax.Array, sample_batch: Any) -> DifferentiableState:
        model_rng, alpha_rng, rng = jax.random.split(rng, 3)
        alphas = relaxation.init(alpha_rng)
        arch = relaxation.probabilities(alphas)
        variables = dict(model.init(model_rng, functional.shape_of(sample_batch[0]), arch))
        params = variables.pop("params", {})
        return DifferentiableState(
            params=params,
            model_state=variables,
            alphas=alphas,
            weight_opt_state=weight_optimizer.init(params),
            arch_opt_state=arch_optimizer.init(alphas),
            rng=rng,
            step=jnp.zeros((), jnp.int32),
        )

    def arch_step(
        state: DifferentiableState, train_batch: Any, valid_batch: Any, rngs: tuple[jax.Array, jax.Array], t: jax.Array
    ) -> tuple[DifferentiableState, dict[str, jax.Array]]:
        def loss(params: Any, alphas: Any, batch: Any, rng: jax.Array, also: Sequence[Penalty] = ()) -> tuple:
            mixture = sampled(alphas, rng, t)
            value, (scores, _) = weights.loss(params, state.model_state, mixture, batch, rng)
            total = value
            for penalty in also:
                total = penalty(total, alphas, mixture, t)
            return total, (value, scores)

        def virtual_step(params: Any, gradients: Any) -> Any:
            updates, _ = weight_optimizer.update(gradients, state.weight_opt_state, params)
            return optax.apply_updates(params, updates)

        gradient = hypergradient(
            lambda params, alphas: loss(params, alphas, train_batch, rngs[0])[0],
            lambda params, alphas: loss(params, alphas, valid_batch, rngs[1], added),
            virtual_step,
        )
        (total, (value, scores)), gradients = gradient(state.params, state.alphas)
        updates, arch_opt_state = arch_optimizer.update(gradients, state.arch_opt_state, state.alphas)
        state = state.replace(alphas=optax.apply_updates(state.alphas, updates), arch_opt_state=arch_opt_state)  # type: ignore[attr-defined]
        report = {"valid_loss": value, "arch_grad_norm": optax.global_norm(gradients)}
        report |= {"arch_loss": total} if added else {}
        return state, report | {f"valid_{name}": score for name, score in scores.items()}

    def step(
        state: DifferentiableState, train_batch: Any, valid_batch: Any
    ) -> tuple[DifferentiableState, dict[str, jax.Array]]:
        weight_rng, arch_rng = jax.random.split(jax.random.fold_in(state.rng, state.step))
        t = state.step.astype(jnp.float32) / steps
        report: dict[str, jax.Array] = {}
        if valid_batch is not None:
            batch = train_batch if single_level else valid_batch
            state, report = arch_step(state, train_batch, batch, (weight_rng, arch_rng), t)
        mixture = sampled(state.alphas, weight_rng, t)
        if perturbation is not None:

            def loss_of_mixture(changed: Any) -> jax.Array:
                return weights.loss(state.params, state.model_state, changed, train_batch, weight_rng)[0]

            mixture = perturbation(loss_of_mixture, mixture, jax.random.fold_in(weight_rng, _PERTURB), t)
        state, trained = weights.train(state, mixture, train_batch, weight_rng)
        return state.replace(step=state.step + 1), report | trained  # type: ignore[attr-defined]

    def derive(state: DifferentiableState) -> dict[str, Any]:
        return decide(space, jax.device_get(relaxation.probabilities(state.alphas)))

    return Algorithm(
        init,
        step,
        derive,
        watched=("train_loss", "valid_loss", "arch_loss", "weight_grad_norm", "arch_grad_norm"),
        logits=lambda state: state.alphas,
        mixture=relaxation.probabilities,
    )
