"""Runs both sides, process by process and in turn."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.speed.rows import Row
from experiments.speed.table import loss_difference, ratio, relate, value_of
from experiments.speed.workload import STARTED, Workload

ROOT = Path(__file__).resolve().parents[2]
KEEP_HEAP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest relative difference of losses that still counts as the same work; see README.md."""


class Failure(Exception):
    """A process that gave no report, and why."""


@dataclasses.dataclass
class Bench:
    """Runs rows and keeps the reports, so that rows which need the same processes share them.

    Attributes:
      torch_python: an interpreter with PyTorch and NNI; None to measure only our side.
      keep_heap: the allocator settings of `jaxnas`' advice, on both sides.
      timeout: seconds that a process may take.
      compile_timeout: the same for one with `torch.compile`; 0 not to try.
      rounds: instead of the rows' own, if given.
    """

    torch_python: str | None
    keep_heap: bool = True
    timeout: float = 600.0
    compile_timeout: float = 0.0
    rounds: int | None = None

    def __post_init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="speed-"))
        self._reports: dict[tuple, dict[str, Any]] = {}

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def line(self, row: Row) -> dict[str, Any]:
        """Measures a row. A failure is reported in `problem`; nothing that was measured is lost."""
        line: dict[str, Any] = {"name": row.name, "what": row.what, "unit": row.unit, "target": row.target}
        line |= {"ours": [], "theirs": [], "compiled": None, "ratio": None, "loss_difference": None, "problem": ""}
        theirs = row.theirs if self.torch_python else None
        try:
            for turn in range(self.rounds or row.rounds):
                line["ours"].append(self._value(row, "ours", turn))
                if theirs is not None:
                    line["theirs"].append(self._value(row, "theirs", turn))
        except Failure as e:
            line["problem"] = str(e)
        paired = min(len(line["ours"]), len(line["theirs"]))
        if paired and row.form == "plain":
            line["ratio"] = ratio(line["theirs"][:paired], line["ours"][:paired])._asdict()
        if paired:
            line["loss_difference"] = self._difference(row)
        if row.compiled and theirs is not None and self.compile_timeout:
            line["compiled"] = self._compiled(row)
        return line

    def device(self) -> dict[str, str]:
        """Where the sides ran and in which versions, as they reported it."""
        reports = [(side, report) for (side, *_), report in self._reports.items() if "version" in report]
        return {side: f"{report['version']} on {report['device']}" for side, report in reports}

    def reports(self) -> list[dict[str, Any]]:
        """Every process: its side, workload, turn and report."""
        return [
            {"side": side, "workload": json.loads(workload), "fresh": fresh, "turn": turn, **report}
            for (side, workload, fresh, turn), report in self._reports.items()
        ]

    def _value(self, row: Row, side: str, turn: int) -> float:
        workload = row.ours if side == "ours" else row.theirs
        assert workload is not None
        if row.warm_cache and side == "ours" and not self._cache("ours", workload).exists():
            self._report(side, workload, -1, fresh=True)  # fills the cache
        value = value_of(self._report(side, workload, turn, fresh=row.fresh), row.value)
        base = None
        if row.base is not None:
            base_workload = row.base[0 if side == "ours" else 1]
            assert base_workload is not None
            base = value_of(self._report(side, base_workload, turn, fresh=row.fresh), row.value)
        if value is None or (row.base is not None and base is None):
            raise Failure(f"{side}: no {row.value} was reported")
        return relate(row.form, value, base, workload.steps_per_epoch)

    def _report(self, side: str, workload: Workload, turn: int, *, fresh: bool) -> dict[str, Any]:
        fresh = fresh and side == "ours"  # PyTorch has no cache here
        key = (side, workload.dump(), fresh, turn)
        if key not in self._reports:
            if fresh:
                shutil.rmtree(self._cache(side, workload), ignore_errors=True)
            if side == "theirs" and workload.kind == "step" and not self._weights(workload).exists():
                self._report("ours", workload, turn, fresh=False)
            self._reports[key] = self._run(side, workload)
        return self._reports[key]

    def _run(self, side: str, workload: Workload) -> dict[str, Any]:
        """Runs one process; returns its last line."""
        if side == "ours":
            command = [sys.executable, "-m", "experiments.speed.ours"]
        else:
            command = [str(self.torch_python), "-W", "ignore", "-m", "experiments.speed.torch_reference"]
        command.append(workload.dump())
        if workload.kind == "step":
            command.append(str(self._weights(workload)))
        threads = str(workload.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment |= KEEP_HEAP if self.keep_heap else {}
        environment |= {"JAX_COMPILATION_CACHE_DIR": str(self._cache(side, workload)), STARTED: repr(time.time())}
        environment |= {"TORCHINDUCTOR_CACHE_DIR": str(self.folder / "inductor")}
        self._cache(side, workload).mkdir(exist_ok=True)
        try:
            with _on_cores(workload.threads):
                done = subprocess.run(
                    command,
                    cwd=ROOT,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=self.compile_timeout if workload.compiled else self.timeout,
                )
        except subprocess.TimeoutExpired as e:
            raise Failure(f"not done after {e.timeout:.0f} s") from None
        if done.returncode:
            raise Failure(f"{side}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:160]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def _compiled(self, row: Row) -> list[float] | str:
        assert row.theirs is not None
        workload = dataclasses.replace(row.theirs, compiled=True)
        shutil.copyfile(self._weights(row.theirs), self._weights(workload))
        try:
            report = self._report("theirs", workload, 0, fresh=False)
        except Failure as e:
            return str(e)
        value = value_of(report, row.value)
        return "–" if value is None else [value]

    def _difference(self, row: Row) -> float | None:
        assert row.theirs is not None
        sides = (("ours", row.ours), ("theirs", row.theirs))
        reports = [self._reports.get((side, work.dump(), False, 0)) for side, work in sides]
        if not all(report and report.get("losses") for report in reports):
            return None
        return loss_difference(reports[0]["losses"], reports[1]["losses"])

    def _cache(self, side: str, workload: Workload) -> Path:
        return self.folder / f"cache-{_short(workload)}"

    def _weights(self, workload: Workload) -> Path:
        return self.folder / f"weights-{_short(workload)}.npz"


def same_work(line: dict[str, Any], dtype: str) -> bool:
    """Whether the losses of both sides agree, where there are any to compare."""
    return line["loss_difference"] is None or line["loss_difference"] <= TOLERANCE[dtype]


def _short(workload: Workload) -> str:
    return hashlib.sha256(workload.dump().encode()).hexdigest()[:12]


@contextlib.contextmanager
def _on_cores(n: int) -> Iterator[None]:
    """Keeps this thread, and so the processes that it starts, on the first n cores it may use."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:n])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
