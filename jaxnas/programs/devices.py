"""On which devices the steps of a run are computed: batches spread over a mesh, everything else copied to each device.

Meshes have an axis `data`, over which batches are spread, and may have an axis `seeds`, over which searches are
(`jaxnas.programs.layout`). Where a program has no mesh it runs on the default device.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxnas.errors import DataError
from jaxnas.ops.meshes import DATA

SEEDS = "seeds"

Devices = int | Literal["all"] | Sequence[jax.Device] | None
"""How many of the local devices (the first ones), all of them, these, or what is there (`find_mesh`)."""


def find_mesh(devices: Devices, mesh: Mesh | None, *, batch_size: int, searches: int = 1) -> Mesh | None:
    """The mesh that the arguments `devices` and `mesh` of a run stand for; None for the default device alone.

    Args:
      devices: None for the local accelerators, or on CPU the first device. What is not asked for never makes a run
        fail: of the accelerators as many take part in a step as divide the batch.
      mesh: with an axis `data`, and for several searches one called `seeds`.
      batch_size: examples per step.
      searches: how many searches are to be spread over the devices: over the largest number of them that divides the
        number of devices.

    Returns:
      A mesh with Auto axes `data`, or `seeds` and `data`; those of one device are left out.

    Raises:
      DataError: if the batch size is no multiple of the devices that were asked for.
      TypeError, ValueError: if these are no devices, not there, of another platform than the default one, or the mesh
        has other axes.
    """
    if mesh is not None:
        if devices is not None:
            raise ValueError("give devices or mesh, not both.")
        grid = _grid_of(mesh, searches)
    else:
        chosen = _chosen(devices)
        rows = max(n for n in range(1, min(searches, len(chosen)) + 1) if len(chosen) % n == 0)
        columns = len(chosen) // rows
        if devices is None:
            columns = max(n for n in range(1, columns + 1) if batch_size % n == 0)
        grid = np.array(chosen[: rows * columns], object).reshape(rows, columns)
    if batch_size % grid.shape[1]:
        smaller, larger = _multiples(batch_size, grid.shape[1])
        raise DataError(
            f"a batch of {batch_size} cannot be spread evenly over {grid.shape[1]} devices; give batch_size="
            f"{smaller or larger}{f' or {larger}' if smaller else ''}, or another number of devices."
        )
    kept = [(name, size) for name, size in zip((SEEDS, DATA), grid.shape, strict=True) if size > 1]
    if not kept:
        if grid.item() == jax.local_devices()[0]:
            return None
        kept = [(DATA, 1)]
    names, sizes = zip(*kept, strict=True)
    return Mesh(grid.reshape(sizes), names, axis_types=(AxisType.Auto,) * len(names))


def device_count(devices: Devices) -> int:
    """How many devices an argument `devices` names. Raises as `find_mesh`."""
    return len(_chosen(devices))


def _multiples(batch_size: int, count: int) -> tuple[int, int]:
    """The multiples of a number of devices next to a batch size."""
    smaller = batch_size // count * count
    return smaller, smaller + count


def _chosen(devices: Any) -> list[jax.Device]:
    """The devices that an argument `devices` names."""
    there = jax.local_devices()
    if devices is None:
        return there if there[0].platform != "cpu" else there[:1]
    if isinstance(devices, str) and devices == "all":
        return there
    if isinstance(devices, numbers.Integral) and not isinstance(devices, bool):
        count = int(devices)
        if not 1 <= count <= len(there):
            more = ""
            if there[0].platform == "cpu":
                more = f" XLA_FLAGS=--xla_force_host_platform_device_count={max(count, 1)} divides a CPU into more."
            raise ValueError(f"devices={count}: there are {_counted(there)}.{more}")
        return there[:count]
    wanted = 'devices must be a number, "all", or a list of jax devices'
    if isinstance(devices, (str, bytes)) or not isinstance(devices, (Sequence, np.ndarray)):
        raise TypeError(f"{wanted}; got {devices!r}.")
    chosen = list(devices)
    for each in chosen:
        if not isinstance(each, jax.Device):
            raise TypeError(f"{wanted}; got {each!r} in a list.")
    if not chosen:
        raise ValueError(f"{wanted}; the list is empty.")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"devices must differ; got {chosen!r}.")
    _check_platform("devices", chosen)
    return chosen


def _grid_of(mesh: Any, searches: int) -> np.ndarray:
    """The devices of an argument `mesh`, `[seeds, data]`."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh; got {mesh!r}.")
    shape = dict(mesh.shape)
    if DATA not in shape:
        raise ValueError(f"mesh must have an axis {DATA!r}, over which batches are spread; it has {_shape(shape)}.")
    others = {name: size for name, size in shape.items() if name not in (DATA, SEEDS) and size > 1}
    if others:
        raise ValueError(f"mesh may have the axes {DATA!r} and {SEEDS!r}; this one also has {_shape(others)}.")
    if shape.get(SEEDS, 1) > 1 and searches == 1:
        raise ValueError(
            f"mesh has an axis {SEEDS!r} of {shape[SEEDS]}, over which several searches are spread: give seeds (and no "
            'batching other than "shard"), or a mesh without it.'
        )
    _check_platform("mesh", list(mesh.devices.flat))
    names = list(mesh.axis_names)
    order = [names.index(name) for name in (SEEDS, DATA) if name in names]
    rest = [i for i in range(len(names)) if i not in order]
    grid = mesh.devices.transpose(*rest, *order)
    return grid.reshape(shape.get(SEEDS, 1), shape[DATA])


