"""RSPS: Random Search and Reproducibility for Neural Architecture Search.

Li, Talwalkar; UAI 2019; arXiv 1902.07638 ("random search with weight sharing").

Every step trains the supernet's weights for an architecture drawn uniformly; nothing is learnt about architectures. At
the end many are drawn and scored with the shared weights, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack, overload

from jaxnas.checks import check_at_least
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.derivation import best_of_samples
from jaxnas.oneshot.parts.optimizers import cosine_sgd
from jaxnas.oneshot.sampled import sampled
from jaxnas.policies.simple import uniform


def method(*, derive_samples: int = 100, derive_examples: int = 1000, validate_samples: int = 10) -> Method:
    """RSPS, for `jaxnas.search`. Defaults are those of NAS-Bench-201's authors (arXiv 2001.00326).

    Their code scores each of the 100 architectures on one batch of its own; here all are scored on the same
    `derive_examples`. The paper's own code scores 1000 on one batch, and the best 10 on all held-out data.

    Args:
      derive_samples: how many architectures are drawn at the end.
      derive_examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      validate_samples: architectures drawn and so scored after each validated epoch but the last.

    Raises:
      ValueError: for numbers below 1.
    """
    counts = {
        "derive_samples": derive_samples,
        "derive_examples": derive_examples,
        "validate_samples": validate_samples,
    }
    check_at_least(1, **counts)
    return sampled(
        "rsps",
        policy=uniform,
        derive=best_of_samples(derive_samples, examples=derive_examples, while_searching=validate_samples),
        own_weight_optimizer=cosine_sgd(weight_decay=5e-4, nesterov=True),
        settings=counts,
        epochs=250,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    derive_samples: int
    derive_examples: int
    validate_samples: int


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with RSPS. For what the defaults are see `rsps.method`."""
    return search_by(method, model_fn, data, options)
