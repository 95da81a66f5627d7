"""What every run takes, a search as a training: written once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

from jax.sharding import Mesh

from jaxnas.checks import OPTIONS, check_callbacks, check_options
from jaxnas.programs.devices import Devices
from jaxnas.programs.losses import LossFn
from jaxnas.programs.metrics import Collected, MetricsFn, Summed
from jaxnas.runs.callback import Callback


class RunOptions(TypedDict, total=False):
    """Options of every run. Defaults: `RUN_DEFAULTS`, and what a method or function says of its own."""

    epochs: Annotated[int, "Passes over the training data; in a search, over the weights' part of them."]
    batch_size: Annotated[int, "Examples per batch."]
    seed: Annotated[
        int | None,
        "Seed of everything random. The same seed gives the same bits on the same machine. Default: 0.",
    ]
    loss_fn: Annotated[
        LossFn | str | None,
        "A function (output, labels) or (output, labels, arch) -> scalar, the mean over the batch; or the name of a "
        "ready loss: cross_entropy, mse, mae or bce (`jaxnas.losses`). Default: cross-entropy of logits.",
    ]
    metrics: Annotated[
        MetricsFn | Summed | Collected | str | Sequence[Any] | None,
        "A function (output, labels) or (output, labels, arch) -> {name: scalar mean}; the name of a ready metric, "
        "such as accuracy, top5, f1, auc, r2, mse or mae; a metric over whole splits (`jaxnas.metrics`); or a list of "
        "these. Default: accuracy, where it fits the loss.",
    ]
    aux_weight: Annotated[
        float, "Weight of auxiliary heads in the default loss, where the model returns a tuple in training."
    ]
    grad_clip: Annotated[float | None, "Largest global norm of the weights' gradient, or None."]
    data_dir: Annotated[str | os.PathLike | None, "Folder of the data set that `data` names."]
    workdir: Annotated[
        str | os.PathLike | None,
        "Run directory, for `config.json`, `history.jsonl`, `result.json`, `weights.msgpack` (and `final_arch.json` of "
        "a search), and for checkpoints while the run lasts. An interrupted run resumes from its last checkpoint when "
        "the same call is made again, to the same bits. SIGTERM and Ctrl-C end the step, save and raise `Interrupted`. "
        "Only one process at a time may work in a directory.",
    ]
    progress: Annotated[
        bool | Callable[[dict], None],
        "True prints a line per epoch, and on a terminal shows a bar. A function is called with each epoch's record.",
    ]
    callbacks: Annotated[
        Sequence[Callback], "`jaxnas.callbacks` objects, such as TensorBoard, early stopping, or your own."
    ]
    devices: Annotated[
        Devices,
        'On how many devices batches are spread: a number, "all", or a list of jax devices, of which the batch size '
        "must be a multiple. The state lies on each of them. Default: the local accelerators, or as many of them as "
        "divide the batch size, and one device on CPU. The numbers are those of one device to rounding, and equal bits "
        "on equal devices (docs/devices.md); a run may be resumed on others.",
    ]
    mesh: Annotated[
        Mesh | None,
        "In place of `devices`: a `jax.sharding.Mesh` with an axis `data`, over which batches are spread, and for "
        "several seeds, if they are to be stepped as one, an axis `seeds`.",
    ]
    steps_per_call: Annotated[
        int | None,
        "Steps in one compiled call. Default: 1 on CPU, where gradients of convolutions are slow inside a loop, else "
        "the largest divisor of the epoch's steps up to 50.",
    ]
    resume: Annotated[
        bool | Literal["force"],
        "False refuses a `workdir` that holds an interrupted run, instead of resuming it. A run whose configuration, "
        'data, model or functions were others is refused too, with the differences; "force" resumes it all the same.',
    ]
    checkpoint_minutes: Annotated[
        float | None,
        "Minutes between checkpoints within an epoch, or None. There is always one after each epoch.",
    ]
    keep_checkpoints: Annotated[int, "How many checkpoints are kept, in case one turns out to be damaged."]
    max_minutes: Annotated[
        float | None,
        "Stop after so many minutes, also within an epoch unless that is about to end. `workdir` then holds what was "
        "done, and the same call resumes from there.",
    ]


RUN_DEFAULTS: Mapping[str, Any] = {
    "seed": None,
    "loss_fn": None,
    "metrics": None,
    "aux_weight": 0.4,
    "grad_clip": 5.0,
    "data_dir": None,
    "workdir": None,
    "progress": True,
    "callbacks": (),
    "devices": None,
    "mesh": None,
    "steps_per_call": None,
    "resume": True,
    "checkpoint_minutes": 10.0,
    "keep_checkpoints": 2,
    "max_minutes": None,
}


@dataclasses.dataclass(frozen=True)
class Running:
    """How a run is carried out. Only `steps_per_call` and the devices change what comes out. See `RunOptions`."""

    workdir: str | os.PathLike | None
    resume: bool | Literal["force"]
    progress: bool | Callable[[dict], None]
    callbacks: Sequence[Callback]
    devices: Devices
    mesh: Mesh | None
    steps_per_call: int | None
    checkpoint_minutes: float | None
    keep_checkpoints: int
    max_minutes: float | None

    def __post_init__(self) -> None:
        check_options(**{name: value for name, value in vars(self).items() if name in OPTIONS})
        check_callbacks(self.callbacks, Callback)


def running_of(options: Mapping[str, Any]) -> Running:
    """The part of (complete) options that says how a run is carried out."""
    return Running(**{field.name: options[field.name] for field in dataclasses.fields(Running)})
