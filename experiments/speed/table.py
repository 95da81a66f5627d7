"""Ratios with their spread, and the table."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple


class Ratio(NamedTuple):
    """For paired measurements: the median of the rounds' ratios, the smallest and the largest."""

    median: float
    low: float
    high: float


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """theirs/ours, round by round.

    Raises:
      ValueError: if the sides have different numbers of rounds, or none.
    """
    if len(theirs) != len(ours) or not ours:
        raise ValueError(f"the same number of rounds of each side is expected; got {len(theirs)} and {len(ours)}.")
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def value_of(report: dict[str, Any], field: str) -> float | None:
    """A field of a process's report; a list of times stands for its median."""
    value = report.get(field)
    return statistics.median(value) if isinstance(value, list) else value


def relate(form: str, value: float, base: float | None, steps: int) -> float:
    """What a row shows of a value: see `rows.Row.form`. `steps` is the number in a search's epoch."""
    if form == "plain":
        return value
    assert base is not None
    return value / base if form == "growth" else 100 * (1 - base * steps / value)


def loss_difference(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> float:
    """The largest relative difference of the losses that both sides report of their first steps."""
    return max(
        abs(mine[name] - other[name]) / max(abs(other[name]), 1e-12)
        for mine, other in zip(ours, theirs, strict=True)
        for name in mine
    )


HEAD = ("what", "ours", "theirs", "theirs, compiled", "theirs/ours", "target", "losses differ by")


def cells(line: dict[str, Any]) -> tuple[str, ...]:
    """A line of the results as the table's cells."""

    def amount(values: Sequence[float] | None) -> str:
        if not values:
            return "–"
        middle = statistics.median(values)
        if line["unit"] == "GB":
            return f"{middle / 1e9:.2f} GB"
        return f"{middle:.3g} {line['unit']}"

    pair = line["ratio"]
    shown = "–" if pair is None else f"{pair['median']:.2f} ({pair['low']:.2f}–{pair['high']:.2f})"
    compiled = line["compiled"]
    if isinstance(compiled, list):
        compiled = amount(compiled)
    difference = line["loss_difference"]
    return (
        line["what"],
        line["problem"] if line["problem"] and not line["ours"] else amount(line["ours"]),
        line["problem"] if line["problem"] and line["ours"] else amount(line["theirs"]),
        compiled or "–",
        shown,
        line["target"] or "–",
        "–" if difference is None else f"{difference:.0e}",
    )


def markdown(lines: Sequence[dict[str, Any]], where: str) -> str:
    """The table as Markdown, below a line that says where it was run."""
    rule = "|" + "---|" * len(HEAD)
    body = ["| " + " | ".join(cells(line)) + " |" for line in lines]
    return "\n".join([where, "", "| " + " | ".join(HEAD) + " |", rule, *body])
