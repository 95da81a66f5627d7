"""β-DARTS: Beta-Decay Regularization for Differentiable Architecture Search. Ye et al.; CVPR 2022; arXiv 2203.01665.

DARTS with a term in the loss of the logits, λ(t) times the mean of logsumexp(logits) over the choices. It keeps the
softmax weights from moving far apart early. λ rises from 0 during the search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

import optax

from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.penalty import beta_decay


def method(*, weight: float = 50.0, arch_optimizer: optax.GradientTransformation | None = None) -> Method:
    """β-DARTS, for `jaxnas.search`. Defaults are those of the authors' code for NAS-Bench-201.

    That code raises λ by half a unit per epoch, whatever the number of epochs; here λ rises at every step, to `weight`
    at the end of the search. The weight decay of Adam, 1e-3, stays on, as in that code.

    Args:
      weight: λ at the end of the search.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for a weight that is negative or not finite.
    """
    return differentiable(
        "beta_darts",
        penalties=[beta_decay(weight)],
        arch_optimizer=arch_optimizer,
        epochs=100,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    weight: float
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with β-DARTS. For what the defaults are see `beta_darts.method`."""
    return search_by(method, model_fn, data, options)
