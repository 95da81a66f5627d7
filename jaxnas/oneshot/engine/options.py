"""What every search takes, written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import optax

from jaxnas.oneshot.engine.base import Derivation, Method
from jaxnas.runs.options import RUN_DEFAULTS, RunOptions
from jaxnas.signatures import check_known, options_of


class SingleOptions(RunOptions, total=False):
    """Options of a search but `seeds`, with which it gives a list."""

    weight_optimizer: Annotated[
        optax.GradientTransformation | None, "Any optax optimiser, of the weights. Default: the method's paper's."
    ]
    weight_lr: Annotated[
        float | None,
        "First learning rate of the method's own optimiser of the weights, in place of its paper's. Not together with "
        "`weight_optimizer`.",
    ]
    arch_lr: Annotated[
        float | None,
        "Learning rate of the method's own optimiser of the architecture (logits or controller), in place of its "
        "paper's. Not together with an optimiser given to the method.",
    ]
    warmup_epochs: Annotated[int, "Epochs at the start in which only the weights are trained."]
    train_portion: Annotated[
        float,
        "Share of the training data that trains the weights. The rest trains the architecture and validates. With 1 "
        "both levels have all the data, and validation is on training data. Test data are never looked at.",
    ]
    select: Annotated[
        Derivation | None,
        "How the search decides, in place of the method's own rule: a derivation of `jaxnas.parts`, such as "
        "`by_evolution(200)`.",
    ]
    validate_every: Annotated[int, "Epochs between validations. The last epoch is always validated."]
    batching: Annotated[
        Literal["sequence", "map", "vmap", "shard"] | None,
        'How several seeds run: `"sequence"`, one after the other with one compiled program; `"map"`, `"vmap"` or '
        '`"shard"`, stepped as one (see `jaxnas.programs.layout`), whose results agree with those of single searches '
        "to rounding. Default: what was measured to be fastest, one after the other on CPU and where a step computes "
        "one candidate only, vmap on one accelerator, shards over several devices. An interrupted run resumes as it "
        "began.",
    ]


class SearchOptions(SingleOptions, total=False):
    """Options of a search. Defaults: `SEARCH_DEFAULTS`, and what a method says of its own."""

    seeds: Annotated[
        Sequence[int] | None,
        "Runs the same search from each of these seeds, and gives a list of results, in order. `workdir` then holds a "
        "run directory for each, `seed_0`, `seed_1`, …. Each callback is copied for each seed. A loss that is not "
        "finite ends its own seed only, and is raised when the others have ended.",
    ]


SEARCH_DEFAULTS: Mapping[str, Any] = {
    **RUN_DEFAULTS,
    "epochs": 50,
    "batch_size": 64,
    "weight_optimizer": None,
    "weight_lr": None,
    "arch_lr": None,
    "warmup_epochs": 0,
    "train_portion": 0.5,
    "select": None,
    "validate_every": 1,
    "batching": None,
    "seeds": None,
}


def completed(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a search: those given, else the method's, else the common ones.

    Raises:
      TypeError: for one that there is not.
    """
    check_known(given, options_of(SearchOptions), f"a search with {method.name}")
    return {**SEARCH_DEFAULTS, **method.defaults, **given}
