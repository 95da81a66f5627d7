"""What a run checks and notes before it writes into a directory."""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax

from jaxnas.errors import RunError
from jaxnas.ops.onednn import convolution_kernels
from jaxnas.runs import schema
from jaxnas.runs.reading import CONFIG, read_object
from jaxnas.version import __version__

NOT_COMPARED = ("versions", "graph", "changes", "fingerprints", "devices")
"""Entries of `config.json` that say nothing of what was asked for. (Fingerprints are compared one by one.)"""


_MOST_SAID = 8


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """In which entries two configurations differ, in words; empty if in none.

    Fingerprints that only one of them has, the other being of another version, are no difference.
    """
    differ = {key: (before.get(key), now.get(key)) for key in {**before, **now} if key not in NOT_COMPARED}
    old, new = before.get("fingerprints", {}), now.get("fingerprints", {})
    for name in [name for name in old if name in new]:
        if isinstance(old[name], dict) and isinstance(new[name], dict):
            keys = {**old[name], **new[name]}
            differ |= {f"{name}/{key}": (old[name].get(key), new[name].get(key)) for key in keys}
        else:
            differ[f"the fingerprint of {name}"] = (old[name], new[name])
    said = [f"{_cut(name, 80)} was {short(a)}, is now {short(b)}" for name, (a, b) in differ.items() if a != b]
    more = f"; and {len(said) - _MOST_SAID} more" if len(said) > _MOST_SAID else ""
    return "; ".join(said[:_MOST_SAID]) + more


def absolute(path: str | os.PathLike) -> Path:
    """A run directory, wherever the process goes later. Raises RunError if it is no name of a directory."""
    name = os.fspath(path)
    if not name or "\0" in name:
        raise RunError(f"the run directory {name!r} is no name of a directory.")
    return Path(os.path.abspath(name))


def check_ours(path: Path, *, known: bool, beside: Sequence[str] = ()) -> None:
    """Raises RunError if a directory is neither missing, nor empty, nor that of a run.

    Args:
      path: the directory.
      known: whether it has a checkpoint that says that it is that of a run.
      beside: what else may be in it.
    """
    try:
        listed = os.listdir(path)
        found = sorted(name for name in listed if name not in ("run.lock", *beside) and not name.startswith("."))
    except FileNotFoundError:
        return
    except OSError as e:
        raise RunError(f"{path}: cannot be written: {e.strerror}.") from None
    if not found or known:
        return
    why = f"holds {found[0]}{' and more' if len(found) > 1 else ''}, and no config.json"
    if CONFIG in found:
        try:
            config = read_object(path, CONFIG, schema.check_config)
        except RunError as e:
            raise RunError(
                f"{path} is not empty, and what it holds cannot be read: {e} Nothing is written; choose another "
                "directory."
            ) from None
        if "jaxnas" in config.get("versions", {}):
            return
        why = "holds a config.json that no run of jaxnas has written"
    raise RunError(f"{path} {why}. Nothing is written; choose a new or an empty directory.")


def read_or_none(path: Path) -> dict[str, Any] | None:
    """What `config.json` holds, or None if it is damaged."""
    with contextlib.suppress(RunError):
        return read_object(path, CONFIG)
    return None


def versions() -> dict[str, str]:
    """Versions and the device, for the record."""
    device = jax.devices()[0]
    return {
        "jaxnas": __version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
        "device": f"{device.platform}: {device.device_kind}",
        "convolutions": convolution_kernels(),
    }


def warn_of_other_kernels(path: Path, config: Mapping[str, Any]) -> None:
    """Warns where a run that is continued began with other kernels of convolutions than there are now.

    Runs of versions that did not note it used XLA's.
    """
    before, now = config.get("versions", {}).get("convolutions", "xla"), convolution_kernels()
    if before != now:
        warnings.warn(
            f"{path}: the run began with convolutions by {before} and continues with those by {now}: its results will "
            "differ in the last bits from those of an uninterrupted run (docs/cpu.md).",
            RuntimeWarning,
            stacklevel=6,
        )


def on_these_devices(path: Path, before: dict[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run that is continued, with the devices on which it is; with a warning if it is on others.

    Args:
      path: its directory.
      before: its configuration so far.
      now: what is asked for now.
    """
    was, is_now = (_devices(config) for config in (before, now))
    if was == is_now:
        return before
    warnings.warn(
        f"{path}: the run began on {was} and continues on {is_now}: its results will differ in the last bits from "
        "those of an uninterrupted run (docs/devices.md).",
        RuntimeWarning,
        stacklevel=6,
    )
    others = {key: value for key, value in before.items() if key != "devices"}
    moved = {"changes": [*before.get("changes", []), f"devices was {was}, is now {is_now}"]}
    return {**others, **({"devices": now["devices"]} if "devices" in now else {}), **moved}


def _devices(config: Mapping[str, Any]) -> str:
    mesh = config.get("devices", {}).get("mesh", {})
    return f"a mesh of {' x '.join(f'{size} ({name})' for name, size in mesh.items())}" if mesh else "one device"


def short(value: Any, most: int = 300) -> str:
    """A value in a message."""
    return _cut(repr(value), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def plain(value: Any) -> Any:
    """Arrays, tuples and paths as JSON has them."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        return plain(np.asarray(value).tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def why_not_extended(different: str) -> str:
    """What to say if nothing but the number of epochs is different from a run that has ended."""
    if not different.startswith("epochs was ") or ";" in different:
        return ""
    return (
        " (More epochs cannot be added to a run that has ended: its learning rates were laid out for those it had, and "
        "its checkpoints are gone. A new training can start from its weights.)"
    )
