"""`jaxnas methods`, `jaxnas spaces`, `jaxnas doctor`: what there is, and whether it works here."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_EXTRAS = {
    "cli": ("typer", "rich"),
    "digits": ("scikit-learn",),
    "tfds": ("tensorflow-datasets", "array_record", "pillow"),
    "plots": ("matplotlib", "fast-sugiyama"),
    "ray": ("ray",),
    "report": ("plotly", "fast-sugiyama"),
    "tensorboard": ("tensorboardX",),
    "tpu": ("libtpu",),
    "cpu": ("onednn-cpu-gomp", "onednn-devel-cpu-gomp"),
}
"""Extra of pyproject.toml -> the packages in it."""


def methods() -> None:
    """List the one-shot methods and their papers."""
    from jaxnas import METHODS

    table = Table("method", "paper", "arXiv")
    for name, method in METHODS.items():
        about = " ".join((inspect.getdoc(inspect.getmodule(method)) or "").split())
        title, _, rest = about.partition("arXiv ")
        table.add_row(name, Text(title.rstrip(" ;,.")), rest[: len("1806.09055")])
    console = Console()
    console.print(table)
    console.print("jaxnas search METHOD --help has the arguments of each.", highlight=False)


def spaces() -> None:
    """List the ready-made search spaces; `--model jaxnas.spaces:NAME` searches one."""
    from jaxnas.spaces import SPACES

    table = Table("space", "what it is")
    for name, function in SPACES.items():
        table.add_row(name, Text((inspect.getdoc(function) or "").splitlines()[0]))
    Console().print(table)


def doctor() -> None:
    """Say what is installed, on what it computes, where it keeps things; exit with 1 if something does not work."""
    console, broken = Console(), []
    for line, problem in _examined():
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        broken += [problem] if problem else []
    for problem in broken:
        print(f"error: {problem}", file=sys.stderr)
    if broken:
        raise typer.Exit(1)
    console.print("everything works", highlight=False)


def _examined() -> Iterator[tuple[str, str | None]]:
    """Lines, and what is broken."""
    from jaxnas.extras import how_to_install
    from jaxnas.version import __version__

    yield f"jaxnas {__version__}, Python {platform.python_version()} on {platform.platform()}", None
    core = [f"{name} {_version(name) or 'missing'}" for name in ("jax", "jaxlib", "flax", "optax", "numpy")]
    yield f"needs: {', '.join(core)}", None
    for extra, packages in _EXTRAS.items():
        missing = [name for name in packages if _version(name) is None]
        have = ", ".join(f"{name} {_version(name)}" for name in packages if name not in missing)
        lacks = f"{'; ' if have else ''}without {', '.join(missing)}: {how_to_install(extra)}" if missing else ""
        yield f"extra {extra}: {have}{lacks}", None
    yield from _devices()
    from jaxnas.compilation import cache_compilations, keep_heap
    from jaxnas.ops import onednn

    by = f"XLA ({why})" if (why := onednn.why_not()) else f"oneDNN {onednn.version()} where it is faster, else XLA"
    yield f"convolutions on a CPU: by {by}", None
    folder = cache_compilations()
    files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
    size = sum(file.stat().st_size for file in files) / 2**20
    yield f"compiled programs: {len(files)} files, {size:.0f} MiB in {folder}", _not_writable(folder)
    yield f"heap kept between steps: {'yes' if keep_heap() else 'no (only with glibc on Linux)'}", None
    data = Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    found = sorted(child.name for child in data.iterdir() if child.is_dir()) if data.is_dir() else []
    yield f"prepared data sets: {', '.join(found) or 'none'} in {data}", None


def _devices() -> Iterator[tuple[str, str | None]]:
    import jax
    import jax.numpy as jnp

    try:
        devices = jax.devices()
    except RuntimeError as e:
        yield "devices: none", f"JAX finds no device: {e}"
        return
    kinds = {f"{device.platform}: {device.device_kind}" for device in devices}
    yield f"devices: {len(devices)} ({', '.join(sorted(kinds))}), {os.cpu_count()} CPU cores", None
    try:
        square = jax.jit(jax.grad(lambda x: (x @ x).sum()))(jnp.ones((8, 8)))
        right = bool((square == 16).all())  # d/dx sum(x x) = 1 xᵀ + xᵀ 1
        said = f"a compiled gradient: {'right' if right else 'wrong'}"
        yield said, None if right else "a compiled gradient comes out wrong."
    except Exception as e:  # whatever a driver raises
        yield "a compiled gradient: fails", f"a compiled gradient fails: {type(e).__name__}: {e}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _not_writable(folder: Path) -> str | None:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return None if os.access(there, os.W_OK) else f"{folder} cannot be written, so every start compiles anew."
