"""P-DARTS: Progressive Differentiable Architecture Search. Chen, Xie, Wu, Tian; ICCV 2019; arXiv 1904.12760.

DARTS in three stages. Each searches in a deeper network, nearer to the one that will be trained, among fewer
operations: those that the stage before has found strongest. Dropout after skip connections, which falls during a stage,
and a limit of them at the end keep the search from preferring what is trained fastest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Unpack, overload

import optax

from jaxnas.model import functional
from jaxnas.model.restrict import RestrictedModel, whole_model
from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Method, Procedure, Stage
from jaxnas.oneshot.engine.options import SingleOptions
from jaxnas.oneshot.engine.plan import Plan
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import by_method, search_by
from jaxnas.oneshot.parts.keeping import limited_skips, skip_dropout, strongest, takes_skip_dropout
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd
from jaxnas.oneshot.stages import staged
from jaxnas.spaces.darts import Darts

_NORMAL = "normal/"


def method(
    *,
    keep: tuple[float, float] = (5 / 8, 3 / 8),
    cells: tuple[int, int, int] = (5, 11, 17),
    dropout: tuple[float, float, float] = (0.0, 0.4, 0.7),
    max_skips: int = 2,
    deepen: Callable[[Any, int], Any] | None = None,
    arch_optimizer: optax.GradientTransformation | None = None,
) -> Method:
    """P-DARTS, for `jaxnas.search`. Defaults are the paper's for CIFAR-10.

    Each stage has 25 epochs, 10 of them of the weights only, and begins anew, as in the authors' code. That code has no
    dropout unless rates are given (its README gives 0.1, 0.4, 0.7), leaves out `none` when it reduces three operations
    to one, as the derivation does here, and prints genotypes for every limit of skips; the paper's is the default here.

    `jaxnas.spaces.darts` is searched with `cells` cells, however many it was made with. Of another model all stages
    have the same depth, unless `deepen` is given; skips are dropped if its call takes `skip_dropout=`, and limited in
    choices whose keys begin with `normal/`. What of this does not apply is said when the search begins.

    Args:
      keep: what the first and the second stage keep of each LayerChoice: a number of candidates (5, 3 in the paper),
        or a share of those of the whole choice, rounded up. The defaults are the paper's numbers where there are 8.
      cells: of the network of each stage.
      dropout: first rate of the dropout after skip connections, in each stage.
      max_skips: skip connections in the normal cell, at most.
      deepen: `(module, cells) -> module`, what makes another model than `spaces.darts` as deep as a stage is.
      arch_optimizer: any optax optimiser, of the logits. Default: Adam 6e-4, its gradient clipped to a norm of 5.

    Raises:
      ValueError: for other than two numbers to keep and three of cells and rates, or numbers out of range.
    """
    if (len(keep), len(cells), len(dropout)) != (2, 3, 3):
        given = f"keep={keep!r}, cells={cells!r}, dropout={dropout!r}"
        raise ValueError(f"three stages take two numbers to keep, three of cells and three rates; got {given}.")
    kept = [int(each) if each >= 1 and float(each).is_integer() else each for each in keep]
    stages = [
        Stage(
            _search(rate, max_skips, arch_optimizer, deepens=deepen is not None),
            keep=None if left is None else strongest(left),
            model=_deeper(count, deepen),
        )
        for rate, count, left in zip(dropout, cells, [*kept, None], strict=True)
    ]
    return staged(
        "p_darts",
        stages,
        settings={"keep": kept, "cells": list(cells), "dropout": list(dropout), "max_skips": max_skips},
        epochs=25,
        batch_size=96,
        train_portion=0.5,
        warmup_epochs=10,
    )


def _search(
    rate: float, max_skips: int, arch_optimizer: optax.GradientTransformation | None, *, deepens: bool
) -> Method:
    """The search of a stage."""
    drop = skip_dropout(rate)
    found = differentiable(
        "p_darts",
        derive=limited_skips(max_skips, prefix=_NORMAL),
        arch_optimizer=arch_optimizer,
        own_arch_optimizer=lambda plan: optax.chain(optax.clip_by_global_norm(5.0), adam(lr=6e-4)(plan)),
        own_weight_optimizer=cosine_sgd(lr=0.025, lr_min=0.0),
        call_with=lambda plan: drop(plan) if takes_skip_dropout(plan.model_fn) else None,
    )

    def build(plan: Plan) -> Procedure:
        network = whole_model(functional.build(plan.model_fn))
        missing = [] if deepens or isinstance(network, Darts) else ["all stages have one depth"]
        missing += [] if takes_skip_dropout(plan.model_fn) else ["skip connections are not dropped"]
        limits = any(key.startswith(_NORMAL) for key in plan.space)
        missing += [] if limits else [f"no key begins with {_NORMAL}, so skip connections are not limited"]
        about = f"this is not jaxnas.spaces.darts: {'; '.join(missing)}" if missing else None
        return found.build(plan)._replace(about=about)

    return dataclasses.replace(found, build=build)


def _deeper(cells: int, deepen: Callable[[Any, int], Any] | None) -> Callable[[Any], Any]:
    def change(module: Any) -> Any:
        if isinstance(module, RestrictedModel):
            return module.clone(open=dataclasses.replace(module.open, model=change(module.open.model)))
        if deepen is not None:
            return deepen(module, cells)
        return module.clone(cells=cells) if isinstance(module, Darts) else module

    return change


class Options(SingleOptions, total=False):
    """What `search` takes beside `seeds`."""

    keep: tuple[float, float]
    cells: tuple[int, int, int]
    dropout: tuple[float, float, float]
    max_skips: int
    deepen: Callable[[Any, int], Any] | None
    arch_optimizer: optax.GradientTransformation | None


@overload
def search(model_fn: Any, data: Any, *, seeds: Sequence[int], **options: Unpack[Options]) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, **options: Unpack[Options]) -> SearchResult: ...
@by_method(method)
def search(model_fn: Any, data: Any, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices with P-DARTS. For what the defaults are see `p_darts.method`.

    `epochs` and `warmup_epochs` are those of each stage. With a `workdir` the first two stages are `stage_1` and
    `stage_2` in it; the result's `stages` are theirs. The records of the history have `skips`, the number of skip
    connections that would be chosen in the normal cell. Several seeds run in sequence.
    """
    return search_by(method, model_fn, data, options)
