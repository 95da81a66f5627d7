"""A run directory as one dict that is plain JSON: what the page draws. No HTML here."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnas.errors import ArchitectureError, RunError
from jaxnas.model.architecture import ChoiceSpec, decision_text
from jaxnas.model.entropy import choice_entropy
from jaxnas.model.serialization import read_json
from jaxnas.model.space import Space
from jaxnas.model.values import positions
from jaxnas.report.drawing import draw_cell, draw_graph
from jaxnas.report.headline import headline
from jaxnas.runs import reading as runs
from jaxnas.runs.progress import duration_text

Record = Mapping[str, Any]

_ROLES = ("train", "valid", "supernet", "sampled", "derived", "test")
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def payload(run: str | os.PathLike) -> dict[str, Any]:
    """Reads a run directory.

    Returns:
      What the page shows, as JSON has it (no NaN, no tuples): `name`, `about`, `status`, `facts`, `epochs`, `choices`
      (each with its probabilities, alphas, entropy and decision per epoch), `panels` of curves, `graph` and `cells`
      with positions, the tables `candidates` and `trainings`, `final` and `configuration`.

    Raises:
      RunError: if it is not the run directory of a search, or damaged; names the file, and the epoch where it can.
    """
    run = Path(run)
    config, space = runs.read_config(run), runs.read_space(run)
    result, history = runs.read_ended(run), runs.read_history(run)
    _check_epochs(run, history)
    choices, trainings = _choices(run, history, space), [_training(folder) for folder in runs.trainings(run)]
    graph = config.get("graph")
    try:
        drawn = draw_graph(graph, space) if graph else None
        cells = [draw_cell(cell, space) for cell in graph.get("cells") or ()] if graph else []
    except RunError:  # something is not installed
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as e:
        raise RunError(f"{run / 'config.json'}: its graph does not fit its space: {type(e).__name__}: {e}.") from None
    return _json_able(
        {
            "name": run.resolve().name,
            "about": _about(config),
            "status": _status(run, history, result),
            "facts": _facts(config, history, space, trainings),
            "epochs": [record["epoch"] + 1 for record in history],
            "planned": _number(config.get("epochs")),
            "choices": choices,
            "panels": _panels(history, choices),
            "graph": drawn,
            "cells": cells,
            "candidates": _candidates(run, result),
            "trainings": trainings,
            "final": _final(run, history),
            "configuration": _configuration(config),
        }
    )


def waiting(run: str | os.PathLike) -> dict[str, Any]:
    """What the page shows for a folder in which no run has begun."""
    status = {"state": "waiting", "text": "waiting for a run to begin", "detail": "", "last": None}
    empty: list[Any] = []
    return {
        **dict.fromkeys(("facts", "epochs", "choices", "panels", "cells", "trainings", "configuration"), empty),
        **dict.fromkeys(("planned", "graph", "candidates", "final")),
        **{"name": Path(run).resolve().name, "about": "", "status": status},
    }


def groups_of(keys: Sequence[str]) -> list[str]:
    """The group that each choice is listed in.

    This is the key up to its first `/`, or without the digits it ends with; small groups that differ only in such
    digits are merged. Choices that remain single are "others", and up to eight choices in total are one group.
    """
    if len(keys) <= 8:
        return ["all choices"] * len(keys)
    groups = [key.partition("/")[0] if "/" in key else _stem(key) for key in keys]
    count = Counter(groups)
    groups = [_stem(group) if count[group] < 4 else group for group in groups]
    count = Counter(groups)
    return [group if count[group] > 1 else "others" for group in groups]


def _stem(name: str) -> str:
    return re.sub(r"[\s_.-]*\d+$", "", name) or name


# ------------------------------------------------------------------ choices and curves


def _check_epochs(run: Path, history: Sequence[Record]) -> None:
    before = -1
    for number, record in enumerate(history, 1):
        epoch = record["epoch"]
        if not isinstance(epoch, int) or epoch <= before:
            expected = f"an epoch after {before}" if before >= 0 else "an epoch, counted from 0"
            raise RunError(f"{run / 'history.jsonl'}, line {number}: epoch {epoch!r}; expected {expected}.")
        before = epoch


def _choices(run: Path, history: Sequence[Record], space: Space) -> list[dict[str, Any]]:
    choices = []
    for (key, spec), group in zip(space.items(), groups_of(list(space)), strict=True):
        probabilities = [_weights(run, record, key, spec, "probabilities") for record in history]
        with_alphas = [record for record in history if record.get("alphas") and not spec.ranked]
        alphas = [_weights(run, record, key, spec, "alphas") for record in with_alphas]
        choices.append(
            {
                "key": key,
                "kind": spec.kind,
                "labels": [str(label) for label in spec.labels],
                "number": spec.n_chosen,
                "group": group,
                "probabilities": probabilities,
                "alphas": alphas if len(alphas) == len(history) else None,  # ENAS and ranked inputs have none
                "entropy": [choice_entropy(spec, weights) for weights in probabilities],
                "chosen": [_chosen(run, record, key, spec) for record in history],
            }
        )
    return choices


def _weights(run: Path, record: Record, key: str, spec: ChoiceSpec, name: str) -> list[float | None]:
    try:
        weights = record[name][key]
        if len(weights) != spec.n_candidates:
            raise ValueError(f"{len(weights)} values for {spec.n_candidates} candidates")
        return [None if w is None else float(w) for w in weights]
    except (KeyError, TypeError, ValueError) as e:
        raise _misfit(run, record, f"{name} of {key!r}: {type(e).__name__}: {e}") from None


def _chosen(run: Path, record: Record, key: str, spec: ChoiceSpec) -> list[int]:
    arch = record.get("arch")
    if not isinstance(arch, Mapping) or key not in arch:
        return []
    try:
        return list(positions(key, spec, arch[key]))
    except ArchitectureError as e:
        raise _misfit(run, record, str(e).rstrip(".")) from None


def _misfit(run: Path, record: Record, what: str) -> RunError:
    return RunError(f"{run / 'history.jsonl'}: epoch {record['epoch']} does not fit the space of the run: {what}.")


def _panels(history: Sequence[Record], choices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Curves by what they measure: losses together, accuracies together, and so on."""
    panels: dict[str, dict[str, Any]] = {}

    def panel_of(title: str, *, main: bool = True, log: bool = False) -> dict[str, Any]:
        return panels.setdefault(title, {"title": title, "main": main, "log": log, "range": None, "series": []})

    def add(title: str, name: str, values: list[Any], role: str | None, **kind: Any) -> None:
        panel = panel_of(title, **kind)
        panel["series"].append({"name": name, "role": role, "values": values})

    for title in ("Loss", "Accuracy"):  # first, in this order
        panel_of(title)
    names = sorted({name for record in history for name in record if name != "epoch"}, key=_by_role)
    for name in names:
        values = [_number(record.get(name)) for record in history]
        if all(value is None for value in values):
            continue
        role, _, measure = name.partition("_")
        title = measure.replace("_", " ").capitalize()
        if name in ("seconds", "compile_seconds"):
            add("Seconds per epoch", {"seconds": "all", "compile_seconds": "compiling"}[name], values, None, main=False)
        elif name.endswith("grad_norm"):
            add("Gradient norms", name.removesuffix("_grad_norm"), values, None, main=False, log=True)
        elif name in ("reward", "baseline"):
            add("Reward", name, values, {"reward": "valid", "baseline": "train"}[name])
        elif role in _ROLES and measure:
            add(title, role, values, role)
        else:
            title = {"entropy": "Entropy of the controller, nats"}.get(name, name.replace("_", " ").capitalize())
            add(title, name.replace("_", " "), values, None, main=False)
    if history:
        entropy = [_mean([choice["entropy"][i] for choice in choices]) for i in range(len(history))]
        add("Entropy of the choices", "mean; 1 open, 0 decided", entropy, "valid")
        panels["Entropy of the choices"]["range"] = [-0.03, 1.03]
    return [panel for panel in panels.values() if panel["series"]]


