"""What a part of a method is: a function of the space, that knows how it was written."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from jaxnas.model.space import Space

Built = TypeVar("Built")


class Part(Generic[Built]):
    """A part of a method before the space is known: `part(space)` builds it.

    Its `repr` is the expression that made it, such as `beta_decay(50)`; `config.json` holds that.
    """

    def __init__(self, build: Callable[[Space], Built], text: str):
        self._build, self._text = build, text

    def __call__(self, space: Space) -> Built:
        return self._build(space)

    def __repr__(self) -> str:
        return self._text


def part(make: Callable[..., Callable[[Space], Any]]) -> Callable[..., Any]:
    """A decorator for functions that make parts, `make(…) -> (space) -> built`: gives what they make its `repr`."""

    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Part:
        bound = inspect.signature(make).bind(*args, **kwargs)
        given = [text_of(value) for value in bound.args]
        given += [f"{name}={text_of(value)}" for name, value in bound.kwargs.items()]
        return Part(make(*args, **kwargs), f"{make.__name__}({', '.join(given)})")

    return made


def text_of(value: Any) -> str:
    """How a part, or an argument of one, stands in `config.json`: numbers and parts in full, functions by name."""
    if callable(value) and not isinstance(value, Part):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)
