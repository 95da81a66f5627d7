"""What a stage keeps of the choices for the next one, and how searches restrain skip connections (P-DARTS)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.checks import check_at_least
from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.model.architecture import LAYER, NONE
from jaxnas.model.restrict import whole_model
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import View
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.parts.derivation import mixture_of, reviewed
from jaxnas.oneshot.parts.edges import SKIPS
from jaxnas.oneshot.parts.part import part
from jaxnas.oneshot.parts.relaxation import decide
from jaxnas.runs.loop import Review


@part
def strongest(count: int | float) -> Callable[[Space], Callable[[Mapping[str, Any]], dict[str, tuple]]]:
    """Of every LayerChoice so many candidates of the largest probability, `none` counted like any other.

    Of equal ones the first. Where all that would be left of an edge of ranked inputs is `none`, the strongest other one
    takes its place, since such an edge must have an operation. InputChoices stay as they are.

    Args:
      count: how many; a float below 1 is a share of the candidates that the whole choice has, rounded up. (A share may
        be all that is left of a small choice.)

    Raises:
      ValueError: for a count that is not positive, or a float of 1 or more.
      ArchitectureError: when it meets the space, if a choice has fewer candidates, or none has more.
    """
    share = isinstance(count, float)
    if isinstance(count, bool) or not isinstance(count, (int, float)) or count <= 0 or (share and count >= 1):
        raise ValueError(f"what is kept must be a number of candidates, at least 1, or a share in 0..1; got {count!r}.")

    def of_space(space: Space) -> Callable[[Mapping[str, Any]], dict[str, tuple]]:
        layers = {key: spec for key, spec in space.items() if spec.kind == LAYER}
        edges = {name for spec in space.values() if spec.ranked for name in spec.names or ()}
        counts = {key: math.ceil(round(count * spec.whole.n_candidates, 9)) for key, spec in layers.items()}
        counts = counts if share else dict.fromkeys(layers, int(count))
        for key, spec in layers.items():
            if counts[key] > spec.n_candidates:
                raise ArchitectureError(
                    f"a stage is to keep {counts[key]} candidates of choice {key!r}, which then has "
                    f"{spec.n_candidates} ({spec}); keep fewer, or a share such as 0.5."
                )
        if not share and all(counts[key] == spec.n_candidates for key, spec in layers.items()):
            what = "keeps every candidate of all LayerChoices" if layers else "finds no LayerChoice to shrink"
            raise ArchitectureError(f"a stage {what}, so the next would search the same space: {list(space)}.")
        if not any(spec.whole.n_candidates > 1 for spec in layers.values()):
            raise ArchitectureError(f"a stage finds no LayerChoice to shrink: {list(space)}.")

        def kept(key: str, weights: Any) -> tuple:
            order = np.argsort(-np.asarray(weights, float), kind="stable").tolist()
            chosen, labels = order[: counts[key]], space[key].labels
            if key in edges and [labels[i] for i in chosen] == [NONE]:
                chosen = order[1:2] or chosen
            return tuple(labels[i] for i in sorted(chosen))

        return lambda probabilities: {key: kept(key, probabilities[key]) for key in layers}

    return of_space


@part
def limited_skips(most: int = 2, *, prefix: str = "normal/") -> Callable[[View], Review]:
    """P-DARTS (arXiv 1904.12760, section 3.3.2): decides as `by_weight`, but with so many skip connections at most.

    While there are more among the choices whose key begins with `prefix`, that of the smallest weight gets the weight
    0, and all is decided anew: so another operation takes its place, or another edge. `skips` in the record is their
    number then. A skip connection is a candidate named one of `SKIPS` (`skip_connect`, `skip`, `identity`, `id`). A
    space without such choices is decided as by `by_weight`.

    Raises:
      ValueError: for fewer than none.
    """
    check_at_least(0, most=most)

    def derive(view: View) -> Review:
        space = view.space
        weights = {key: np.array(each, float) for key, each in jax.device_get(mixture_of(view)[1]).items()}
        places = {
            key: [i for i, name in enumerate(spec.names or ()) if name in SKIPS]
            for key, spec in space.items()
            if spec.kind == LAYER and key.startswith(prefix)
        }
        while True:
            arch = decide(space, weights)
            chosen = [(weights[k][i], k, i) for k, at in places.items() for i in at if arch[k] == space[k].labels[i]]
            removable = [each for each in chosen if each[0] > 0]
            if len(chosen) <= most or not removable:
                return reviewed(view, view.state, arch, {"skips": len(chosen)})
            _, key, i = min(removable)
            weights[key][i] = 0.0

    return derive


@part
def skip_dropout(rate: float, *, decay: float = 5.0) -> Callable[[Plan], Callable[[jax.Array], dict[str, Any]] | None]:
    """P-DARTS (arXiv 1904.12760, section 3.3.1): dropout after skip connections, for `call_with`.

    The rate is that of the authors' code, by the epoch e of E: while only the weights are trained, in the first w
    epochs, `rate * (E - e - 1) / E`; then `rate * exp(-decay * (e - w) / E)`. The decay of 5 is the authors' 0.2 per
    epoch of 25.

    Args:
      rate: in 0..1; with 0 the model is called as ever.
      decay: over the whole search.

    Raises:
      ValueError: for a rate outside [0, 1), or a negative decay.
      ArchitectureError: when it meets a model whose call has no argument `skip_dropout`, as `spaces.darts` has.
    """
    if not 0 <= rate < 1 or decay < 0:
        raise ValueError(f"skip_dropout has a rate in [0, 1) and a decay of at least 0; got {rate!r} and {decay!r}.")

    def of_plan(plan: Plan) -> Callable[[jax.Array], dict[str, Any]] | None:
        if not rate:
            return None
        if not takes_skip_dropout(plan.model_fn):
            raise ArchitectureError("the model's call has no argument skip_dropout, as jaxnas.spaces.darts has.")
        epochs, first = plan.epochs, plan.warmup_epochs

        def of_time(t: jax.Array) -> dict[str, Any]:
            epoch = jnp.floor(t * epochs + 1e-4)  # t is rounded
            falling = rate * jnp.exp(-decay * (epoch - first) / epochs)
            return {"skip_dropout": jnp.where(epoch < first, rate * (epochs - epoch - 1) / epochs, falling)}

        return of_time

    return of_plan


def takes_skip_dropout(model_fn: Any) -> bool:
    """Whether a model can be called with `skip_dropout=`."""
    return "skip_dropout" in inspect.signature(type(whole_model(functional.build(model_fn))).__call__).parameters
