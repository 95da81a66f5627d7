"""FairDARTS: Fair DARTS, Eliminating Unfair Advantages in Differentiable Architecture Search.

Chu, Zhou, Zhang, Li; ECCV 2020; arXiv 1911.12126.

Every candidate has a gate of its own, a sigmoid, so that candidates do not compete. A penalty drives the gates to 0
or 1. At the end what is above a threshold is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

import optax

from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.derivation import by_threshold
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd
from jaxnas.oneshot.parts.penalty import zero_one
from jaxnas.oneshot.parts.relaxation import sigmoid


def method(
    *,
    zero_one_weight: float = 10.0,
    zero_one_form: Literal["l2", "l1"] = "l2",
    threshold: float = 0.85,
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """FairDARTS, for `jaxnas.search`. Defaults are those of the authors' code, for the DARTS space without `none`.

    In the paper a node may keep fewer edges than two, and an edge several candidates; the spaces here have no such
    architectures, and `parts.by_threshold` says what is taken then.

    Args:
      zero_one_weight: the paper's w₀₋₁, of the penalty.
      zero_one_form: `"l2"`, or `"l1"`, the absolute value.
      threshold: what a gate must exceed, in 0..1.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-3.

    Raises:
      ValueError: for an unknown form, a weight that is negative or not finite, or a threshold outside [0, 1).
    """
    return differentiable(
        "fair_darts",
        relax=sigmoid,
        penalties=[zero_one(zero_one_weight, form=zero_one_form)],
        derive=by_threshold(threshold),
        arch_optimizer=arch_optimizer,
        own_arch_optimizer=adam(lr=3e-3, b1=0.9),
        own_weight_optimizer=cosine_sgd(lr=0.005),
        epochs=50,
        batch_size=128,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    zero_one_weight: float
    zero_one_form: Literal["l2", "l1"]
    threshold: float
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with FairDARTS. For what the defaults are see `fair_darts.method`.

    The records of the history also have `below_threshold`, how many choices took a candidate with a lower gate.
    """
    return search_by(method, model_fn, data, options)
