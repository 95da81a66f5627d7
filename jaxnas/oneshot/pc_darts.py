"""PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search.

Xu et al.; ICLR 2020; arXiv 1907.05737.

On every edge only a part of the channels enters the mixture, the others pass by: an argument of the space,
`jaxnas.spaces.darts(partial=4)` or `jaxnas.spaces.nasbench201(partial=4)`. Edges have logits of their own, and enter a
node with the weights of their softmax.
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
from jaxnas.oneshot.parts.edges import edge_normalised
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd
from jaxnas.oneshot.parts.relaxation import softmax


def method(*, arch_optimizer: optax.GradientTransformation | None = None) -> Method:
    """PC-DARTS, for `jaxnas.search`. Defaults are those of the authors' code, for the DARTS space.

    The first 15 epochs train the weights only. Which channels enter the mixture the space says. Edge normalisation is
    for ranked inputs, which the DARTS space has; NAS-Bench-201's cells have none, as in what is published for them.

    Args:
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 6e-4.
    """
    return differentiable(
        "pc_darts",
        relax=edge_normalised(softmax),
        arch_optimizer=arch_optimizer,
        own_arch_optimizer=adam(lr=6e-4),
        own_weight_optimizer=cosine_sgd(lr=0.1, lr_min=0.0),
        epochs=50,
        batch_size=256,
        train_portion=0.5,
        warmup_epochs=15,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with PC-DARTS. For what the defaults are see `pc_darts.method`.

    The network to search is `jaxnas.spaces.darts(partial=4)`; that to train what was found in has all channels.
    """
    return search_by(method, model_fn, data, options)
