"""What a fixed or restricted DARTS network takes of the stacked parameters of a wider one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.model.recorder import Recorder
from jaxnas.model.restriction import RestrictedArch
from jaxnas.spaces.darts_decisions import ORDER, read, rows_of
from jaxnas.spaces.darts_edge import POOLS
from jaxnas.spaces.genotypes import OPERATIONS


def inherited(values: Mapping[str, Any], kind: str, arch: Any) -> dict[str, Any]:
    """The rows that a cell of `arch` has of the stacks of a supernet, or of a model with fewer of its restrictions."""
    axis, reduces, decisions = int(kind == "normal"), kind == "reduce", read(kind, arch)
    steps = arch.steps if isinstance(arch, RestrictedArch) else ()
    wider = [read(kind, RestrictedArch(Recorder(), steps[:i])) for i in range(len(steps) + 1)]
    kept: dict[str, Any] = {}
    for label, leaves in values.items():
        name = next((op for op in OPERATIONS if label == op or label.startswith(f"{op}_")), None)
        if name is None:
            kept[label] = leaves
            continue
        wanted = rows_of(name, decisions, reduces=reduces)
        if name in POOLS and decisions.kind == "fixed":  # in an open cell they belong to sources
            wanted = [ORDER[e][0] for e in wanted]
        # Each restriction leaves a part of what the one before left, so the number of rows tells which they are.
        number = jax.tree.leaves(leaves)[0].shape[axis]
        have = next((rows for d in wider if len(rows := rows_of(name, d, reduces=reduces)) == number), None)
        if wanted and have is not None:
            at = np.asarray([have.index(row) for row in wanted])
            kept[label] = jax.tree.map(lambda leaf, at=at: jnp.take(leaf, at, axis), leaves)
        elif wanted:
            kept[label] = leaves  # of another model: `inherit` names it
    return kept
