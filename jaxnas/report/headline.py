"""The first facts of a report: how good what was found is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def headline(history: Sequence[Mapping[str, Any]], trainings: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """How good the found architecture is: with the weights of the search, and trained on its own."""
    derived = [record for record in history if any(name.startswith("derived_") for name in record)]
    names = [name.removeprefix("derived_") for name in (derived[-1] if derived else {}) if name.startswith("derived_")]
    measures = ["accuracy"] if "accuracy" in names else [name for name in names if name != "reward"][:1]
    found = []
    for measure in measures:
        found.append([f"derived {measure}, weights of the search", _shown(measure, derived[-1][f"derived_{measure}"])])
        tests = [training["scores"].get(f"test_{measure}") for training in trainings]
        last = next((score for score in reversed(tests) if score is not None), None)
        if last is not None:
            found.append([f"test {measure}, retrained", _shown(measure, last)])
    return found


def _shown(measure: str, value: Any) -> str:
    number = float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    return "" if number is None else f"{100 * number:.2f} %" if measure == "accuracy" else f"{number:.4f}"
