"""How long the candidates of a model take: a table, measured on the device at hand, and sums of its entries."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from jaxnas.checks import check_at_least
from jaxnas.errors import ArchitectureError
from jaxnas.files import write_text
from jaxnas.model import functional
from jaxnas.model.architecture import LAYER
from jaxnas.model.choices import LayerChoice
from jaxnas.model.cost import _input
from jaxnas.model.lookup import choice_key
from jaxnas.model.space import Space
from jaxnas.model.space import space as space_of

_MARK = "jaxnas.latency"
_FORMAT = "jaxnas latency table 1"


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """How long every candidate of every LayerChoice takes.

    The latency of an architecture is the sum of its candidates' (as in arXiv 1812.00332 and 1812.03443). What is
    outside the choices takes as long in every architecture and does not count; InputChoices count nothing.

    Attributes:
      microseconds: `{key: {candidate: time}}`, a candidate by its name, or by its index as a text where it has none;
        of all the places together where the model uses the choice.
      spread: in the same form, the interquartile range of the measurements; `{}` where it is not known.
      device: what was measured.
    """

    microseconds: Mapping[str, Mapping[str, float]]
    spread: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    device: str = ""

    def __post_init__(self) -> None:
        for kind in ("microseconds", "spread"):
            for key, row in getattr(self, kind).items():
                for name, value in row.items():
                    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                        raise ValueError(
                            f"{kind} of candidate {name!r} of choice {key!r} must be a finite number of at least 0; "
                            f"got {value!r}."
                        )

    def rows(self, space: Space) -> dict[str, list[float]]:
        """The microseconds in the order of a space: `{key: [n_candidates]}`, of its LayerChoices.

        Raises:
          ArchitectureError: naming a choice or candidate that the table lacks.
        """
        rows = {}
        for key, spec in space.items():
            if spec.kind != LAYER:
                continue
            if key not in self.microseconds:
                raise ArchitectureError(f"the latency table lacks choice {key!r}; it has {list(self.microseconds)}.")
            row = self.microseconds[key]
            for label in spec.labels:
                if str(label) not in row:
                    raise ArchitectureError(
                        f"the latency table lacks candidate {label!r} of choice {key!r}; it has {list(row)}."
                    )
            rows[key] = [float(row[str(label)]) for label in spec.labels]
        return rows

    def expected(self, space: Space) -> Callable[[Mapping[str, Any]], jax.Array]:
        """The expected latency of weights, `({key: float [n_candidates]}) -> float32 []`; raises as `rows`."""
        rows = {key: jnp.asarray(row, jnp.float32) for key, row in self.rows(space).items()}
        return lambda weights: sum((weights[key] @ row for key, row in rows.items()), start=jnp.zeros(()))

    def latency(self, arch: Mapping[str, Any]) -> float:
        """Microseconds of a fixed architecture, `{key: int | str | tuple}`; a layer that is left out, `()`, takes none.

        Raises:
          ArchitectureError: naming a choice that the architecture lacks, or a candidate that the table lacks.
        """
        total = 0.0
        for key, row in self.microseconds.items():
            if key not in arch:
                raise ArchitectureError(f"the architecture lacks choice {key!r} of the latency table.")
            chosen = arch[key] if isinstance(arch[key], tuple) else (arch[key],)
            for label in chosen:
                if str(label) not in row:
                    raise ArchitectureError(
                        f"the latency table lacks candidate {label!r} of choice {key!r}; it has {list(row)}."
                    )
                total += row[str(label)]
        return total

    def save(self, path: str | os.PathLike) -> None:
        """Writes the table as JSON."""
        rows = {kind: {k: dict(row) for k, row in getattr(self, kind).items()} for kind in ("microseconds", "spread")}
        write_text(path, json.dumps({"format": _FORMAT, "device": self.device, **rows}, indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | os.PathLike) -> LatencyTable:
        """Reads what `save` has written.

        Raises:
          ValueError: naming the file, if it is not such a table.
        """
        try:
            found = json.loads(Path(path).read_text("utf-8"))
            if found["format"] != _FORMAT:
                raise ValueError(f"its format is {found['format']!r}; expected {_FORMAT!r}")
            return cls(found["microseconds"], found["spread"], found["device"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is not a latency table: {error}") from error

    @classmethod
    def of(cls, table: LatencyTable | str | os.PathLike | None) -> LatencyTable | None:
        """A table as it is, or from its file; None for None."""
        return table if table is None or isinstance(table, cls) else cls.load(table)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        n = sum(map(len, self.microseconds.values()))
        times = hashlib.sha256(json.dumps([[k, *sorted(row.items())] for k, row in self.microseconds.items()]).encode())
        about = f"{n} candidates of {len(self.microseconds)} choices, {self.device or 'unknown device'}"
        return f"LatencyTable({about}, times {times.hexdigest()[:8]})"


def measure_latency(model_fn: Any, input_shape: Any, *, repeats: int = 50, warmup: int = 5) -> LatencyTable:
    """Times each candidate of each LayerChoice, compiled, on JAX's default device.

    A candidate is compiled alone, in evaluation mode, on inputs of the shape that it gets in the model, and called
    `repeats` times; its time is the median. A choice that the model uses several times counts for all its uses, in a
    loop of known length once per turn. The time of the empty program on the same inputs is taken off, so that what
    starting a program costs does not count. Candidates of a choice are measured by turns, so that a device that
    becomes slower meanwhile does so for all.

    Args:
      model_fn: the model with choices.
      input_shape: as for `jaxnas.cost`: times are for that batch.
      repeats: measured calls of each candidate.
      warmup: calls before them.

    Raises:
      ArchitectureError: if there is no LayerChoice, or one is inside a candidate of another: then times do not add up.
      ValueError: for numbers below 1.
    """
    check_at_least(1, repeats=repeats, warmup=warmup)
    x = _input(input_shape)
    space = space_of(model_fn, x)
    calls, uses = _calls(model_fn, space, x)
    if not calls:
        raise ArchitectureError("the model has no LayerChoice: there is nothing to time.")
    totals: dict[str, np.ndarray] = {}
    for number, (choice, key, given, options) in enumerate(calls):
        if uses[number]:  # not a tracing that only finds shapes
            times = uses[number] * _timed(choice, space[key].labels, given, options, repeats, warmup)
            totals[key] = totals.get(key, 0) + times
    device = jax.devices()[0]
    named = {key: dict(zip(map(str, space[key].labels), rows, strict=True)) for key, rows in totals.items()}
    return LatencyTable(
        {key: {name: float(np.median(row)) for name, row in rows.items()} for key, rows in named.items()},
        {key: {name: _range(row) for name, row in rows.items()} for key, rows in named.items()},
        f"{device.platform} {device.device_kind}",
    )


def _calls(model_fn: Any, space: Space, x: Any) -> tuple[list[tuple], Counter]:
    """The calls of LayerChoices: (choice, key, its input's shapes, options) of each, and how often each is made."""
    model = functional.model_fns(model_fn)
    found: list[tuple] = []
    inside: list[str] = []

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        choice = context.module
        if not isinstance(choice, LayerChoice) or context.method_name != "__call__":
            return call(*args, **kwargs)
        given, arch, options = _arguments(*args, **kwargs)
        key = choice_key(choice, arch)
        if inside:
            raise ArchitectureError(
                f"choice {key!r} is inside a candidate of {inside[-1]!r}: the times of candidates do not add up there."
            )
        mark = f"{_MARK}:{len(found)}"
        found.append((choice.clone(parent=None, key=key), key, jax.tree.map(functional.shape_of, given), options))
        first, form = jax.tree.flatten(given)
        given = jax.tree.unflatten(form, [checkpoint_name(first[0], mark), *first[1:]])
        inside.append(key)
        try:
            return call(given, arch, **options)
        finally:
            inside.pop()

    weights = space.uniform()
    variables = jax.eval_shape(model.init, jax.random.key(0), x, weights)
    with nn.intercept_methods(intercept):
        closed = jax.make_jaxpr(model.apply)(variables, x, weights)
    uses: Counter = Counter()
    _count(closed.jaxpr, 1, uses)
    return found, uses


def _arguments(x: Any, arch: Any, **options: Any) -> tuple[Any, Any, dict[str, Any]]:
    return x, arch, options


def _count(jaxpr: Any, times: int, uses: Counter) -> None:
    """How often each mark is passed."""
    for eqn in jaxpr.eqns:
        name = eqn.params.get("name")
        if eqn.primitive.name == "name" and name.startswith(_MARK):
            uses[int(name.split(":")[1])] += times
        turns = times * eqn.params["length"] if eqn.primitive.name == "scan" else times
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                _count(getattr(inner, "jaxpr", inner), turns, uses)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (core.Jaxpr, core.ClosedJaxpr))


