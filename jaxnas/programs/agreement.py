"""Whether loss, metrics, output and labels go together, found by abstract evaluation before anything runs."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxnas.data import Dataset
from jaxnas.model.trees import form, is_container
from jaxnas.programs.losses import BuiltinLoss, Loss, main_output, takes_arch
from jaxnas.programs.metrics import Metrics


def check_agreement(loss: Loss, metrics: Metrics, output: Any, dataset: Dataset, arch: Any = None) -> None:
    """Tries a loss and metrics on the shapes of a batch; warns if a loss of one's own broadcasts labels and outputs.

    Args:
      loss, metrics: of the run.
      output: shapes of the model's output for a batch of one.
      dataset: for the labels.
      arch: an architecture: decisions, or arrays, or the shapes of arrays; None if there is none, then those that take
        it are not tried.

    Raises:
      TypeError, ValueError: whatever the loss or a metric raises, with a note that says on which shapes.
    """
    y = jax.tree.leaves(dataset.y_train)
    taken = {n for leaf in jax.tree.leaves(output) for n in leaf.shape} | {n for leaf in y for n in leaf.shape[1:]}
    batch = next(n for n in itertools.count(11) if n not in taken)  # so that the batch axis is known by its length
    labels = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype)),
        dataset.y_train,
    )
    output = jax.tree.map(lambda leaf: _of_batch(leaf, batch), output)
    if arch is not None or not takes_arch(loss.source):
        _try("loss_fn", loss, output, labels, arch)
        if not isinstance(loss.source, BuiltinLoss):
            _warn_of_broadcast(loss, output, labels, arch, batch)
    if arch is not None or not metrics.take_arch:
        _try("metrics", metrics, output, labels, arch)
        _try("metrics", metrics.update, output, labels, arch)


def _of_batch(leaf: jax.ShapeDtypeStruct, batch: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) if leaf.shape[:1] == (1,) else leaf


def _try(name: str, fn: Callable, output: Any, labels: Any, arch: Any) -> None:
    try:
        jax.eval_shape(*_of_arrays(fn, output, labels, arch))
    except Exception as e:
        e.add_note(f"{name} was tried on an output {form(output)} and labels {form(labels)}.")
        raise


def _of_arrays(fn: Callable, output: Any, labels: Any, arch: Any) -> tuple[Any, ...]:
    """A function and its arguments, all of them arrays or shapes of arrays: decisions are no arguments."""
    if arch is not None and all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(arch)):
        return fn, output, labels, arch
    return lambda output, labels: fn(output, labels, arch), output, labels


def _warn_of_broadcast(loss: Loss, output: Any, labels: Any, arch: Any, batch: int) -> None:
    main = main_output(output)
    if not hasattr(main, "shape") or is_container(labels) or main.shape == labels.shape:
        return
    try:
        together = np.broadcast_shapes(main.shape, labels.shape)
    except ValueError:
        return
    call, *arrays = _of_arrays(loss, output, labels, arch)
    closed = jax.make_jaxpr(call)(*arrays)
    kinds: list[str | None] = [*["output"] * len(jax.tree.leaves(output)), "labels"]
    kinds += [None] * len(jax.tree.leaves(arrays[2:]))
    if not _pairs(closed.jaxpr, batch) and not _differences(closed.jaxpr, kinds)[0]:
        return

    def sizes(shape: Sequence[int]) -> str:
        return f"[{', '.join('batch' if n == batch else str(n) for n in shape)}]"

    warnings.warn(
        f"loss_fn: the model's output has shape {sizes(main.shape)} and the labels {sizes(labels.shape)}, which "
        f"broadcast to {sizes(together)}; so outputs are compared with labels that are not theirs. Give both one "
        'shape, or use a ready loss, such as loss_fn="mse".',
        stacklevel=2,
    )


def _pairs(jaxpr: Any, batch: int) -> bool:
    """Whether anything has the batch axis twice."""
    for eqn in jaxpr.eqns:
        if any(getattr(v.aval, "shape", ()).count(batch) > 1 for v in eqn.outvars):
            return True
        if any(_pairs(inner, batch) for inner in _inner(eqn)):
            return True
    return False


def _differences(jaxpr: Any, kinds: Sequence[str | None]) -> tuple[bool, list[str | None]]:
    """Whether labels are subtracted from outputs of another shape, or the reverse.

    Args:
      jaxpr: of the loss, or of a function that it calls.
      kinds: of its arguments: `"labels"` for what depends on labels only, `"output"` for what depends on outputs.

    Returns:
      That, and the kinds of what it gives.
    """
    known: dict[Any, str | None] = dict(zip(jaxpr.invars, kinds, strict=True))
    found = False
    for eqn in jaxpr.eqns:
        inputs = [None if isinstance(v, core.Literal) else known.get(v) for v in eqn.invars]
        given = "output" if "output" in inputs else "labels" if "labels" in inputs else None
        given_all: list[str | None] = [given] * len(eqn.outvars)
        for inner in _inner(eqn):
            if len(inner.invars) == len(inputs):
                inside, given_all = _differences(inner, inputs)
                found |= inside
        shapes = [v.aval.shape for v in eqn.invars if hasattr(v.aval, "shape")]
        if eqn.primitive.name == "sub" and set(inputs) == {"output", "labels"}:
            found |= shapes[0] != shapes[1] and all(shapes)
        known |= dict(zip(eqn.outvars, given_all, strict=False))
    return found, [None if isinstance(v, core.Literal) else known.get(v) for v in jaxpr.outvars]


def _inner(eqn: Any) -> list[Any]:
    found = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
    return [jaxpr for jaxpr in found if hasattr(jaxpr, "eqns")]
