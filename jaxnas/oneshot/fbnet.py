"""FBNet: Hardware-Aware Efficient ConvNet Design via Differentiable NAS. Wu et al.; CVPR 2019; arXiv 1812.03443.

Every step draws the weights of every choice by a Gumbel softmax whose temperature falls exponentially. An epoch first
trains the network's weights, then the logits on other data; their loss is multiplied by a power of the logarithm of the
expected cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

import optax

from jaxnas.model.latency import LatencyTable
from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.costs import expected_cost
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd
from jaxnas.oneshot.parts.sampling import gumbel


def method(
    *,
    cost: Literal["flops", "params", "latency"] | None = None,
    cost_weight: float = 0.6,
    cost_scale: float = 0.2,
    table: LatencyTable | str | None = None,
    temperature: tuple[float, float] = (5.0, 0.087),
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """FBNet, for `jaxnas.search`. Defaults are those of the paper; its authors have published no code of the search.

    The loss of the logits is loss · s·(log E)^w (equation 2), E being the cost of the weights that are drawn
    (equation 5). The paper's cost is the latency by a table; there is none for every model, so without `cost` accuracy
    alone counts. At the end every choice keeps its strongest candidate; the paper draws several architectures by the
    logits and trains each. The temperature falls at every step (the paper: 5·exp(-0.045·epoch), once an epoch, which
    after 90 epochs is the default's end). The paper's first 10 epochs train the weights alone: `warmup_epochs`.

    Args:
      cost: what is to be low beside the loss: `"latency"` (microseconds), `"flops"`, `"params"`, or None.
      cost_weight, cost_scale: w and s.
      table: of `jaxnas.measure_latency`, or the file of one, for latency.
      temperature: τ at the beginning and at the end of the search; it falls exponentially.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 0.01 with weight decay 5e-4.

    Raises:
      ValueError: for a temperature that is not positive, a negative weight, or latency without a table.
    """
    table = LatencyTable.of(table)
    penalty = {} if cost is None else {"weight": cost_weight, "scale": cost_scale}
    if cost is None and table is not None:
        raise ValueError('a latency table is given, but no cost: add cost="latency".')
    return differentiable(
        "fbnet",
        relax=gumbel(temperature, fall="exponential"),
        penalties=[expected_cost(cost, form="log", drawn=True, table=table, **penalty)] if cost else [],
        in_turns=True,
        arch_optimizer=arch_optimizer,
        own_arch_optimizer=adam(lr=0.01, b1=0.9, weight_decay=5e-4),
        own_weight_optimizer=cosine_sgd(lr=0.1, lr_min=1e-4, weight_decay=1e-4),
        epochs=90,
        warmup_epochs=10,
        batch_size=192,
        train_portion=0.8,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    cost: Literal["flops", "params", "latency"] | None
    cost_weight: float
    cost_scale: float
    table: LatencyTable | str | None
    temperature: tuple[float, float]
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with FBNet. For what the defaults are see `fbnet.method`.

    Only choices of one of n are drawn. Inputs of which several are taken keep the weights of DARTS.
    """
    return search_by(method, model_fn, data, options)
