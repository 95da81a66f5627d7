"""Cost in the loss, in the reward, and as a limit: architectures under a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxnas.checks import check_options
from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import Gated
from jaxnas.model.cost import Cost, cost
from jaxnas.model.latency import LatencyTable
from jaxnas.model.space import Space
from jaxnas.oneshot.parts.part import Seen, model_part
from jaxnas.oneshot.parts.penalty import Penalty
from jaxnas.oneshot.parts.relaxation import Logits

Kind = Literal["flops", "params", "latency"]
KINDS = (*Cost._fields, "latency")


@model_part
def expected_cost(
    kind: Kind,
    *,
    target: float | None = None,
    form: Literal["add", "multiply", "log"] = "add",
    weight: float = 0.1,
    scale: float = 1.0,
    drawn: bool = False,
    table: LatencyTable | None = None,
) -> Callable[[Seen], Penalty]:
    """The cost of an architecture drawn by the probabilities, E, in the loss of the logits.

    `"add"` is loss + w·(E - target) / target, as in ProxylessNAS (arXiv 1812.00332, section 3.3). `"multiply"` is
    loss · (E / target)^w, as MnasNet's reward (arXiv 1807.11626) is shaped. `"log"` is loss · s·(log E / log target)^w:
    FBNet's loss (arXiv 1812.03443, equation 2) without a target, when log target counts as 1, and that of ProxylessNAS'
    code with one. The target is a scale: the loss falls with the cost below it too, and w says how much accuracy a
    lower cost is worth.

    E is of one example, of the probabilities that the logits stand for: by `jaxnas.cost`, exact where LayerChoices
    decide what is computed, or by the table.

    Args:
      kind: `"flops"` (multiply-accumulates), `"params"`, or `"latency"` (microseconds, of the table).
      target: in the same unit; may be left out for `"log"`.
      form: `"add"`, `"multiply"` or `"log"`.
      weight: w.
      scale: s, of `"log"`.
      drawn: E is the cost of what the step computes instead: of the weights that it draws (FBNet, equation 5), or of
        the path whose gate is 1, so that its gradient reaches the logits of the paths that run alone (ProxylessNAS).
      table: of `jaxnas.measure_latency`, for `"latency"`.

    Raises:
      ValueError: for an unknown kind or form, a target that is not positive (of `"log"`: not above 1), a negative
        weight, latency without a table or a table without latency; when built, without an example of the model's input.
      ArchitectureError: when built, for a model whose cost is the same for every architecture, a table that lacks a
        choice or candidate, or a log of costs that are not above 1.
    """
    if form not in ("add", "multiply", "log"):
        raise ValueError(f'form must be "add", "multiply" or "log"; got {form!r}.')
    check_kind("expected_cost", kind, table)
    if target is not None or form != "log":
        check_options(target=target)
    if form == "log" and target is not None and target <= 1:
        raise ValueError(f'the form "log" needs a target above 1, whose logarithm is positive; got {target!r}.')
    check_options(weight=weight, scale=scale)
    reference = 1.0 if target is None else math.log(target) if form == "log" else target

    def build(seen: Seen) -> Penalty:
        of = cost_of(kind, seen.model_fn, seen.space, seen.example, table)
        cheapest = _check_varies(kind, of, seen.space)
        if form == "log" and cheapest <= 1:
            raise ArchitectureError(
                f'the form "log" needs {kind} above 1; the cheapest architecture has {cheapest:g}: use another form.'
            )

        def penalty(loss: jax.Array, logits: Logits, mixture: dict, t: jax.Array) -> jax.Array:
            found = of(weights_of(seen.space, mixture) if drawn else seen.relaxation.probabilities(logits))
            if form == "log":
                return loss * scale * (jnp.log(found) / reference) ** weight
            return loss + weight * (found / reference - 1) if form == "add" else loss * (found / reference) ** weight

        return penalty

    return build


RewardCost = Callable[[jax.Array, Mapping[str, Any]], jax.Array]
"""(reward, sampled architecture) -> reward."""


@model_part
def cost_in_reward(
    kind: Kind,
    *,
    target: float,
    form: Literal["add", "multiply"] = "multiply",
    weight: float = 0.07,
    table: LatencyTable | None = None,
) -> Callable[[Seen], RewardCost]:
    """The cost of a sampled architecture, C, in its reward: for `reward_cost` of methods that learn by rewards.

    `"multiply"` is reward · (C / target)^-w (MnasNet, arXiv 1807.11626, equation 2; ProxylessNAS, arXiv 1812.00332,
    section 3.3.2), for rewards that are not negative, such as an accuracy. `"add"` is reward - w·(C - target) / target.

    Args:
      kind, target, table: as in `expected_cost`.
      form: `"multiply"` or `"add"`.
      weight: w.

    Raises:
      ValueError, ArchitectureError: as `expected_cost`.
    """
    if form not in ("add", "multiply"):
        raise ValueError(f'form must be "add" or "multiply"; got {form!r}.')
    check_kind("cost_in_reward", kind, table)
    check_options(target=target, weight=weight)

    def build(seen: Seen) -> RewardCost:
        of = cost_of(kind, seen.model_fn, seen.space, seen.example, table)
        _check_varies(kind, of, seen.space)

        def changed(reward: jax.Array, arch: Mapping[str, Any]) -> jax.Array:
            ratio = of(weights_of(seen.space, arch)) / target
            return reward - weight * (ratio - 1) if form == "add" else reward * ratio**-weight

        return changed

    return build


def check_kind(what: str, kind: Any, table: LatencyTable | None) -> None:
    """Raises ValueError for an unknown kind of cost, latency without a table, or a table without latency."""
    if kind not in KINDS:
        raise ValueError(f"{what} knows {list(KINDS)}; got {kind!r}.")
    if kind == "latency" and not isinstance(table, LatencyTable):
        raise ValueError(f"{what} of latency needs a table, from jaxnas.measure_latency; got table={table!r}.")
    if kind != "latency" and table is not None:
        raise ValueError(f"{what} of {kind} needs no latency table.")


def cost_of(
    kind: str, model_fn: Any, space: Space, example: Any, table: LatencyTable | None
) -> Callable[[Mapping[str, Any]], jax.Array]:
    """The expected cost of weights, `({key: float [n_candidates]}) -> float32 []`."""
    if kind == "latency":
        assert table is not None
        return table.expected(space)
    if example is None:
        raise ValueError(f"the expected {kind} need the shape of the model's input: give `example`.")
    return lambda weights: jnp.asarray(getattr(cost(model_fn, example, weights), kind), jnp.float32)


def weights_of(space: Space, arch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Weights, gated paths or sampled decisions as weights, `{key: float [n_candidates]}`, differentiable."""

    def one(n: int, value: Any) -> jax.Array:
        if isinstance(value, Gated):
            return jnp.zeros(n).at[value.index].set(value.gate)
        if jnp.issubdtype(value.dtype, jnp.integer):
            return jnp.zeros(n).at[value].set(1.0)
        return value.astype(jnp.float32)

    return {key: one(spec.n_candidates, arch[key]) for key, spec in space.items()}


def _check_varies(kind: str, of: Callable, space: Space) -> float:
    """The cost of the architecture whose every decision is the cheaper one. Raises ArchitectureError if none is."""
    slopes = jax.jit(jax.grad(of))(space.uniform())
    if not any(bool(jnp.any(slope != slope[0])) for slope in jax.tree.leaves(slopes)):
        raise ArchitectureError(f"the {kind} of this model are the same for every architecture, so no penalty helps.")
    return float(of(space.one_hot(space.fixed({key: _cheap(space[key], each) for key, each in slopes.items()}))))


def _cheap(spec: Any, slope: jax.Array) -> jax.Array:
    """Weights that decide for the smallest slopes; of any subset for none."""
    return jnp.zeros_like(slope) if spec.n_chosen is None else -slope
