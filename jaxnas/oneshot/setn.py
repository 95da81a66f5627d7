"""SETN: One-Shot Neural Architecture Search via Self-Evaluated Template Network.

Dong, Yang; ICCV 2019; arXiv 1910.05733.

Every step trains the weights for an architecture drawn uniformly, so that all candidates are trained alike, and the
logits for the mixture that they stand for. At the end the most probable architectures are scored with the shared
weights, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

import optax

from jaxnas.checks import check_at_least
from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.optimizers import cosine_sgd
from jaxnas.oneshot.parts.relaxation import uniform_path
from jaxnas.oneshot.parts.scoring import best_of_probable


def method(
    *,
    derive_samples: int = 100,
    derive_examples: int = 1000,
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """SETN, for `jaxnas.search`. Defaults are those of the authors' code for NAS-Bench-201.

    As in that code the logits learn from the mixture; in the paper they learn from a sampled template
    (`jaxnas.differentiable(relax=jaxnas.parts.gumbel_path(…), train_on=jaxnas.parts.uniform_path, …)`). That code
    trains the weights before the logits in each step, and scores each architecture on one batch of its own.

    Args:
      derive_samples: how many architectures, the most probable ones, are scored at the end.
      derive_examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for numbers below 1.
    """
    check_at_least(1, derive_samples=derive_samples, derive_examples=derive_examples)
    return differentiable(
        "setn",
        train_on=uniform_path,
        derive=best_of_probable(derive_samples, examples=derive_examples),
        arch_optimizer=arch_optimizer,
        own_weight_optimizer=cosine_sgd(weight_decay=5e-4, nesterov=True),
        epochs=250,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    derive_samples: int
    derive_examples: int
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with SETN. For what the defaults are see `setn.method`.

    Ranked inputs are refused: which of them are probable depends on other choices.
    """
    return search_by(method, model_fn, data, options)
