"""DARTS-PT: Rethinking Architecture Selection in Differentiable NAS. Wang et al.; ICLR 2021; arXiv 2108.04392.

The weight of a candidate says little about what it is worth. So after a search as in DARTS one choice after the other
is decided by what the supernet loses without each candidate, and the supernet is trained on in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack, overload

import optax

from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.optimizers import adam
from jaxnas.oneshot.parts.perturbing import by_perturbation


def method(
    *,
    share: float = 0.2,
    examples: int = 1000,
    blank: bool = False,
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """DARTS-PT, for `jaxnas.search`. Defaults are those of the authors' code for NAS-Bench-201.

    The rate of the weights falls from 0.025 to 0.001 before the decisions, begins again at a tenth with the first of
    them, and falls to 0. Any other method decides so with `select=parts.by_perturbation()`.

    Args:
      share: of the epochs, at their end, over which the decisions are spread. The paper trains five epochs after each.
      examples: held-out examples on which is scored, the same for all (rounded to whole batches).
      blank: never train the logits: the paper's "DARTS-PT (fix α)", whose supernet weighs all candidates alike.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 3e-4, as in DARTS.

    Raises:
      ValueError: for a share outside [0, 1), no examples, or an optimiser of logits that are never trained.
    """
    if blank and arch_optimizer is not None:
        raise ValueError("blank=True never trains the logits; give no arch_optimizer.")
    return differentiable(
        "darts_pt",
        derive=by_perturbation(share, examples=examples),
        arch_optimizer=arch_optimizer,
        own_arch_optimizer=(lambda plan: optax.set_to_zero()) if blank else adam(),
        own_weight_optimizer=_sgd_twice(share),
        settings={"share": share, "examples": examples, "blank": blank},
        epochs=125,
        batch_size=64,
        train_portion=0.5,
    )


def _sgd_twice(share: float) -> Callable[[Plan], optax.GradientTransformation]:
    """SGD with momentum 0.9 and weight decay 3e-4; its cosine begins again, at a tenth, for the share of decisions."""

    def of_plan(plan: Plan) -> optax.GradientTransformation:
        first = 0.025 if plan.weight_lr is None else plan.weight_lr
        searching = max(1, math.ceil((1 - share) * plan.epochs))
        falling = optax.cosine_decay_schedule(first, searching, alpha=0.04)
        again = optax.cosine_decay_schedule(first / 10, max(1, plan.epochs - searching))
        by_epoch = optax.join_schedules([falling, again], [searching])
        sgd = optax.sgd(lambda step: by_epoch(step // plan.steps_per_epoch), momentum=0.9)
        return optax.chain(optax.add_decayed_weights(3e-4), sgd)

    return of_plan


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    share: float
    examples: int
    blank: bool
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with DARTS-PT. For what the defaults are see `darts_pt.method`.

    The records of the history have `decided`, the choices decided so far, in order.
    """
    return search_by(method, model_fn, data, options)
