"""Checkpoints: the state of a run after an epoch, kept with orbax so that an interrupted run can go on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxnas.errors import RunError

State = TypeVar("State")

_KEPT = 2


def save(folder: str | os.PathLike, epochs: int, state: Any) -> None:
    """Writes the state after `epochs` epochs, and removes all but the last two.

    Args:
      folder: where checkpoints lie, one folder each, named by its number of epochs.
      epochs: epochs done.
      state: a pytree of arrays; typed PRNG keys may be among them.

    Raises:
      RunError: if it cannot be written. Those that are there stay.
    """
    path = Path(folder).absolute() / f"{epochs:06d}"
    try:
        with _checkpointer() as checkpointer:  # writes aside and renames
            checkpointer.save(path, _by_name(state), force=True)
        for old in _all(folder)[:-_KEPT]:
            shutil.rmtree(old)
    except OSError as e:
        raise RunError(f"{path}: the checkpoint cannot be written: {e.strerror or e}.") from None


def restore(folder: str | os.PathLike, like: State) -> tuple[int, State] | None:
    """Reads the newest checkpoint.

    Args:
      folder: as in `save`.
      like: a state of the same structure, shapes and dtypes.

    Returns:
      `(epochs done, state)`, or None if there is no checkpoint.

    Raises:
      RunError: if it is damaged, or of another model.
    """
    found = _all(folder)
    if not found:
        return None
    path, wanted = found[-1].absolute(), _by_name(like)
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), wanted)
    try:
        with _checkpointer() as checkpointer:
            stored = checkpointer.restore(path, target)
    except Exception as e:  # orbax and tensorstore raise many kinds
        raise RunError(
            f"{path}: this checkpoint is damaged or of another model ({type(e).__name__}: {str(e)[:300]}). Remove it "
            "to go on from the one before it, if there is one."
        ) from None
    leaves, structure = jax.tree.flatten(like)
    arrays = [_as_leaf(stored[name], leaf) for name, leaf in zip(wanted, leaves, strict=True)]
    return int(path.name), jax.tree.unflatten(structure, arrays)


def there(folder: str | os.PathLike) -> bool:
    """Whether there is a checkpoint."""
    return bool(_all(folder))


def remove(folder: str | os.PathLike) -> None:
    """Removes all checkpoints: a run that has ended needs none."""
    shutil.rmtree(folder, ignore_errors=True)


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer()


def _all(folder: str | os.PathLike) -> list[Path]:
    """Complete checkpoints, oldest first. (What orbax has not finished has another name.)"""
    return sorted(path for path in Path(folder).glob("[0-9]*") if path.name.isdigit())


def _by_name(state: Any) -> dict[str, jax.Array]:
    """Every leaf under its path, in order; keys as their data."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {f"{i:05d}{jax.tree_util.keystr(path)}": _as_data(leaf) for i, (path, leaf) in enumerate(leaves)}


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_data(leaf: jax.Array) -> jax.Array:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_leaf(stored: jax.Array, like: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(stored, impl=jax.random.key_impl(like)) if _is_key(like) else stored
