"""`run.toml`: the options of a command, written by each run, which `--config` reads again."""

from __future__ import annotations

import json
import tomllib
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from jaxnas.errors import RunError
from jaxnas.files import write_text
from jaxnas.runs.callback import Callback, Run
from jaxnas.version import __version__

NAME = "run.toml"

_LEFT_OUT = ("config", "out", "force", "resume", "max_minutes", "dry_run", "topology", "help")
"""What does not belong to the run, or is another one the next time."""


class Recipe(Callback):
    """Writes `run.toml` into the run directory.

    Args:
      text: what it holds; see `recipe_of`.
    """

    def __init__(self, text: str):
        self.text = text

    def on_begin(self, run: Run) -> None:
        if run.workdir is not None:
            write_text(run.workdir / NAME, self.text)


def recipe_of(context: typer.Context) -> str:
    """The options of a command, defaults too, so that it can be repeated when they have changed."""
    command = _called(context)
    lines = [
        f"# jaxnas {__version__}. Repeat or change it:",
        f"# jaxnas {command} --config {NAME}{' --out NEW' if command.startswith('search') else ' RUN'}",
        f"command = {json.dumps(command)}",
    ]
    for option, name in _options(context).items():
        value = _plain(context.params[name])
        if value is not None:
            lines.append(f"{option} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _read(context: typer.Context, path: Path | None) -> Path | None:
    """Makes what a file says the defaults of the command that is being read."""
    if path is None or context.resilient_parsing:
        return path
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"--config: there is no file {path}.") from None
    except OSError as e:
        raise RunError(f"--config: {path} cannot be read: {e.strerror}.") from None
    except UnicodeDecodeError as e:
        raise RunError(f"--config: {path} is no text file (byte {e.start} is not UTF-8).") from None
    except tomllib.TOMLDecodeError as e:
        raise RunError(f"--config: {path} is not valid TOML: {e}.") from None
    command = given.pop("command", _called(context))
    if command != _called(context):
        raise RunError(f"--config: {path} is for jaxnas {command}, not for jaxnas {_called(context)}.")
    options = _options(context)
    unknown = [name for name in given if name.replace("_", "-") not in options]
    if unknown:
        raise RunError(f"--config: {path}: jaxnas {command} has no option {unknown[0]!r}; it has {', '.join(options)}.")
    context.default_map = {options[name.replace("_", "-")]: value for name, value in given.items()}
    return path


Config = Annotated[
    Path | None,
    typer.Option(
        is_eager=True,
        callback=_read,
        help=f"Options from a TOML file, as a run's {NAME}; what is typed goes first.",
    ),
]


def _called(context: typer.Context) -> str:
    """The command without the program: "search darts"."""
    names, each = [], context
    while each.parent is not None:
        names.append(str(each.info_name))
        each = each.parent  # type: ignore[assignment]
    return " ".join(reversed(names))


def _options(context: typer.Context) -> dict[str, str]:
    """Option as it is typed, without dashes -> name of its parameter."""
    return {
        parameter.opts[0].removeprefix("--"): str(parameter.name)
        for parameter in context.command.params
        if parameter.opts[0].startswith("--") and parameter.name not in _LEFT_OUT
    }


def _plain(value: Any) -> Any:
    """A value as TOML and JSON both write it; None for what is not given."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value] or None
    return value
