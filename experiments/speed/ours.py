"""One process of our side: `python -m experiments.speed.ours WORKLOAD [WEIGHTS.npz]`; the weights are written there."""

import functools
import inspect
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict

import jaxnas
from experiments.quickstart import Net
from experiments.speed.workload import Clock, Workload
from jaxnas import LayerChoice, darts, enas, spaces
from jaxnas.callbacks import Callback
from jaxnas.data import Dataset
from jaxnas.model.architecture import INPUT
from jaxnas.programs.epoch import own_buffers

IMAGE = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


class Candidates(nn.Module):
    """A net of one LayerChoice with n convolutions, to see what candidates cost."""

    n: int = 2
    channels: int = 16

    @nn.compact
    def __call__(self, x, arch):
        x = nn.relu(nn.Conv(self.channels, (3, 3), name="stem")(x))
        kernels = [(3, 5)[i % 2] for i in range(self.n)]
        convs = [nn.Conv(self.channels, (k, k), name=f"candidate_{i}") for i, k in enumerate(kernels)]
        x = nn.relu(LayerChoice(convs, key="conv")(x, arch))
        return nn.Dense(10, name="head")(x.mean((1, 2)))


class InBfloat16(nn.Module):
    """A model whose weights are kept in float32 and used in bfloat16."""

    inner: nn.Module

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        def half(variables):
            return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)

        def run(module, x):
            return jaxnas.functional.call(module, x, {"arch": arch, "train": train})

        cast = nn.map_variables(run, "params", trans_in_fn=half, init=self.is_initializing(), mutable=True)
        return cast(self.inner, x.astype(jnp.bfloat16)).astype(jnp.float32)


NETS = {
    "quickstart": Net,
    "candidates": Candidates,
    "nasbench201": spaces.nasbench201,
    "enas_macro": functools.partial(spaces.enas_macro, dropout=0.0),  # both sides must compute the same
    "darts": spaces.darts,
}


class SideError(Exception):
    """What cannot be measured here, as a sentence."""


class _FirstStepDone(Exception):
    """Ends a search whose start was measured."""


class Follow(Callback):
    """Times the epochs of a search, from the end of one to the end of the next; or only its first step."""

    def __init__(self, clock: Clock, *, only_start: bool):
        self.clock, self.only_start = clock, only_start

    def on_begin(self, run):
        self.clock.start()

    def on_step_end(self, step):
        if self.clock.first_step is None:
            jax.block_until_ready(step.metrics)
            self.clock.first_step_done()
            self.compile_seconds = step.compile_seconds
        if self.only_start:
            raise _FirstStepDone

    def on_epoch_end(self, state, metrics):
        jax.block_until_ready(state)
        self.clock.lap()
        if len(self.clock.seconds) == self.clock.workload.warm + self.clock.workload.timed:
            raise _FirstStepDone


def model_of(workload: Workload):
    net = NETS[workload.net]
    if workload.dtype == "float32":
        return net(**workload.options)
    if workload.net == "darts":
        return net(**workload.options, dtype=jnp.bfloat16)
    return InBfloat16(net(**workload.options))


def weight_optimizer(workload: Workload):
    """NNI's example has its own; else the paper's, at its start."""
    if workload.net == "quickstart":
        return optax.sgd(0.001, momentum=0.9)
    if workload.algorithm == "enas":
        return enas.paper_weight_optimizer(steps_per_epoch=10_000)
    return darts.paper_weight_optimizer(epochs=50, steps_per_epoch=10_000)


def search(workload: Workload, path: str | None) -> None:
    """`darts.search` as a user calls it; without validation, which NNI's epochs do not have either."""
    clock = Clock(workload)
    follow = Follow(clock, only_start=workload.kind == "start")
    images, labels = workload.images()
    half = (0.5, 0.5, 0.5)
    more = {}
    if workload.seeds > 1:
        if "seeds" not in inspect.signature(darts.search).parameters:
            raise SideError("jaxnas.darts.search takes one seed at a time")
        more["seeds"] = list(range(workload.seeds))
    try:
        darts.search(
            model_of(workload),
            Dataset(images, labels, num_classes=10, mean=half, std=half),
            epochs=workload.warm + workload.timed + 1,
            batch_size=workload.batch,
            order=workload.order,
            weight_optimizer=weight_optimizer(workload),
            validate_every=10_000,
            callbacks=[follow],
            progress=False,
            **more,
        )
    except _FirstStepDone:
        clock.report(compile_seconds=follow.compile_seconds, **_where())


