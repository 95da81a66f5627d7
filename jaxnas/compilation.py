"""Keeping compiled programs on disk and the heap in memory, so that later starts are quick; what is compiled for."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of <malloc.h>


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


def keep_heap() -> bool:
    """Has this process's allocator keep freed memory instead of returning it to the system.

    XLA:CPU allocates the temporaries of each compiled call and frees them after it. By default glibc maps large ones
    anew each time, and the system hands out every page when it is first touched. Kept, they are there already; the
    process then stays as large as it ever was. It is the same as starting with `MALLOC_MMAP_MAX_=0` and a very large
    `MALLOC_TRIM_THRESHOLD_`. The number of arenas is left alone: a single one made threads wait for each other
    (docs/performance.md). Call it before the first computation. The command line does it.

    Returns:
      Whether the allocator took the settings: True with glibc on Linux, else False and nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl, for one, has none
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def platform() -> str:
    """The platform that is traced for: that of `jax.default_device` where it is set, also to one that is not here."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.default_backend() if device is None else getattr(device, "platform", str(device).partition(":")[0])
