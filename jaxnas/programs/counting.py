"""What a compiled program costs by XLA's own count: operations, bytes, memory; for a device that may not be here."""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.extend import core
from jax.sharding import SingleDeviceSharding

from jaxnas.model.jaxprs import inner_jaxprs

_COLLECTIVE = re.compile(r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


class ProgramCost(NamedTuple):
    """What one call of a program costs, on each of its devices.

    Attributes:
      flops: multiplications and additions, each counted, and the other arithmetic of its operations.
      bytes: read and written by its operations; None if it was not compiled, since only then XLA has fused them.
      memory: bytes that it occupies at once: arguments, results that have buffers of their own, temporaries; None if
        it was not compiled.
      temporaries: bytes of these; None if it was not compiled.
      collectives: how many operations of which kind exchange data between devices; None if it was not compiled.
      seconds: of tracing, lowering and compiling it.
    """

    flops: float
    bytes: float | None
    memory: int | None
    temporaries: int | None
    collectives: Mapping[str, int] | None
    seconds: float


def program_cost(program: Any, *arguments: Any, device: Any = None, compiled: bool = True) -> ProgramCost:
    """Counts what a call of a jitted function costs. Nothing is computed.

    XLA counts the body of a loop once. Here that of a scan counts as often as it runs: it is compiled by itself, and
    what it costs is added for every further iteration. Other loops count once, and of the branches of a conditional
    the most expensive one does.

    Args:
      program: what `jax.jit` gives.
      arguments: `jax.ShapeDtypeStruct`s or arrays, and pytrees of them.
      device: for which it is compiled, also one of a topology that is not here; None for the default.
      compiled: whether to compile it, which can take minutes. If not, operations are counted as they are before XLA
        has simplified them.
    """
    with contextlib.nullcontext() if device is None else jax.default_device(device):
        placed = jax.tree.map(functools.partial(_shape, device), arguments)
        began = time.perf_counter()
        traced = program.trace(*placed)
        lowered = traced.lower()
        stage = lowered.compile() if compiled else lowered
        seconds = time.perf_counter() - began
        further = _Further(device, compiled).of(traced.jaxpr.jaxpr)
    flops, moved = (once + more for once, more in zip(_counts(stage), further, strict=True))
    if not compiled:
        return ProgramCost(flops, None, None, None, None, seconds)
    sizes = stage.memory_analysis()
    own = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    memory = sizes.argument_size_in_bytes + own + sizes.temp_size_in_bytes
    exchanged = dict(Counter(_COLLECTIVE.findall(stage.as_text())))
    return ProgramCost(flops, moved, memory, sizes.temp_size_in_bytes, exchanged, seconds)


def _shape(device: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    given = leaf.sharding if isinstance(leaf, jax.ShapeDtypeStruct) else None
    sharding = given if device is None else SingleDeviceSharding(device)
    weak = getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=weak)


def _counts(stage: Any) -> tuple[float, float]:
    """FLOPs and bytes of what was lowered or compiled."""
    found = stage.cost_analysis() or {}
    return float(found.get("flops", 0.0)), float(found.get("bytes accessed", 0.0))


class _Further:
    """What XLA's count leaves out: the iterations of scans after the first."""

    def __init__(self, device: Any, compiled: bool):
        self.device, self.compiled = device, compiled
        self.known: dict[str, tuple[float, float]] = {}

    def of(self, jaxpr: Any) -> tuple[float, float]:
        """FLOPs and bytes to add for a jaxpr in which every loop's body is counted once."""
        flops = moved = 0.0
        for eqn in jaxpr.eqns:
            inner = [self.of(each) for each in inner_jaxprs(eqn.params)]
            if eqn.primitive.name == "cond":
                more = max(inner)
            elif eqn.primitive.name == "scan":
                length, [(nested, nested_moved)] = eqn.params["length"], inner
                again = max(length - min(int(eqn.params["unroll"]), length), 0)  # those that are unrolled are counted
                body, body_moved = self._body(eqn.params["jaxpr"]) if again else (0.0, 0.0)
                more = again * body + length * nested, again * body_moved + length * nested_moved
            else:
                more = sum(each[0] for each in inner), sum(each[1] for each in inner)
            flops, moved = flops + more[0], moved + more[1]
        return flops, moved

    def _body(self, body: Any) -> tuple[float, float]:
        shapes = [_shape(self.device, aval) for aval in body.in_avals]
        lowered = jax.jit(core.jaxpr_as_fun(body)).lower(*shapes)
        text = lowered.as_text()
        if text not in self.known:
            self.known[text] = _counts(lowered.compile() if self.compiled else lowered)
        return self.known[text]
