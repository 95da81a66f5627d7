"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class AugmentName(StrEnum):
    """How training images are augmented."""

    default = "default"
    none = "none"
    standard = "standard"
    cutout = "cutout"


class StopOn(StrEnum):
    """Criteria for stopping early, as in `jaxnas.callbacks`, with their defaults."""

    eigenvalue = "eigenvalue"
    skips = "skips"
    ranking = "ranking"
    no_improvement = "no-improvement"


Model = Annotated[str, typer.Option(help="The model, as module:name, e.g. experiments.quickstart:Net.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Run directory, needed but for --dry-run; the same command resumes an interrupted run."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would take: operations, memory, time to compile.")
]
Topology = Annotated[
    str | None, typer.Option(help="With --dry-run: a TPU to compile for, such as v5e:2x2; none need be here.")
]
Data = Annotated[str, typer.Option(help='"digits", an .npz file, a folder of pictures, or a name such as cifar10.')]
DataDir = Annotated[Path | None, typer.Option(help="Folder of NAME.npz or of prepared tensorflow-datasets.")]
AugmentOption = Annotated[
    AugmentName,
    typer.Option(help="The data set's own; none; crop and flip; or crop, flip and cutout of half the side."),
]
ImageSize = Annotated[int | None, typer.Option(help="Resize images to this side length if theirs differs.")]
UseTensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write scalars and histograms for TensorBoard.")]
StopOnOption = Annotated[
    list[StopOn] | None,
    typer.Option(
        "--stop-on",
        help="Stop early: the alpha-Hessian's eigenvalue grows (R-DARTS); two skip connections or a stable ranking "
        "(DARTS+); no better derived accuracy for ten epochs. May be given several times.",
    ),
]
Devices = Annotated[
    str | None,
    typer.Option(help='Spread batches over so many devices, or "all". Default: the accelerators; one device on CPU.'),
]
Force = Annotated[
    bool, typer.Option("--force-resume", help="Resume an interrupted run even if something else is asked for now.")
]
Loss = Annotated[str | None, typer.Option(help="The loss: the name of a built-in one, or module:function.")]
Metrics = Annotated[str | None, typer.Option(help="The metrics: names of built-in ones, or module:function.")]