def _by_role(name: str) -> tuple[int, str]:
    role = name.partition("_")[0]
    return (_ROLES.index(role) if role in _ROLES else -1 if name == "reward" else len(_ROLES), name)


# ------------------------------------------------------------------ words and tables


def _about(config: Record) -> str:
    parts = [str(config.get("algorithm", "search")).upper(), str(config.get("model"))]
    return " · ".join([*parts, f"data {config.get('data')}", f"seed {config.get('seed')}"])


def _status(run: Path, history: Sequence[Record], result: Record | None) -> dict[str, Any]:
    """The state of a run: `state` is running, interrupted, finished or failed; `last` the time of its last epoch."""
    state, detail = _going_on(run), ""
    if result is not None:
        state = "failed" if result.get("status") == "failed" else "finished"
        detail = str(result.get("error") or result.get("stopped") or "")
    file = run / "history.jsonl"
    return {"state": state, "text": state, "detail": detail, "last": int(file.stat().st_mtime) if history else None}


def _going_on(run: Path) -> str:
    return "running" if runs.working(run) else "interrupted"


def _facts(
    config: Record, history: Sequence[Record], space: Space, trainings: Sequence[Mapping[str, Any]]
) -> list[list[str]]:
    seconds = [_number(record.get("seconds")) or 0.0 for record in history]
    compiling = sum(_number(record.get("compile_seconds")) or 0.0 for record in history)
    duration = duration_text(sum(seconds)) + (f", {duration_text(compiling)} of which compiling" if compiling else "")
    size = f"{space.size:,}" if space.size < 10**9 else f"about {_power(space.size)}"
    facts = [["choices", str(len(space))], ["architectures", size]]
    versions = config.get("versions")
    if isinstance(versions, Mapping) and "device" in versions:
        facts.append(["device", str(versions["device"])])
    return [*headline(history, trainings), *facts, ["duration", duration]] if history else facts


