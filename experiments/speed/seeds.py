"""What many seeds at once cost: seconds per step of all of them, by batching. `python -m experiments.speed.seeds`.

The quickstart net, or a small supernet of NAS-Bench-201 (8 channels, one cell per stage), on random images of
CIFAR-10's size in batches of 64. A step is the search's own: two batches for DARTS (alphas, then weights), one for ENAS
(weights of a sampled architecture), images taken from the data inside the program.
"""

import argparse
import functools
import json
import statistics
import time

import jax
import numpy as np
import optax

from experiments.quickstart import Net
from jaxnas import darts, enas, spaces
from jaxnas.data import Dataset
from jaxnas.data.batches import epoch_batches
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS
from jaxnas.oneshot.engine.plan import make_plan
from jaxnas.programs.epoch import make_epoch, own_buffers
from jaxnas.programs.examples import on_device
from jaxnas.programs.layout import BATCHINGS, ONE, make_layout

BATCH = 64
NETS = {"quickstart": Net, "nasbench201": functools.partial(spaces.nasbench201, channels=8, cells=1)}


def algorithm_of(name, net, space):
    if name == "darts":
        optimizers = {"weight_optimizer": optax.sgd(0.025, momentum=0.9), "arch_optimizer": optax.adam(3e-4)}
        return darts.algorithm(net, space, **optimizers)
    return enas.algorithm(
        net, enas.controller(space), weight_optimizer=optax.sgd(0.05), controller_optimizer=optax.adam(3.5e-4)
    )


def runner(name, net, how, count, steps):
    """A function that runs that many steps of that many seeds, and waits for them."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (10_000, 32, 32, 3), np.uint8)
    dataset = Dataset(images, random.integers(0, 10, 10_000), num_classes=10)
    plan = make_plan(net, {**SEARCH_DEFAULTS, "data": dataset, "epochs": 1, "batch_size": BATCH})
    algorithm = algorithm_of(name, net, plan.space)
    layout = ONE if how == "sequence" else make_layout(how, count, one_path=name == "enas")
    images, labels = on_device(dataset.x_train), on_device(dataset.y_train)
    program = make_epoch(algorithm.step, dataset, images=images, labels=labels, watched=("train_loss",), layout=layout)
    sample = dataset.example(BATCH), labels.rows(slice(BATCH))

    def streams(i):
        rngs = jax.random.split(jax.random.key(i))
        parts = plan.weight_examples, plan.arch_examples if name == "darts" else None
        return tuple(
            None if examples is None else epoch_batches(rng, examples, steps=steps, batch_size=BATCH)
            for rng, examples in zip(rngs, parts, strict=True)
        )

    seeds = [[i] for i in range(count)] if how == "sequence" else [list(range(count))]
    chosen = [layout.join([streams(i) for i in group]) for group in seeds]
    rngs = [layout.join([jax.random.key(i) for i in group]) for group in seeds]
    states = [
        layout.place(own_buffers(layout.join([algorithm.init(jax.random.key(i), sample) for i in group])))
        for group in seeds
    ]

    def run():
        for i in range(len(seeds)):
            states[i] = program.run(states[i], rngs[i], chosen[i]).state
        jax.block_until_ready(states)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algorithm", choices=["darts", "enas"], default="darts")
    parser.add_argument("--net", choices=NETS, default="quickstart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batching", nargs="+", choices=BATCHINGS, default=list(BATCHINGS))
    parser.add_argument("--steps", type=int, default=None, help="per measurement; default 5 on CPU, else 100")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, taken in turns")
    parser.add_argument("--json", default=None, help="also write the seconds of every measurement here")
    options = parser.parse_args()
    steps = options.steps or (5 if jax.default_backend() == "cpu" else 100)

    cases = {(how, count): [] for count in options.seeds for how in options.batching}
    runs, compiling = {}, {}
    for case in cases:
        runs[case] = runner(options.algorithm, NETS[options.net], *case, steps)
        began = time.perf_counter()
        runs[case]()
        compiling[case] = time.perf_counter() - began
    for _ in range(options.rounds):
        for case, run in runs.items():
            began = time.perf_counter()
            run()
            cases[case].append((time.perf_counter() - began) / steps)

    device = jax.devices()[0]
    where = f"{jax.device_count()} x {device.platform} ({device.device_kind}), jax {jax.__version__}"
    print(f"{options.algorithm}, {options.net}, {where}")
    print("ms per step of all seeds: median (min to max); times the step of one seed in a sequence; s of the first run")
    first = min(options.seeds)
    one = statistics.median(cases[options.batching[0], first]) / first
    for (how, count), seconds in cases.items():
        ms = [1000 * value for value in (statistics.median(seconds), min(seconds), max(seconds))]
        ratio = statistics.median(seconds) / one
        spread = f"({ms[1]:.2f} to {ms[2]:.2f})"
        print(f"{count} seeds  {how:9}{ms[0]:9.2f} {spread:22} x{ratio:.2f} {compiling[how, count]:8.1f}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([{"batching": how, "seeds": n, "seconds": s} for (how, n), s in cases.items()], file)


if __name__ == "__main__":
    main()
