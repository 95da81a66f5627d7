"""DARTS-: Robustly Stepping out of Performance Collapse Without Indicators. Chu et al.; ICLR 2021; arXiv 2009.01027.

DARTS with an auxiliary skip connection beside every layer, β·x, which takes over what a skip connection does for the
training of the supernet. So the candidate skip has to be useful in itself. β falls from 1 to 0 during the search, and
the derived architecture is without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

import optax

from jaxnas.checks import check_options
from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.edges import auxiliary_skip


def method(*, beta: float = 1.0, arch_optimizer: optax.GradientTransformation | None = None) -> Method:
    """DARTS-, for `jaxnas.search`. Defaults are those of the authors' code.

    That code lowers β once per epoch, so that it ends at one over the number of epochs; here it falls at every step,
    and ends at 0. See `parts.auxiliary_skip` for where the skip is added; layers without a candidate that skips are
    refused.

    Args:
      beta: β at the beginning of the search; it falls to 0 linearly.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for a β that is negative or not finite.
    """
    check_options(beta=beta)
    return differentiable(
        "darts_minus",
        relax=auxiliary_skip(first=beta),
        arch_optimizer=arch_optimizer,
        epochs=50,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    beta: float
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with DARTS-. For what the defaults are see `darts_minus.method`.

    Every LayerChoice needs a candidate named skip_connect, skip, identity or id.
    """
    return search_by(method, model_fn, data, options)
