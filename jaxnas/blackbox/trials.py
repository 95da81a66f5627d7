"""Black-box searches whose evaluator is any Python function, such as one that trains a model."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Unpack

from jaxnas.blackbox.base import Searcher
from jaxnas.blackbox.course import Course, OrderedCourse
from jaxnas.blackbox.crew import Alone, Crew, check_executor
from jaxnas.blackbox.evaluator import Trial, check_evaluator
from jaxnas.blackbox.history import ADVICE, History
from jaxnas.blackbox.on_ray import on_ray
from jaxnas.blackbox.options import TRIAL_DEFAULTS, FixedArch, TrialOptions
from jaxnas.blackbox.progress import progress_of
from jaxnas.blackbox.workers import processes
from jaxnas.checks import check_at_least, check_options, check_seed
from jaxnas.errors import ArchitectureError
from jaxnas.model.space import Space
from jaxnas.runs.progress import short_arch
from jaxnas.signatures import check_known, documented

__all__ = ["Trial", "Trials", "on_ray", "processes", "run"]


@dataclasses.dataclass(frozen=True, repr=False)
class Trials:
    """What a black-box search found.

    Attributes:
      trials: all trials in the order in which they were proposed, including failed ones; no architecture twice.
      exhausted: whether the search ended early because no new architecture was proposed.
      space: the space searched.
      state: the searcher's state at the end.
      recorded: how many of the trials were taken from the history.
    """

    trials: list[Trial]
    exhausted: bool
    space: Space
    state: Any
    recorded: int = 0

    def __repr__(self) -> str:
        failed = sum(trial.error is not None for trial in self.trials)
        best = (
            f"best {self.best.score:.6g} of {short_arch(self.best.arch)}" if failed < len(self.trials) else "no score"
        )
        counted = f"{len(self.trials)} trials" + (f" ({failed} failed)" if failed else "")
        return f"Trials({counted}, {best}{', exhausted' if self.exhausted else ''})"

    def top(self, k: int) -> list[Trial]:
        """The k best trials, best first (fewer if fewer succeeded; the earlier of equals first)."""
        check_at_least(1, k=k)
        good = [trial for trial in self.trials if trial.error is None]
        return sorted(good, key=lambda trial: -trial.score)[:k]

    @property
    def best(self) -> Trial:
        """The best trial.

        Raises:
          ValueError: if all failed; the message has the first error, and says if it comes from the history.
        """
        found = self.top(1)
        if not found:
            where = f" ({ADVICE.format(self.recorded)})" if self.recorded else ""
            raise ValueError(f"all {len(self.trials)} trials failed; the first: {self.trials[0].error}{where}")
        return found[0]

    @property
    def arch(self) -> FixedArch:
        """The best architecture, for `jaxnas.export`. Raises ValueError if all trials failed."""
        return self.best.arch


@documented(TrialOptions, defaults=TRIAL_DEFAULTS)
def run(
    searcher: Searcher,
    evaluate: Callable[..., float],
    *,
    name: str,
    settings: Mapping[str, Any],
    limit: int | None = None,
    **options: Unpack[TrialOptions],
) -> Trials:
    """Runs a searcher with a Python evaluator.

    An architecture is evaluated once: proposed again, it keeps its score and costs no trial. An evaluator that raises,
    or returns anything but a finite number, has failed: the trial is recorded with a message, the searcher ranks it
    worst, and the search continues. (Interrupts are not caught.)

    With an `executor` several trials are under way, and a new one is proposed whenever one has ended. So is one that
    its worker does not survive, or that takes longer than `trial_seconds`: it has failed. What depends on the order in
    which trials end:

    * random and grid search: nothing. The trials are those of a search one by one, in the same order.
    * evolution, REINFORCE (`Searcher.as_they_come`): scores are told as they arrive, so which architectures follow.
    * local search: it follows the course of a search one by one; which trials it has evaluated ahead of it in vain.

    A history records that order, so a search that was killed continues as it would have, and nothing that has ended
    is evaluated twice, with as many workers as before, with more, fewer, or none.

    Args:
      searcher: from an `algorithm`.
      evaluate: `({key: int | str | tuple}) -> float`, larger is better.
      name, settings: of the searcher; written to the history.
      limit: how many different architectures may be proposed; default: the complete space.

    Returns:
      A `Trials`, with at most as many as the space has architectures.

    Raises:
      ArchitectureError: if the filter lets nothing through.
      RunError: if the history is damaged, belongs to another search, is in use by another process, or cannot be
        written; if the executor's workers cannot start, or cannot import the evaluator, or are all lost and no function
        was given that makes new ones.
      TypeError: if the evaluator is not a function of an architecture, or cannot be pickled for another process.
      ValueError: for options out of range.
    """
    given = _checked(evaluate, options)
    trials, space = given["trials"], searcher.space
    if not space:
        raise ArchitectureError("the space is empty: there is nothing to search.")
    evaluations = {"evaluations": given["evaluations"]}
    settings = {**settings, **(evaluations if given["evaluations"] > 1 else {})}
    about = {"searcher": name, "settings": settings, "seed": given["seed"], "space": _description(space)}
    progress = progress_of(given["progress"], trials)
    course = (Course if searcher.as_they_come else OrderedCourse)(
        searcher,
        seed=given["seed"],
        keep=given["filter"],
        limit=space.size if limit is None else limit,
        patience=given["patience"],
    )
    with History(given["history"], about) as record, contextlib.closing(progress):
        for line in record.continuing(given["retry_failures"]):
            progress.say(line)
        with contextlib.closing(_crew(evaluate, given)) as crew:
            taken = _follow(course, record, crew, trials, progress)
    if not course.known:
        raise ArchitectureError(
            f"the filter leaves nothing: it refused all {len(course.refused)} different architectures among "
            f"{course.asked} asked for ({space!r})."
        )
    return Trials(course.trials, len(course.known) < trials, space, course.state, taken)


def _follow(course: Course, record: History, crew: Alone | Crew, trials: int, progress: Any) -> int:
    """Takes a course to its end; returns how many of its trials were recorded.

    A trial that ends is one turn. Its effect, and what is proposed until the next, depend on nothing but the trials
    before and on how many were under way, so those of a history lead to where it broke off.
    """
    taken, most = 0, max(trials, len(record.recorded))
    while len(course.known) < trials:
        width = record.width(crew.workers)
        while len(course.pending) < min(width, most - len(course.known)) and course.propose():
            pass
        if not course.pending:
            break
        found = record.next(proposal.arch for proposal in course.pending.values())
        if found is not None:
            key, trial = tuple(found.arch.values()), found
        else:
            key, trial = crew.next(course.pending, trials - len(course.known))
        record.write(trial, width)
        course.tell(key, trial)
        taken += found is not None
        (progress.known if found else progress.told)(trial, len(course.known))
    return taken


def _crew(evaluate: Callable[..., float], given: Mapping[str, Any]) -> Alone | Crew:
    options = {name: given[name] for name in ("evaluations", "retries")}
    if given["executor"] is None:
        return Alone(evaluate, **options)
    return Crew(evaluate, given["executor"], workers=given["workers"], trial_seconds=given["trial_seconds"], **options)


def _checked(evaluate: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options, checked, and the evaluator with them."""
    check_known(options, TRIAL_DEFAULTS, "a black-box search")
    given = {**TRIAL_DEFAULTS, **options}
    check_at_least(1, trials=given["trials"], patience=given["patience"], evaluations=given["evaluations"])
    check_at_least(0, retries=given["retries"])
    check_seed(given["seed"])
    check_evaluator(evaluate)
    if given["workers"] is not None:
        check_at_least(1, workers=given["workers"])
    check_options(trial_seconds=given["trial_seconds"])
    check_executor(given["executor"], given["workers"], given["trial_seconds"])
    if given["filter"] is not None and not callable(given["filter"]):
        raise TypeError(f"filter is {given['filter']!r:.80}; expected a function (arch) -> bool, or None.")
    return given


def _description(space: Space) -> dict[str, Any]:
    return {key: dataclasses.asdict(spec) for key, spec in space.items()}
