"""Operations on arrays that lie on a mesh of devices.

A program that is traced for a mesh with an axis `data` (`jax.sharding.get_abstract_mesh`) has its batches spread over
that axis. Where axes are Explicit, JAX asks of each reshape, slice and convolution how its result is sharded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

DATA = "data"


def spread(tree: Any, axis: int = 0) -> Any:
    """A batch spread over the axis `data` of the mesh for which a program is traced; as it is where there is none.

    A batch that cannot be divided evenly stays as it is, whole on every device.

    Args:
      tree: arrays with examples along `axis`.
      axis: which one.
    """
    count = batch_devices()
    if count == 1:
        return tree

    def one(leaf: jax.Array) -> jax.Array:
        if leaf.shape[axis] % count:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*[None] * axis, DATA))

    return jax.tree.map(one, tree)


def batch_devices() -> int:
    """Over how many devices `spread` spreads, where a program is traced."""
    return dict(jax.sharding.get_abstract_mesh().shape).get(DATA, 1)


def on_any_mesh(function: Callable, sharded: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`. If an argument is typed with Explicit axes of a mesh, they are Auto ones inside the function.

    So the compiler shards what is inside, in the gradients too, and only the results are typed.

    Args:
      function: takes arrays, or pytrees of them.
      sharded: (`PartitionSpec` of each array of `args`, of as many entries as it has axes) -> those of the results.
      *args: arrays, or pytrees of them.
    """
    leaves = jax.tree.leaves(args)
    shardings = [getattr(jax.typeof(x), "sharding", None) for x in leaves]
    meshes = [s.mesh for s in shardings if isinstance(s, NamedSharding) and AxisType.Explicit in s.mesh.axis_types]
    if not meshes:
        return function(*args)
    specs = [_whole(s, x.ndim) for s, x in zip(shardings, leaves, strict=True)]
    typed = jax.tree.map(lambda spec: NamedSharding(meshes[0], spec), sharded(*specs))
    return auto_axes(function, axes=meshes[0].explicit_axes, out_sharding=typed)(*args)


def _whole(sharding: Any, ndim: int) -> PartitionSpec:
    spec = tuple(sharding.spec) if isinstance(sharding, NamedSharding) else ()
    return PartitionSpec(*spec, *[None] * (ndim - len(spec)))


def like_images(x: PartitionSpec) -> PartitionSpec:
    """The sharding of what has the images and channels of x `[B, H, W, C]`, and another height and width."""
    return PartitionSpec(x[0], None, None, x[3])
