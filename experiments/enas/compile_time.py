"""How long it takes to trace and compile a step of the supernet's weights, and to sample 10,000 architectures."""

import argparse
import time

import jax
import jax.numpy as jnp
import optax

import jaxnas
from jaxnas import enas, spaces
from jaxnas.programs.epoch import own_buffers
from jaxnas.programs.evaluation import cross_entropy, with_auxiliary

MODELS = {
    "macro, 6 layers": spaces.enas_macro(layers=6),
    "macro, 12 layers": spaces.enas_macro(layers=12),
    "micro, 6 cells": spaces.enas_micro(cells=6),
    "micro, 12 cells": spaces.enas_micro(cells=12),
}


def seconds(function, *args):
    """Returns the result of a call, and how long it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.perf_counter() - start


def measure(model, batch_size: int) -> dict[str, float]:
    x, y = jnp.zeros((batch_size, 32, 32, 3)), jnp.zeros(batch_size, jnp.int32)
    space = jaxnas.space(model, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    policy = enas.controller(space)
    algorithm = enas.algorithm(
        model,
        policy,
        weight_optimizer=enas.paper_weight_optimizer(steps_per_epoch=100),
        controller_optimizer=optax.adam(1e-3),
        loss_fn=with_auxiliary(cross_entropy),
    )
    state, init = seconds(algorithm.init, jax.random.key(0), (x, y))
    state = own_buffers(state)
    step = jax.jit(lambda state, batch: algorithm.step(state, batch, None), donate_argnums=0)
    lowered, trace = seconds(step.lower, state, (x, y))
    compiled, compiling = seconds(lowered.compile)
    times = []
    for _ in range(5):
        (state, _), took = seconds(compiled, state, (x, y))
        times.append(took)
    draw = jax.jit(lambda params, keys: jax.vmap(policy.sample, (None, 0))(params, keys))
    _, sample = seconds(draw, state.policy.params, jax.random.split(jax.random.key(1), 10_000))
    return {"init": init, "trace": trace, "compile": compiling, "step": sorted(times)[2], "10,000 samples": sample}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.enas.compile_time", description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    print(f"seconds, batch {options.batch_size}, {jax.devices()[0].device_kind}; sampling includes its compilation")
    for name, model in MODELS.items():
        found = measure(model, options.batch_size)
        print(name, "  ".join(f"{what} {value:.2f}" for what, value in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
