"""GDAS: Searching for a Robust Neural Architecture in Four GPU Hours. Dong, Yang; CVPR 2019; arXiv 1910.04465.

Each step samples one candidate of every choice by the Gumbel-max trick, and computes that alone. Its output is
multiplied by a gate of value one, through which the gradient of a softmax at temperature τ reaches the logits. τ falls
during the search. At the end every choice keeps its strongest candidate.
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
from jaxnas.oneshot.parts.optimizers import cosine_sgd
from jaxnas.oneshot.parts.sampling import gumbel_path


def method(
    *, temperature: tuple[float, float] = (10.0, 0.1), arch_optimizer: optax.GradientTransformation | None = None
) -> Method:
    """GDAS, for `jaxnas.search`. Defaults are those of the authors' code for NAS-Bench-201.

    Two differences from that code: it trains the weights before the logits in each step, and its temperature falls
    once per epoch.

    Args:
      temperature: τ at the beginning and at the end of the search; it falls linearly, at every step.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for a temperature that is not positive.
    """
    return differentiable(
        "gdas",
        relax=gumbel_path(temperature),
        arch_optimizer=arch_optimizer,
        own_weight_optimizer=cosine_sgd(weight_decay=5e-4, nesterov=True),
        settings={"temperature": list(temperature)},
        epochs=250,
        batch_size=64,
        train_portion=0.5,
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
    """Searches a model's choices with GDAS. For what the defaults are see `gdas.method`.

    Only choices of one of n are sampled. Inputs of which several are taken keep the weights of DARTS.
    """
    return search_by(method, model_fn, data, options)
