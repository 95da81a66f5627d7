"""SDARTS: Stabilizing Differentiable Architecture Search via Perturbation-based Regularization.

Chen, Hsieh; ICML 2020; arXiv 2002.05283.

DARTS whose weights are trained under a mixture that is perturbed, at random or by an adversary, so that they are as
good for its neighbours as for the mixture itself. The logits see the mixture unchanged.
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
from jaxnas.oneshot.parts.perturbation import adversarial, random_perturbation


def method(
    *,
    perturbation: Literal["random", "adversarial"] = "random",
    radius: float = 0.3,
    start: float = 0.03,
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """SDARTS, for `jaxnas.search`. Defaults are those of the authors' code for NAS-Bench-201.

    As in that code, and not in the paper, a perturbed mixture is clipped to 0..1 and made to sum to one.

    Args:
      perturbation: `"random"` is SDARTS-RS, uniform noise; `"adversarial"` is SDARTS-ADV, seven steps that raise the
        training loss.
      radius: ε, the largest change of a weight, at the end of the search.
      start: ε at its beginning; it rises linearly.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for an unknown perturbation, or a radius that is negative or not finite.
    """
    kinds = {"random": random_perturbation, "adversarial": adversarial}
    if perturbation not in kinds:
        raise ValueError(f"perturbation must be one of {list(kinds)}; got {perturbation!r}.")
    return differentiable(
        "sdarts",
        perturb=kinds[perturbation](radius, start=start),
        arch_optimizer=arch_optimizer,
        epochs=100,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    perturbation: Literal["random", "adversarial"]
    radius: float
    start: float
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with SDARTS. For what the defaults are see `sdarts.method`."""
    return search_by(method, model_fn, data, options)
