"""Several runs side by side: numbers, groups of seeds, how far architectures agree, and a picture of the curves."""

from __future__ import annotations

import itertools
import json
import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxnas.errors import ArchitectureError, RunError
from jaxnas.model.architecture import decision_text
from jaxnas.model.space import Space
from jaxnas.report.payload import payload
from jaxnas.runs import reading as runs
from jaxnas.runs.entering import NOT_COMPARED

Record = Mapping[str, Any]


class Curve(NamedTuple):
    """A score over the epochs that have one (epochs count from 1)."""

    epochs: list[int]
    values: list[float]


class Run(NamedTuple):
    """The parts of a run that are compared.

    Attributes:
      name: of its folder; its path if two folders have the same name.
      config: its `config.json`.
      space: what it searched.
      status: `"finished"`, `"stopped early"`, `"failed"`, `"running"` or `"interrupted"`.
      epochs: how many have ended.
      arch: of its last epoch, or None before the first.
      derived, supernet: the metric of the derived architecture, and of the supernet (for ENAS, of sampled
        architectures).
      tests: test accuracies of its trainings, `retrain` first.
      seconds: of all its epochs.
    """

    name: str
    path: Path
    config: Record
    space: Space
    status: str
    epochs: int
    arch: dict[str, Any] | None
    derived: Curve
    supernet: Curve
    tests: list[float]
    seconds: float


class Comparison(NamedTuple):
    """Runs and what they have in common.

    Attributes:
      metric: which score is compared, `"accuracy"` for instance.
      runs: in the order given.
      groups: groups of at least two runs that differ only in their seed, by name.
    """

    metric: str
    runs: list[Run]
    groups: dict[str, list[Run]]

    def best(self, curve: Curve) -> float | None:
        """The best value of a curve: the smallest if it is a loss or an error, else the largest."""
        smallest = "loss" in self.metric or "error" in self.metric
        return (min if smallest else max)(curve.values, default=None)


def read(paths: Sequence[str | os.PathLike], metric: str | None = None) -> Comparison:
    """Reads runs to compare.

    Args:
      paths: run directories of searches, finished or not.
      metric: a score of the history without its `derived_`; default accuracy, or loss if no run has it.

    Raises:
      RunError: if a run cannot be read or is given twice, or no run has the metric.
    """
    folders = [Path(path) for path in paths]
    twice = [path for path, count in Counter(path.resolve() for path in folders).items() if count > 1]
    if twice:
        raise RunError(f"{twice[0]} is given twice.")
    names = [path.resolve().name for path in folders]
    names = [name if names.count(name) == 1 else str(path) for name, path in zip(names, folders, strict=True)]
    histories = [runs.read_history(path) for path in folders]
    scores = {name for history in histories for record in history for name in record if name.startswith("derived_")}
    known = sorted(name.removeprefix("derived_") for name in scores)
    if metric is None:
        metric = "loss" if "loss" in known and "accuracy" not in known else "accuracy"
    elif metric not in known:
        raise RunError(f"no run has a derived_{metric}; there are {known}.")
    found = [_run(*each, metric) for each in zip(names, folders, histories, strict=True)]
    return Comparison(metric, found, _groups(found))


def _run(name: str, path: Path, history: Sequence[Record], metric: str) -> Run:
    shown = payload(path)  # also checks everything
    for training in shown["trainings"]:
        if training["damaged"]:
            raise RunError(training["status"])
    config, space, state = runs.read_config(path), runs.read_space(path), shown["status"]["state"]
    curves = [_curve(history, f"{role}_{metric}") for role in ("derived", "supernet", "sampled")]
    return Run(
        name=name,
        path=path,
        config=config,
        space=space,
        status="stopped early" if state == "finished" and len(history) < (config.get("epochs") or 0) else state,
        epochs=len(history),
        arch=_arch(path, space, history),
        derived=curves[0],
        supernet=curves[1] if curves[1].values else curves[2],
        tests=[score for t in shown["trainings"] if (score := t["scores"].get(f"test_{metric}")) is not None],
        seconds=sum(record.get("seconds") or 0.0 for record in history),
    )


