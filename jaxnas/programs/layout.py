"""Many states of one search as one: how they lie together, and how one program does the steps of all.

==============  ==========================================================================================
batching        what runs
==============  ==========================================================================================
`"sequence"`    each search by itself, one after the other, with one compiled program
`"map"`         one program, in which the searches take turns at every step (`jax.lax.map`)
`"vmap"`        one program, every operation of which does the work of all searches (`jax.vmap`)
`"shard"`       the searches are spread over the devices (`jax.shard_map`); those of one device as above
==============  ==========================================================================================

Beside that, the batches of each search may be spread over devices (`jaxnas.programs.devices`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxnas.ops.meshes import DATA
from jaxnas.programs.devices import SEEDS, copied, on_mesh

BATCHINGS = ("sequence", "map", "vmap", "shard")


def _same(tree: Any) -> Any:
    return tree


class Layout(NamedTuple):
    """How the states of one or more searches lie together. With S searches every array has a leading axis S.

    Attributes:
      mapped: `(f) -> g` for `f(carry, rng, streams, *shared)`, where all but `shared` get the leading axis in g.
      join: `([tree]) -> tree`: puts the trees of all searches together.
      parts: `(tree) -> [tree]`: takes them apart again.
      place: puts a joined tree where g wants it.
      share: puts there what all searches share.
      sharding: of the carry that g gives; None to leave it to the compiler, on one device.
      kept: what of a joined tree is saved: without what `join` adds, so that a run may be resumed on other devices.
      rows: of how many the number of joined trees is made a multiple.
    """

    mapped: Callable[[Callable], Callable]
    join: Callable[[Sequence[Any]], Any]
    parts: Callable[[Any], list[Any]]
    place: Callable[[Any], Any]
    share: Callable[[Any], Any]
    sharding: NamedSharding | None = None
    kept: Callable[[Any], Any] = _same
    rows: int = 1


ONE = Layout(_same, lambda trees: trees[0], lambda tree: [tree], _same, _same)
"""Of a single search, without a leading axis."""


def single(mesh: Mesh | None) -> Layout:
    """The layout of one search whose batches are spread over a mesh; `ONE` without a mesh."""
    if mesh is None:
        return ONE
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(tree: Any) -> Any:
        return copied(tree, mesh)

    return Layout(lambda f: on_mesh(f, mesh), lambda trees: trees[0], lambda tree: [_apart(tree)], put, put, everywhere)


def default_batching(count: int, *, one_path: bool, devices: int | None = None) -> str:
    """What is fastest for so many searches here, as measured: see "Many seeds at once" in docs/performance.md.

    Args:
      count: how many searches.
      one_path: whether a step computes one candidate of each choice. Under vmap it would compute all of them.
      devices: over how many devices they may be spread. Default: all local ones.
    """
    if count == 1:
        return "sequence"
    if (jax.local_device_count() if devices is None else devices) > 1:
        return "shard"
    return "sequence" if one_path or jax.default_backend() == "cpu" else "vmap"


def make_layout(batching: str, count: int, *, one_path: bool, mesh: Mesh | None = None) -> Layout:
    """The layout of `count` searches: of `"map"`, `"vmap"` or `"shard"`. For `one_path` see `default_batching`.

    Args:
      batching, count: how, and how many.
      mesh: with an axis `seeds` for `"shard"` (default: the first local devices), and `data` for their batches.
    """
    if batching != "shard":
        one = single(mesh)
        each = _mapped if batching == "map" else _vmapped
        parts = partial(_parts, count=count)
        return Layout(lambda f: one.mapped(each(f)), _join, parts, one.place, one.share, one.sharding)
    each = _mapped if one_path or jax.default_backend() == "cpu" else _vmapped
    mesh = Mesh(np.array(jax.local_devices()[:count]), (SEEDS,)) if mesh is None else mesh
    rows = mesh.shape.get(SEEDS, 1)
    lanes = PartitionSpec(SEEDS) if SEEDS in mesh.axis_names else PartitionSpec()
    own, everywhere = NamedSharding(mesh, lanes), NamedSharding(mesh, PartitionSpec())

    def mapped(f: Callable) -> Callable:
        if SEEDS not in mesh.axis_names:
            return on_mesh(each(f), mesh)

        def g(carry: Any, rng: Any, streams: Any, *shared: Any) -> Any:
            specs = (lanes, lanes, lanes, *(PartitionSpec() for _ in shared))
            # Whether a value differs between devices is not checked: models need not say so of what they start from.
            # The axis of the data is left to the compiler.
            options: Any = {"axis_names": {SEEDS}} if DATA in mesh.axis_names else {}
            sharded = jax.shard_map(each(f), mesh=mesh, in_specs=specs, out_specs=lanes, check_vma=False, **options)
            return sharded(carry, rng, streams, *shared)

        return g

    def join(trees: Sequence[Any]) -> Any:
        return _join([*trees, *[trees[-1]] * (-len(trees) % rows)])  # every device has as many

    return Layout(
        mapped,
        join,
        partial(_parts, count=count),
        lambda tree: jax.device_put(tree, own),
        lambda tree: jax.device_put(tree, everywhere),
        own if DATA in mesh.axis_names else None,
        partial(_first, count=count) if count % rows else _same,
        rows,
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


def _first(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[:count], tree)


def _apart(tree: Any) -> Any:
    """A tree that lies on many devices, on the host: what is computed with it next need not be."""
    return jax.tree.map(_as, tree, jax.device_get(_data(tree)))


def _data(tree: Any) -> Any:
    """With the data of keys instead of these."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _as(like: Any, data: np.ndarray) -> Any:
    return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(like)) if _is_key(like) else data


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
