"""Measures how long a checkpoint takes, and what share of an epoch of 30 s that is.

python -m experiments.checkpoints [--repeats 9]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import jaxnas
from jaxnas.quickstart.net import Net
from jaxnas.runs import checkpoints
from jaxnas.runs.checkpoints import Position


def states():
    """`(name, state)` of searches as large as the papers'."""
    images = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
    labels = jnp.zeros(64, jnp.int32)
    nasbench201 = jaxnas.spaces.nasbench201()
    for name, model in {
        "quickstart net, DARTS": Net,
        "NAS-Bench-201 (16 channels, 15 cells), DARTS": nasbench201,
    }.items():
        algorithm = jaxnas.darts.algorithm(
            model,
            jaxnas.space(model, images),
            weight_optimizer=optax.sgd(0.1, momentum=0.9),
            arch_optimizer=jaxnas.darts.paper_arch_optimizer(),
        )
        yield name, algorithm.init(jax.random.key(0), (images, labels))
    macro = jaxnas.spaces.enas_macro()
    algorithm = jaxnas.enas.algorithm(
        macro,
        jaxnas.enas.controller(jaxnas.space(macro, images)),
        weight_optimizer=optax.sgd(0.1, momentum=0.9),
        controller_optimizer=jaxnas.enas.paper_controller_optimizer(),
    )
    yield "ENAS macro (12 layers, 36 filters)", algorithm.init(jax.random.key(0), (images, labels))


def main() -> None:
    """Prints one row per state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    print("| search | arrays | numbers, millions | save, ms | of an epoch of 30 s | restore, ms |")
    print("|---|---|---|---|---|---|")
    for name, state in states():
        leaves = [leaf for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
        with tempfile.TemporaryDirectory() as folder:
            saves, restores = [], []
            for i in range(repeats + 1):
                start = time.perf_counter()
                checkpoints.save(Path(folder), Position(i), state)
                saves.append(time.perf_counter() - start)
                start = time.perf_counter()
                assert checkpoints.restore(Path(folder), state) is not None
                restores.append(time.perf_counter() - start)
        save, low, high = statistics.median(saves[1:]), min(saves[1:]), max(saves[1:])
        size = sum(leaf.size for leaf in leaves) / 1e6
        print(
            f"| {name} | {len(leaves)} | {size:.2f} | {1000 * save:.0f} ({1000 * low:.0f} to {1000 * high:.0f}) | "
            f"{100 * save / 30:.2f} % | {1000 * statistics.median(restores[1:]):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
