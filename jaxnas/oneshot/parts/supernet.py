"""Training a supernet's weights for a given architecture: the part that all one-shot algorithms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxnas.model import functional
from jaxnas.oneshot.engine.base import SearchState
from jaxnas.programs.losses import LossFn, as_loss
from jaxnas.programs.metrics import MetricsFn, as_metrics

State = TypeVar("State", bound=SearchState)


class Supernet(NamedTuple):
    """A supernet's weights as something to be trained, as pure functions.

    Attributes:
      loss: `(params, model_state, arch, (x, y), rng) -> (loss, (metrics, model_state))`, in training mode.
      train: `(state, arch, (x, y), rng) -> (state, report)`: one step of the weights. Report, float32 `[]`:
        `train_loss`, `train_<metric>`, `weight_grad_norm` (before clipping).
      train_together: the same for several architectures, each leaf with a leading axis: one step by the sum of their
        gradients, computed one after the other. The report has the means of their losses and metrics.
      gradient: `(params, model_state, arch, (x, y), rng) -> (what loss gives, gradient)`, by the params.
      update: `(state, what gradient gives, trained) -> (state, report)`: one step; `trained`, None or a tree of bool
        that broadcasts to the params, says which of them move at all.
    """

    loss: Callable[..., tuple[jax.Array, Any]]
    train: Callable[..., tuple[Any, dict[str, jax.Array]]]
    train_together: Callable[..., tuple[Any, dict[str, jax.Array]]]
    gradient: Callable[..., tuple[Any, Any]]
    update: Callable[..., tuple[Any, dict[str, jax.Array]]]


def supernet(
    model: functional.ModelFns,
    *,
    optimizer: optax.GradientTransformation,
    grad_clip: float | None,
    loss_fn: LossFn,
    metrics: MetricsFn,
) -> Supernet:
    """Builds the training of a supernet.

    Args:
      model: the supernet as pure functions.
      optimizer: any optax optimiser, of the weights.
      grad_clip: largest global norm of the gradient, or None.
      loss_fn, metrics: of (output, labels).
    """
    objective, measured = as_loss(loss_fn), as_metrics(metrics)
    clip = optax.identity() if grad_clip is None else optax.clip_by_global_norm(grad_clip)

    def loss(params: Any, model_state: Any, arch: Any, batch: Any, rng: jax.Array) -> tuple[jax.Array, Any]:
        x, y = batch
        variables = {"params": params, **model_state}
        output, updates = model.apply(variables, x, arch, train=True, rngs=rng, mutable=list(model_state))
        return objective(output, y, arch), (measured(output, y, arch), {**model_state, **updates})

    gradient = jax.value_and_grad(loss, has_aux=True)

    def update(state: State, found: Any, trained: Any = None) -> tuple[State, dict[str, jax.Array]]:
        (value, (scores, model_state)), gradients = found

        def kept(tree: Any) -> Any:
            return tree if trained is None else jax.tree.map(lambda ok, leaf: jnp.where(ok, leaf, 0), trained, tree)

        gradients = kept(gradients)
        clipped, _ = clip.update(gradients, clip.init(state.params))
        updates, opt_state = optimizer.update(clipped, state.weight_opt_state, state.params)
        report = {"train_loss": value, "weight_grad_norm": optax.global_norm(gradients)}
        report |= {f"train_{name}": score for name, score in scores.items()}
        params = optax.apply_updates(state.params, kept(updates))
        return state.replace(params=params, model_state=model_state, weight_opt_state=opt_state), report  # type: ignore[attr-defined]

    def train(state: State, arch: Any, batch: Any, rng: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        return update(state, gradient(state.params, state.model_state, arch, batch, rng))

    def train_together(state: State, archs: Any, batch: Any, rng: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        n = len(jax.tree.leaves(archs)[0])

        def add(carry: Any, inputs: Any) -> tuple[Any, Any]:
            total, model_state = carry
            arch, key = inputs
            (value, (scores, model_state)), gradients = gradient(state.params, model_state, arch, batch, key)
            return (jax.tree.map(jnp.add, total, gradients), model_state), (value, scores)

        start = (jax.tree.map(jnp.zeros_like, state.params), state.model_state)
        (total, model_state), found = jax.lax.scan(add, start, (archs, jax.random.split(rng, n)))
        value, scores = jax.tree.map(lambda each: each.mean(0), found)
        return update(state, ((value, (scores, model_state)), total))

    return Supernet(loss, train, train_together, gradient, update)
