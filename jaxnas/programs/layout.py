"""Many states of one search as one: how they lie together, and how one program does the steps of all.

==============  ==========================================================================================
batching        what runs
==============  ==========================================================================================
`"sequence"`    each search by itself, one after the other, with one compiled program
`"map"`         one program, in which the searches take turns at every step (`jax.lax.map`)
`"vmap"`        one program, every operation of which does the work of all searches (`jax.vmap`)
`"shard"`       the searches are spread over the devices (`jax.shard_map`); those of one device as above
==============  ==========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCHINGS = ("sequence", "map", "vmap", "shard")


class Layout(NamedTuple):
    """How the states of one or more searches lie together. With S searches every array has a leading axis S.

    Attributes:
      mapped: `(f) -> g` for `f(carry, rng, streams, *shared)`, where all but `shared` get the leading axis in g.
      join: `([tree]) -> tree`: puts the trees of all searches together.
      parts: `(tree) -> [tree]`: takes them apart again.
      place: puts a joined tree where g wants it.
      share: puts there what all searches share.
    """

    mapped: Callable[[Callable], Callable]
    join: Callable[[Sequence[Any]], Any]
    parts: Callable[[Any], list[Any]]
    place: Callable[[Any], Any]
    share: Callable[[Any], Any]


def _same(tree: Any) -> Any:
    return tree


ONE = Layout(_same, lambda trees: trees[0], lambda tree: [tree], _same, _same)
"""Of a single search, without a leading axis."""


def default_batching(count: int, *, one_path: bool) -> str:
    """What is fastest for so many searches here, as measured: see "Many seeds at once" in docs/performance.md.

    Args:
      count: how many searches.
      one_path: whether a step computes one candidate of each choice. Under vmap it would compute all of them.
    """
    if count == 1:
        return "sequence"
    if jax.local_device_count() > 1:
        return "shard"
    return "sequence" if one_path or jax.default_backend() == "cpu" else "vmap"


def make_layout(batching: str, count: int, *, one_path: bool) -> Layout:
    """The layout of `count` searches: of `"map"`, `"vmap"` or `"shard"`. For `one_path` see `default_batching`."""
    if batching != "shard":
        return Layout(_mapped if batching == "map" else _vmapped, _join, lambda tree: _parts(tree, count), _same, _same)
    devices = jax.local_devices()[:count]
    each = _mapped if one_path or jax.default_backend() == "cpu" else _vmapped
    mesh = Mesh(np.array(devices), ("seeds",))
    spread, everywhere = PartitionSpec("seeds"), PartitionSpec()

    def mapped(f: Callable) -> Callable:
        def g(carry: Any, rng: Any, streams: Any, *shared: Any) -> Any:
            specs = (spread, spread, spread, *(everywhere for _ in shared))
            # Whether a value differs between devices is not checked: models need not say so of what they start from.
            sharded = jax.shard_map(each(f), mesh=mesh, in_specs=specs, out_specs=spread, check_vma=False)
            return sharded(carry, rng, streams, *shared)

        return g

    def join(trees: Sequence[Any]) -> Any:
        return _join([*trees, *[trees[-1]] * (-len(trees) % len(devices))])  # every device has as many

    return Layout(
        mapped,
        join,
        lambda tree: _parts(tree, count),
        lambda tree: jax.device_put(tree, NamedSharding(mesh, spread)),
        lambda tree: jax.device_put(tree, NamedSharding(mesh, everywhere)),
    )


def _mapped(f: Callable) -> Callable:
    def g(carry: Any, rng: Any, streams: Any, *shared: Any) -> Any:
        return jax.lax.map(lambda one: f(*one, *shared), (carry, rng, streams))

    return g


def _vmapped(f: Callable) -> Callable:
    def g(carry: Any, rng: Any, streams: Any, *shared: Any) -> Any:
        return jax.vmap(lambda *one: f(*one, *shared))(carry, rng, streams)

    return g


# Both go by way of the host: nothing is compiled for each shape, and no part stays spread over devices.


def _join(trees: Sequence[Any]) -> Any:
    def stacked(like: Any, *leaves: np.ndarray) -> Any:
        return _as(like, np.stack(leaves))

    return jax.tree.map(stacked, trees[0], *[jax.tree.map(np.asarray, jax.device_get(_data(t))) for t in trees])


def _parts(tree: Any, count: int) -> list[Any]:
    host = jax.device_get(_data(tree))
    return [jax.tree.map(lambda like, leaf, i=i: _as(like, leaf[i]), tree, host) for i in range(count)]


def _data(tree: Any) -> Any:
    """With the data of keys instead of these."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _as(like: Any, data: np.ndarray) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(like)) if _is_key(like) else data


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
