"""Architectures as JSON files.

Written is NNI's plain form (>= 1.6): `{"conv1": 1, "skip": []}`, names where candidates are named, a scalar
where one is chosen. Read is every form that NNI has written. Files are data only: nothing in them is
executed or unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import Arch, Gated, from_multi_hot, is_array


def export(arch: Arch, path: str | os.PathLike) -> None:
    """Writes an architecture as JSON (indent 2, sorted keys), complete or not at all.

    Args:
      arch: decisions: fixed values, or index and bool arrays as `Space.sample` gives them. (Not those of a restricted
        space, which count what is left: export what `Space.fixed` makes of them.)
      path: the file; its folder is made if need be.

    Raises:
      ArchitectureError: if a value is no decision (weights are not: `Space.fixed` makes decisions of them).
    """
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in read_values(arch).items()}
    write_text(path, json.dumps(plain, indent=2, sort_keys=True))


def load(path: str | os.PathLike) -> dict[str, int | str | tuple]:
    """Reads an architecture from a JSON file in any of NNI's forms.

    ======================================  ==========================================
    form                                    example
    ======================================  ==========================================
    index or name (NNI >= 1.6, ours)        `{"conv1": 1, "conv2": "conv5x5"}`
    list of indices or names, empty list    `{"skip": [0, 2], "other": []}`
    one bool per candidate (NNI <= 1.5)     `{"conv1": [false, true]}`
    index as a string (NNI 2)               `{"conv1": "1"}`
    list of one index (NNI 3)               `{"normal/input_2_0": [0]}`
    trial parameters (NNI classic)          `{"conv1": {"_value": "conv5x5", "_idx": 1}}`
    ======================================  ==========================================

    A list of ints is always indices, never a mask.

    Returns:
      Per key an int, a str, or a tuple of those if none or several are chosen. Whether they fit a model
      is checked when they are applied to it, or by `Space.validate`.

    Raises:
      FileNotFoundError: if there is no such file.
      ArchitectureError: if it is not an architecture; names the file and the key or the line.
    """
    return read_values(read_json(path), source=str(path))


def read_values(values: Any, *, source: str = "the architecture") -> dict[str, Any]:
    """Brings the values of a decoded JSON object, or of a user's dict with or without arrays, to Python decisions."""
    if not isinstance(values, Mapping):
        raise ArchitectureError(f"{source}: expected an object {{key: value}}; got {type(values).__name__}.")
    for key in values:
        if not isinstance(key, str):
            raise ArchitectureError(f"{source}: keys are strings; got {key!r}.")
    _refuse_genotypes(values, source)
    return {key: _decision(key, value, source) for key, value in values.items()}


def _refuse_genotypes(values: Mapping[str, Any], source: str) -> None:
    """Says what a file is that holds architectures of the DARTS space in another form."""
    for key, value in values.items():
        if isinstance(value, str) and "Genotype(" in value:
            how = f"jaxnas.spaces.arch_of(jaxnas.spaces.Genotype.parse(values[{key!r}]))"
            raise ArchitectureError(
                f"{source}: holds {len(values)} genotype texts, not one architecture; read one: {how}."
            )
        if key.startswith("NetworkSelectorDatasetInfo:"):
            how = "jaxnas.spaces.arch_of(jaxnas.spaces.Genotype.from_nasbench301(values))"
            raise ArchitectureError(f"{source}: is a configuration of NAS-Bench-301; read it by {how}.")


def read_json(path: str | os.PathLike) -> Any:
    """Decodes a JSON file strictly: no duplicate keys, no NaN.

    Raises:
      FileNotFoundError, ArchitectureError: as `load`.
    """
    path = Path(path)
    try:
        there = path.exists()
    except (OSError, ValueError) as e:
        raise ArchitectureError(f"{str(path)[:80]!r}: not a file name: {e}.") from None
    if not there:
        raise FileNotFoundError(f"{path}: there is no such file (looked in {path.parent.absolute()}).")

    def no_constants(name: str) -> Any:
        raise ArchitectureError(f"{path}: {name} is not allowed in JSON.")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ArchitectureError(f"{path}: key {key!r} stands twice.")
            found[key] = value
        return found

    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=no_constants, object_pairs_hook=no_duplicates)
    except json.JSONDecodeError as e:
        cut = " (the file seems cut off)" if e.pos >= len(text.rstrip()) else ""
        raise ArchitectureError(f"{path}: not valid JSON at line {e.lineno}, column {e.colno}: {e.msg}{cut}.") from None
    except UnicodeDecodeError as e:
        raise ArchitectureError(f"{path}: not a text file (byte {e.start} is not UTF-8).") from None
    except ArchitectureError:
        raise
    except ValueError as e:  # a number of thousands of digits
        raise ArchitectureError(f"{path}: not an architecture: {e}.") from None
    except RecursionError:
        raise ArchitectureError(f"{path}: nested too deeply to be an architecture.") from None
    except OSError as e:
        raise ArchitectureError(f"{path}: cannot be read: {e.strerror}.") from None


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file aside and renames it, so that it is never seen half written."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """As `write_text`, for bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _decision(key: str, value: Any, source: str) -> Any:
    where = f"{source}, choice {key!r}"
    if isinstance(value, Gated):
        raise ArchitectureError(f"{where}: got gated paths; expected a decision. `Space.fixed` makes one of them.")
    value = _without_arrays(value)
    if isinstance(value, Mapping) and set(value) == {"_value", "_idx"}:
        indices = value["_idx"] if isinstance(value["_idx"], list) else [value["_idx"]]
        if not all(isinstance(i, int) for i in indices):
            raise ArchitectureError(f"{where}: _idx is {value['_idx']!r}; expected an index or a list of indices.")
        value = indices
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    if not isinstance(value, (list, tuple)):
        raise _no_decision(where, value)
    if hasattr(value, "length"):
        return value
    if value and all(isinstance(item, bool) for item in value):
        return from_multi_hot(list(value))
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            raise _no_decision(where, value if isinstance(item, bool) else item)
    if all(isinstance(item, int) for item in value):
        value = sorted(value)
    return value[0] if len(value) == 1 else tuple(value)


def _without_arrays(value: Any) -> Any:
    """Arrays as Python numbers and lists; a bool array so becomes a multi-hot list."""
    if is_array(value):
        return jax.device_get(value).tolist()
    if isinstance(value, (list, tuple)) and not hasattr(value, "length"):
        return [_without_arrays(item) for item in value]
    return value


def _no_decision(where: str, value: Any) -> ArchitectureError:
    weights = " Weights are no decision: `Space.fixed` makes one of them." if isinstance(value, float) else ""
    return ArchitectureError(
        f"{where}: got {value!r}; expected an index, a name, a list of those, or a list with one bool per "
        f"candidate.{weights}"
    )
