"""Who evaluates: this process, one trial after the other, or an executor, several at a time."""

from __future__ import annotations

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from typing import Any

from jaxnas.blackbox.course import Key, Proposal
from jaxnas.blackbox.evaluator import Trial, run_trial
from jaxnas.blackbox.sending import NotLoaded, cannot_import, trial_elsewhere, written
from jaxnas.blackbox.workers import Slots
from jaxnas.errors import RunError

_LOOK = 0.05
"""Seconds between two looks at whether a trial has begun, where only asking tells."""


class Alone:
    """Evaluates in this process."""

    workers = 1

    def __init__(self, evaluate: Callable[..., float], *, evaluations: int, retries: int):
        self._evaluate, self._options = evaluate, {"evaluations": evaluations, "retries": retries}

    def next(self, pending: Mapping[Key, Proposal], most: int) -> tuple[Key, Trial]:
        """Evaluates the first."""
        key, proposal = next(iter(pending.items()))
        return key, run_trial(self._evaluate, proposal.arch, **self._options)

    def close(self) -> None:
        """Nothing to do."""


@dataclasses.dataclass
class _Flight:
    """A trial under way."""

    key: Key
    proposal: Proposal
    submitted: float
    begun: float | None = None


class Crew:
    """Evaluates with an executor.

    Args:
      evaluate: the evaluator.
      executor: an executor, which stays open; or a function that makes one, which is closed, and replaced if broken.
      workers: how many trials at a time; None: what the executor says.
      trial_seconds: how long a trial may take.
      evaluations, retries: as in `run_trial`; a trial that is lost or takes too long is retried too.

    Raises:
      TypeError: if the executor is none, or the evaluator cannot be sent to its workers.
      ValueError: if the executor does not say how many workers it has.
    """

    def __init__(
        self,
        evaluate: Callable[..., float],
        executor: Any,
        *,
        workers: int | None,
        trial_seconds: float | None,
        evaluations: int,
        retries: int,
    ):
        self._make = None if isinstance(executor, Executor) else executor
        self._seconds, self._evaluations, self._retries = trial_seconds, evaluations, retries
        self._flights: dict[Future, _Flight] = {}
        self._hung: set[Future] = set()  # given up, and still running
        self._suspects: list[Key] = []  # one of them has broken the pool: they run alone
        self._failures: collections.Counter[Key] = collections.Counter()
        self._ready: collections.deque[tuple[Key, Trial]] = collections.deque()
        self._executor: Any = executor if self._make is None else self._open()
        try:
            self.workers = capacity(self._executor) if workers is None else workers
            in_process = isinstance(self._executor, ThreadPoolExecutor)
            self._function: Callable = run_trial if in_process else trial_elsewhere
            self._evaluate = evaluate if in_process else written(evaluate)
        except BaseException:
            self.close()
            raise

    def next(self, pending: Mapping[Key, Proposal], most: int) -> tuple[Key, Trial]:
        """Waits for the next trial that ends; at most `most` of those pending are begun."""
        while not self._ready:
            self._begin(pending, most)
            done = self._wait()
            order = {key: number for number, key in enumerate(pending)}
            for future in sorted(done, key=lambda future: order[self._flights[future].key]):
                if future in self._flights:
                    self._land(future)
            self._end_late()
        return self._ready.popleft()

    def close(self) -> None:
        """Gives up what is under way, and closes the executor if it was made here."""
        left = bool(self._flights or self._hung)
        for future in self._flights:
            future.cancel()
        if self._make is not None and self._executor is not None:
            _close(self._executor, at_once=left)
        elif isinstance(self._executor, Slots):
            for future in self._flights:
                self._executor.end(future)
        self._flights, self._executor = {}, None

    def _begin(self, pending: Mapping[Key, Proposal], most: int) -> None:
        """Submits what is pending and not under way, as many as there are workers."""
        flying = {flight.key for flight in self._flights.values()} | {key for key, _ in self._ready}
        waiting = [key for key in pending if key not in flying]
        self._hung = {future for future in self._hung if not future.done()}
        free = min(self.workers - len(self._hung), most) - len(self._flights)
        if self._suspects:
            waiting, free = self._suspects[:1], 1 - len(self._flights)
        elif free <= 0 and not self._flights:
            self._renew(self._all_hang())
            free = min(self.workers, most)
        for key in waiting[: max(free, 0)]:
            proposal, now = pending[key], time.monotonic()
            arguments = (self._evaluate, dict(proposal.arch))
            options = {"evaluations": self._evaluations, "retries": self._retries}
            try:
                future = self._executor.submit(self._function, *arguments, **options)
            except BrokenExecutor as e:  # between two trials
                self._break(e)
                return
            self._flights[future] = _Flight(key, proposal, now)

    def _wait(self) -> set[Future]:
        timeout = None
        if self._seconds is not None:
            now = time.monotonic()
            for future, flight in self._flights.items():
                if flight.begun is None and (future.running() or not _says_when(self._executor)):
                    flight.begun = now
            begun = [flight.begun for flight in self._flights.values() if flight.begun is not None]
            timeout = max(0.0, min(begun) + self._seconds - now) if begun else _LOOK
            if len(begun) < len(self._flights):
                timeout = min(timeout, _LOOK)
        return wait(self._flights, timeout=timeout, return_when=FIRST_COMPLETED).done if self._flights else set()

    def _land(self, future: Future) -> None:
        """Takes the outcome of a trial that has ended, in whatever way."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor) and not isinstance(self._executor, Slots):
            self._break(error)
            return
        flight = self._flights.pop(future)
        if isinstance(error, (ImportError, RunError)):
            raise error if isinstance(error, RunError) else cannot_import(error)
        if future.cancelled():
            self._fail(flight, "its worker gave it up: cancelled")
        elif isinstance(error, BrokenExecutor):
            self._fail(flight, f"its worker died: {error}")
        elif error is not None:
            self._fail(flight, f"lost: {type(error).__name__}: {error!s:.500}")
        elif isinstance(future.result(), NotLoaded):
            raise cannot_import(future.result())
        else:
            self._end_suspicion(flight.key)
            self._ready.append((flight.key, future.result()))

    def _break(self, error: BaseException) -> None:
        """A pool is broken, and with it all that it had. Whose fault it was is known if that was one trial."""
        flights, self._flights = list(self._flights.values()), {}
        self._renew(f"its pool of workers is broken ({error}), as one that ended in the middle of a trial leaves it")
        if len(flights) == 1:
            self._fail(flights[0], f"its worker died: {error}")
        else:
            self._suspects = [flight.key for flight in flights]

    def _end_late(self) -> None:
        """Ends the trials that have taken too long."""
        now = time.monotonic()
        self._end_waiting(now)
        for future, flight in list(self._flights.items()):
            if self._seconds is None or flight.begun is None or now - flight.begun < self._seconds or future.done():
                continue
            del self._flights[future]
            self._fail(flight, f"took longer than trial_seconds={self._seconds:g}")
            if isinstance(self._executor, Slots):
                self._executor.end(future)
            elif isinstance(self._executor, ProcessPoolExecutor) and self._make is not None:
                self._flights = {}  # they begin again, in the new pool
                self._renew("")
                return
            elif not future.cancel():
                self._hung.add(future)

    def _end_waiting(self, now: float) -> None:
        """Where none of the trials begins any more, other workers hang than those counted, as of an earlier search."""
        stuck = [flight.submitted for flight in self._flights.values() if flight.begun is None]
        if not self._hung or not stuck or len(stuck) < len(self._flights) or now - max(stuck) < (self._seconds or 0):
            return
        for future in self._flights:
            future.cancel()
        self._flights = {}
        self._renew(self._all_hang())

    def _all_hang(self) -> str:
        return f"all {self.workers} workers have trials that hang, and cannot be ended"

    def _fail(self, flight: _Flight, error: str) -> None:
        """Counts a failure: another attempt follows, or the trial has failed."""
        self._failures[flight.key] += 1
        if self._failures[flight.key] > self._retries:
            self._end_suspicion(flight.key)
            seconds = time.monotonic() - (flight.begun or flight.submitted)
            self._ready.append((flight.key, Trial(flight.proposal.arch, math.nan, error, seconds)))

    def _end_suspicion(self, key: Key) -> None:
        self._suspects = [suspect for suspect in self._suspects if suspect != key]

    def _renew(self, why: str) -> None:
        """Replaces the executor, if there is a function that makes one."""
        if self._make is None:
            raise RunError(
                f"the executor cannot go on: {why}. Give a function that makes it, executor=lambda: "
                f"{type(self._executor).__name__}(…), or jaxnas.trials.processes({self.workers}): then it is replaced, "
                "and only such trials fail. With a history=, the same call continues after the trials that have ended."
            )
        _close(self._executor, at_once=True)
        self._hung = set()
        self._executor = self._open()

    def _open(self) -> Executor:
        assert self._make is not None
        executor = self._make()
        if not isinstance(executor, Executor):
            raise TypeError(f"executor() gave {executor!r:.80}; expected a concurrent.futures.Executor.")
        if isinstance(executor, ProcessPoolExecutor):
            try:
                executor.submit(int).result()
            except BrokenExecutor as e:
                raise RunError(
                    f"the processes of {type(executor).__name__} end while they start: {e} A script that uses "
                    'processes must guard what it does with `if __name__ == "__main__":`.'
                ) from None
        return executor


def check_executor(executor: Any, workers: Any, trial_seconds: Any) -> None:
    """Raises TypeError or ValueError unless these options fit together."""
    if executor is None:
        given = {"workers": workers, "trial_seconds": trial_seconds}
        for name, value in given.items():
            if value is not None:
                why = "nothing in this process can end an evaluation" if name == "trial_seconds" else "trials run here"
                raise ValueError(f"{name} needs an executor: {why}; executor=jaxnas.trials.processes(1), for instance.")
    elif not isinstance(executor, Executor) and not callable(executor):
        raise TypeError(
            f"executor is {executor!r:.80}; expected a concurrent.futures.Executor, a function that makes one, or "
            "jaxnas.trials.processes(4)."
        )


def capacity(executor: Any) -> int:
    """How many workers an executor has, as far as it says so. Raises ValueError."""
    found = [getattr(executor, name, None) for name in ("workers", "num_workers", "_max_workers")]
    if (client := getattr(executor, "_client", None)) is not None:  # Dask's
        found.append(sum(client.nthreads().values()))
    known = [number for number in found if isinstance(number, int) and number > 0]
    if not known:
        raise ValueError(f"workers must be given: a {type(executor).__name__} does not say how many it has.")
    return known[0]


def _says_when(executor: Any) -> bool:
    """Whether `running()` of a future tells when it begins."""
    return isinstance(executor, (Slots, ThreadPoolExecutor, ProcessPoolExecutor))


def _close(executor: Any, *, at_once: bool) -> None:
    if isinstance(executor, Slots):
        executor.shutdown(cancel_futures=at_once)
        return
    if at_once and isinstance(executor, ProcessPoolExecutor):
        for process in list((executor._processes or {}).values()):
            process.kill()
    executor.shutdown(wait=not at_once)
