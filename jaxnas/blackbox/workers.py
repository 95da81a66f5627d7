"""Executors whose workers can be ended one by one: a worker that dies or hangs costs the trial it had, and no other."""

from __future__ import annotations

import atexit
import dataclasses
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from multiprocessing import connection
from typing import Any, Protocol

from jaxnas.checks import check_at_least
from jaxnas.errors import RunError


class WorkerDied(BrokenExecutor):
    """The worker ended while it had a trial."""


class Worker(Protocol):
    """One worker, of which a thread of `Slots` takes care."""

    def start(self) -> None:
        """Makes it ready, if it is not running. Raises RunError if it cannot start."""

    def run(self, function: Callable, args: tuple) -> Any:
        """What the function returns there, or raises. Raises WorkerDied."""

    def kill(self) -> None:
        """Ends it at once, whatever it is doing; from any thread."""

    def stop(self) -> None:
        """Ends it when it is doing nothing."""


class Slots(Executor):
    """An executor over workers of which each has its own life.

    Args:
      workers: they start with their first trial, and again after a death.
      on_close: called at the end.
    """

    def __init__(self, workers: Sequence[Worker], on_close: Callable[[], None] | None = None):
        self.workers = len(workers)
        self._queue: queue.SimpleQueue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: dict[Future, Worker] = {}
        self._closed, self._on_close = False, on_close
        self._threads = [threading.Thread(target=self._serve, args=(w,), daemon=True) for w in workers]
        for thread in self._threads:
            thread.start()
        atexit.register(self.shutdown, wait=False, cancel_futures=True)

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """As `concurrent.futures.Executor.submit`."""
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot submit to an executor that is shut down")
            future: Future = Future()
            self._queue.put((future, fn, args, kwargs))
        return future

    def end(self, future: Future) -> None:
        """Kills the worker that has this future, which then has a `WorkerDied`. The next future gets a new worker."""
        with self._lock:
            worker = self._running.get(future)
            if worker is not None:
                worker.kill()
        future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `concurrent.futures.Executor.shutdown`; with `cancel_futures` those that run are ended too."""
        with self._lock:
            if not self._closed:
                self._closed = True
                for _ in self._threads:
                    self._queue.put(None)
            if cancel_futures:
                for worker in self._running.values():
                    worker.kill()
        atexit.unregister(self.shutdown)
        if wait or cancel_futures:
            for thread in self._threads:
                thread.join()
            if self._on_close is not None:
                self._on_close()

    def _serve(self, worker: Worker) -> None:
        """Runs what is in the queue on one worker, in a thread of its own."""
        while (item := self._queue.get()) is not None:
            future, fn, args, kwargs = item
            if self._closed or not self._begin(worker, future):
                future.cancel()
                continue
            try:
                value = worker.run(fn, (args, kwargs))
            except BaseException as e:
                self._finish(future)
                future.set_exception(e)
            else:
                self._finish(future)
                future.set_result(value)
        worker.stop()

    def _begin(self, worker: Worker, future: Future) -> bool:
        """Starts the worker if need be; False if there is nothing to run."""
        try:
            worker.start()
        except BaseException as e:
            if future.set_running_or_notify_cancel():
                future.set_exception(e)
            return False
        with self._lock:
            if self._closed or not future.set_running_or_notify_cancel():
                return False
            self._running[future] = worker
        return True

    def _finish(self, future: Future) -> None:
        with self._lock:
            del self._running[future]


@dataclasses.dataclass(frozen=True)
class processes:
    """Worker processes on this machine, for `executor=` of a black-box search: `executor=jaxnas.trials.processes(4)`.

    Unlike those of `ProcessPoolExecutor` they are spawned (JAX does not survive a fork), a trial that hangs or kills
    its process costs no other, and they end when the driver does, however it ends. A script that uses them needs
    `if __name__ == "__main__":` around what it does.

    Args:
      workers: how many.
      env: environment variables of the workers, or a function of the worker's number that gives them, such as
        `lambda i: {"CUDA_VISIBLE_DEVICES": str(i)}`. They are set before JAX looks for devices.
    """

    workers: int
    env: Mapping[str, str] | Callable[[int], Mapping[str, str]] | None = None

    def __post_init__(self) -> None:
        check_at_least(1, workers=self.workers)

    def __call__(self) -> Slots:
        """The executor."""
        env = self.env if callable(self.env) else lambda number: self.env or {}
        return Slots([_Process(dict(env(number))) for number in range(self.workers)])


class _Process:
    """A spawned process that runs one function after the other."""

    def __init__(self, env: dict[str, str]):
        self._env = env
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        if self._process is not None:
            return
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(target=_work, args=(other, self._env), name="jaxnas-worker")
        try:
            process.start()
            self._process = process
            other.close()
            self._receive()
        except (WorkerDied, RuntimeError) as e:  # which multiprocessing raises where the guard is missing
            raise RunError(
                f"a worker process cannot start: {str(e).strip()}. Its own message is above; a script that uses "
                'processes must guard what it does with `if __name__ == "__main__":`.'
            ) from None

    def run(self, function: Callable, args: tuple) -> Any:
        data = pickle.dumps((function, *args))
        try:
            self._pipe.send_bytes(data)
        except OSError:  # it died between two trials
            raise self._died() from None
        good, value = self._receive()
        if good:
            return value
        raise value

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        if self._process is not None:
            self._pipe.close()  # which it takes as the end
            self._process.join()
            self._process = None

    def _receive(self) -> tuple[bool, Any]:
        connection.wait([self._pipe, self._process.sentinel])
        try:
            if self._pipe.poll():
                return self._pipe.recv()
        except (EOFError, OSError):
            pass
        raise self._died()

    def _died(self) -> WorkerDied:
        process, self._process = self._process, None
        process.join()
        self._pipe.close()
        code = process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return WorkerDied(f"process {process.pid} ended {how}")


def _work(pipe: Any, env: dict[str, str]) -> None:
    """What a worker process does."""
    os.environ.update(env)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the driver ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send((True, None))
    while True:
        try:
            function, args, kwargs = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (True, function(*args, **kwargs))
        except Exception as e:
            answer = (False, RuntimeError(f"{type(e).__name__}: {e}"))
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
