"""Options that many functions share: written and documented once, and shown by `help` on each of them.

A `TypedDict` lists the options as `name: Annotated[type, "what it is"]`. A function takes them as
`**options: Unpack[ThatTypedDict]`, which type checkers and editors read. `documented` writes them out in the
function's runtime signature and docstring, for `help`, notebooks and the command line.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable)


class Option(NamedTuple):
    """One option of a function.

    Attributes:
      type: its type.
      text: what it is.
    """

    type: Any
    text: str


def options_of(options: type) -> dict[str, Option]:
    """The options of a TypedDict, those of its bases first, in order."""
    hints = typing.get_type_hints(options, include_extras=True)
    return {name: Option(*typing.get_args(hint)[:2]) for name, hint in hints.items()}


def arguments_of(function: Callable) -> dict[str, str]:
    """What the section `Args:` of a docstring says of each argument."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.M | re.S)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=  \S)", (section[1] if section else "").rstrip()):
        head, _, text = entry.partition(":")
        for name in head.split(","):
            found[name.strip(" *\n")] = " ".join(text.split())
    return found


def documented(
    options: type, *, defaults: Mapping[str, Any], own: Callable | None = None, leave_out: Iterable[str] = ()
) -> Callable[[F], F]:
    """A decorator that writes out what a function takes as `**options`.

    Args:
      options: the TypedDict.
      defaults: the values of the options that are not given; those without one have no default in the signature.
      own: a function whose keyword arguments are taken as well, such as the `method` that belongs to a `search`.
      leave_out: options that this function does not take.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        kept = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        more = [] if own is None else list(inspect.signature(own).parameters.values())
        shared = {name: option for name, option in options_of(options).items() if name not in set(leave_out)}
        for name, option in shared.items():
            default = defaults.get(name, inspect.Parameter.empty)
            more.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option.type)
            )
        texts = {} if own is None else arguments_of(own)
        texts |= {name: option.text for name, option in shared.items()}
        function.__signature__ = signature.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
        function.__doc__ = with_arguments(inspect.getdoc(function) or "", texts)
        return function

    return decorate


def check_known(given: Iterable[str], known: Iterable[str], function: str) -> None:
    """Raises TypeError for an argument that a function does not have, and names the nearest that it has."""
    known = list(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{function} has no argument {name!r}.{hint}")


def with_arguments(text: str, arguments: Mapping[str, str]) -> str:
    """A docstring whose section `Args:` has these entries too, at its end; a new section if it has none."""
    lines = [
        line
        for name, about in arguments.items()
        for line in textwrap.wrap(f"{name}: {about}", 116, initial_indent="  ", subsequent_indent="    ")
    ]
    entries = "\n".join(lines)
    section = re.search(r"^Args:\n(?:[ ]+\S.*\n|\n(?=  ))*", text + "\n", re.M)
    if section is not None:
        head, tail = text[: section.end()].rstrip("\n"), text[section.end() :].lstrip("\n")
    else:
        found = re.search(r"^(Returns|Raises|Example):", text, re.M)
        at = found.start() if found else len(text)
        head, tail = text[:at].rstrip("\n") + "\n\nArgs:", text[at:]
    return "\n".join([head, entries]) + ("\n\n" + tail if tail else "\n")
