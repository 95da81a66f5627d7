"""What an architecture says about a choice that is being called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import ChoiceSpec, missing_key
from jaxnas.model.recorder import recorder_of
from jaxnas.model.restriction import RestrictedArch, restricted_spec
from jaxnas.model.values import read_value


def choice_key(choice: Any, arch: Any) -> str:
    """The key of a choice that is being called with `arch`."""
    root = getattr(arch, "root", ())
    return choice.key or "/".join(choice.path[len(root) :]) or type(choice).__name__


def look_up(arch: Any, key: str, spec: ChoiceSpec) -> tuple[str, Any, ChoiceSpec]:
    """What an architecture says about a choice: `(kind, value)` as `values.read_value` returns them, and its spec.

    For modules that have choices and compute them in their own way. If the model is restricted, the spec has the
    indices of the candidates that are left, `original`, and the value counts these.

    Raises:
      ArchitectureError: if it says nothing, or nothing that fits.
    """
    if isinstance(arch, RestrictedArch):
        spec, arch = restricted_spec(arch.steps, key, spec), arch.arch
    recorder = recorder_of(arch)
    if recorder is not None:
        return (*recorder.record(key, spec), spec)
    if not isinstance(arch, Mapping):
        raise ArchitectureError(
            f"choice {key!r} ({spec}): the architecture must be a dict {{key: value}}; got {type(arch).__name__}."
        )
    if key not in arch:
        raise missing_key(key, spec, arch)
    return (*read_value(key, spec, arch[key]), spec)


def mask_of(spec: ChoiceSpec, kind: str, value: Any) -> Any:
    """What a value chooses from the complete choice: weights or bools `[n]`; a NumPy array if it is fixed."""
    n = spec.n_candidates
    if kind == "fixed":
        mask: Any = np.isin(np.arange(n), value)
    elif kind == "gated":
        mask = jnp.zeros(n, value.gate.dtype).at[value.index].add(value.gate)
    else:
        mask = jnp.zeros(n, bool).at[value].set(True) if kind == "index" else value
    if spec.original is None:
        return mask
    if kind == "fixed":
        return np.isin(np.arange(spec.whole.n_candidates), np.asarray(spec.original)[mask])
    return jnp.zeros(spec.whole.n_candidates, mask.dtype).at[np.asarray(spec.original)].set(mask)