def steps(workload: Workload, path: str | None) -> None:
    """Steps of the algorithm on one pair of batches."""
    clock = Clock(workload)
    model = model_of(workload)
    space = jaxnas.space(model, IMAGE)
    train, valid = ((jnp.asarray(x), jnp.asarray(y, jnp.int32)) for x, y in workload.batches())
    options = {"weight_optimizer": weight_optimizer(workload)}
    if workload.algorithm == "enas":
        policy = enas.controller(space)
        algorithm = enas.algorithm(model, policy, controller_optimizer=optax.adam(1e-3), **options)
        valid = None
    else:
        arch_optimizer = darts.paper_arch_optimizer()
        algorithm = darts.algorithm(model, space, arch_optimizer=arch_optimizer, order=workload.order, **options)
    state = own_buffers(algorithm.init(jax.random.key(0), train))
    if workload.algorithm == "darts":
        state = state.replace(alphas=_alphas(space, state.alphas))
    if path is not None:
        np.savez(path, **_exported(workload, state, policy if workload.algorithm == "enas" else None))

    start = time.perf_counter()
    step = jax.jit(algorithm.step, donate_argnums=0).lower(state, train, valid)
    tracing = time.perf_counter() - start
    step = step.compile()
    more = {"trace_seconds": tracing, "compile_seconds": time.perf_counter() - start - tracing, **_where()}
    if workload.kind == "compile":
        clock.report(**more)
        return

    losses = []
    clock.start()
    for _ in range(workload.warm + workload.timed):
        for _ in range(workload.block):
            state, report = step(state, train, valid)
            if len(losses) < 2:
                found = {name: float(report[f"{name}_loss"]) for name in ("valid", "train") if f"{name}_loss" in report}
                losses.append(found)
                clock.first_step_done()
        jax.block_until_ready(state)
        clock.lap()
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        more["device_peak_bytes"] = statistics["peak_bytes_in_use"]
    clock.report(losses=losses, **more)


def _alphas(space, given) -> dict[str, jax.Array]:
    """Far from even, so that mixed-up candidates would show in the loss. Gates are open, as NNI's always are."""
    random = np.random.RandomState(2)
    alphas = {}
    for key in given:  # not all choices have logits
        spec, drawn = space[key], random.randn(*given[key].shape)
        gate = spec.kind == INPUT and spec.n_chosen is None
        alphas[key] = jnp.asarray(np.full_like(drawn, 30.0) if gate else drawn, jnp.float32)
    return alphas


def _exported(workload: Workload, state, policy) -> dict[str, np.ndarray]:
    """Weights `params/…`, and `alphas/KEY` or, for each step, the architecture that ENAS will sample."""
    arrays = {f"params/{path}": leaf for path, leaf in flatten_dict(state.params, sep="/").items()}
    if policy is None:
        return arrays | {f"alphas/{key}": alpha for key, alpha in state.alphas.items()}
    layers = sum(key.endswith("/op") for key in policy.space)
    count = (workload.warm + workload.timed) * workload.block
    ops, skips = np.zeros((count, layers), int), np.zeros((count, layers, layers), bool)
    for i in range(count):  # as the algorithm's step draws them
        rng = jax.random.split(jax.random.fold_in(state.rng, i), 4)[0]
        arch = policy.sample(state.policy.params, rng).arch
        for layer in range(layers):
            ops[i, layer] = arch[f"layer_{layer}/op"]
            taken = arch.get(f"layer_{layer}/skip", ())
            skips[i, layer, : len(taken)] = taken
    return {**arrays, "ops": ops, "skips": skips}


def _where() -> dict[str, str]:
    return {"device": jax.devices()[0].device_kind, "version": f"JAX {jax.__version__}"}


def main() -> None:
    workload = Workload.parse(sys.argv[1])
    run = search if workload.kind in ("search", "start") else steps
    try:
        run(workload, sys.argv[2] if len(sys.argv) > 2 else None)
    except SideError as e:
        sys.exit(f"not measured: {e}")


if __name__ == "__main__":
    main()
