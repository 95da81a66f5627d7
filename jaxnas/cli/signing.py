"""Commands from signatures: an option of a function becomes one of the command line, with type, default and text."""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from jaxnas.signatures import arguments_of, options_of


def shared_options(
    options: type, defaults: Mapping[str, Any], *, leave_out: Collection[str]
) -> dict[str, inspect.Parameter]:
    """The options of a TypedDict that can be typed on a command line, except those left out."""
    return {
        name: _parameter(name, option.type, defaults[name], option.text)
        for name, option in options_of(options).items()
        if name not in leave_out and _type_of(option.type) is not None
    }


def own_options(function: Callable) -> dict[str, inspect.Parameter]:
    """The arguments of a function that can be typed on a command line."""
    hints, texts = typing.get_type_hints(function), arguments_of(function)
    return {
        name: _parameter(name, hints[name], parameter.default, texts.get(name, ""))
        for name, parameter in inspect.signature(function).parameters.items()
        if _type_of(hints[name]) is not None
    }


def keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """A parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def sign(function: Callable, parameters: Mapping[str, inspect.Parameter]) -> None:
    """Gives a function the signature from which typer makes a command."""
    function.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    function.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}


def _parameter(name: str, annotation: Any, default: Any, text: str) -> inspect.Parameter:
    return keyword(name, Annotated[_type_of(annotation), typer.Option(help=text)], default)


def _type_of(annotation: Any) -> Any:
    """The type that a command line can read for a type: itself, or a part of a union; None if there is none."""
    if annotation in (int, float, bool, str) or typing.get_origin(annotation) in (Literal, tuple):
        return annotation
    if annotation is os.PathLike:
        return Path
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        parts = [_type_of(part) for part in typing.get_args(annotation) if part is not types.NoneType]
        readable = [part for part in parts if part is not None]
        if readable:
            return readable[0] | None if types.NoneType in typing.get_args(annotation) else readable[0]
    return None
