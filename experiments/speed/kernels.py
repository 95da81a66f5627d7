"""Times the formulations of convolutions and pooling from which `jaxnas.ops` chooses."""

from __future__ import annotations

import statistics
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

import jaxnas
from experiments.quickstart import Net
from jaxnas.model.functional import model_fns
from jaxnas.ops import convolution, max_pool

# batch, side, channels, features, kernel
SHAPES = (
    (64, 32, 3, 6, 5),
    (64, 16, 6, 16, 5),
    (64, 16, 16, 6, 5),
    (64, 32, 16, 16, 3),
    (64, 16, 32, 32, 3),
    (64, 8, 64, 64, 3),
)


def medians(functions: dict[str, Any], *args: Any, rounds: int = 20) -> dict[str, float]:
    """Milliseconds of each compiled function, in turns."""
    compiled = {name: jax.jit(function) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for i in range(rounds + 1):
        for name, function in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(function(*args))
            times[name] += [1e3 * (time.perf_counter() - began)] if i else []
    return {name: statistics.median(values) for name, values in times.items()}


def show(title: str, found: dict[str, float]) -> None:
    print(f"{title:28s}" + "   ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True)


def wide(x: jax.Array, w: jax.Array, together: int) -> jax.Array:
    """`jaxnas.ops.convolution._wide_convolve` with a given number of outputs at once."""
    kh, kw, c, d = w.shape
    shifts = [jnp.pad(w, ((0, 0), (i, together - 1 - i), (0, 0), (0, 0))) for i in range(together)]
    kernel = jnp.stack(shifts, 3).reshape(kh, kw + together - 1, c, together * d)
    pads = [(k // 2, k // 2) for k in (kh, kw)]
    y = lax.conv_general_dilated(x, kernel, (1, together), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return y.reshape(*x.shape[:3], d)


def convolutions() -> None:
    for batch, side, channels, features, kernel in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (batch, side, side, channels))
        w = jax.random.normal(keys[1], (kernel, kernel, channels, features))
        g = jax.random.normal(keys[2], (batch, side, side, features))
        title = f"{kernel}x{kernel} {channels}->{features} at {side}x{side}"
        show(f"{title}, outputs", medians({f"at once {n}:": partial(wide, together=n) for n in (1, 2, 4, 8)}, x, w))
        geometry = convolution._geometry(x, w, (1, 1), "SAME", (1, 1), False, None)
        ways = {
            "convolution": convolution._kernel_grad_by_convolution,
            "dot per tap": convolution._kernel_grad_by_taps,
        }
        show("  kernel gradient", medians({name: partial(way, geometry) for name, way in ways.items()}, x, g))


def pooling() -> None:
    x = jax.random.normal(jax.random.key(0), (64, 32, 32, 6))

    def gradient(pool: Any) -> Any:
        return jax.grad(lambda x: jnp.square(pool(x, (2, 2), strides=(2, 2))).sum())

    show("max pool 2x2 at 32x32x6", medians({"flax": gradient(nn.max_pool), "ours": gradient(max_pool)}, x))


def quickstart() -> None:
    """The passes of a step of the quickstart net."""
    model, x = model_fns(Net), jax.random.normal(jax.random.key(0), (64, 32, 32, 3))
    weights = jaxnas.space(Net, x).uniform()
    variables = dict(model.init(jax.random.key(1), x, weights))
    params = variables.pop("params")

    def loss(params: Any, weights: Any, x: jax.Array) -> jax.Array:
        logits = model.apply({"params": params, **variables}, x, weights, train=True, mutable=["batch_stats"])[0]
        return -jax.nn.log_softmax(logits)[:, 0].mean()

    passes = {"loss": loss, "gradient of weights": jax.grad(loss), "of the architecture": jax.grad(loss, 1)}
    show("quickstart net", medians(passes, params, weights, x))


if __name__ == "__main__":
    jaxnas.keep_heap()
    print("Milliseconds, medians.")
    convolutions()
    pooling()
    quickstart()
