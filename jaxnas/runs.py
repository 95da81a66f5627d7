"""Run directories: what a search or a training leaves on disk.

========================  ============================================================
file                      what
========================  ============================================================
`config.json`             what was asked for, and with which versions
`history.jsonl`           one JSON object per epoch, written as it happens
`checkpoints/`            the state after the last epochs, until the run has ended
`final_arch.json`         the found architecture (searches)
`result.json`             how it ended
`weights.msgpack`         the variables (supernet or trained model), as msgpack arrays
========================  ============================================================
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax
import jax
import numpy as np
import optax
from flax import serialization

from jaxnas import checkpoints
from jaxnas.architecture import ChoiceSpec
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.serialization import read_json, write_bytes, write_text
from jaxnas.space import Space

State = TypeVar("State")


class RunDirectory:
    """Writes a run's files; every method does nothing where no directory was asked for."""

    def __init__(self, path: str | os.PathLike | None):
        self.path = None if path is None else Path(path)

    def start(self, config: Mapping[str, Any]) -> None:
        """Begins a run, or goes on with one of the same configuration that was interrupted.

        Raises:
          RunError: if the directory holds a run that has ended or of another configuration, or cannot be written.
        """
        if self.path is None:
            return
        if resumable(self.path):
            _check_same(self.path, read_config(self.path), _plain(config))
            return
        if holds_run(self.path):
            raise RunError(f"{self.path} holds a run already; choose another directory, or remove this one.")
        self._write_json("config.json", {**config, "versions": versions()})

    def resume(self, state: State) -> tuple[State, list[dict[str, Any]]]:
        """The state and history of the run so far; `(state, [])` if it begins.

        Raises:
          RunError: if the checkpoint or the history is damaged.
        """
        if self.path is None:
            return state, []
        found = checkpoints.restore(self.path / "checkpoints", state)
        if found is None:
            return state, []
        epochs, state = found
        history = read_history(self.path)[:epochs]
        if len(history) < epochs:
            raise RunError(f"{self.path}: its checkpoint is of epoch {epochs}, its history has {len(history)} epochs.")
        # An epoch that was logged but not saved is done again.
        write_text(self.path / "history.jsonl", "".join(json.dumps(record) + "\n" for record in history))
        return state, [{**record, **_decisions(record)} for record in history]

    def save(self, epochs: int, state: Any) -> None:
        """Saves the state after `epochs` epochs."""
        if self.path is not None:
            checkpoints.save(self.path / "checkpoints", epochs, state)

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends an epoch to the history."""
        if self.path is not None:
            with open(self.path / "history.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(_plain(record)) + "\n")

    def finish(self, result: Mapping[str, Any], variables: Any) -> None:
        """Writes how the run ended, and its weights."""
        if self.path is not None:
            arrays = jax.tree.map(np.asarray, jax.device_get(dict(variables)))
            write_bytes(self.path / "weights.msgpack", serialization.msgpack_serialize(arrays))
            self._write_json("result.json", result)
            checkpoints.remove(self.path / "checkpoints")

    def _write_json(self, name: str, value: Any) -> None:
        assert self.path is not None
        try:
            write_text(self.path / name, json.dumps(_plain(value), indent=2))
        except OSError as e:
            raise RunError(f"{self.path}: cannot be written: {e.strerror}.") from None


def holds_run(path: str | os.PathLike) -> bool:
    """Whether a directory holds work that must not be overwritten: at least one epoch, or a result."""
    return any((Path(path) / name).exists() for name in ("history.jsonl", "result.json"))


def resumable(path: str | os.PathLike) -> bool:
    """Whether a directory holds a run that was interrupted and can go on."""
    return not (Path(path) / "result.json").exists() and checkpoints.there(Path(path) / "checkpoints")


def fresh(path: str | os.PathLike) -> Path:
    """`path` itself if no run is there, else the first free `path-2`, `path-3`, …"""
    path, number = Path(path), 1
    candidate = path
    while holds_run(candidate):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Reads `config.json` of a run.

    Raises:
      RunError: if `path` is not a run directory, or the file is damaged.
    """
    return _read(path, "config.json")


def read_space(path: str | os.PathLike) -> Space:
    """The space that a search searched, from its `config.json`. Raises RunError if it has none."""
    try:
        found = read_config(path)["space"]
        specs = {k: ChoiceSpec(**{**v, "names": v["names"] and tuple(v["names"])}) for k, v in found.items()}
    except (KeyError, TypeError, AttributeError, ValueError):
        raise RunError(f"{path}: its config.json describes no search space; is it a search?") from None
    return Space(specs)


def read_result(path: str | os.PathLike) -> dict[str, Any]:
    """Reads `result.json` of a run. Raises RunError if the run has not ended, or the file is damaged."""
    return _read(path, "result.json")


def read_history(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads `history.jsonl` of a run; a last line that was cut off is left out."""
    file = Path(path) / "history.jsonl"
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as e:
            if number < len(lines):
                raise RunError(f"{file}, line {number}: not valid JSON: {e.msg}.") from None
            continue
        if not isinstance(record, dict) or "epoch" not in record:
            raise RunError(f"{file}, line {number}: not the record of an epoch.")
        records.append(record)
    return records


def read_weights(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the variables of a run.

    Raises:
      RunError: if they are not there, or damaged.
    """
    file = Path(path) / "weights.msgpack"
    if not file.exists():
        raise RunError(f"{file}: there is no such file; the run has not ended.")
    try:
        variables = serialization.msgpack_restore(file.read_bytes())
        if not isinstance(variables, dict):
            raise ValueError(f"it holds a {type(variables).__name__}")
        return variables
    except Exception as e:  # msgpack raises many kinds on damaged data
        raise RunError(f"{file}: damaged ({type(e).__name__}: {e}).") from None


def versions() -> dict[str, str]:
    """Versions and the device, for the record."""
    import jaxnas

    device = jax.devices()[0]
    return {
        "jaxnas": jaxnas.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "device": f"{device.platform}: {device.device_kind}",
    }


def _read(path: str | os.PathLike, name: str) -> dict[str, Any]:
    file = Path(path) / name
    if not file.exists():
        raise RunError(f"{path}: has no {name}; expected a run directory, as `jaxnas search … --out` makes it.")
    try:
        value = read_json(file)
    except ArchitectureError as e:
        raise RunError(str(e)) from None
    if not isinstance(value, dict):
        raise RunError(f"{file}: expected an object; got {type(value).__name__}.")
    return value


def _check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    differ = [k for k in {**before, **now} if k != "versions" and before.get(k) != now.get(k)]
    if differ:
        changes = "; ".join(f"{k} was {before.get(k)!r}, is now {now.get(k)!r}" for k in differ)
        raise RunError(
            f"{path} holds a run of another configuration, which was interrupted: {changes}. Give the same to go on "
            "with it, or choose another directory."
        )


def _decisions(record: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of a record with tuples, which JSON has as lists."""
    arch = record.get("arch")
    if not isinstance(arch, Mapping):
        return {}
    return {"arch": {key: tuple(v) if isinstance(v, list) else v for key, v in arch.items()}}


def _plain(value: Any) -> Any:
    """Arrays, tuples and paths as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return _plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value