def _curve(history: Sequence[Record], name: str) -> Curve:
    known = [(r["epoch"] + 1, float(r[name])) for r in history if isinstance(r.get(name), (int, float))]
    return Curve([epoch for epoch, _ in known], [value for _, value in known])


def _arch(path: Path, space: Space, history: Sequence[Record]) -> dict[str, Any] | None:
    if not history:
        return None
    try:
        return space.fixed(history[-1]["arch"])
    except (ArchitectureError, KeyError, TypeError, ValueError) as e:
        raise RunError(f"{path}: the architecture of its last epoch does not fit its space: {e}") from None


# ---------------------------------------------------------------------- groups


def _groups(found: Sequence[Run]) -> dict[str, list[Run]]:
    by_config: dict[str, list[Run]] = {}
    for run in found:
        same = {key: value for key, value in run.config.items() if key not in ("seed", *NOT_COMPARED)}
        by_config.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    groups: dict[str, list[Run]] = {}
    for members in by_config.values():
        if len(members) > 1:
            names = [run.name for run in members]
            name = _common(names)
            groups[", ".join(names) if not name or name in groups else name] = members
    return groups


def _common(names: Sequence[str]) -> str:
    """The common beginning of the runs' names, without that of a number: darts-0, darts-1 give darts."""
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = "".join(letters[0] for letters in alike)
    return prefix.rstrip("0123456789").rstrip(" -_./") if prefix[-1:].isdigit() else prefix.rstrip(" -_./")


