"""What a person is told while something runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxnas.ops.onednn import convolution_kernels
from jaxnas.runs.callback import Callback, Run, Step, Stop

_ON_THE_BAR = 4
"""How many numbers the bar shows."""
_DETAILS = ("seconds", "grad_norm")
"""Endings of entries of a record that are no news."""


class Progress:
    """What a session prints: a line for each epoch, and on a terminal a bar for the steps (if rich is installed).

    Until the first step has ended, the bar says that it is being compiled.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def on_begin(self, run: Run) -> None:
        self._run = run
        head = f"{run.steps} steps per epoch, of which the first compiles"
        head += "; convolutions by oneDNN" if convolution_kernels() == "onednn" else ""
        self._bar = _bar()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=None, head="compiling", tail="the first step, once", arch="")
        self.say(f"{run.space!r}; {head}" if run.space is not None else head)
        self._shown = 0.0
        self._arch = short_arch(run.history[-1]["arch"]) if run.history and "arch" in run.history[-1] else ""
        self._paced: tuple[float, int] | None = None

    def on_step_end(self, step: Step) -> None:
        now = time.perf_counter()
        done = (step.epoch * step.steps) + step.step
        if step.compile_seconds > 0.5:
            self.say(f"compiled in {step.compile_seconds:.1f} s")
        if self._paced is None or step.compile_seconds:
            self._paced = (now, done)
        if self._bar is None or (now - self._shown < 0.1 and step.step < step.steps):
            return
        self._shown = now
        since, first = self._paced
        total = self._run.epochs * step.steps
        speed = (done - first) / (now - since) if done > first else 0.0
        means = numbers({name: float(np.mean(values)) for name, values in step.metrics.items()})
        values = "  ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in list(means.items())[:_ON_THE_BAR])
        left = f"  {duration_text((total - done) / speed)} left" if speed else ""
        self._bar.update(
            self._task,
            total=total,
            completed=done,
            head=f"epoch {step.epoch + 1}/{self._run.epochs}",
            tail=f"step {step.step}/{step.steps}  {values}  {speed:.1f} steps/s{left}",
            arch=f"\nso far: {self._arch}" if self._arch else "",
        )

    def epoch(self, record: Mapping[str, Any], epochs: int, about: str = "") -> None:
        """Prints the line of an epoch, with `about` before it."""
        self.say(f"{about}{epoch_line(record, epochs)}")
        if "arch" in record:
            self._arch = short_arch(record["arch"])

    def on_end(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Reporter(Callback):
    """Calls a function with each epoch's record, the number of epochs, and the seed."""

    def __init__(self, report: Callable[[dict], None]):
        self._report = report

    def on_begin(self, run: Run) -> None:
        self._about = {"epochs": run.epochs, "seed": run.seed}

    def on_epoch_end(self, state: Any, metrics: dict[str, Any]) -> Stop | None:
        self._report({**metrics, **self._about})
        return None


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """One line about an epoch's record."""
    parts = [f"epoch {record['epoch'] + 1}/{epochs}"]
    parts += [f"{name.replace('_', ' ')} {value:.4f}" for name, value in numbers(record).items()]
    if "arch" in record:
        parts.append(short_arch(record["arch"]))
    compiling = f", {record['compile_seconds']:.1f} s of them compiling" if record["compile_seconds"] > 0.5 else ""
    return "  ".join([*parts, f"({record['seconds']:.1f} s{compiling})"])


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record that a person follows, of each part of the data together, the loss first."""
    shown = [name for name, value in record.items() if isinstance(value, float) and not name.endswith(_DETAILS)]
    parts = list(dict.fromkeys(name.split("_")[0] for name in shown))
    ordered = sorted(shown, key=lambda name: (parts.index(name.split("_")[0]), not name.endswith("_loss")))
    return {name: record[name] for name in ordered}


def whole_batches(left: int, batch_size: int) -> str:
    """Says that an epoch has whole batches only."""
    what = "1 example makes" if left == 1 else f"{left} examples make"
    return f"{what} no whole batch of {batch_size}: others are left out of each epoch"


def short_arch(arch: Mapping[str, Any], most: int = 60) -> str:
    """An architecture in at most so many characters: the decisions in order, `3x3 5x5 0,2 …`."""
    decisions = []
    for value in arch.values():
        chosen = value if isinstance(value, (list, tuple)) else (value,)
        decisions.append(",".join(map(str, chosen)) or "-")
    text = " ".join(decisions)
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def duration_text(seconds: float) -> str:
    """A duration for people: `"9.7 s"`, `"3 min 12 s"`, `"2 h 05 min"`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def non_finite_message(
    metrics: Mapping[str, np.ndarray],
    watched: Sequence[str],
    epoch: int,
    step: int,
    directory: Any,
    *,
    steps_before: int = 0,
) -> str:
    """Says where a loss or gradient stopped being finite, what was kept, and what usually helps.

    `step` is the position in `metrics`, before which the epoch had `steps_before` steps of other kinds.
    """
    names = [name for name in watched if name in metrics and not np.isfinite(metrics[name][step])]
    kept = f", and are in {directory}" if directory is not None else ""
    return (
        f"{' and '.join(names)} became {metrics[names[0]][step]} in epoch {epoch}, step {steps_before + step} "
        f"(both count from 0). The values from before that step are kept as `error.result`{kept}. A lower learning "
        "rate, a smaller grad_clip, or a look at the inputs usually helps."
    )


def spoiled_message(leaf: str, epoch: int, step: int, directory: Any) -> str:
    """Says which part of the state a step has spoiled, though its losses and gradients were finite."""
    kept = f", and are in {directory}" if directory is not None else ""
    return (
        f"{leaf} of the state became NaN or infinite in epoch {epoch}, step {step} (both count from 0), though losses "
        f"and gradients were finite. The values from before that step are kept as `error.result`{kept}. Look at the "
        "optimiser: its learning rate, a schedule, or a clip."
    )


def bad_validation_message(names: Sequence[str], epoch: int, directory: Any) -> str:
    """Says that the last validation gave losses that are not finite, though all steps were, and what was kept."""
    kept = f", and are in {directory}" if directory is not None else ""
    return (
        f"{' and '.join(names)} became NaN or infinite in the last validation, after epoch {epoch} (which counts from "
        f"0). The values from there are kept as `error.result`{kept}. All steps were finite: look at what the model "
        "does otherwise where it is not trained, such as batch statistics, and at the data."
    )


def _bar() -> Any:
    """A rich progress bar if there is a terminal (or a notebook) to show it, else None."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    except ModuleNotFoundError:
        return None
    console = Console()
    if not console.is_terminal and not console.is_jupyter:
        return None
    texts = [
        TextColumn(text, markup=False) for text in ("{task.fields[head]}", "{task.fields[tail]}{task.fields[arch]}")
    ]
    return Progress(SpinnerColumn(), texts[0], BarColumn(20), texts[1], TimeElapsedColumn(), console=console)
