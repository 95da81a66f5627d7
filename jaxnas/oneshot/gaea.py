"""GAEA: Geometry-Aware Gradient Algorithms for Neural Architecture Search.

Li, Khodak, Balcan, Talwalkar; ICLR 2021; arXiv 2004.07802.

DARTS without softmax: the parameters of the architecture are the weights themselves, on the simplex, and move by
exponentiated gradients, which makes them sparse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.optimizers import exponentiated_gradient
from jaxnas.oneshot.parts.relaxation import simplex


def method(*, single_level: bool = False) -> Method:
    """GAEA DARTS, for `jaxnas.search`. Defaults are those of the authors' code for NAS-Bench-201.

    The learning rate of the architecture is 0.1 (`arch_lr`). That code searches without the candidate `none`, lays the
    cosine of the weights' learning rate out over twice the epochs that it runs, and has the weights of a choice at 1e-5
    or more, as here. The paper's entropy penalty is not part of this method.

    Args:
      single_level: train the architecture on the weights' batches, and both on all data; else on data of its own.
    """
    return differentiable(
        "gaea",
        relax=simplex,
        own_arch_optimizer=exponentiated_gradient(0.1),
        single_level=single_level,
        epochs=25,
        batch_size=64,
        train_portion=1 if single_level else 0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    single_level: bool


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with GAEA. For what the defaults are see `gaea.method`.

    The `alphas` of the history and of the result are the weights themselves.
    """
    return search_by(method, model_fn, data, options)
