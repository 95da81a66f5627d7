"""What every black-box search takes, written once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypedDict

FixedArch = dict[str, int | str | tuple]


class TrialOptions(TypedDict, total=False):
    """Options of every black-box search. Defaults: `TRIAL_DEFAULTS`."""

    trials: Annotated[int, "Architectures to evaluate, failed ones included. Default of a grid search: all."]
    seed: Annotated[int, "Seed of everything random."]
    filter: Annotated[
        Callable[[FixedArch], bool] | None,
        "`(arch) -> bool`; those it is false of are not evaluated (a bound on `jaxnas.cost`, for instance). A mutation "
        "or sample is drawn anew; local search takes such a neighbour for a bad one.",
    ]
    evaluations: Annotated[
        int,
        "How often each architecture is evaluated. Its score is the mean, and `Trial.metrics` has the standard "
        "deviation of one evaluation, `std`. An evaluator with an argument `repeat` is told which one it is: 0, 1, …",
    ]
    retries: Annotated[int, "How often an evaluation that has failed is tried again before the trial counts as failed."]
    history: Annotated[
        str | os.PathLike | None,
        "A .jsonl file that gets a line per trial as it ends. If it is there already the search is continued: it takes "
        "the same course without evaluating again what is recorded, so it ends where it would have uninterrupted. "
        "Raise `trials` to continue a finished one. Beside it lies a `.lock`, held while the search runs.",
    ]
    retry_failures: Annotated[
        bool,
        "Evaluate again what the history records as failed, after a repair of the evaluator for instance. Scores that "
        "are recorded are kept, and used wherever the search comes to their architectures.",
    ]
    patience: Annotated[int, "Times in a row that nothing new may be asked for before the search counts as exhausted."]
    progress: Annotated[
        bool | Callable[[Any], None],
        "True prints what happens (at most about twenty lines of trials, and the first failure), and on a terminal "
        "shows a bar. A function is called with each new `Trial`.",
    ]


TRIAL_DEFAULTS: Mapping[str, Any] = {
    "trials": 100,
    "seed": 0,
    "filter": None,
    "evaluations": 1,
    "retries": 0,
    "history": None,
    "retry_failures": False,
    "patience": 1000,
    "progress": True,
}
