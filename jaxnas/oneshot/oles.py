"""OLES: Operation-Level Early Stopping for Robustifying Differentiable NAS. Jiang et al.; NeurIPS 2023.

DARTS in which single operations stop being trained: once the gradients of an operation's weights on training and on
validation data no longer point the same way, it overfits, and it is frozen. So operations with weights do not fall
behind skip connections.
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
from jaxnas.oneshot.parts.freezing import gradient_matching


def method(
    *, threshold: float = 0.4, every: int = 20, arch_optimizer: optax.GradientTransformation | None = None
) -> Method:
    """OLES, for `jaxnas.search`. Defaults are those of the paper for the DARTS space.

    This is the rule of the paper: one cosine over all weights of an operation, of two clean gradients, and its mean
    over `every` steps. The authors' code takes the cosine along the first axis of each tensor, adds the last training
    gradient to the validation gradient, which makes the cosine larger, and divides the sum of 21 by 20. So the
    threshold that suits it may be another here; `frozen_operations` in the history tells how many were frozen.

    Args:
      threshold: the mean cosine below which an operation is frozen, in -1..1.
      every: steps over which the mean is taken.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for a threshold outside [-1, 1], or no steps.
    """
    return differentiable(
        "oles",
        freeze=gradient_matching(threshold, every=every),
        arch_optimizer=arch_optimizer,
        epochs=50,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    threshold: float
    every: int
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with OLES. For what the defaults are see `oles.method`.

    The records of the history have `frozen_operations`, the mean over the epoch's steps of how many are frozen.
    """
    return search_by(method, model_fn, data, options)
