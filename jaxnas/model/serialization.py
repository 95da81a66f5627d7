"""Architectures as JSON files.

Files are written in NNI's plain form (>= 1.6): `{"conv1": 1, "skip": []}`, with names if candidates are named, and a
scalar if one is chosen. Every form that NNI has written can be read. Files are data only: nothing in them is
executed or unpickled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxnas.errors import ArchitectureError, RunError
from jaxnas.files import write_text
from jaxnas.model.architecture import Arch, Gated, from_classic, from_multi_hot, is_array


def export(arch: Arch, path: str | os.PathLike) -> None:
    """Writes an architecture as JSON (indent 2, sorted keys), completely or not at all.

    Args:
      arch: decisions: fixed values, or index and bool arrays as `Space.sample` gives them. (Not those of a restricted
        space, which count what is left: export what `Space.fixed` makes of them.)
      path: the file; its folder is made if necessary.

    Raises:
      ArchitectureError: if a value is not a decision (weights are not: `Space.fixed` makes decisions from them).
      RunError: if the file cannot be written.
    """
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in read_values(arch).items()}
    try:
        write_text(path, json.dumps(plain, indent=2, sort_keys=True))
    except (OSError, ValueError) as e:  # ValueError: a null byte in the name
        reason = e.strerror if isinstance(e, OSError) else e
        raise RunError(f"{short(os.fspath(path), 300)}: the architecture cannot be written: {reason}.") from None


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
            raise ArchitectureError(f"{source}: keys are strings; got {short(key)}.")
    _refuse_genotypes(values, source)
    return {key: _decision(key, value, source) for key, value in values.items()}


def _refuse_genotypes(values: Mapping[str, Any], source: str) -> None:
    """Explains a file that holds architectures of the DARTS space in another form."""
    for key, value in values.items():
        if isinstance(value, str) and "Genotype(" in value:
            how = f"jaxnas.spaces.arch_of(jaxnas.spaces.Genotype.parse(values[{short(key)}]))"
            raise ArchitectureError(
                f"{source}: holds {len(values)} genotype texts, not one architecture; read one: {how}."
            )
        if key.startswith("NetworkSelectorDatasetInfo:"):
            how = "jaxnas.spaces.arch_of(jaxnas.spaces.Genotype.from_nasbench301(values))"
            raise ArchitectureError(f"{source}: is a configuration of NAS-Bench-301; read it by {how}.")


def read_json(path: str | os.PathLike, *, most_bytes: int = 2**23, deepest: int = 20) -> Any:
    """Decodes a JSON file strictly: no duplicate keys, no NaN, nothing larger or deeper than it can be.

    Args:
      path: the file.
      most_bytes: its size at most.
      deepest: how deep its lists and objects may be nested.

    Raises:
      FileNotFoundError, ArchitectureError: as `load`.
    """
    data = _read_bytes(Path(path), most_bytes)
    return parse_json(data, source=str(path), deepest=deepest)


def read_text(path: Path, *, most_bytes: int = 2**23) -> str:
    """The text of a file that is not larger than it can be. Raises FileNotFoundError, ArchitectureError as `load`."""
    return _decoded(_read_bytes(path, most_bytes), str(path))


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ArchitectureError(f"{source}: not a text file (byte {e.start} is not UTF-8).") from None


def _read_bytes(path: Path, most_bytes: int) -> bytes:
    try:
        there = path.exists()
    except (OSError, ValueError) as e:
        raise ArchitectureError(f"{str(path)[:80]!r}: not a file name: {e}.") from None
    if not there:
        raise FileNotFoundError(f"{path}: there is no such file (looked in {path.parent.absolute()}).")
    try:
        with open(path, "rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as e:
        raise ArchitectureError(f"{path}: cannot be read: {e.strerror}.") from None
    if len(data) > most_bytes:
        raise ArchitectureError(f"{path}: larger than {most_bytes / 2**20:,.0f} MiB, which no file of this kind is.")
    return data


def parse_json(data: bytes, *, source: str, deepest: int = 20) -> Any:
    """Decodes JSON as `read_json`; `source` is what messages call it. Raises ArchitectureError."""

    def no_constants(name: str) -> Any:
        raise ArchitectureError(f"{source}: {name} is not allowed in JSON.")

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ArchitectureError(f"{source}: key {short(key)} stands twice.")
            found[key] = value
        return found

    def integer(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise ArchitectureError(f"{source}: holds an integer of {len(digits):,} digits.")
        return int(digits)

    text = _decoded(data, source)
    try:
        if _depth(text) > deepest:
            raise ArchitectureError(f"{source}: nested too deeply: lists and objects lie more than {deepest} deep.")
        return json.loads(text, parse_constant=no_constants, parse_int=integer, object_pairs_hook=no_duplicates)
    except json.JSONDecodeError as e:
        cut = " (the file seems cut off)" if e.pos >= len(text.rstrip()) else ""
        raise ArchitectureError(
            f"{source}: not valid JSON at line {e.lineno}, column {e.colno}: {e.msg}{cut}."
        ) from None


_MOST_DIGITS = 19  # of a 64-bit integer, and its sign
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|$)|[\[{]|[\]}]', re.DOTALL)


def _depth(text: str) -> int:
    """How deep lists and objects are nested, whether or not it is JSON otherwise."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(text):
        bracket = found[0]
        if bracket in ("[", "{"):
            depth += 1
            deepest = max(depth, deepest)
        elif bracket in ("]", "}"):
            depth -= 1
    return deepest


