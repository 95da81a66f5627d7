"""Grid search: every architecture once. In order (the last choice fastest), shuffled, or only a part of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxnas.blackbox import trials as trial_loop
from jaxnas.blackbox.base import SampledArch, Searcher, check_space
from jaxnas.blackbox.options import TRIAL_DEFAULTS, TrialOptions
from jaxnas.checks import check_at_least
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.space import Space
from jaxnas.model.text import short_repr
from jaxnas.signatures import documented

_LARGEST = 2**20
_GOLDEN = (math.sqrt(5) - 1) / 2


@short_repr
@struct.dataclass
class GridState:
    """State of a grid search.

    Attributes:
      digits: int32 `[choices]`, the number of each choice's decision; together they count upwards.
      orders: int32 `[decisions]` for each choice: which decision a number stands for. None if they are in order.
    """

    digits: jax.Array
    orders: tuple[jax.Array, ...] | None = None


def algorithm(space: Space, *, shuffle: bool = False, start: int = 0) -> Searcher:
    """Grid search as pure functions. After the last architecture it begins again.

    Args:
      space: what to search.
      shuffle: visit the architectures in a shuffled order, which depends on the rng of `init`: the decisions of each
        choice are permuted, and each step advances by about 0.618 of the grid, so any part of the order is spread
        evenly.
      start: how many architectures to skip at the beginning of the order.

    Raises:
      ValueError: if a single choice has more than 2^20 decisions, or `start` lies beyond the grid.
    """
    check_space(space)
    check_at_least(0, start=start)
    if space and start >= space.size:
        raise ValueError(f"start is {start:,}, beyond the {space.size:,} architectures of the grid.")
    for key, spec in space.items():
        if spec.size > _LARGEST:
            raise ValueError(f"choice {key!r} ({spec}) has {spec.size:,} decisions: too many for a grid.")
    decisions = [_decisions(spec) for spec in space.values()]
    sizes = np.array([len(d) for d in decisions], np.int32)
    stride = _stride(space.size) if shuffle else 1
    step, first = _digits(stride, sizes), _digits(stride * start, sizes)

    def init(rng: jax.Array) -> GridState:
        if not shuffle:
            return GridState(jnp.asarray(first))
        keys = jax.random.split(rng, len(sizes) + 1)
        orders = [jax.random.permutation(key, size).astype(jnp.int32) for key, size in zip(keys, sizes, strict=False)]
        offset = jax.random.randint(keys[-1], sizes.shape, 0, sizes)
        return GridState(_added(offset, first), tuple(orders))

    def ask(state: GridState, rng: jax.Array) -> SampledArch:
        def number(i: int) -> jax.Array:
            return state.digits[i] if state.orders is None else state.orders[i][state.digits[i]]

        return {key: jnp.asarray(decisions[i])[number(i)] for i, key in enumerate(space)}

    def forward(state: GridState) -> GridState:
        return GridState(_added(state.digits, step), state.orders)

    def _added(digits: jax.Array, more: np.ndarray) -> jax.Array:
        """The sum of two numbers, modulo the size of the grid."""

        def column(carry: jax.Array, place: tuple) -> tuple[jax.Array, jax.Array]:
            digit, other, size = place
            total = digit + other + carry
            return (total >= size).astype(jnp.int32), jnp.where(total >= size, total - size, total)

        places = (digits, jnp.asarray(more), jnp.asarray(sizes))
        return jax.lax.scan(column, jnp.zeros((), jnp.int32), places, reverse=True)[1]

    return Searcher(init, ask, lambda state, arch, score: forward(state), lambda state, arch: forward(state), space)


def _stride(size: int) -> int:
    """The number nearest to 0.618 of the size that is coprime to it: its multiples, modulo the size, give all."""
    near = int(size * _GOLDEN) if size < 2**50 else size * 618034 // 1000000
    return next(n for far in range(size) for n in (near - far, near + far) if n > 0 and math.gcd(n, size) == 1)


def _digits(number: int, sizes: np.ndarray) -> np.ndarray:
    """A number (modulo the size of the grid) as a digit for each choice, the last one counting fastest."""
    digits = []
    for size in map(int, sizes[::-1]):
        number, digit = divmod(number, size)
        digits.append(digit)
    return np.array(digits[::-1], np.int32)


def _decisions(spec: ChoiceSpec) -> np.ndarray:
    """All decisions of a choice, in the form `Space.sample` gives, along a first axis."""
    n = spec.n_candidates
    if spec.n_chosen is None:
        return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    if spec.n_chosen == 1:
        return np.arange(n, dtype=np.int32)
    return np.array(list(itertools.combinations(range(n), spec.n_chosen)), np.int32)


@documented(TrialOptions, defaults={**TRIAL_DEFAULTS, "trials": None})
def search(
    space: Space,
    evaluate: Callable[..., float],
    *,
    shuffle: bool = False,
    start: int = 0,
    stop: int | None = None,
    **options: Unpack[TrialOptions],
) -> trial_loop.Trials:
    """Grid search with a Python evaluator. Returns and raises what `trials.run` does.

    Several processes can share a grid by ranges of its order (each with its own history, and the same seed if the grid
    is shuffled): `start=0, stop=1000`, `start=1000, stop=2000`, ….

    Args:
      space: what to search.
      evaluate: `(arch) -> float`, larger is better; `arch` is `{key: int | str | tuple}`.
      shuffle: visit the architectures in a shuffled order, which depends on the seed; see `algorithm`.
      start, stop: which of the architectures in order, `stop` excluded; by default all.
    """
    searcher = algorithm(space, shuffle=shuffle, start=start)
    stop = space.size if stop is None else stop
    if not isinstance(stop, int) or not start < stop <= max(space.size, 1):
        raise ValueError(f"stop must lie above start and be at most {space.size:,}; got start {start}, stop {stop!r}.")
    if options.get("trials") is None:
        options["trials"] = stop - start
    settings: dict[str, Any] = {name: value for name, value in (("shuffle", shuffle), ("start", start)) if value}
    return trial_loop.run(searcher, evaluate, name="grid_search", settings=settings, limit=stop - start, **options)
