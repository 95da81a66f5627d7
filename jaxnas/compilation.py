"""Keeping compiled programs on disk, so that a second start is quick."""

from __future__ import annotations

import os
from pathlib import Path

import jax


def cache_compilations(folder: str | os.PathLike | None = None) -> Path:
    """Has JAX keep the programs it compiles in a folder, and read them from there in later processes.

    The command line and `experiments/darts` do it. What is set already, by JAX_COMPILATION_CACHE_DIR or `jax.config`,
    stays.

    Args:
      folder: where to. Default: `jaxnas` in XDG_CACHE_HOME or `~/.cache`.

    Returns:
      The folder that is used.
    """
    known = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if known:
        return Path(known)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    chosen = Path(folder) if folder is not None else caches / "jaxnas"
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    return chosen
