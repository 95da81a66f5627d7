"""DARTS: Differentiable Architecture Search. Liu, Simonyan, Yang; ICLR 2019; arXiv 1806.09055.

The weights of every choice are a softmax of logits (alphas). Each step first moves the alphas down the
validation loss, to first order or through one virtual step of the weights, then the weights down the
training loss. At the end every choice keeps its strongest candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

import optax

from jaxnas.model.space import Space
from jaxnas.oneshot.differentiable import DifferentiableState as DartsState
from jaxnas.oneshot.differentiable import Parts, differentiable
from jaxnas.oneshot.differentiable import algorithm as differentiable_algorithm
from jaxnas.oneshot.engine.base import Algorithm, Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts import hypergradient as hypergradients
from jaxnas.oneshot.parts.optimizers import paper_arch_optimizer, paper_weight_optimizer
from jaxnas.programs.evaluation import LossFn, MetricsFn, accuracy, cross_entropy

__all__ = ["DartsState", "algorithm", "method", "paper_arch_optimizer", "paper_weight_optimizer", "search"]

_HYPERGRADIENTS = {"exact": hypergradients.exact, "finite_difference": hypergradients.finite_difference}


def method(
    *,
    order: int = 1,
    hypergradient: Literal["exact", "finite_difference"] = "exact",
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """DARTS, for `jaxnas.search`. Defaults are those of the paper and its code.

    Args:
      order: 1, or 2 to differentiate through one virtual step of the weights.
      hypergradient: for order 2: `"exact"` (autodiff) or `"finite_difference"` (the paper's estimate).
      arch_optimizer: any optax optimiser. Default: `darts.paper_arch_optimizer`, Adam 3e-4.

    Raises:
      ValueError: for an unknown order or hypergradient.
    """
    return differentiable(
        "darts",
        hypergradient=_gradient(order, hypergradient),
        arch_optimizer=arch_optimizer,
        settings={"order": order, "hypergradient": hypergradient if order == 2 else None},
        epochs=50,
        batch_size=64,
        train_portion=0.5,
    )


def _gradient(order: int, hypergradient: str) -> hypergradients.Hypergradient:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2; got {order!r}.")
    if hypergradient not in _HYPERGRADIENTS:
        raise ValueError(f"hypergradient must be one of {sorted(_HYPERGRADIENTS)}; got {hypergradient!r}.")
    return hypergradients.first_order if order == 1 else _HYPERGRADIENTS[hypergradient]


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    order: int
    hypergradient: Literal["exact", "finite_difference"]
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with DARTS. Defaults are those of the paper and its code.

    How choices are relaxed: a LayerChoice is a softmax over its candidates. An InputChoice is searched like
    it, with logits of its own (NNI's DARTS ranks the layers behind it instead, and never searches
    `n_chosen=None`): with `n_chosen=k` the inputs are weighted by k·softmax and the k largest are kept; with
    `n_chosen=None` each input has a sigmoid gate and is kept if its gate is above 1/2. A `ranked` one has no logits:
    all its inputs enter, and those are kept behind which the strongest layers are, candidates called `none` left out.

    The records of the history have `alphas`, the `probabilities` they stand for, and, where the epoch was validated,
    `supernet_loss` and `supernet_<metric>` of the mixture and `derived_loss` and `derived_<metric>` of the derived
    architecture with the same weights (its batch statistics recomputed).
    """
    return search_by(method, model_fn, data, options)


def algorithm(
    model_fn: Any,
    space: Space,
    *,
    weight_optimizer: optax.GradientTransformation,
    arch_optimizer: optax.GradientTransformation,
    order: int = 1,
    hypergradient: str = "exact",
    grad_clip: float | None = 5.0,
    loss_fn: LossFn = cross_entropy,
    metrics: MetricsFn = accuracy,
) -> Algorithm:
    """DARTS as pure functions, for a loop of one's own. For arguments see `search`.

    Returns:
      `Algorithm(init, step, derive)` over a `DartsState`; see `jaxnas.oneshot.differentiable.algorithm`.

    Raises:
      ValueError: for an unknown order or hypergradient.
    """
    return differentiable_algorithm(
        model_fn,
        space,
        Parts(hypergradient=_gradient(order, hypergradient)),
        weight_optimizer=weight_optimizer,
        arch_optimizer=arch_optimizer,
        steps=1,  # nothing in DARTS depends on the share of the search done
        grad_clip=grad_clip,
        loss_fn=loss_fn,
        metrics=metrics,
    )
