"""What a person sees while a black-box search runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from jaxnas.blackbox.evaluator import Trial
from jaxnas.runs.progress import _bar as bar
from jaxnas.runs.progress import duration_text, short_arch

_LINES = 20


class TrialProgress:
    """About twenty lines per search, and on a terminal a bar below them (with rich, if it is installed).

    Attributes:
      total: how many trials are asked for.
    """

    def __init__(self, total: int):
        self.total = total
        self._every = -(-total // _LINES)
        self._best: tuple[float, int] | None = None
        self._failed = self._new = 0
        self._bar = bar()
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, head="evaluating", tail="the first", arch="")
            self._bar.start()
        self._begun = time.perf_counter()

    def known(self, trial: Trial, number: int) -> None:
        """Takes note of a trial from the history."""
        self._note(trial, number)

    def told(self, trial: Trial, number: int) -> None:
        """Reports a new trial."""
        first_failure = trial.error is not None and not self._failed
        better = self._note(trial, number)
        self._new += 1
        if number in (1, self.total) or number % self._every == 0 or first_failure or self._new == 1:
            self.say(self._line(trial, number))
        if self._bar is not None:
            pace = (time.perf_counter() - self._begun) / self._new
            left = duration_text(pace * (self.total - number))
            failed = f"  {self._failed} failed" if self._failed else ""
            best = "" if self._best is None else f"best {self._best[0]:.4f}"
            shown = {"arch": f"\nbest: {short_arch(trial.arch)}"} if better else {}
            self._bar.update(
                self._task,
                completed=number,
                head=f"trial {number}/{self.total}",
                tail=f"{best}{failed}  {left} left",
                **shown,
            )

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.stop()

    def _note(self, trial: Trial, number: int) -> bool:
        if trial.error is not None:
            self._failed += 1
        elif self._best is None or trial.score > self._best[0]:
            self._best = (trial.score, number)
            return True
        return False

    def _line(self, trial: Trial, number: int) -> str:
        spread = f" ± {trial.metrics['std']:.4f}" if "std" in trial.metrics else ""
        outcome = f"score {trial.score:.4f}{spread}" if trial.error is None else f"failed: {trial.error}"
        best = ""
        if self._best is not None and number > 1:
            best = f"  best {self._best[0]:.4f} (trial {self._best[1]})"
        failed = f"  {self._failed} failed so far" if self._failed and trial.error is None else ""
        return f"trial {number}/{self.total}  {outcome}{best}{failed}  ({trial.seconds:.1f} s)"


class TrialReporter:
    """Calls a function with each new trial; None reports nothing."""

    def __init__(self, report: Callable[[Trial], None] | None):
        self._report = report

    def known(self, trial: Trial, number: int) -> None:
        """Nothing: it is not new."""

    def told(self, trial: Trial, number: int) -> None:
        """Calls the function."""
        if self._report is not None:
            self._report(trial)

    def say(self, text: str) -> None:
        """Nothing: the function is for trials."""

    def close(self) -> None:
        """Nothing."""


def progress_of(progress: Any, total: int) -> TrialProgress | TrialReporter:
    """The reporter that an argument `progress` stands for."""
    if callable(progress):
        return TrialReporter(progress)
    return TrialProgress(total) if progress else TrialReporter(None)
