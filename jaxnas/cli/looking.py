"""`jaxnas show`: what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jaxnas.model.architecture import decision_text


def show(run: Annotated[Path, typer.Argument(help="Run directory of a search.")]) -> None:
    """Show what a search found, and how sure it is; in the DARTS space also as a Genotype."""
    from jaxnas.errors import RunError
    from jaxnas.runs import reading as runs

    config, space = runs.read_config(run), runs.read_space(run)
    result, history = runs.read_ended(run), runs.read_history(run)
    runs.tidy(run)
    console = Console()
    about = f"{config.get('algorithm')} on {config.get('data')}, seed {config.get('seed')}"
    console.print(f"{run}: {config.get('model')}, {about}", highlight=False, markup=False)
    if not history:
        console.print("no epoch has ended yet")
        return
    last = history[-1]
    console.print(f"epoch {last['epoch'] + 1} of {config.get('epochs')}", highlight=False)
    try:
        arch = space.fixed(last["arch"])
        console.print(_choices_table(space, last["probabilities"], arch))
        if genotype := _genotype(space, arch):
            console.print(genotype, highlight=False, markup=False, soft_wrap=True)
    except (KeyError, TypeError, ValueError) as e:
        raise RunError(f"{run}: the last record of its history does not fit its space: {e}") from None
    console.print(_history_table(history))
    if result is not None and result.get("candidates"):
        console.print(_candidates_table(result["candidates"]))
    for folder in runs.trainings(run):
        ended = runs.read_ended(folder)
        if ended is None:
            continue
        shown = _tests(ended)
        start = "inherited weights" if runs.read_config(folder).get("inherited") else "from scratch"
        console.print(
            f"{folder.name}: {ended.get('status')}, {ended.get('epochs', 0)} epochs {start}, {shown}",
            highlight=False,
            markup=False,
        )


def _tests(ended: dict[str, Any]) -> str:
    """What the test data gave at the end of a training."""
    scores = {name: value for name, value in ended.items() if name.startswith("test_") and isinstance(value, float)}
    accuracy = scores.get("test_accuracy")
    if accuracy is not None:
        return f"test accuracy {100 * accuracy:.2f} %"
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items()) or "no test data"


def _genotype(space: Any, arch: Any) -> str | None:
    """The genotype of an architecture of the DARTS space; None for others, and if an edge has no operation."""
    from jaxnas.errors import ArchitectureError
    from jaxnas.spaces import genotypes

    try:
        return str(genotypes.genotype_of(arch)) if set(space) == set(genotypes.CHOICES) else None
    except ArchitectureError:
        return None


def _choices_table(space: Any, weights: Any, arch: Any) -> Table:
    from rich.text import Text

    table = Table("choice", "chosen", "weights")
    for key, spec in space.items():
        shares = (f"{label}: {float(w):.3f}" for label, w in zip(spec.labels, weights[key], strict=True))
        table.add_row(Text(key), Text(decision_text(arch[key])), Text("  ".join(shares)))
    return table


def _history_table(history: list[dict[str, Any]]) -> Table:
    derived = [name.removeprefix("derived_") for record in history for name in record if name.startswith("derived_")]
    measure = "accuracy" if "accuracy" in derived else next((m for m in derived if m not in ("loss", "reward")), "loss")
    names = ["train_loss", "supernet_loss", "derived_loss", f"train_{measure}", f"supernet_{measure}"]
    names += ["reward", "entropy", f"sampled_{measure}", f"derived_{measure}"]  # what fits into 80 columns
    names = [name for name in dict.fromkeys(names) if any(name in record for record in history)]
    table = Table("epoch", *(name.replace("_", "\n") for name in names))
    step = -(-len(history) // 20)
    for record in history[::-step][::-1]:
        table.add_row(str(record["epoch"] + 1), *(_number(record.get(name)) for name in names))
    return table


def _candidates_table(candidates: list[dict[str, Any]], most: int = 5) -> Table:
    from rich.text import Text

    names = list(candidates[0]["metrics"])
    table = Table("rank", "score", *(name for name in names if name != "reward"), "architecture")
    for rank, found in enumerate(candidates[:most], 1):
        numbers = (_number(found["metrics"].get(name)) for name in names if name != "reward")
        shown = ", ".join(f"{key} {decision_text(value)}" for key, value in found["arch"].items())
        table.add_row(str(rank), _number(found["score"]), *numbers, Text(shown))
    return table


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""
