"""What a person is told while something runs."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_SHOWN = (
    *("train_loss", "train_accuracy", "supernet_accuracy", "reward", "entropy"),
    *("sampled_accuracy", "derived_accuracy", "test_accuracy"),
)


def print_epoch(record: Mapping[str, Any]) -> None:
    """Prints one line about an epoch's record."""
    parts = [f"epoch {record['epoch'] + 1}/{record['epochs']}"]
    for name in _SHOWN:
        if name in record:
            parts.append(f"{name.replace('_', ' ')} {record[name]:.4f}")
    compiling = f", of it {record['compile_seconds']:.1f} s compiling" if record["compile_seconds"] > 0.5 else ""
    print("  ".join([*parts, f"({record['seconds']:.1f} s{compiling})"]), flush=True)


def reporter(progress: bool | Callable[[dict], None]) -> Callable[[dict], None]:
    """What to call with each epoch's record, for an argument `progress`."""
    if callable(progress):
        return progress
    return print_epoch if progress else lambda record: None


def out_of_time(started: float, max_minutes: float | None, epoch_seconds: float) -> bool:
    """Whether another epoch as long as the last would go beyond `max_minutes` since `started` (`time.perf_counter`)."""
    return max_minutes is not None and time.perf_counter() - started + epoch_seconds > 60 * max_minutes


def print_stopped(done: int, epochs: int) -> None:
    """Says that a run stopped in time, before its end."""
    print(f"stopped in time after epoch {done} of {epochs}; the same call goes on from here", flush=True)


def describe_model(model_fn: Any) -> str:
    """`module:name` if the model can be imported under that name, else its repr."""
    name = getattr(model_fn, "__qualname__", "<")
    return re.sub(r" at 0x[0-9a-f]+", "", repr(model_fn)) if "<" in name else f"{model_fn.__module__}:{name}"


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
