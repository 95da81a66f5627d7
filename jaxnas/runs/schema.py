"""What the files of a run may hold. Whoever reads one has it checked here, so that damage is named, not met later."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxnas.errors import RunError

LARGEST = 3.4028234663852886e38
"""Of a float32, which is what a searcher is told."""

_MISSING = object()

Check = Callable[[Any, str], None]
"""(value, what it is called) -> None; raises _MisfitError."""


def check_object(value: Any, where: str) -> dict[str, Any]:
    """Checks that a file holds an object; `where` is the file. Raises RunError."""
    return _checked(_OBJECT, value, where)


def check_config(value: Any, where: str) -> dict[str, Any]:
    """Checks what `config.json` holds; `where` is the file. Raises RunError, which names file and field."""
    return _checked(_CONFIG, value, where)


def check_record(value: Any, where: str) -> dict[str, Any]:
    """Checks a line of `history.jsonl`; `where` is file and line. Raises RunError."""
    return _checked(_RECORD, value, where)


def check_result(value: Any, where: str) -> dict[str, Any]:
    """Checks what `result.json` holds. Raises RunError."""
    return _checked(_RESULT, value, where)


def check_trial(value: Any, where: str) -> dict[str, Any]:
    """Checks a line of a history of trials; `where` is file and line. Raises RunError."""
    trial = _checked(_TRIAL, value, where)
    if (trial["score"] is None) == (trial["error"] is None):
        raise RunError(f"{where}: a trial has a score or an error, not {'none' if trial['error'] is None else 'both'}.")
    return trial


class _MisfitError(Exception):
    """A value is not what it should be."""

    def __init__(self, name: str, value: Any, expected: str):
        super().__init__(name, value, expected)
        self.name, self.value, self.expected = name, value, expected


def _checked(check: Check, value: Any, where: str) -> dict[str, Any]:
    try:
        check(value, "")
    except _MisfitError as misfit:
        if misfit.value is _MISSING:
            raise RunError(f"{where}: {misfit.name[:200]} is missing.") from None
        text = repr(misfit.value)
        shown = text if len(text) <= 80 else f"{text[:79]}…"
        if misfit.name:
            raise RunError(f"{where}: {misfit.name[:200]} is {shown}; expected {misfit.expected}.") from None
        raise RunError(f"{where}: got {shown}; expected {misfit.expected}.") from None
    return value


def _one(expected: str, test: Callable[[Any], bool]) -> Check:
    def check(value: Any, name: str) -> None:
        if not test(value):
            raise _MisfitError(name, value, expected)

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_BOOL = _one("true or false", lambda value: isinstance(value, bool))
_TEXT = _one("a string", lambda value: isinstance(value, str))
_NUMBER = _one("a number", _is_number)
_SECONDS = _one("a number of seconds", lambda value: _is_number(value) and value >= 0)
_COUNT = _one("an integer from 0", _is_count)
_POSITIVE = _one("an integer from 1", lambda value: _is_count(value) and value > 0)
_OBJECT = _one("an object", lambda value: isinstance(value, dict))
_LABEL = _one("an index or a name", lambda value: _is_count(value) or isinstance(value, str))


def _or_none(check: Check) -> Check:
    return lambda value, name: None if value is None else check(value, name)


def _list(check: Check, *, least: int = 0, most: int | None = None) -> Check:
    def check_list(value: Any, name: str) -> None:
        if not isinstance(value, list) or len(value) < least or (most is not None and len(value) > most):
            raise _MisfitError(name, value, f"a list of {least}" if least == most else "a list" + " with items" * least)
        for i, item in enumerate(value):
            check(item, f"{name}/{i}")

    return check_list


def _map(check: Check) -> Check:
    def check_map(value: Any, name: str) -> None:
        _OBJECT(value, name)
        for key, item in value.items():
            check(item, f"{name}/{key}" if name else key)

    return check_map


def _object(required: Mapping[str, Check], optional: Mapping[str, Check]) -> Check:
    """An object with these fields; others may be anything."""

    def check_object(value: Any, name: str) -> None:
        _OBJECT(value, name)
        prefix = f"{name}/" if name else ""
        for key, check in required.items():
            if key not in value:
                raise _MisfitError(f"{prefix}{key}", _MISSING, "")
            check(value[key], f"{prefix}{key}")
        for key, check in optional.items():
            if key in value:
                check(value[key], f"{prefix}{key}")

    return check_object


def _decision(value: Any, name: str) -> None:
    (_list(_LABEL) if isinstance(value, list) else _LABEL)(value, name)


_ARCH = _map(_decision)
_WEIGHTS = _map(_list(_or_none(_NUMBER)))  # JSON has no NaN
_SWITCH = _or_none(_list(_LABEL, least=2, most=2))

_KIND: dict[str, Check] = {"kind": _TEXT, "n_candidates": _POSITIVE}
_CHOICE: dict[str, Check] = {"names": _or_none(_list(_TEXT)), "n_chosen": _or_none(_POSITIVE), "ranked": _BOOL}
_SPEC = _object(_KIND, {**_CHOICE, "original": _list(_COUNT), "whole": _object(_KIND, _CHOICE)})
_GRAPH = _object(
    {
        "nodes": _list(_object({"key": _TEXT}, {"kind": _TEXT, "uses": _COUNT, "inside": _or_none(_TEXT)})),
        "edges": _list(_object({"source": _TEXT, "target": _TEXT, "candidates": _or_none(_list(_COUNT, least=1))}, {})),
    },
    {
        "cells": _or_none(
            _list(
                _object(
                    {
                        "name": _TEXT,
                        "nodes": _list(_TEXT),
                        "edges": _list(
                            _object(
                                {"source": _TEXT, "target": _TEXT},
                                {"choice": _or_none(_TEXT), "switch": _SWITCH, "loose": _or_none(_BOOL)},
                            )
                        ),
                    },
                    {},
                )
            )
        )
    },
)
_CONFIG = _object(
    {},
    {
        "algorithm": _TEXT,
        "model": _TEXT,
        "data": _TEXT,
        "data_source": _or_none(_OBJECT),
        "epochs": _COUNT,
        "batch_size": _COUNT,
        "seed": _COUNT,
        "seeds": _list(_COUNT, least=1),
        "batching": _or_none(_TEXT),
        "space": _map(_SPEC),
        "graph": _or_none(_GRAPH),
        "versions": _map(_TEXT),
        "changes": _list(_TEXT),
        "fingerprints": _OBJECT,
    },
)
_RECORD = _object(
    {"epoch": _COUNT},
    {
        "seconds": _or_none(_SECONDS),
        "compile_seconds": _or_none(_SECONDS),
        "arch": _ARCH,
        "probabilities": _WEIGHTS,
        "alphas": _WEIGHTS,
    },
)
_RESULT = _object(
    {"status": _one("finished or failed", lambda value: value in ("finished", "failed"))},
    {
        "epochs": _COUNT,
        "epoch": _COUNT,
        "step": _COUNT,
        "seconds": _SECONDS,
        "error": _TEXT,
        "stopped": _TEXT,
        "arch": _ARCH,
        "alphas": _WEIGHTS,
        "candidates": _list(
            _object({"arch": _ARCH, "score": _or_none(_NUMBER), "metrics": _map(_or_none(_NUMBER))}, {})
        ),
        "checksums": _map(_TEXT),
        "test_accuracy": _or_none(_NUMBER),
        "test_loss": _or_none(_NUMBER),
    },
)
_SCORE = _one("a number of at most 3.4e38", lambda value: _is_number(value) and abs(value) <= LARGEST)
_TRIAL = _object(
    {
        "arch": _ARCH,
        "score": _or_none(_SCORE),
        "error": _or_none(_one("a message", lambda value: isinstance(value, str) and bool(value))),
        "seconds": _SECONDS,
    },
    {"metrics": _map(_or_none(_NUMBER)), "spare": _BOOL, "workers": _POSITIVE, "checksum": _TEXT},
)
