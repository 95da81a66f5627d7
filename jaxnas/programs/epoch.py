"""One epoch of training steps, compiled: shared by search and retraining."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.data import Dataset
from jaxnas.ops.meshes import spread
from jaxnas.programs.examples import Examples
from jaxnas.programs.layout import ONE, Layout

_IN_FLIGHT = 2
"""Calls that may be under way at once: enough to keep a device busy, few enough to know where it is."""


class Epoch(NamedTuple):
    """What one epoch gave.

    Attributes:
      state: the state after the last step whose losses and gradients were finite.
      metrics: per metric a float array `[steps]`; of many states `[S, steps]`.
      compile_seconds: time of the first call, which compiles; 0 if nothing was compiled.
      done: steps done, fewer than asked for if `after_call` stopped it.
    """

    state: Any
    metrics: dict[str, np.ndarray]
    compile_seconds: float
    done: int


class Call(NamedTuple):
    """What is known after a compiled call of one or more steps.

    Attributes:
      done: steps of the epoch done.
      steps: steps of the whole epoch.
      state: the state after it. The next call takes its buffers, so it must not be kept.
      fine: bool `[]`, on the device: whether all losses and gradients so far were finite; of many states `[S]`.
      collected: `{name: [k]}` of every call so far; of many states `[S, k]`.
      settled: `{name: [k]}` or `[S, k]` of a call whose values are there already, one of the last.
      compile_seconds: of this epoch so far.
    """

    done: int
    steps: int
    state: Any
    fine: jax.Array
    collected: list[dict[str, Any]]
    settled: dict[str, Any]
    compile_seconds: float


class EpochProgram(NamedTuple):
    """One epoch, compiled, with the data on the device; of one state, or of several that are stepped as one.

    Attributes:
      run: `(state, rng, streams, *, start=0, before=None, after_call=None) -> Epoch`. A stream is an index array
        `[steps, B]`, or None for a batch of None. `state` is donated. An epoch that was cut off is resumed with
        `start`, the steps done, and `before`, their metrics. `after_call(Call) -> bool` is called after each compiled
        call; True ends the epoch there.
      again: `(state, rng, streams, *, start=0, chunk=None)`: makes the steps again and yields `(steps done, state)`
        after each call, of `chunk` steps. The next call takes the state's buffers.
      watched: metrics that must stay finite. Once one is not, the state no longer changes.
      layout: of the states: with S of them the state, the key and the streams have a leading axis S.
    """

    run: Callable[..., Epoch]
    again: Callable[..., Iterator[tuple[int, Any]]]
    watched: Sequence[str]
    layout: Layout


def make_epoch(
    step: Callable,
    dataset: Dataset,
    *,
    images: Examples,
    labels: Examples,
    watched: Sequence[str],
    steps_per_call: int | None = None,
    layout: Layout = ONE,
    whole: Sequence[bool] = (),
) -> EpochProgram:
    """Builds the program of one epoch.

    Args:
      step: `(state, *batches) -> (state, metrics)`, pure; a batch is `(x, y)` or None.
      dataset: for normalisation and augmentation, which happen inside jit.
      images, labels: the training data (raw), on the device.
      watched, layout: see `EpochProgram`.
      steps_per_call: see `jaxnas.runs.options.RunOptions`.
      whole: for each batch of a step whether it is left whole on every device. Default: all are spread over them.
    """

    if steps_per_call is not None and (not isinstance(steps_per_call, int) or steps_per_call < 1):
        raise ValueError(f"steps_per_call must be a positive integer or None; got {steps_per_call!r}.")
    call = steps_program(step, dataset, watched, layout, whole)
    compiled: set[Any] = set()
    data = layout.share((images, labels))

    def sizes(streams) -> tuple[int, int]:
        """Steps of the epoch, and of a call."""
        steps = next(s.shape[-2] for s in streams if s is not None)
        chunk = steps_per_call or (1 if jax.default_backend() == "cpu" else 50)
        return steps, max(d for d in range(1, min(chunk, steps) + 1) if steps % d == 0)

    def run(state, rng, streams, *, start=0, before=None, after_call=None) -> Epoch:
        steps, chunk = sizes(streams)
        fine = _finite(before, watched).all(-1) if start else np.ones(rng.shape, bool)
        carry, collected, seconds, done = (
            (state, layout.place(jnp.asarray(fine))),
            [before] if start else [],
            0.0,
            start,
        )
        form = (chunk, *(s is None for s in streams))
        for first in range(start, steps, chunk):
            part = _part(streams, first, chunk)
            began = time.perf_counter()
            carry, metrics = call(carry, rng, part, *data, first)
            collected.append(metrics)
            if form not in compiled:
                jax.block_until_ready(carry)
                seconds = time.perf_counter() - began
                compiled.add(form)
                settled = metrics
            elif len(collected) > _IN_FLIGHT:
                settled = jax.block_until_ready(collected[-1 - _IN_FLIGHT])
            else:
                settled = collected[0]
            done = first + chunk
            if len(collected) % 100 == 0 and not np.any(carry[1]):
                break
            if after_call is not None and after_call(
                Call(done, steps, carry[0], carry[1], collected, settled, seconds)
            ):
                break
        return Epoch(carry[0], gathered(collected), seconds, done)

    def again(state, rng, streams, *, start=0, chunk=None) -> Iterator[tuple[int, Any]]:
        steps, usual = sizes(streams)
        chunk = chunk or usual
        carry = state, layout.place(jnp.asarray(np.ones(rng.shape, bool)))
        for first in range(start, steps, chunk):
            carry, _ = call(carry, rng, _part(streams, first, chunk), *data, first)
            yield first + chunk, carry[0]

    return EpochProgram(run, again, watched, layout)


def steps_program(
    step: Callable, dataset: Dataset, watched: Sequence[str], layout: Layout = ONE, whole: Sequence[bool] = ()
) -> Any:
    """The compiled call of an epoch: `((state, fine), rng, streams, images, labels, first) -> (carry, metrics)`.

    For the arguments see `make_epoch` and `EpochProgram.run`; the streams hold the steps of one call, of which `first`
    is the first.
    """
    # Metrics lie as the state does: of one search everywhere, of many where their search is.
    options: Any = {} if layout.sharding is None else {"out_shardings": layout.sharding}
    return jax.jit(layout.mapped(_steps_of_one(step, dataset, watched, whole)), donate_argnums=0, **options)


def _part(streams: Sequence[Any], first: int, count: int) -> tuple[Any, ...]:
    """What streams hold of so many steps."""
    return tuple(None if s is None else s[..., first : first + count, :] for s in streams)


def _steps_of_one(step: Callable, dataset: Dataset, watched: Sequence[str], whole: Sequence[bool]) -> Callable:
    """Builds `(carry, rng, streams, images, labels, first) -> (carry, metrics)`: the steps of a call."""

    def steps_of_one(carry, rng, streams, images, labels, first):
        def one(carry, position_and_streams):
            position, indices = position_and_streams
            state, fine = carry
            batches: list[Any] = []
            for i, chosen in enumerate(indices):
                batch_rng = jax.random.fold_in(jax.random.fold_in(rng, position), i)
                if chosen is None:
                    batches.append(None)
                else:
                    put = _same if any(whole[i : i + 1]) else spread
                    chosen = put(chosen)
                    batches.append(put((dataset.prepare(images.rows(chosen), batch_rng), labels.rows(chosen))))
            new, metrics = step(state, *batches)
            for name in watched:
                fine = fine & jnp.isfinite(metrics.get(name, 0.0))
            state = jax.tree.map(lambda after, before: jnp.where(fine, after, before), new, state)
            return (state, fine), metrics

        count = next(len(s) for s in streams if s is not None)
        positions = first + jnp.arange(count)
        if count > 1:
            return jax.lax.scan(one, carry, (positions, streams))
        carry, metrics = one(carry, jax.tree.map(lambda leaf: leaf[0], (positions, streams)))
        return carry, jax.tree.map(lambda leaf: leaf[None], metrics)

    return steps_of_one


def _same(tree: Any) -> Any:
    return tree


def gathered(collected: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The metrics of several calls as one array `[steps]` each; of many states `[S, steps]`."""
    return jax.tree.map(lambda *parts: np.concatenate(parts, -1), *jax.device_get(collected))


def own_buffers(state: Any) -> Any:
    """A copy that may be donated, of strong types, so that the second step does not compile again."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, getattr(leaf, "dtype", None)), state)


def first_bad(metrics: dict[str, np.ndarray], watched: Sequence[str]) -> int | None:
    """The first step with a loss or gradient that was not finite, or None."""
    finite = _finite(metrics, watched)
    return None if finite.all() else int(np.argmin(finite))


def _finite(metrics: dict[str, np.ndarray], watched: Sequence[str]) -> np.ndarray:
    return np.all([np.isfinite(metrics[name]) for name in watched if name in metrics], axis=0)
