"""Whether a state stayed finite, and where not.

Losses and gradients are watched inside the compiled steps (`jaxnas.programs.epoch`). The new state is not: that would
change how the steps are compiled, and so what they round to. It is looked at when it has come to the host, after the
steps of a phase and before it is saved; if it is spoiled, the steps are made again, to find the one that did it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.programs.epoch import EpochProgram, own_buffers


class Spoiled(NamedTuple):
    """Where a state stopped being finite.

    Attributes:
      step: the step that spoiled it.
      leaf: what of the new state is not finite.
      state: the state before that step.
    """

    step: int
    leaf: str
    state: Any


def host_copy(state: Any) -> Any:
    """A copy of a state, on the host, that does not share its buffers (keys stay keys)."""
    data = jax.device_get(jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state))

    def copied(leaf: Any, values: Any) -> Any:
        copy = np.array(values)
        return jax.random.wrap_key_data(jnp.asarray(copy), impl=jax.random.key_impl(leaf)) if _is_key(leaf) else copy

    return jax.tree.map(copied, state, data)


def not_finite(before: Any, after: Any) -> str | None:
    """The name of a leaf with a value that was finite and is not any more, the smallest such leaf; None if none is.

    (A learning rate is named before the weights that it spoils. What was infinite from the beginning may stay so.)
    """
    old = jax.tree.leaves(before)
    new = jax.tree_util.tree_leaves_with_path(after)
    found = [
        (np.size(values), jax.tree_util.keystr(path))
        for was, (path, values) in zip(old, new, strict=True)
        if not _is_key(values) and jnp.issubdtype(jnp.result_type(values), jnp.inexact) and _is_spoiled(was, values)
    ]
    return min(found, key=lambda each: each[0])[1] if found else None


def find_spoiled(
    program: EpochProgram, before: Any, rng: Any, streams: Any, *, start: int, place: int
) -> Spoiled | None:
    """Makes the steps of a phase again, up to the first that spoils a state.

    Args:
      program: the compiled epoch.
      before: a `host_copy` of the state, or the states, before the steps.
      rng, streams, start: as they were given to `program.run`.
      place: of the spoiled state among those that are stepped as one.

    Returns:
      What was found, or None if all goes well this time: on some devices sums differ from run to run.
    """
    good, done = before, start
    for chunk in (None, 1):  # in calls as before, then one by one through the call that did it
        for now_done, state in program.again(
            program.layout.place(own_buffers(good)), rng, streams, start=done, chunk=chunk
        ):
            now = host_copy(state)
            leaf = not_finite(program.layout.parts(before)[place], program.layout.parts(now)[place])
            if leaf is not None:
                break
            good, done = now, now_done
        else:
            return None
        if now_done - done == 1:
            return Spoiled(done, leaf, program.layout.parts(good)[place])
    return None


def _is_spoiled(before: Any, after: Any) -> bool:
    after = np.asarray(after)
    finite = np.isfinite(after)
    return not finite.all() and bool(np.any(np.isfinite(np.asarray(before)) & ~finite))


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
