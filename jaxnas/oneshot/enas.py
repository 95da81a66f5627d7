"""ENAS: Efficient Neural Architecture Search via Parameter Sharing.

Pham, Guan, Zoph, Le, Dean; ICML 2018; arXiv 1802.03268.

An LSTM controller samples architectures, which share the weights of one supernet. Each epoch first trains the
weights, with a fresh architecture for every batch, then the controller by REINFORCE on held-out data. At the end many
architectures are sampled and scored with the shared weights, and the best is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import optax

from jaxnas.checks import check_options
from jaxnas.model.space import Space
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.derivation import best_of_samples
from jaxnas.oneshot.parts.optimizers import enas_controller_optimizer as paper_controller_optimizer
from jaxnas.oneshot.parts.optimizers import enas_weight_optimizer as paper_weight_optimizer
from jaxnas.oneshot.sampled import Learning, accuracy_reward, algorithm, sampled
from jaxnas.oneshot.sampled import SampledState as EnasState
from jaxnas.policies.lstm import Controller, Sample, controller, reduction_bias
from jaxnas.policies.reinforce import PolicyState, Reinforce, reinforce, surrogate
from jaxnas.programs.evaluation import RewardFn

__all__ = [
    "Controller",
    "EnasState",
    "PolicyState",
    "Reinforce",
    "Sample",
    "accuracy_reward",
    "algorithm",
    "controller",
    "method",
    "paper_controller_optimizer",
    "paper_weight_optimizer",
    "reduction_bias",
    "reinforce",
    "search",
    "surrogate",
]


def method(
    *,
    child_steps: int | None = None,
    controller_steps: int = 50,
    controller_samples: int = 20,
    controller: Callable[[Space], Controller] = controller,
    controller_optimizer: optax.GradientTransformation | None = None,
    reward_fn: RewardFn | None = None,
    reward_statistics: Literal["batch", "running"] = "batch",
    entropy_weight: float = 1e-4,
    skip_weight: float = 0.8,
    baseline_decay: float = 0.999,
    derive: Literal["best", "sample"] = "best",
    derive_samples: int = 100,
    derive_examples: int = 1000,
    validate_samples: int = 10,
) -> Method:
    """ENAS. Defaults are those of the paper's macro search and of NNI's `EnasTrainer`; where these differ, NNI's. But
    an epoch trains the weights on a pass over their data (the paper; NNI: 500 steps), and the result is the best of
    `derive_samples` architectures rather than one random one.

    Args:
      child_steps: steps of the weights per epoch. Default: one pass over their part of the data.
      controller_steps: updates of the controller per epoch.
      controller_samples: architectures per update, each rewarded on a batch of its own, of `batch_size` examples.
      controller: (space) -> `Controller`, for instance `functools.partial(enas.controller, tanh_constant=1.1)`.
      controller_optimizer: any optax optimiser. Default: `enas.paper_controller_optimizer`, Adam 3.5e-4.
      reward_fn: (output, labels) or (output, labels, arch) of a held-out batch -> scalar, larger is better. Default:
        accuracy where the loss is cross-entropy of classes, else minus the loss.
      reward_statistics: with batch normalisation, `"batch"` rewards by the statistics of the batch, in training mode
        (the authors' code), `"running"` by the supernet's averages, in evaluation mode (NNI).
      entropy_weight: weight of the policy's entropy (nats) in the return.
      skip_weight: weight of the skip penalty (nats) in the return.
      baseline_decay: decay of the baseline per sample, in 0..1; see `enas.reinforce`.
      derive: `"best"` samples `derive_samples` architectures at the end and keeps the one of highest mean reward;
        `"sample"` keeps one random sample, as NNI does.
      derive_samples: how many are sampled at the end.
      derive_examples: held-out examples on which they are scored, the same for all (rounded to whole batches).
      validate_samples: architectures sampled and so scored after each validated epoch but the last.
    """
    counts = {
        "controller_steps": controller_steps,
        "derive_samples": derive_samples,
        "derive_examples": derive_examples,
        "controller_samples": controller_samples,
        "validate_samples": validate_samples,
    }
    check_options(**counts, child_steps=child_steps)
    if derive not in ("best", "sample"):
        raise ValueError(f'derive must be "best" or "sample"; got {derive!r}.')
    weights = {"entropy_weight": entropy_weight, "skip_weight": skip_weight, "baseline_decay": baseline_decay}
    return sampled(
        "enas",
        policy=controller,
        learning=Learning(
            controller_steps=controller_steps,
            controller_samples=controller_samples,
            reward_statistics=reward_statistics,
            **weights,
        ),
        policy_optimizer=controller_optimizer,
        own_policy_optimizer=lambda plan: paper_controller_optimizer(plan.arch_lr or 3.5e-4),
        derive=best_of_samples(
            derive_samples, examples=derive_examples, while_searching=validate_samples, keep_best=derive == "best"
        ),
        own_weight_optimizer=_weight_optimizer,
        reward_fn=reward_fn,
        child_steps=child_steps,
        settings={
            **counts,
            **weights,
            "reward_statistics": reward_statistics,
            "derive": derive,
            "controller_optimizer": "paper" if controller_optimizer is None else "custom",
        },
        epochs=310,
        batch_size=64,
        train_portion=0.9,
    )


def _weight_optimizer(plan: Plan) -> optax.GradientTransformation:
    return paper_weight_optimizer(steps_per_epoch=plan.steps_per_epoch, lr_max=plan.weight_lr or 0.05)


class Own(TypedDict, total=False):
    """The arguments of `method`, for `search`."""

    child_steps: int | None
    controller_steps: int
    controller_samples: int
    controller: Callable[[Space], Controller]
    controller_optimizer: optax.GradientTransformation | None
    reward_fn: RewardFn | None
    reward_statistics: Literal["batch", "running"]
    entropy_weight: float
    skip_weight: float
    baseline_decay: float
    derive: Literal["best", "sample"]
    derive_samples: int
    derive_examples: int
    validate_samples: int


class Options(Own, SingleOptions, total=False):
    """What `search` takes beside `seeds`."""


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with ENAS. For what the defaults are see `enas.method`.

    The records of the history have `probabilities` (share of 1000 samples of the policy that choose each candidate)
    and, where the epoch was validated, `sampled_<metric>` (mean of the sampled architectures on the derivation's
    examples) and `derived_<metric>` (the best of them on as many other held-out examples, which did not select it),
    all with batch statistics recomputed for each architecture. `result.top(k)` are the best architectures with their
    scores. With several seeds the default on one accelerator is one after the other too.
    """
    return search_by(method, model_fn, data, options)
