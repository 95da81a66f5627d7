"""Checkpoints: the whole state of a run and where in it that is, so that an interrupted run can go on.

A checkpoint is a folder named `<epochs done>-<phases done>-<steps done>`:

======================  ======================================================================
file                    what
======================  ======================================================================
`arrays/`               the state, written by orbax: all leaves of a dtype as one flat array (one
                        array a leaf takes a second for a thousand leaves, and supernets have more)
`position.json`         the `Position`, and name, shape and dtype of every leaf
`checksums.json`        SHA-256 of each of these files
======================  ======================================================================

It is written aside and renamed when complete, so a run that is killed leaves whole ones only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import RunError
from jaxnas.model.serialization import write_text

State = TypeVar("State")


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


def save(folder: str | os.PathLike, position: Position, state: Any, *, keep: int = 2) -> None:
    """Writes a checkpoint, and removes all but the last `keep`.

    Args:
      folder: where checkpoints lie.
      position: where in the run the state is.
      state: a pytree of arrays; typed PRNG keys may be among them.
      keep: how many checkpoints stay.

    Raises:
      RunError: if it cannot be written. Those that are there stay.
    """
    path = Path(folder).absolute() / position.name
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # orbax would wait minutes for a folder that cannot be made
        for stale in path.parent.glob("*.partial"):  # of a process that was killed
            shutil.rmtree(stale, ignore_errors=True)
        aside.mkdir()
        _check_room(aside, leaves)
        with _quietly(), _checkpointer() as checkpointer:
            checkpointer.save(aside / "arrays", _packed(leaves))
        write_text(aside / "position.json", json.dumps(about))
        write_text(aside / "checksums.json", json.dumps(_checksums(aside)))
        shutil.rmtree(path, ignore_errors=True)  # of the same position, written again
        os.replace(aside, path)
    except Exception as e:  # orbax and tensorstore raise many kinds when a disk is full
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(
            f"{path}: the checkpoint cannot be written: {_reason(e)}. The checkpoints from before are untouched; once "
            "there is room, the same call goes on from the last of them."
        ) from None
    for old in _all(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def restore(folder: str | os.PathLike, like: State) -> tuple[Position, State] | None:
    """Reads the newest checkpoint that is whole, and warns of newer ones that are not.

    Args:
      folder: as in `save`.
      like: a state of the same structure, shapes and dtypes.

    Returns:
      `(position, state)`, or None if there is no checkpoint.

    Raises:
      RunError: if all checkpoints are damaged, or the newest whole one is of another model.
    """
    found = _all(folder)
    for path in reversed(found):
        try:
            return _read(path, like)
        except _DamagedError as damage:
            rest = "going on from the one before it" if path != found[0] else "and there is none before it"
            warnings.warn(f"{path}: this checkpoint is damaged ({damage}); {rest}.", RuntimeWarning, stacklevel=2)
    if found:
        raise RunError(f"{folder}: every checkpoint is damaged; remove this folder to begin again.")
    return None


def newest(folder: str | os.PathLike) -> str | None:
    """The name of the newest checkpoint, or None."""
    found = _all(folder)
    return found[-1].name if found else None


def remove(folder: str | os.PathLike) -> None:
    """Removes all checkpoints: a run that has ended needs none."""
    shutil.rmtree(folder, ignore_errors=True)


class _DamagedError(Exception):
    """A checkpoint is not what was written."""


def _read(path: Path, like: State) -> tuple[Position, State]:
    try:
        sums, about = (json.loads((path / name).read_text()) for name in ("checksums.json", "position.json"))
    except (OSError, ValueError) as e:
        raise _DamagedError(f"{type(e).__name__}: {e}") from None
    actual = _checksums(path)
    changed = sorted(name for name in {**actual, **sums} if actual.get(name) != sums.get(name))
    if changed:
        raise _DamagedError(f"{changed[0]} is not as it was written")
    wanted = _leaves(like)
    _check_same_model(path, about["leaves"], _forms(wanted))
    try:
        with _quietly(), _checkpointer() as checkpointer:
            packed = checkpointer.restore(path.absolute() / "arrays", _packed(wanted))
    except Exception as e:  # orbax and tensorstore raise many kinds
        raise _DamagedError(f"{type(e).__name__}: {str(e)[:300]}") from None
    metrics = {name: np.asarray(values, dtype) for name, (dtype, values) in about.pop("metrics").items()}
    about.pop("leaves")
    return Position(metrics=metrics, **about), jax.tree.unflatten(jax.tree.structure(like), _unpacked(packed, like))


def _check_same_model(path: Path, stored: dict[str, str], wanted: dict[str, str]) -> None:
    for name in sorted({**stored, **wanted}):
        if stored.get(name) != wanted.get(name):
            raise RunError(
                f"{path}: this checkpoint is of another model: {name} is {stored.get(name, 'not there')} in it, and "
                f"{wanted.get(name, 'not there')} now."
            )


def _check_room(folder: Path, leaves: dict[str, np.ndarray]) -> None:
    """Finds a full disk before orbax does, which reports it at length."""
    needed, free = sum(leaf.nbytes for leaf in leaves.values()), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.1f} MB are needed, {free / 1e6:.1f} MB are free")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "RESOURCE_EXHAUSTED" in str(error):  # tensorstore's word for it
        return "no space is left"
    return f"{type(error).__name__}: {str(error)[:300]}"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the log of orbax, which writes a traceback for what it also raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.Checkpointer(ocp.StandardCheckpointHandler())  # waits until all is written


def _all(folder: str | os.PathLike) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in Path(folder).glob("[0-9]*") if not path.name.endswith(".partial"))


def _checksums(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "checksums.json")
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _leaves(state: Any) -> dict[str, np.ndarray]:
    """Every leaf under its path, on the host; keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    data = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for _, leaf in leaves]
    names = [jax.tree_util.keystr(path) or "state" for path, _ in leaves]
    return {name: np.asarray(leaf) for name, leaf in zip(names, jax.device_get(data), strict=True)}


def _forms(leaves: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def _packed(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All leaves of a dtype, in order, as one flat array."""
    dtypes = dict.fromkeys(leaf.dtype for leaf in leaves.values())
    return {d.name: np.concatenate([leaf.ravel() for leaf in leaves.values() if leaf.dtype == d]) for d in dtypes}


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
