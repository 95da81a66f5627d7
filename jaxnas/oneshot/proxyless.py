"""ProxylessNAS: Direct Neural Architecture Search on Target Task and Hardware.

Cai, Zhu, Han; ICLR 2019; arXiv 1812.00332.

The weights are trained on one path, drawn by the probabilities of the logits: binary gates. The logits learn from
held-out data by gradients, through the gates of two drawn paths, or by REINFORCE. At the end every choice keeps its
most probable candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack, overload

import optax

from jaxnas.checks import check_options
from jaxnas.model.latency import LatencyTable
from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.costs import cost_in_reward, expected_cost
from jaxnas.oneshot.parts.derivation import by_probability
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd
from jaxnas.oneshot.parts.sampling import sampled_path, two_paths
from jaxnas.oneshot.sampled import Learning, sampled
from jaxnas.policies.simple import independent


def method(
    *,
    learn: Literal["gradient", "reinforce"] = "gradient",
    cost: Literal["flops", "params", "latency"] | None = None,
    cost_target: float | None = None,
    cost_weight: float | None = None,
    table: LatencyTable | str | None = None,
    reinforce_steps: int = 50,
    reinforce_samples: int = 10,
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """ProxylessNAS, for `jaxnas.search`. Defaults are those of the authors' code.

    The paper's cost is the latency; without `cost` accuracy alone counts. By gradients the loss is
    loss + w·(E - target) / target (section 3.3.1), E being that of the two paths of the step; by REINFORCE the reward
    is accuracy · (cost / target)^-w (section 3.3.2). By gradients every step moves the logits, then the weights (the
    code: the logits in every fifth step); by REINFORCE an epoch first trains the weights. The code trains the weights
    alone for 40 epochs before its 120; here `warmup_epochs` are part of `epochs`. Its baseline takes 0.99 of every new
    reward; here it keeps 0.99 of the old.

    Args:
      learn: how the logits learn, `"gradient"` or `"reinforce"`.
      cost: what is to be low beside the loss: `"latency"` (microseconds), `"flops"`, `"params"`, or None.
      cost_target: the target, in the same unit.
      cost_weight: w. Default: 0.1 by gradients, 0.07 by REINFORCE.
      table: of `jaxnas.measure_latency`, or the file of one, for latency.
      reinforce_steps, reinforce_samples: updates per epoch, and architectures per update, each rewarded on a batch of
        its own.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 1e-3, betas (0, 0.999).

    Raises:
      ValueError: for an unknown way to learn, numbers out of range, a cost without a target or a target without a cost,
        or latency without a table.
    """
    if learn not in ("gradient", "reinforce"):
        raise ValueError(f'learn must be "gradient" or "reinforce"; got {learn!r}.')
    if cost is None and (table is not None or cost_target is not None or cost_weight is not None):
        raise ValueError("a latency table, cost_target or cost_weight is given, but no cost.")
    if cost is not None and cost_target is None:
        raise ValueError(f"cost={cost!r} needs a cost_target.")
    check_options(controller_steps=reinforce_steps, controller_samples=reinforce_samples)
    own_arch_optimizer = adam(lr=1e-3, b1=0.0, weight_decay=0.0)
    own_weight_optimizer = cosine_sgd(lr_min=1e-6, weight_decay=4e-5, nesterov=True)
    weight = (0.1 if learn == "gradient" else 0.07) if cost_weight is None else cost_weight
    about = {"target": cost_target, "weight": weight, "table": LatencyTable.of(table)}
    defaults: dict[str, Any] = {"epochs": 160, "warmup_epochs": 40, "batch_size": 256, "train_portion": 0.9}
    if learn == "gradient":
        return differentiable(
            "proxyless",
            relax=two_paths,
            train_on=sampled_path,
            penalties=[expected_cost(cost, drawn=True, **about)] if cost else [],
            arch_optimizer=arch_optimizer,
            own_arch_optimizer=own_arch_optimizer,
            own_weight_optimizer=own_weight_optimizer,
            **defaults,
        )
    return sampled(
        "proxyless",
        policy=independent,
        learning=Learning(
            controller_steps=reinforce_steps,
            controller_samples=reinforce_samples,
            entropy_weight=0.0,
            skip_weight=0.0,
            baseline_decay=0.99,
        ),
        reward_cost=cost_in_reward(cost, **about) if cost else None,
        derive=by_probability,
        policy_optimizer=arch_optimizer,
        own_policy_optimizer=own_arch_optimizer,
        own_weight_optimizer=own_weight_optimizer,
        **defaults,
    )


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    learn: Literal["gradient", "reinforce"]
    cost: Literal["flops", "params", "latency"] | None
    cost_target: float | None
    cost_weight: float | None
    table: LatencyTable | str | None
    reinforce_steps: int
    reinforce_samples: int
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with ProxylessNAS. For what the defaults are see `proxyless.method`.

    Only choices of one of n are drawn. By gradients, inputs of which several are taken keep the weights of DARTS; by
    REINFORCE, those of which k are taken are refused.
    """
    return search_by(method, model_fn, data, options)
