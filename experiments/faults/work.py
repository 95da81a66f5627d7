"""Small runs of every kind, and what they leave: a fault must not change it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import linen as nn

import jaxnas
from jaxnas import runs
from jaxnas.errors import RunEndedError
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.directory import RunDirectory

SPACE = jaxnas.Space({name: jaxnas.ChoiceSpec("layer", 3, ("a", "b", "c")) for name in ("x", "y", "z")})
SMALL: dict[str, Any] = {"epochs": 3, "batch_size": 16, "progress": False, "checkpoint_minutes": 0}
FEWER: dict[str, Any] = {"controller_steps": 2, "controller_samples": 2, "derive_samples": 2, "train_portion": 0.5}


class Net(nn.Module):
    """One choice. Input `[B, 4]`, output `[B, 2]`."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = jaxnas.LayerChoice({"dense": nn.Dense(4), "tanh": nn.tanh}, key="op")(x, arch, train=train)
        return nn.Dense(2)(x)


def data() -> tuple[np.ndarray, np.ndarray]:
    """64 points and the sign of the first number."""
    x = np.random.RandomState(0).randn(64, 4).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32)


def darts(path: Path, **options: Any) -> None:
    jaxnas.darts.search(Net, data(), workdir=path, **SMALL, **options)


def enas(path: Path, **options: Any) -> None:
    jaxnas.enas.search(Net, data(), workdir=path, **SMALL, **FEWER, **options)


def fit(path: Path, **options: Any) -> None:
    jaxnas.training.fit(nn.Dense(2), (*data(), *data()), workdir=path, **SMALL, **options)


def seeds(path: Path, **options: Any) -> None:
    jaxnas.darts.search(Net, data(), workdir=path, seeds=[0, 1], batching="map", **SMALL, **options)


def trials(path: Path) -> None:
    """A black-box search whose history lies in `path`."""
    jaxnas.evolution.search(
        SPACE,
        lambda arch: float(len(set(arch.values()))),
        trials=15,
        population=4,
        sample=2,
        history=path / "trials.jsonl",
        progress=False,
    )


def miniature(path: Path) -> None:
    """What a search does to its directory, without its computations."""
    directory = RunDirectory(path)
    with directory.open({"algorithm": "miniature", "epochs": 3}):
        state, at = directory.restore({"w": np.zeros(300, np.float32)})
        w = np.array(state["w"])
        directory.rewind(at.epoch)
        for epoch in range(at.epoch, 3):
            for step in range(at.step if epoch == at.epoch else 0, 3):
                w = w + np.float32(epoch + step / 7)
                directory.save(Position(epoch, 0, step + 1), {"w": w})
            directory.log({"epoch": epoch, "loss": float(w.mean()), "arch": {"op": epoch}})
            directory.save(Position(epoch + 1), {"w": w})
        jaxnas.export({"op": 2}, path / "final_arch.json")
        directory.finish({"status": "finished", "epochs": 3, "arch": {"op": 2}}, {"params": {"w": w}})


KINDS: dict[str, Callable[[Path], None]] = {
    "search": darts,
    "enas": enas,
    "fit": fit,
    "seeds": seeds,
    "black box": trials,
    "miniature": miniature,
}


def run(kind: str, path: Path) -> None:
    """Begins or resumes a run; a finished one is left as it is."""
    with contextlib.suppress(RunEndedError):
        KINDS[kind](path)


def outcome(kind: str, path: Path) -> dict[str, Any]:
    """Everything that a finished run leaves, without times. Raises RunError if any of it is damaged."""
    if kind == "black box":
        lines = [json.loads(line) for line in (path / "trials.jsonl").read_text().splitlines()]
        return {"trials": [_timeless(line) for line in lines]}
    folders = [path / "seed_0", path / "seed_1"] if kind == "seeds" else [path]
    return {folder.name if kind == "seeds" else "run": _left(folder) for folder in folders}


def _left(folder: Path) -> dict[str, Any]:
    result = runs.read_ended(folder, ("config.json", "history.jsonl", "final_arch.json", "weights.msgpack"))
    if result is None:
        raise jaxnas.RunError(f"{folder}: the run has not ended.")
    arch = folder / "final_arch.json"
    return {
        "result": _timeless(result),
        "history": [_timeless(record) for record in runs.read_history(folder)],
        "weights": (folder / "weights.msgpack").read_bytes(),
        "arch": arch.read_bytes() if arch.exists() else b"",
        "checkpoints": [left.name for left in folder.glob("checkpoints*")],
    }


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not name.endswith("seconds") and name != "checksum"}
