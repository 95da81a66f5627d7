"""Checkpoints: the whole state of a run and where in it that is, so that an interrupted run can continue.

A checkpoint is a folder named `<epochs done>-<phases done>-<steps done>`, and `-<number>` if it was written again:

======================  ======================================================================
file                    what
======================  ======================================================================
`state.npz`             the state: all leaves of a dtype as one flat array (supernets have thousands)
`position.json`         the `Position`, and name, shape and dtype of every leaf
`runs.json`             config and history of the runs whose state it is, up to here
`checksums.json`        SHA-256 of each of these files
======================  ======================================================================

It is written aside, synced and renamed, then read back. Only then older ones are removed: a run that is killed, or
whose machine loses power, leaves whole ones. Written with numpy: orbax 0.12 writes beside the folder or cannot read
it again where a name holds `[`, `]` or a backslash, syncs nothing, and reports errors from threads of its own.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import files
from jaxnas.errors import RunError

State = TypeVar("State")

_NAME = re.compile(r"\d{6,}-\d{2,}-\d{8,}(-\d{4,})?")
_RUNS, _SUMS = "runs.json", "checksums.json"


@dataclasses.dataclass(frozen=True)
class Position:
    """Where in a run a state is.

    Attributes:
      epoch: epochs done.
      phase: phases of the next epoch done.
      step: steps of the next phase done.
      record: what the record of the epoch under way holds so far: `{name: [value of each search]}`.
      metrics: `{name: [step]}`, of the steps done in the phase under way; `[S, step]` of S searches stepped as one.
      seconds: time that the epoch under way has taken so far.
      compile_seconds: how much of it went into compiling.
    """

    epoch: int = 0
    phase: int = 0
    step: int = 0
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    compile_seconds: float = 0.0

    @property
    def name(self) -> str:
        """The checkpoint's name; later ones sort behind earlier ones."""
        return f"{self.epoch:06d}-{self.phase:02d}-{self.step:08d}"