def _check_platform(name: str, devices: Sequence[jax.Device]) -> None:
    """Raises ValueError unless all devices are of the platform for which programs are written here."""
    ours = jax.local_devices()[0].platform
    others = sorted({each.platform for each in devices} - {ours})
    if others:
        raise ValueError(
            f"{name}: has devices of the platform {', '.join(others)}, but programs are made for JAX's default, "
            f"{ours}; choose it before JAX starts, as in JAX_PLATFORMS={others[0]}."
        )


def _counted(devices: Sequence[jax.Device]) -> str:
    kind, many = devices[0].platform, len(devices) != 1
    return f"{len(devices)} {kind} device{'s' if many else ''}"


def _shape(shape: dict[str, int]) -> str:
    return ", ".join(f"{name} ({size})" for name, size in shape.items()) or "none"


def described(mesh: Mesh | None) -> dict[str, Any]:
    """What `config.json` says of a mesh, beside what is compared: `{"devices": {"platform": …, "mesh": {…}}}`."""
    if mesh is None:
        return {}
    return {"devices": {"platform": mesh.devices.flat[0].platform, "mesh": dict(mesh.shape)}}


def said(mesh: Mesh | None) -> list[str]:
    """What to say of a mesh when a run begins."""
    if mesh is None or mesh.size == 1:
        return []
    return [f"on {shape_of(mesh)}"]


def shape_of(mesh: Mesh) -> str:
    """A mesh in words: `8 cpu devices: 2 (seeds) x 4 (data)`."""
    shape = " x ".join(f"{size} ({name})" for name, size in mesh.shape.items())
    return f"{_counted(list(mesh.devices.flat))}: {shape}"


# ---------------------------------------------------------------------- arrays


def copied(tree: Any, mesh: Mesh | None) -> Any:
    """Arrays on every device of a mesh; as they are where there is none."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_mesh(function: Callable, mesh: Mesh | None) -> Callable:
    """A function to be traced in which `jaxnas.ops.meshes.spread` knows the mesh; itself where there is none."""
    if mesh is None:
        return function

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def data_axis(mesh: Mesh | None) -> Mesh | None:
    """The part of a mesh on which one search has its batches; None for the default device."""
    if mesh is None or SEEDS not in mesh.axis_names:
        return mesh
    first = mesh.devices.reshape(mesh.shape[SEEDS], -1)[0]
    if len(first) == 1:
        return None
    return Mesh(first, (DATA,), axis_types=(AxisType.Auto,))
