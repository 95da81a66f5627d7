"""What is measured, in terms that both sides share. Imports neither JAX nor PyTorch."""

import dataclasses
import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np

STARTED = "SPEED_STARTED"
"""Environment variable: the time at which the process was started, seconds since the epoch."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """One process of work.

    Attributes:
      kind: `step`, steps on one pair of batches that stays the same; `search`, epochs of steps with data feeding;
        `start`, a search up to its first finished step; `compile`, only the compilation of a step.
      net: a name in `ours.NETS` and `torch_reference.nets.NETS`.
      options: of the net.
      algorithm: `darts` or `enas` (the child's step).
      order: of DARTS.
      batch: examples per batch; images are 32x32x3.
      warm: steps (or epochs of a search) at the start that are not timed.
      timed: steps (or epochs of a search) that are.
      block: steps per measurement, with one wait for the device at the end.
      steps_per_epoch: of a search.
      workers, ready: of PyTorch's data loader: processes, and whether images are normalised tensors from the start.
      seeds: searches at once; see `jaxnas.darts.search`.
      dtype: `float32`, or `bfloat16` for activations and the weights' copies they are computed with.
      compiled: PyTorch compiles its model.
      threads: of the whole process.
    """

    kind: str
    net: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    algorithm: str = "darts"
    order: int = 1
    batch: int = 64
    warm: int = 2
    timed: int = 3
    block: int = 1
    steps_per_epoch: int = 100
    workers: int = 0
    ready: bool = True
    seeds: int = 1
    dtype: str = "float32"
    compiled: bool = False
    threads: int = 2

    @classmethod
    def parse(cls, text: str) -> "Workload":
        return cls(**json.loads(text))

    def dump(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    def batches(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The training and the validation batch: float32 `[B, 32, 32, 3]` and int64 `[B]`."""
        random = np.random.RandomState(0)
        return [
            (random.randn(self.batch, 32, 32, 3).astype(np.float32), random.randint(0, 10, self.batch))
            for _ in range(2)
        ]

    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """The training set of a search: uint8 `[N, 32, 32, 3]` and int64 `[N]`, two halves of an epoch each."""
        random, n = np.random.RandomState(1), 2 * self.batch * self.steps_per_epoch
        return random.randint(0, 256, (n, 32, 32, 3), dtype=np.uint8), random.randint(0, 10, n)


class Clock:
    """Times of a process: when its first step was finished, and what later ones took."""

    def __init__(self, workload: Workload):
        self.workload = workload
        self.first_step: float | None = None
        self.seconds: list[float] = []
        self.start()

    def start(self) -> None:
        """Called where the first measurement begins."""
        self._since = time.perf_counter()

    def lap(self) -> None:
        """Called when a measurement has ended, the device's work included. The first `warm` laps are not kept."""
        now = time.perf_counter()
        self.seconds.append(now - self._since)
        self._since = now

    def first_step_done(self) -> None:
        if self.first_step is None:
            self.first_step = time.time() - float(os.environ.get(STARTED, time.time()))

    def report(self, **more: Any) -> None:
        """Prints the process's last line: a JSON object. Times are per step (per epoch, of a search)."""
        share = self.workload.block if self.workload.kind == "step" else 1
        kept = self.seconds[self.workload.warm :]
        report = {
            "seconds": [lap / share for lap in kept],
            "first_step_seconds": self.first_step,
            # Linux counts in KiB.
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **more,
        }
        print(json.dumps(report))
        sys.stdout.flush()
