"""The options of every black-box search, written once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Annotated, Any, TypedDict

FixedArch = dict[str, int | str | tuple]


class TrialOptions(TypedDict, total=False):
    """Options of every black-box search. Defaults: `TRIAL_DEFAULTS`."""

    trials: Annotated[int, "Architectures to evaluate, failed ones included. Default of a grid search: all."]
    seed: Annotated[int, "Seed of everything random."]
    filter: Annotated[
        Callable[[FixedArch], bool] | None,
        "`(arch) -> bool`; architectures for which it is false are not evaluated (a bound on `jaxnas.cost`, for "
        "instance). A mutation or sample is drawn again; local search treats such a neighbour as a bad one.",
    ]
    evaluations: Annotated[
        int,
        "How often each architecture is evaluated. Its score is the mean, and `Trial.metrics` has the standard "
        "deviation of one evaluation, `std`. An evaluator with an argument `repeat` gets its number: 0, 1, …",
    ]
    retries: Annotated[
        int,
        "How often an evaluation that has failed is tried again before the trial counts as failed; so is a trial whose "
        "worker died, or that took longer than `trial_seconds`.",
    ]
    history: Annotated[
        str | os.PathLike | None,
        "A .jsonl file that gets a line for each finished trial. If it exists, the search resumes: it takes the same "
        "course without repeating recorded evaluations, so it ends as if it had not been interrupted. Raise `trials` "
        "to continue a finished search. A `.lock` file next to it is held while the search runs.",
    ]
    retry_failures: Annotated[
        bool,
        "Evaluate again the trials that the history records as failed, for instance after a repair of the evaluator. "
        "Recorded scores are kept, and used when the search reaches their architectures.",
    ]
    patience: Annotated[
        int, "How often in a row no new architecture can be proposed before the search counts as exhausted."
    ]
    executor: Annotated[
        Executor | Callable[[], Executor] | None,
        "Who evaluates, if not this process: any `concurrent.futures.Executor` (threads, processes, Dask's, mpi4py's), "
        "which stays open, or a function that makes one, which is replaced if its workers die and closed at the end: "
        "`jaxnas.trials.processes(4)`, for instance. `jaxnas.trials.run` says what depends on the order in which "
        "trials end.",
    ]
    workers: Annotated[
        int | None, "How many trials are under way at once. Default: as many as the executor says it has workers."
    ]
    trial_seconds: Annotated[
        float | None,
        "A trial that takes longer has failed (all its evaluations together; counted from its begin, or where an "
        "executor does not say that, as Dask's, from its submission). Workers of `jaxnas.trials` and of a function "
        "that makes a `ProcessPoolExecutor` are ended; others stay busy with it, and their number counts as less.",
    ]
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
    "executor": None,
    "workers": None,
    "trial_seconds": None,
    "progress": True,
}