def _timed(
    choice: LayerChoice, labels: Sequence[int | str], x: Any, options: Mapping[str, Any], repeats: int, warmup: int
) -> np.ndarray:
    """Microseconds of each candidate, `[n, repeats]`, those of the empty program taken off."""
    inputs = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), x)
    programs: list[Callable[[], Any]] = []

    def program(function: Callable, *arguments: Any) -> Callable[[], Any]:
        compiled = jax.jit(function).lower(*arguments).compile()
        return lambda: jax.block_until_ready(compiled(*arguments))

    programs.append(program(lambda x: jax.tree.map(lambda leaf: leaf.ravel()[:1], x), inputs))
    for label in labels:
        alone = functools.partial(choice.apply, arch={choice.key: label}, **options)
        variables = jax.jit(functools.partial(choice.init, arch={choice.key: label}, **options))(
            jax.random.key(0), inputs
        )
        programs.append(program(alone, variables, inputs))
    for run in programs:
        for _ in range(warmup):
            run()
    times = np.zeros((len(programs), repeats))
    for turn in range(repeats):
        for number, run in enumerate(programs):
            start = time.perf_counter()
            run()
            times[number, turn] = 1e6 * (time.perf_counter() - start)
    return np.maximum(times[1:] - np.median(times[0]), 0)


def _range(values: np.ndarray) -> float:
    """The interquartile range."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low)
