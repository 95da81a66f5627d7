"""One trial: a user's function called with an architecture, once or several times, whatever it does."""

from __future__ import annotations

import inspect
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn

from jaxnas.blackbox.options import FixedArch
from jaxnas.runs.schema import LARGEST


class Trial(NamedTuple):
    """One architecture and its score: by an evaluator, or by a one-shot search with the supernet's weights.

    Attributes:
      arch: its decisions.
      score: what it was ranked by, larger is better; NaN if the evaluation failed.
      error: why it failed, or None.
      seconds: time of the evaluation; 0 if it is not recorded (one-shot searches).
      metrics: what else was measured (one-shot searches: loss and metrics; several evaluations: `std`).
    """

    arch: FixedArch
    score: float
    error: str | None = None
    seconds: float = 0.0
    metrics: Mapping[str, float] = {}

    def __repr__(self) -> str:
        outcome = f"score {self.score:.6g}" if self.error is None else f"failed: {self.error}"
        return f"Trial({self.arch}, {outcome})"


def check_evaluator(evaluate: Any) -> None:
    """Raises TypeError for anything that cannot be called as `evaluate(arch)` and return a number."""
    expected = "expected a function `evaluate(arch) -> float`, such as one that trains the model with that architecture"
    if _is_model(evaluate) or inspect.isclass(evaluate):
        what = "class" if inspect.isclass(evaluate) else "model"
        name = evaluate.__name__ if inspect.isclass(evaluate) else type(evaluate).__name__
        raise TypeError(f"evaluate is the {what} {name}; {expected}.")
    if not callable(evaluate):
        raise TypeError(f"evaluate is {evaluate!r:.80}; {expected}.")
    try:
        signature = inspect.signature(evaluate)
    except (ValueError, TypeError):  # some builtin functions have no signature
        return
    try:
        signature.bind({}, **({"repeat": 0} if _takes_repeat(evaluate) else {}))
    except TypeError as e:
        raise TypeError(f"evaluate{signature} cannot be called as evaluate(arch): {e}; {expected}.") from None


def _is_model(value: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")  # without it, nothing can be one of its modules
    return isinstance(value, nn.Module) or (nnx is not None and isinstance(value, nnx.Module))


def _takes_repeat(evaluate: Callable) -> bool:
    try:
        return "repeat" in inspect.signature(evaluate).parameters
    except (ValueError, TypeError):
        return False


def run_trial(evaluate: Callable[..., float], arch: FixedArch, *, evaluations: int, retries: int) -> Trial:
    """Evaluates an architecture. An evaluation that fails is retried up to `retries` times."""
    start = time.perf_counter()
    scores: list[float] = []
    error = None
    for repeat in range(evaluations):
        arguments = {"repeat": repeat} if _takes_repeat(evaluate) else {}
        for _ in range(1 + retries):
            score, error = _attempt(evaluate, arch, arguments)
            if error is None:
                break
        if error is not None:
            error = error if evaluations == 1 else f"evaluation {repeat + 1} of {evaluations}: {error}"
            break
        scores.append(score)
    seconds = time.perf_counter() - start
    if error is not None:
        return Trial(arch, math.nan, error, seconds)
    if evaluations == 1:
        return Trial(arch, scores[0], None, seconds)
    return Trial(arch, statistics.fmean(scores), None, seconds, {"std": statistics.stdev(scores)})


def _attempt(evaluate: Callable[..., float], arch: FixedArch, arguments: dict[str, Any]) -> tuple[float, str | None]:
    try:
        value = evaluate(dict(arch), **arguments)
        if _is_model(value):
            return math.nan, f"the evaluator gave a model, {type(value).__name__}; expected its score."
        score = math.nan if isinstance(value, (str, bytes)) else float(value)
    except Exception as e:  # whatever the error is, the other trials are worth keeping
        name = type(e).__name__
        return math.nan, _text(lambda e: f"{name}: {e}", e, name)
    if not abs(score) <= LARGEST:
        wanted = "number of at most 3.4e38" if math.isfinite(score) else "finite number"
        return math.nan, f"the evaluator gave {_text(repr, value, 'a value')}; expected a {wanted}."
    return score, None


def _text(words: Callable[[Any], str], value: Any, otherwise: str, most: int = 2000) -> str:
    """The text of a user's object; shortened if it is long, `otherwise` if it raises."""
    try:
        text = words(value)
    except Exception as e:
        return f"{otherwise} (whose own text raises {type(e).__name__})"
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters)"
