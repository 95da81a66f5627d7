"""How long-running commands are carried out and how they end."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from jaxnas.cli.options import StopOn


def followers(tensorboard: bool, stop_on: Sequence[StopOn] | None = None) -> list:
    """The callbacks that options ask for."""
    from jaxnas import callbacks

    if tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise typer.BadParameter('it needs tensorboardX: pip install "jaxnas[tensorboard]"', param_hint="--tensorboard")
    criteria = {
        StopOn.eigenvalue: callbacks.HessianEigenvalue,
        StopOn.skips: callbacks.SkipConnections,
        StopOn.ranking: callbacks.StableRanking,
        StopOn.no_improvement: callbacks.NoImprovement,
    }
    # Callbacks that stop a run come first, so that what they record is logged.
    stopping = [criteria[criterion]() for criterion in dict.fromkeys(stop_on or ())]
    return [*stopping, *([callbacks.TensorBoard()] if tensorboard else [])]


def say_found(result: Any, out: Path, seeds: Sequence[int] | None) -> None:
    """Prints what the search or searches found. Those that ended at the time limit have reported that themselves."""
    from jaxnas.runs.directory import seed_folder

    if seeds is None:
        if (out / "result.json").exists():
            print(f"found {result.arch}")
            say_how_sure(result)
            print(f"in {out / 'final_arch.json'}; next: jaxnas show {out}, jaxnas retrain {out}")
        return
    found = [(seed_folder(out, seed), one) for seed, one in zip(seeds, result, strict=False)]  # time may have run out
    ended = [(folder, one) for folder, one in found if (folder / "result.json").exists()]
    for folder, one in ended:
        print(f"found {one.arch} in {folder / 'final_arch.json'}")
    if len(ended) > 1:
        print(f"next: jaxnas compare {' '.join(str(folder) for folder, _ in ended)}")


def say_how_sure(result: Any) -> None:
    """Names the choices that are hardly decided: another seed, or more epochs, may decide them differently."""
    from jaxnas.model.entropy import hardly_decided

    open_choices = hardly_decided(result.space, result.history[-1].get("probabilities", {}))
    if open_choices:
        print(f"hardly decided: {', '.join(f'{key} ({how})' for key, how in open_choices.items())}")


@contextlib.contextmanager
def ending_well(out: Path) -> Iterator[None]:
    """Exits with the shell's code after a signal, and without complaint if the run has finished already."""
    from jaxnas.errors import Interrupted, RunEndedError

    try:
        yield
    except RunEndedError:
        print(f"{out} has finished already: there is nothing left to do")
    except Interrupted as interrupted:  # it has printed what is saved
        raise typer.Exit(128 + interrupted.signal) from None
