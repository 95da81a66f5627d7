"""DrNAS: Dirichlet Neural Architecture Search. Chen et al.; ICLR 2021; arXiv 2006.10355.

The weights of every choice are drawn from a Dirichlet distribution, anew in every step of the logits and of the
weights, and the gradient passes through the draw to its concentration, elu(logits) + 1. A penalty keeps it near the
uniform distribution. At the end every choice keeps the candidate of largest mean.
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
from jaxnas.oneshot.parts.optimizers import adam
from jaxnas.oneshot.parts.penalty import anchor as anchored
from jaxnas.oneshot.parts.sampling import dirichlet


def method(
    *,
    anchor: Literal["l2", "kl", "none"] = "l2",
    anchor_weight: float = 1e-3,
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """DrNAS, for `jaxnas.search`, without progressive stages. Defaults are those of the authors' code.

    In the paper the penalty is on the concentration, as here. In that code `"l2"` is Adam's weight decay of the logits,
    whose gradient is the same where they are positive; so the default optimiser has no weight decay here. That code
    also measures the supernet's accuracy with weights drawn anew; here it is that of their mean.

    Args:
      anchor: the distance from the uniform distribution that is penalised: `"l2"` or `"kl"`; or `"none"`.
      anchor_weight: its weight, the paper's λ.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, without weight decay.

    Raises:
      ValueError: for an unknown anchor, or a weight that is negative or not finite.
    """
    if anchor not in ("l2", "kl", "none"):
        raise ValueError(f'anchor must be "l2", "kl" or "none"; got {anchor!r}.')
    return differentiable(
        "drnas",
        relax=dirichlet,
        penalties=[] if anchor == "none" else [anchored(anchor_weight, distance=anchor)],
        arch_optimizer=arch_optimizer,
        own_arch_optimizer=adam(weight_decay=0.0),
        epochs=100,
        batch_size=64,
        train_portion=0.5,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    anchor: Literal["l2", "kl", "none"]
    anchor_weight: float
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with DrNAS. For what the defaults are see `drnas.method`.

    Only choices of one of n are drawn. Inputs of which several are taken keep the weights of DARTS.
    """
    return search_by(method, model_fn, data, options)