def save(
    folder: str | os.PathLike,
    position: Position,
    state: Any,
    *,
    keep: int = 2,
    runs: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes a checkpoint durably, reads it back, and then removes all but the last `keep`.

    Args:
      folder: where checkpoints lie.
      position: where in the run the state is.
      state: a pytree of arrays; typed PRNG keys may be among them.
      keep: how many checkpoints stay.
      runs: what else belongs to it, as JSON has it: `{name: {"config": …, "history": […]}}` of each run whose state it
        is; see `read_runs`.

    Raises:
      RunError: if it cannot be written. Those that are there stay.
    """
    folder = Path(folder).absolute()
    path = _free_name(folder, position.name)
    aside = path.with_name(f"{path.name}.partial")
    leaves = _leaves(state)
    about = {
        "epoch": position.epoch,
        "phase": position.phase,
        "step": position.step,
        "record": position.record,
        "metrics": {name: [values.dtype.name, values.tolist()] for name, values in position.metrics.items()},
        "seconds": position.seconds,
        "compile_seconds": position.compile_seconds,
        "leaves": _forms(leaves),
    }
    contents: dict[str, Callable[[Any], object]] = {
        "state.npz": lambda file: np.savez(file, **_packed(leaves)),  # type: ignore[arg-type]
        "position.json": lambda file: file.write(json.dumps(about).encode()),
        _RUNS: lambda file: file.write(json.dumps(runs or {}).encode()),
    }
    try:
        files.make_folder(folder)
        for stale in _entries(folder):  # of a process that was killed
            if stale.name.endswith(".partial"):
                files.remove_folder(stale)
        aside.mkdir()
        _check_room(aside, leaves)
        sums = {name: _write(aside / name, put) for name, put in contents.items()}
        _write(aside / _SUMS, lambda file: file.write(json.dumps(sums).encode()))
        files.move_folder(aside, path)
        _check_sums(path, sums)
    except (OSError, _DamagedError) as e:
        for half in (aside, path):
            files.remove_folder(half)
        raise RunError(
            f"{path}: the checkpoint cannot be written: {_reason(e)}. The checkpoints from before are untouched; once "
            "there is room, the same call continues from the last of them."
        ) from None
    for old in _all(folder)[:-keep]:
        files.remove_folder(old)


def restore(folder: str | os.PathLike, like: State) -> tuple[Position, State] | None:
    """Reads the newest checkpoint that is whole, and warns of newer ones that are not.

    Args:
      folder: as in `save`.
      like: a state of the same structure, shapes and dtypes.

    Returns:
      `(position, state)`, or None if there is no checkpoint.

    Raises:
      RunError: if all checkpoints are damaged, or the newest whole one is of another model or an earlier version.
    """
    found = _all(folder)
    for path in reversed(found):
        try:
            return _read(path, like)
        except _DamagedError as damage:
            rest = "continuing from the one before it" if path != found[0] else "and there is none before it"
            warnings.warn(f"{path}: this checkpoint is damaged ({damage}); {rest}.", RuntimeWarning, stacklevel=2)
    if found:
        raise RunError(f"{folder}: every checkpoint is damaged; remove this folder to begin again.")
    return None


def read_runs(folder: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """What `save` was given as `runs` with the newest checkpoint that has it whole; empty if there is none.

    (Its state need not be whole: what it says of the epochs before an older checkpoint, that one says too.)
    """
    for path in reversed(_all(folder)):
        try:
            sums = _read_json(path / _SUMS)
            if _sum_of(path / _RUNS) == sums.get(_RUNS):
                return _read_json(path / _RUNS)
        except _DamagedError:
            continue
    return {}


def newest(folder: str | os.PathLike) -> str | None:
    """The name of the newest checkpoint, or None."""
    found = _all(folder)
    return found[-1].name if found else None


def remove(folder: str | os.PathLike) -> None:
    """Removes all checkpoints: a run that has ended needs none."""
    files.remove_folder(folder)


class _DamagedError(Exception):
    """A checkpoint is not what was written."""


def _read(path: Path, like: State) -> tuple[Position, State]:
    if (path / "arrays").is_dir():
        raise RunError(
            f"{path}: this checkpoint is in the form of an earlier version of jaxnas; continue with that version, or "
            f"remove {path.parent} to begin again."
        )
    _check_sums(path, _read_json(path / _SUMS))
    about = _read_json(path / "position.json")
    wanted = _leaves(like)
    _check_same_model(path, about["leaves"], _forms(wanted))
    try:
        with np.load(path / "state.npz", allow_pickle=False) as stored:
            packed = {name: stored[name].view(jnp.dtype(name)) for name in stored.files}
    except (OSError, ValueError) as e:
        raise _DamagedError(f"{type(e).__name__}: {str(e)[:300]}") from None
    metrics = {name: np.asarray(values, dtype) for name, (dtype, values) in about.pop("metrics").items()}
    about.pop("leaves")
    return Position(metrics=metrics, **about), jax.tree.unflatten(jax.tree.structure(like), _unpacked(packed, like))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as e:
        raise _DamagedError(f"{file.name}: {type(e).__name__}: {str(e)[:300]}") from None
    if not isinstance(value, dict):
        raise _DamagedError(f"{file.name} holds a {type(value).__name__}")
    return value


def _check_sums(path: Path, sums: Mapping[str, str]) -> None:
    """Raises _DamagedError unless a checkpoint has these files with these checksums, and no others."""
    actual = {}
    for file in _entries(path):
        if file.name != _SUMS:
            actual[file.name] = _sum_of(file)
    changed = sorted(name for name in {**actual, **sums} if actual.get(name) != sums.get(name))
    if changed or "position.json" not in sums:
        raise _DamagedError(f"{(changed or [_SUMS])[0]} is not as it was written")


def _sum_of(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as e:
        raise _DamagedError(f"{file.name}: {e.strerror}") from None


def _check_same_model(path: Path, stored: dict[str, str], wanted: dict[str, str]) -> None:
    for name in sorted({**stored, **wanted}):
        if stored.get(name) != wanted.get(name):
            raise RunError(
                f"{path}: this checkpoint is of another model: {name} is {stored.get(name, 'not there')} in it, and "
                f"{wanted.get(name, 'not there')} now."
            )


def _check_room(folder: Path, leaves: dict[str, np.ndarray]) -> None:
    """Finds a full disk before half of the state is written."""
    needed, free = sum(leaf.nbytes for leaf in leaves.values()), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


class _Hashed(io.RawIOBase):
    """A file that is only written to, in one go, with the checksum of what was."""

    def __init__(self, file: BinaryIO):
        self._file, self._sum = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._sum.update(data)
        return self._file.write(data)

    @property
    def checksum(self) -> str:
        return self._sum.hexdigest()


def _write(path: Path, put: Callable[[Any], object]) -> str:
    """Writes and syncs a file; gives the checksum of what was to be written."""
    sums = []

    def hashed(file: BinaryIO) -> None:
        written = _Hashed(file)
        put(written)
        sums.append(written.checksum)

    files.write_new(path, hashed)
    return sums[0]


def _entries(folder: str | os.PathLike) -> list[Path]:
    """What is in a folder; nothing if it is not there. (`glob` would read a pattern into the folder's own name.)"""
    try:
        return sorted(Path(folder, name) for name in os.listdir(folder))
    except OSError:
        return []


def _all(folder: str | os.PathLike) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return [path for path in _entries(folder) if _NAME.fullmatch(path.name)]


def _free_name(folder: Path, name: str) -> Path:
    """A place for a checkpoint; one of the same position that is there stays until this one is written."""
    path, number = folder / name, 0
    while path.exists():
        number += 1
        path = folder / f"{name}-{number:04d}"
    return path


def _leaves(state: Any) -> dict[str, np.ndarray]:
    """Every leaf under its path, on the host; keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    data = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for _, leaf in leaves]
    names = [jax.tree_util.keystr(path) or "state" for path, _ in leaves]
    return {name: np.asarray(leaf) for name, leaf in zip(names, jax.device_get(data), strict=True)}


def _forms(leaves: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def _packed(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All leaves of a dtype, in order, as one flat array; as bytes where numpy itself has no such dtype (bfloat16)."""
    packed = {}
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves.values()):
        flat = np.concatenate([leaf.ravel() for leaf in leaves.values() if leaf.dtype == dtype])
        packed[dtype.name] = flat if dtype.isbuiltin == 1 else flat.view(np.uint8)
    return packed


def _unpacked(packed: dict[str, np.ndarray], like: Any) -> list[jax.Array]:
    used, arrays = dict.fromkeys(packed, 0), []
    for leaf in jax.tree.leaves(like):
        form = jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf)
        dtype, start = form.dtype.name, used[form.dtype.name]
        used[dtype] = start + form.size
        # Not committed to a device unless the leaf was: that would compile the step a second time.
        place = form.sharding if form.committed else None
        array = jax.device_put(packed[dtype][start : used[dtype]].reshape(form.shape), place)
        arrays.append(jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if _is_key(leaf) else array)
    return arrays


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