def short(value: Any, most: int = 80) -> str:
    """A value in a message."""
    try:
        text = repr(value)
    except RecursionError:
        text = f"a {type(value).__name__} nested too deeply to be shown"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _decision(key: str, value: Any, source: str) -> Any:
    where = f"{source}, choice {short(key)}"
    if isinstance(value, Gated):
        raise ArchitectureError(f"{where}: got gated paths; expected a decision. `Space.fixed` makes one of them.")
    value = _without_arrays(value)
    if isinstance(value, Mapping) and set(value) == {"_value", "_idx"}:
        return _classic(where, value["_value"], value["_idx"])
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    if not isinstance(value, (list, tuple)):
        raise _no_decision(where, value)
    if _remembers(value):
        return value
    if value and all(isinstance(item, bool) for item in value):
        return from_multi_hot(list(value))
    for item in value:
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            raise _no_decision(where, value if isinstance(item, bool) else item)
    if all(isinstance(item, int) for item in value):
        value = sorted(value)
    return value[0] if len(value) == 1 else tuple(value)


def _classic(where: str, value: Any, index: Any) -> Any:
    """The decision in NNI's trial parameters, which name it twice."""
    indices, values = (each if isinstance(each, list) else [each] for each in (index, value))
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in indices):
        raise ArchitectureError(f"{where}: _idx is {short(index)}; expected an index or a list of indices.")
    if not all(isinstance(v, (int, str)) and not isinstance(v, bool) for v in values):
        raise ArchitectureError(f"{where}: _value is {short(value)}; expected a name or a list of names.")
    differ = any(isinstance(v, int) and v != i for v, i in zip(values, indices, strict=False))
    if len(values) != len(indices) or differ:
        raise ArchitectureError(f"{where}: _value is {short(value)}, but _idx is {short(index)}.")
    return from_classic(indices, values)


def _without_arrays(value: Any, deep: int = 2) -> Any:
    """Arrays as Python numbers and lists; so a bool array becomes a multi-hot list. (Deeper ones are no decisions.)"""
    if is_array(value):
        return jax.device_get(value).tolist()
    if deep and isinstance(value, (list, tuple)) and not _remembers(value):
        return [_without_arrays(item, deep - 1) for item in value]
    return value


def _remembers(value: Any) -> bool:
    """Whether a decision that was read from a file remembers how it was written there."""
    return hasattr(value, "length") or hasattr(value, "written")


def _no_decision(where: str, value: Any) -> ArchitectureError:
    weights = " Weights are no decision: `Space.fixed` makes one of them." if isinstance(value, float) else ""
    return ArchitectureError(
        f"{where}: got {short(value)}; expected an index, a name, a list of those, or a list with one bool per "
        f"candidate.{weights}"
    )
