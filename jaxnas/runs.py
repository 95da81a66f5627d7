"""Run directories: what a search or a training leaves on disk.

========================  ============================================================
file                      what
========================  ============================================================
`config.json`             what was asked for, and with which versions
`history.jsonl`           one JSON object per epoch, written as it happens
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
from typing import Any

import flax
import jax
import numpy as np
import optax
from flax import serialization

from jaxnas.architecture import ChoiceSpec
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.serialization import read_json, write_bytes, write_text
from jaxnas.space import Space


class RunDirectory:
    """Writes a run's files; every method does nothing where no directory was asked for."""

    def __init__(self, path: str | os.PathLike | None):
        self.path = None if path is None else Path(path)

    def start(self, config: Mapping[str, Any]) -> None:
        """Begins a run.

        Raises:
          RunError: if the directory holds a run already, or cannot be written.
        """
        if self.path is None:
            return
        if holds_run(self.path):
            raise RunError(f"{self.path} holds a run already; choose another directory, or remove this one.")
        self._write_json("config.json", {**config, "versions": versions()})

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

    def _write_json(self, name: str, value: Any) -> None:
        assert self.path is not None
        try:
            write_text(self.path / name, json.dumps(_plain(value), indent=2))
        except OSError as e:
            raise RunError(f"{self.path}: cannot be written: {e.strerror}.") from None


def holds_run(path: str | os.PathLike) -> bool:
    """Whether a directory holds work that must not be overwritten: at least one epoch, or a result."""
    return any((Path(path) / name).exists() for name in ("history.jsonl", "result.json"))


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
