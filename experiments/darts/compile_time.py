"""How long the evaluation network takes to initialise, and a step of its training to trace, compile and run."""

import argparse
import time

import jax
import jax.numpy as jnp

import jaxnas
from experiments.darts.settings import PAPER
from experiments.darts.steps import final_optimizer
from jaxnas import spaces
from jaxnas.model import functional
from jaxnas.programs.evaluation import accuracy, cross_entropy, with_auxiliary
from jaxnas.training import retrain


def seconds(function, *args, **options):
    """Returns the result of a call, and how long it took."""
    start = time.perf_counter()
    result = jax.block_until_ready(function(*args, **options))
    return result, time.perf_counter() - start


def measure(cells: int, channels: int, batch_size: int, steps: int) -> dict[str, float]:
    network = spaces.darts_evaluation(channels=channels, cells=cells)
    model = functional.model_fns(jaxnas.apply_fixed_architecture(network, spaces.arch_of(spaces.DARTS_V2)))
    batch = jnp.zeros((batch_size, 32, 32, 3)), jnp.zeros(batch_size, jnp.int32)
    variables, init = seconds(model.init, jax.random.key(0), batch[0])
    params = variables.pop("params")
    optimizer = final_optimizer(PAPER.final, steps_per_epoch=520)
    opt_state = optimizer.init(params)
    state = retrain.TrainState(params, variables, opt_state, jax.random.key(1), jnp.asarray(1000, jnp.int32))
    step = retrain._make_step(model, optimizer, with_auxiliary(cross_entropy), accuracy, steps=312_000)
    lowered, trace = seconds(jax.jit(step, donate_argnums=0).lower, state, batch)
    compiled, compiling = seconds(lowered.compile)
    times = []
    for _ in range(steps):
        (state, _), took = seconds(compiled, state, batch)
        times.append(took)
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**30
    return {"init": init, "trace": trace, "compile": compiling, "step": min(times), "GiB of temporaries": memory}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.darts.compile_time", description=__doc__)
    parser.add_argument("--cells", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--channels", type=int, default=36)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    print(f"seconds, DARTS_V2, {options.channels} channels, batch {options.batch_size}, {jax.devices()[0].device_kind}")
    for cells in options.cells:
        found = measure(cells, options.channels, options.batch_size, options.steps)
        print(f"{cells} cells", "  ".join(f"{what} {value:.1f}" for what, value in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
