"""How commands that run for long are carried out and how they end."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

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
    # Those that stop a run come first, so that what they record is logged.
    stopping = [criteria[criterion]() for criterion in dict.fromkeys(stop_on or ())]
    return [*stopping, *([callbacks.TensorBoard()] if tensorboard else [])]


@contextlib.contextmanager
def ending_well(out: Path) -> Iterator[None]:
    """Exits with the shell's code after a signal, and without complaint if the run has finished already."""
    from jaxnas.errors import Interrupted, RunEndedError

    try:
        yield
    except RunEndedError:
        print(f"{out} has finished already: there is nothing left to do")
    except Interrupted as interrupted:  # it has said what is saved
        raise typer.Exit(128 + interrupted.signal) from None