def statistic(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean and sample standard deviation (over n - 1) of the values that exist; None for fewer than two."""
    known = [value for value in values if value is not None]
    return (statistics.fmean(known), statistics.stdev(known)) if len(known) > 1 else None


def finished(members: Sequence[Run]) -> list[Run]:
    """The runs that count for a group's mean: an unfinished one would pull the mean towards its beginning."""
    return [run for run in members if run.status in ("finished", "stopped early")]


def mean_curve(members: Sequence[Run]) -> tuple[list[int], list[float], list[float]]:
    """Epochs at which all finished members have a value, the mean there, and the standard deviation."""
    curves = [dict(zip(*run.derived, strict=True)) for run in finished(members)]
    epochs = sorted(set.intersection(*map(set, curves))) if len(curves) > 1 else []
    columns = [[curve[epoch] for curve in curves] for epoch in epochs]
    return epochs, [statistics.fmean(column) for column in columns], [statistics.stdev(column) for column in columns]


# ---------------------------------------------------------------------- architectures


class Agreement(NamedTuple):
    """How far the architectures of runs in the same space agree.

    Attributes:
      runs: with an architecture.
      choices: how many the space has.
      same: `same[i][j]`, in how many choices runs i and j agree.
      common: keys of the choices in which all agree.
    """

    runs: list[Run]
    choices: int
    same: list[list[int]]
    common: list[str]

    @property
    def mean(self) -> float:
        """The share of choices in which two of the runs agree, mean over all pairs."""
        pairs = [self.same[i][j] for i in range(len(self.runs)) for j in range(i)]
        return statistics.fmean(pairs) / self.choices


def agreements(found: Sequence[Run]) -> list[Agreement]:
    """An `Agreement` for every space that at least two runs searched."""
    by_space: dict[Space, list[Run]] = {}
    for run in found:
        if run.arch is not None:
            by_space.setdefault(run.space, []).append(run)
    result = []
    for space, members in by_space.items():
        if len(members) > 1:
            archs = [run.arch or {} for run in members]
            same = [[sum(a[key] == b[key] for key in space) for b in archs] for a in archs]
            common = [key for key in space if all(arch[key] == archs[0][key] for arch in archs)]
            result.append(Agreement(members, len(space), same, common))
    return result


def in_short(run: Run, most: int = 8) -> str:
    """An architecture on a line or two: its decisions; for more than eight choices, how often each was decided."""
    if run.arch is None:
        return ""

    if len(run.arch) <= most:
        return "; ".join(f"{key}: {decision_text(value)}" for key, value in run.arch.items())
    layers = Counter(decision_text(run.arch[key]) for key, spec in run.space.items() if spec.kind == "layer")
    taken = [value if isinstance(value, tuple) else (value,) for key, value in run.arch.items() if key in _inputs(run)]
    parts = [f"{count} × {label}" for label, count in layers.most_common(most)]
    parts += [f"{sum(map(len, taken))} inputs at {len(taken)} choices"] if taken else []
    return ", ".join(parts)


def _inputs(run: Run) -> set[str]:
    return {key for key, spec in run.space.items() if spec.kind != "layer"}


# ---------------------------------------------------------------------- as JSON, as a picture


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything that is compared, as JSON has it; numbers in full."""

    def scores(curve: Curve) -> dict[str, Any]:
        last = curve.values[-1] if curve.values else None
        return {"last": last, "best": comparison.best(curve), "epochs": curve.epochs, "values": curve.values}

    def group(name: str, members: Sequence[Run]) -> dict[str, Any]:
        counted = finished(members)
        columns: dict[str, list[float | None]] = {
            "derived_last": [run.derived.values[-1] if run.derived.values else None for run in counted],
            "derived_best": [comparison.best(run.derived) for run in counted],
            "supernet_last": [run.supernet.values[-1] if run.supernet.values else None for run in counted],
            "test": [run.tests[0] if run.tests else None for run in counted],
            "seconds": [run.seconds for run in counted],
        }
        numbers = {column: statistic(values) for column, values in columns.items()}
        pairs = {column: pair and {"mean": pair[0], "std": pair[1]} for column, pair in numbers.items()}
        return {"name": name, "runs": [run.name for run in members], "finished": len(counted), **pairs}

    return {
        "metric": comparison.metric,
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                **{key: run.config.get(key) for key in ("algorithm", "model", "seed")},
                "epochs": run.epochs,
                "planned": run.config.get("epochs"),
                "status": run.status,
                "derived": scores(run.derived),
                "supernet": scores(run.supernet),
                "test": run.tests,
                "seconds": run.seconds,
                "arch": run.arch,
            }
            for run in comparison.runs
        ],
        "groups": [group(*item) for item in comparison.groups.items()],
        "agreement": [
            {
                "runs": [run.name for run in a.runs],
                "choices": a.choices,
                "same": a.same,
                "all": a.common,
                "mean": a.mean,
            }
            for a in agreements(comparison.runs)
        ],
    }


def draw(comparison: Comparison) -> Any:
    """The derived architecture's score over the epochs: a line per run, and for groups of seeds their mean and
    deviation.

    Returns:
      A matplotlib figure, or None if no run has a value yet.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from jaxnas.report import figures

    grouped = {run.name for members in comparison.groups.values() for run in members}
    alone = [run for run in comparison.runs if run.name not in grouped]
    if not any(run.derived.values for run in comparison.runs):
        return None
    with figures.style():
        figure = Figure(figsize=(figures.TWO_COLUMNS, 2.8), layout="constrained")
        axis = figure.subplots()
        looks = iter(figures.line_styles(len(comparison.groups) + len(alone)))
        handles, labels = [], []
        for name, members in comparison.groups.items():
            look = next(looks)
            for run in members:
                axis.plot(*run.derived, **look, linewidth=0.5, alpha=0.5, marker=_marker(run.derived))
            epochs, mean, deviation = mean_curve(members)
            handles += axis.plot(epochs, mean, **look, linewidth=1.6)
            low, high = ([m + sign * d for m, d in zip(mean, deviation, strict=True)] for sign in (-1, 1))
            axis.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)
            what = f"mean of {len(finished(members))} seeds" if epochs else f"{len(members)} seeds, no mean yet"
            labels.append(f"{figures.plain(name, 20)}: {what}")
        for run in alone:
            handles += axis.plot(*run.derived, **next(looks), marker=_marker(run.derived))
            labels.append(run.name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set(xlabel="epoch", ylabel=f"derived {comparison.metric}".replace("_", " "))
        figures.legend(figure, handles, labels, loc="outside right upper")
    return figure


def _marker(curve: Curve) -> str | None:
    """Points are seen where not every epoch has one."""
    epochs = curve.epochs
    return "o" if len(epochs) == 1 or (epochs and epochs[-1] - epochs[0] >= len(epochs)) else None
