"""What a run will take, before it runs: parameters, operations and bytes per step, memory, time to compile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxnas.data import Dataset
from jaxnas.extras import how_to_install
from jaxnas.ops import onednn
from jaxnas.programs.counting import ProgramCost, program_cost
from jaxnas.programs.epoch import own_buffers, steps_program
from jaxnas.programs.examples import shapes_on_device
from jaxnas.programs.layout import ONE, Layout


class StepForecast(NamedTuple):
    """One kind of step of a run.

    Attributes:
      trains: what it trains, such as `"weights and architecture"`.
      per_epoch: how many of them an epoch has.
      cost: of one.
    """

    trains: str
    per_epoch: int
    cost: ProgramCost


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run will take on each of its devices; printed as a table.

    Attributes:
      run: what runs.
      device: on what.
      epochs: of one search or training.
      params: number of the model's parameters; of a supernet, those of all candidates.
      state_bytes: of the state: parameters, those of the architecture, optimisers, statistics; of all seeds.
      data_bytes: of the training data, which stay on the device.
      steps: the kinds of step of an epoch.
      times: how often that runs, one after the other.
    """

    run: str
    device: str
    epochs: int
    params: int
    state_bytes: int
    data_bytes: int
    steps: tuple[StepForecast, ...]
    times: int = 1

    @property
    def flops(self) -> float:
        """Of all steps of the run; validation is not counted."""
        return self.times * self.epochs * sum(step.per_epoch * step.cost.flops for step in self.steps)

    @property
    def memory(self) -> int | None:
        """Bytes that the largest step occupies, with state and data; None if it was not compiled."""
        known = [step.cost.memory for step in self.steps if step.cost.memory is not None]
        return max(known) if known else None

    @property
    def compile_seconds(self) -> float:
        """Of tracing and compiling all steps; programs that were compiled before come from the cache."""
        return sum(step.cost.seconds for step in self.steps)

    def __repr__(self) -> str:
        rows = [
            ("parameters", f"{self.params:,}"),
            ("state", _bytes(self.state_bytes)),
            ("training data", _bytes(self.data_bytes)),
        ]
        for step in self.steps:
            cost = step.cost
            rows += [(f"step of {step.trains}", f"{step.per_epoch:,} per epoch"), ("  operations", _flops(cost.flops))]
            if cost.bytes is not None and cost.temporaries is not None:
                rows += [("  memory traffic", _bytes(cost.bytes)), ("  temporaries", _bytes(cost.temporaries))]
            rows += [("  exchanges", f"{count} {kind}") for kind, count in (cost.collectives or {}).items()]
        times = "" if self.times == 1 else f"{self.times} times "
        rows += [("all steps", f"{_flops(self.flops)} in {times}{self.epochs:,} epochs")]
        if self.memory is None:
            rows += [("memory", "not known: it was not compiled")]
        else:
            rows += [("memory at once", _bytes(self.memory)), ("compiled in", f"{self.compile_seconds:.1f} s")]
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"{self.run}, on {self.device}", *(f"{name:{width}}  {text}" for name, text in rows)])


def forecast_steps(
    step: Callable,
    dataset: Dataset,
    *,
    init: Callable[[jax.Array], Any],
    watched: Sequence[str],
    batches: Sequence[tuple[int, tuple[int | None, ...]]],
    rows: int | None = None,
    layout: Layout = ONE,
    whole: Sequence[bool] = (),
    device: Any = None,
    compiled: bool = True,
) -> tuple[Any, tuple[StepForecast, ...]]:
    """Counts what the steps of a run cost. Nothing is computed, and nothing is put on a device.

    Args:
      step, dataset, watched, layout, whole: see `jaxnas.programs.epoch.make_epoch`.
      init: `(key) -> state`, traceable.
      batches: for each kind of step how many an epoch has, and its batch sizes, None for none; the first is of the
        weights, the second of the architecture.
      rows: how many states the layout steps as one, copies that fill the devices included; None for a single state.
      device, compiled: see `jaxnas.programs.counting.program_cost`.

    Returns:
      The shapes of the state (of all rows), and the kinds of step.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: own_buffers(init(key)), key)
    data = shapes_on_device(dataset.x_train), shapes_on_device(dataset.y_train)
    program, found = steps_program(step, dataset, watched, layout, whole), []

    def joined(tree: Any) -> Any:
        axis = () if rows is None else (rows,)
        lies = {"sharding": layout.sharding}
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axis, *leaf.shape), leaf.dtype, **lies), tree)

    fine, first = jax.ShapeDtypeStruct((), jnp.bool_), jax.ShapeDtypeStruct((), jnp.int32, weak_type=True)
    for per_epoch, sizes in batches:
        streams = tuple(None if size is None else jax.ShapeDtypeStruct((1, size), jnp.int32) for size in sizes)
        carry = joined((state, fine))
        cost = program_cost(
            program, carry, joined(key), joined(streams), *data, first, device=device, compiled=compiled
        )
        trained = [name for name, size in zip(("weights", "architecture"), sizes, strict=False) if size is not None]
        found.append(StepForecast(" and ".join(trained), per_epoch, cost))
    return joined(state), tuple(found)


def size_in_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree, or of their shapes."""

    def one(leaf: Any) -> int:
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        return leaf.size * leaf.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


def device_of(topology: str | None) -> tuple[Any, str]:
    """A device to compile for, and how to call it: the first of a TPU topology, such as `"v5e:2x2"`; else the default.

    Raises:
      ValueError: if there is no such topology, or libtpu is not installed.
    """
    if topology is None:
        here = jax.local_devices()[0]
        kind = "" if here.device_kind == here.platform else f" ({here.device_kind})"
        others = onednn.convolution_kernels() == "onednn"
        note = f" (convolutions by oneDNN are not counted; {onednn.SWITCH}=0 leaves them to XLA)" if others else ""
        return None, f"{here.platform}{kind}{note}"
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except Exception as e:  # whatever libtpu raises
        import importlib.util

        if importlib.util.find_spec("libtpu") is None:
            raise ValueError(f"topology={topology!r} is compiled for by libtpu: {how_to_install('tpu')}.") from None
        told = (str(e).splitlines() or [type(e).__name__])[0]
        raise ValueError(f"topology={topology!r}: {told} Expected a name such as 'v5e:2x2' or 'v4:2x2x1'.") from None
    device: Any = found.devices[0]
    return device, f"{device.device_kind} ({topology}, compiled ahead of time)"


def _bytes(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def _flops(count: float) -> str:
    for prefix, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:,.2f} {prefix}FLOP"
    return f"{count:,.0f} FLOP"
