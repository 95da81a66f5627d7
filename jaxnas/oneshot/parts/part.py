"""What a part of a method is: a function of the space, that knows how it was written."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

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


class Seen(NamedTuple):
    """What a part that looks at the model is built from.

    Attributes:
      model_fn, space: what is searched.
      example: an input of the model; only its shape matters. None where none was given.
      relaxation: the method's, built.
    """

    model_fn: Any
    space: Space
    example: Any
    relaxation: Any


class ModelPart(Part[Built]):
    """A part that is built from the model: a method calls `for_model`."""

    def __init__(self, build: Callable[[Seen], Built], text: str):
        def refuse(space: Space) -> Built:
            raise TypeError(f"{text} is built from the model, not from a space alone: call `for_model`.")

        super().__init__(refuse, text)
        self.for_model = build


def model_part(make: Callable[..., Callable[[Seen], Any]]) -> Callable[..., Any]:
    """As `part`, for functions that make parts of the model, `make(…) -> (seen) -> built`."""
    return _making(ModelPart, make)


def part(make: Callable[..., Callable[[Any], Any]]) -> Callable[..., Any]:
    """A decorator for functions that make parts, `make(…) -> (space) -> built`: gives what they make its `repr`.

    Derivations, which are functions of a view, may have it too.
    """
    return _making(Part, make)


def _making(kind: type[Part], make: Callable[..., Callable]) -> Callable[..., Any]:
    @functools.wraps(make)
    def made(*args: Any, **kwargs: Any) -> Part:
        bound = inspect.signature(make).bind(*args, **kwargs)
        given = [text_of(value) for value in bound.args]
        given += [f"{name}={text_of(value)}" for name, value in bound.kwargs.items()]
        return kind(make(*args, **kwargs), f"{make.__name__}({', '.join(given)})")

    return made


def text_of(value: Any) -> str:
    """How a part, or an argument of one, stands in `config.json`: numbers and parts in full, functions by name."""
    if callable(value) and not isinstance(value, Part):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return repr(value)
