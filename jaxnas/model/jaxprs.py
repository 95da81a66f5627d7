"""What several walks through traced programs need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def inner_jaxprs(params: Mapping[str, Any]) -> list[Any]:
    """The jaxprs among the parameters of an equation: of a loop, of branches, of a function that it calls."""
    found = []
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            jaxpr = getattr(part, "jaxpr", part)
            if hasattr(jaxpr, "eqns"):
                found.append(jaxpr)
    return found
