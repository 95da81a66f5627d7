"""SNAS: Stochastic Neural Architecture Search. Xie, Zheng, Liu, Lin; ICLR 2019; arXiv 1812.09926.

Every step draws the weights of every choice from the concrete distribution: a softmax of the logits and Gumbel noise at
temperature τ, which falls. One loss, on the training data, moves both the logits and the weights.
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
from jaxnas.oneshot.parts.sampling import gumbel


def method(
    *, temperature: tuple[float, float] = (1.0, 0.03), arch_optimizer: optax.GradientTransformation | None = None
) -> Method:
    """SNAS, for `jaxnas.search`. Defaults are those of the authors' code.

    It is of a single level: all data train both the logits and the weights. What is published for NAS-Bench-201 as SNAS
    is of two levels, from another code: `jaxnas.differentiable("…", relax=jaxnas.parts.gumbel((10.0, 1.0)))`. The
    logits are moved before the weights, on the same batch but with another draw; in the authors' code one backward pass
    moves both. The paper's cost in the loss is `jaxnas.parts.expected_cost`, to be added likewise.

    Args:
      temperature: τ at the beginning and at the end of the search; it falls linearly, at every step.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for a temperature that is not positive.
    """
    return differentiable(
        "snas",
        relax=gumbel(temperature),
        single_level=True,
        arch_optimizer=arch_optimizer,
        epochs=150,
        batch_size=64,
        train_portion=1,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    temperature: tuple[float, float]
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with SNAS. For what the defaults are see `snas.method`.

    Only choices of one of n are drawn. Inputs of which several are taken keep the weights of DARTS.
    """
    return search_by(method, model_fn, data, options)