def _power(number: int) -> str:
    digits = str(number)
    return f"{digits[0]}.{digits[1]} × 10{str(len(digits) - 1).translate(_RAISED)}"


def _candidates(run: Path, result: Record | None) -> dict[str, Any] | None:
    found = result.get("candidates") if result is not None else None
    if not found:
        return None
    try:
        names = [name for name in found[0]["metrics"] if name != "reward"]
        rows = [
            {"numbers": [c["score"], *(c["metrics"].get(name) for name in names)], "arch": _arch_text(c["arch"])}
            for c in found
        ]
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise RunError(f"{run / 'result.json'}: its candidates are damaged: {type(e).__name__}: {e}.") from None
    return {"columns": ["score", *(name.replace("_", " ") for name in names)], "rows": rows}


def _arch_text(arch: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {decision_text(value)}" for key, value in arch.items())


def _training(folder: Path) -> dict[str, Any]:
    """A row of the table of trainings; damage is reported in the row, since it does not concern the search."""
    try:
        config = runs.read_config(folder)
        result, history = runs.read_ended(folder), runs.read_history(folder)
    except RunError as e:
        empty = {"start": "", "epochs": "", "scores": {}, "duration": ""}
        return {"name": folder.name, "status": str(e), "damaged": True, **empty}
    scores = result if result is not None else history[-1] if history else {}
    start = "inherited weights" if config.get("inherited") else "from scratch"
    return {
        "name": folder.name,
        "damaged": False,
        "status": str(result.get("error") or result.get("status")) if result is not None else _going_on(folder),
        "start": start,
        "epochs": f"{len(history)} of {config.get('epochs')}",
        "scores": {
            name: _number(scores[name]) for name in scores if name.startswith("test_") or name == "train_accuracy"
        },
        "duration": duration_text(sum(_number(record.get("seconds")) or 0.0 for record in history)),
    }


def _final(run: Path, history: Sequence[Record]) -> dict[str, Any] | None:
    file = run / "final_arch.json"
    try:
        arch = read_json(file) if file.exists() else history[-1].get("arch") if history else None
    except ArchitectureError as e:
        raise RunError(str(e)) from None
    if arch is None:
        return None
    return {"text": json.dumps(arch, indent=2, sort_keys=True, ensure_ascii=False), "final": file.exists()}


def _configuration(config: Record) -> list[list[str]]:
    rows = []
    for name, value in config.items():
        if name in ("space", "graph", "fingerprints"):
            continue
        if isinstance(value, Mapping):
            rows += [[f"{name}.{inner}", _text(v)] for inner, v in value.items()]
        else:
            rows.append([name, _text(value)])
    return rows


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ------------------------------------------------------------------ numbers


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _json_able(value: Any) -> Any:
    """Floats with five digits, so that long histories stay small, and none that JSON lacks."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json_able(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_able(inner) for inner in value]
    return value
