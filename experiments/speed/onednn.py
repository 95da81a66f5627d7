"""Convolutions and steps by oneDNN beside the same by XLA: `python -m experiments.speed.onednn [--steps nb201 enas]`.

Needs the extra `cpu`. Both are compiled in one process and run in turns; medians, first to ninth decile.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxnas
from experiments.speed.ours import IMAGE, model_of, weight_optimizer
from experiments.speed.workload import Workload
from jaxnas import darts, enas
from jaxnas.ops import conv_general_dilated, onednn
from jaxnas.programs.epoch import own_buffers

# side, channels, features, kernel, stride, dilation, groups; batches of 64
SHAPES = (
    (32, 16, 16, 3, 1, 1, 1),
    (16, 32, 32, 3, 1, 1, 1),
    (8, 64, 64, 3, 1, 1, 1),
    (32, 36, 36, 3, 1, 1, 1),
    (32, 36, 36, 5, 1, 1, 1),
    (32, 16, 32, 3, 2, 1, 1),
    (16, 32, 32, 3, 1, 2, 1),
    (32, 3, 6, 5, 1, 1, 1),
    (16, 6, 16, 5, 1, 1, 1),
    (32, 16, 16, 1, 1, 1, 1),
    (32, 16, 16, 3, 1, 1, 16),
    (32, 16, 16, 5, 1, 1, 16),
    (32, 36, 36, 5, 1, 1, 36),
    (32, 16, 16, 3, 1, 2, 16),
)
STEPS = {
    "nb201": Workload("step", "nasbench201"),
    "nb201-small": Workload("step", "nasbench201", options={"channels": 16, "cells": 1}),
    "enas": Workload("step", "enas_macro", options={"layers": 12, "filters": 36}, algorithm="enas"),
    "darts-small": Workload("step", "darts", options={"channels": 8, "cells": 4}),
    "quickstart": Workload("step", "quickstart"),
}


def both(make: Callable[[], Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
    """What `make` traces and compiles, with oneDNN and without."""
    made = {}
    for name, switch in (("xla", "0"), ("onednn", "1")):
        os.environ[onednn.SWITCH] = switch
        made[name] = make()
    return made


def in_turns(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each, the first two rounds left out."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 2):
        for name, function in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(function())
            times[name] += [1e3 * (time.perf_counter() - began)] if turn >= 2 else []
    return times


def said(times: dict[str, list[float]]) -> str:
    def spread(values: list[float]) -> str:
        low, high = np.percentile(values, (10, 90))
        return f"{statistics.median(values):.3g} ({low:.3g} to {high:.3g})"

    ratio = statistics.median(times["xla"]) / statistics.median(times["onednn"])
    return f"{spread(times['xla'])} | {spread(times['onednn'])} | {ratio:.2f}"


def compiled_pass(function: Callable, args: tuple) -> tuple[Callable[[], Any], bool]:
    """The compiled function of these arrays, and whether oneDNN is in it."""
    program = jax.jit(lambda *args: function(*args)).lower(*args).compile()  # a function of its own: traced anew
    return lambda: program(*args), "jaxnas_onednn" in program.as_text()


def convolutions(rounds: int) -> None:
    print("| convolution | pass | XLA, ms | oneDNN, ms | ratio |\n|---|---|---|---|---|")
    for side, channels, features, kernel, stride, dilation, groups in SHAPES:
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (64, side, side, channels))
        w = jax.random.normal(keys[1], (kernel, kernel, channels // groups, features))

        def convolve(x, w, stride=stride, dilation=dilation, groups=groups):
            return conv_general_dilated(
                x,
                w,
                (stride, stride),
                "SAME",
                rhs_dilation=(dilation, dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )

        g = jax.random.normal(keys[2], jax.eval_shape(convolve, x, w).shape)
        passes = {
            "forward": lambda x, w, g: convolve(x, w),
            "input gradient": lambda x, w, g: jax.vjp(lambda x: convolve(x, w), x)[1](g)[0],
            "kernel gradient": lambda x, w, g: jax.vjp(lambda w: convolve(x, w), w)[1](g)[0],
        }
        name = f"{kernel}×{kernel}, {channels}→{features} at {side}²"
        name += f", stride {stride}" if stride > 1 else ""
        name += f", dilation {dilation}" if dilation > 1 else ""
        name += ", depthwise" if groups > 1 else ""
        for which, function in passes.items():
            pair = both(partial(compiled_pass, function, (x, w, g)))
            line = said(in_turns({by: program for by, (program, _) in pair.items()}, rounds))
            line = line if pair["onednn"][1] else "left to XLA | | "
            print(f"| {name} | {which} | {line} |", flush=True)


def step(name: str, rounds: int) -> None:
    work = STEPS[name]

    def compiled():
        model = model_of(work)
        space = jaxnas.space(model, IMAGE)
        train, valid = ((jnp.asarray(x), jnp.asarray(y, jnp.int32)) for x, y in work.batches())
        options = {"weight_optimizer": weight_optimizer(work)}
        if work.algorithm == "enas":
            valid = None
            policy = enas.controller(space)
            algorithm = enas.algorithm(model, policy, controller_optimizer=optax.adam(1e-3), **options)
        else:
            algorithm = darts.algorithm(model, space, arch_optimizer=darts.paper_arch_optimizer(), **options)
        state = own_buffers(algorithm.init(jax.random.key(0), train))
        program = jax.jit(algorithm.step, donate_argnums=0).lower(state, train, valid).compile()
        kept = [state]

        def one() -> Any:
            kept[0], report = program(kept[0], train, valid)
            return report

        return one

    print(f"| {name} | step | {said(in_turns(both(compiled), rounds))} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", nargs="*", choices=[*STEPS], help="steps of searches instead of convolutions")
    arguments = parser.parse_args()
    if onednn.convolution_kernels() != "onednn":
        parser.exit(1, f"oneDNN is not in use: {onednn.why_not() or 'the device is no CPU'}\n")
    jaxnas.keep_heap()
    if arguments.steps is None:
        convolutions(arguments.rounds)
    for name in arguments.steps or ():
        step(name, arguments.rounds)


if __name__ == "__main__":
    main()
