"""Every method of this package, for the command line, README's table, and the tests that all of them pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from jaxnas.oneshot import darts, enas, gdas
from jaxnas.oneshot.engine.base import Method

METHODS: Mapping[str, Callable[..., Method]] = MappingProxyType(
    {
        "darts": darts.method,
        "enas": enas.method,
        "gdas": gdas.method,
    }
)
"""Name -> the function `method` of its file, which gives a `Method` for `jaxnas.search`."""
