"""Run directories: what a search or a training leaves on disk.

========================  ============================================================
file                      what
========================  ============================================================
`config.json`             what was asked for, and with which versions
`history.jsonl`           one JSON object per epoch, written as it happens
`run.lock`                held by the process that works in the directory
`checkpoints/`            the last states, until the run has ended; see `jaxnas.runs.checkpoints`
`final_arch.json`         the found architecture (searches)
`result.json`             how it ended
`weights.msgpack`         the variables (supernet or trained model), as msgpack arrays
========================  ============================================================
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import flax
import jax
import numpy as np
import optax
from flax import serialization

from jaxnas.runs import checkpoints
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.runs.checkpoints import Position
from jaxnas.errors import ArchitectureError, RunEndedError, RunError
from jaxnas.runs.locking import Lock, held
from jaxnas.files import write_bytes, write_text
from jaxnas.model.serialization import read_json
from jaxnas.model.space import Space
from jaxnas.version import __version__

State = TypeVar("State")

NOT_COMPARED = ("versions", "graph")
"""Entries of `config.json` that say nothing of what was asked for."""


class RunDirectory:
    """Writes a run's files; every method does nothing where no directory was asked for.

    Attributes:
      path: the directory, or None.
      checkpoints: where its checkpoints lie: in it, or beside it where several seeds have theirs in common.
    """

    def __init__(self, path: str | os.PathLike | None, checkpoints: Path | None = None):
        self.path = None if path is None else Path(path)
        self.checkpoints = checkpoints if checkpoints is not None or self.path is None else self.path / "checkpoints"

    @contextlib.contextmanager
    def open(self, config: Mapping[str, Any], *, resume: bool = True) -> Iterator[None]:
        """Holds the directory, to begin a run or to go on with one of the same configuration that was interrupted.

        Raises:
          RunError: if the directory holds a run that has ended, is of another configuration, or may not be resumed;
            if another process works in it; if it cannot be written.
        """
        if self.path is None:
            yield
            return
        with Lock(self.path / "run.lock"):
            self._start(config, resume)
            yield

    def _start(self, config: Mapping[str, Any], resume: bool) -> None:
        assert self.path is not None
        if not holds_run(self.path) and not self._saved:
            self._write_json("config.json", {**config, "versions": versions()})
            return
        differences, ended = self._differences(config), status(self.path)
        other = f" of another configuration: {differences}" if differences else ""
        if ended is not None:
            error = RunEndedError if ended == "finished" and resume and not differences else RunError
            raise error(
                f"{self.path} holds a run already, which has {ended}{',' if other else ''}{other}. Choose another "
                "directory, or remove this one."
            )
        if differences:
            raise RunError(
                f"{self.path} holds a run{other}. It was interrupted; give the same to go on with it, or choose "
                "another directory."
            )
        if not resume:
            raise RunError(
                f"{self.path} holds a run already, which was interrupted; with resume=True the same call goes on with "
                "it. Choose another directory to begin anew."
            )
        if not self._saved:
            raise RunError(
                f"{self.path} holds a run already, which has no checkpoint to go on from; choose another directory, "
                "or remove this one."
            )

    def has_ended(self, config: Mapping[str, Any]) -> bool:
        """Whether the directory holds a run of this configuration that has ended, well or not.

        Raises:
          RunError: if it holds one that has ended and is of another configuration.
        """
        if self.path is None or status(self.path) is None:
            return False
        if differences := self._differences(config):
            raise RunError(f"{self.path} holds a run already, of another configuration: {differences}.")
        return True

    def _differences(self, config: Mapping[str, Any]) -> str:
        """In which entries the configuration of the run that is there differs, in words; empty if in none."""
        assert self.path is not None
        try:
            before = _read(self.path, "config.json")
        except RunError as e:
            raise RunError(f"{self.path} holds a run already, whose configuration cannot be read: {e}") from None
        now = _plain(config)
        differ = [k for k in {**before, **now} if k not in NOT_COMPARED and before.get(k) != now.get(k)]
        return "; ".join(f"{k} was {_short(before.get(k))}, is now {_short(now.get(k))}" for k in differ)

    @property
    def _saved(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.checkpoints is not None and checkpoints.newest(self.checkpoints) is not None

    def restore(self, state: State) -> tuple[State, Position]:
        """The state that was saved last, and where in the run it is; `(state, the beginning)` if none was.

        Raises:
          RunError: if all checkpoints are damaged, or are of another model.
        """
        found = None if self.checkpoints is None else checkpoints.restore(self.checkpoints, state)
        return (state, Position()) if found is None else (found[1], found[0])

    def rewind(self, epochs: int) -> list[dict[str, Any]]:
        """The records of the first `epochs` epochs; later ones, which were logged but not saved, are removed.

        Raises:
          RunError: if the history is damaged.
        """
        if self.path is None:
            return []
        history = read_history(self.path)[:epochs]
        if len(history) < epochs:
            raise RunError(f"{self.path}: its checkpoint is of epoch {epochs}, its history has {len(history)} epochs.")
        if history:
            write_text(self.path / "history.jsonl", "".join(json.dumps(record) + "\n" for record in history))
        else:
            (self.path / "history.jsonl").unlink(missing_ok=True)
        return [with_decisions(record) for record in history]

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends an epoch to the history. Raises RunError if it cannot be written."""
        if self.path is not None:
            try:
                with open(self.path / "history.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(_plain(record)) + "\n")
            except OSError as e:
                raise RunError(
                    f"{self.path}: history.jsonl cannot be written: {e.strerror}. The same call goes on from the last "
                    "checkpoint."
                ) from None

    def finish(self, result: Mapping[str, Any], variables: Any, *, keep_checkpoints: bool = False) -> None:
        """Writes how the run ended, and its weights. Raises RunError if they cannot be written."""
        if self.path is not None:
            arrays = jax.tree.map(np.asarray, jax.device_get(dict(variables)))
            self._write("weights.msgpack", write_bytes, serialization.msgpack_serialize(arrays))
            self._write_json("result.json", result)
            if not keep_checkpoints:
                self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Removes all checkpoints: what has ended needs none."""
        if self.checkpoints is not None:
            checkpoints.remove(self.checkpoints)

    def _write_json(self, name: str, value: Any) -> None:
        self._write(name, write_text, json.dumps(_plain(value), indent=2))

    def _write(self, name: str, write: Callable[[Path, Any], None], content: Any) -> None:
        assert self.path is not None
        try:
            write(self.path / name, content)
        except OSError as e:
            raise RunError(f"{self.path}: {name} cannot be written: {e.strerror}.") from None


def holds_run(path: str | os.PathLike) -> bool:
    """Whether a directory holds work that must not be overwritten: a result, a checkpoint, or more than one epoch."""
    history = Path(path) / "history.jsonl"
    epochs = len(history.read_bytes().splitlines()) if history.exists() else 0
    return status(path) is not None or epochs > 1 or resumable(path)


def resumable(path: str | os.PathLike) -> bool:
    """Whether a directory holds a run that was interrupted and can go on."""
    return status(path) is None and checkpoints.newest(Path(path) / "checkpoints") is not None


def status(path: str | os.PathLike) -> str | None:
    """`"finished"` or `"failed"`, as `result.json` says; None for a run that has not ended."""
    if not (Path(path) / "result.json").exists():
        return None
    try:
        return str(read_result(path).get("status", "finished"))
    except RunError:  # damaged, but there
        return "finished"


def working(path: str | os.PathLike) -> bool:
    """Whether a process is working in a run directory."""
    return held(Path(path) / "run.lock")


def free(path: str | os.PathLike) -> Path:
    """The first of `path`, `path-2`, `path-3`, … that holds no run, or one that was interrupted, to go on with it."""
    path, number = Path(path), 1
    candidate = path
    while working(candidate) or (holds_run(candidate) and not resumable(candidate)):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def seed_folder(path: str | os.PathLike, seed: int) -> Path:
    """Where in the directory of several seeds the run of one is."""
    return Path(path) / f"seed_{seed}"


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Reads `config.json` of a run.

    Raises:
      RunError: if `path` is not a run directory, or one of several seeds, or the file is damaged.
    """
    config = _read(path, "config.json")
    if "seeds" in config:
        raise RunError(
            f"{path} holds a run for each of several seeds; name one, such as {seed_folder(path, config['seeds'][0])}."
        )
    return config


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
    device = jax.devices()[0]
    return {
        "jaxnas": __version__,
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


def _short(value: Any, most: int = 300) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"


def with_decisions(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record read from JSON, the decisions of its architecture as tuples again where JSON has lists."""
    arch = record.get("arch")
    if not isinstance(arch, Mapping):
        return dict(record)
    return {**record, "arch": {key: tuple(v) if isinstance(v, list) else v for key, v in arch.items()}}


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
