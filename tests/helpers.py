"""Nets, data and comparisons that several tests need."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxnas
from jaxnas import InputChoice, LayerChoice, runs
from jaxnas.oneshot.engine import plan as plans
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS

ROOT = Path(__file__).resolve().parents[1]


class Block(nn.Module):
    """Dense, batch norm, dropout; with a `train` argument."""

    features: int = 4
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(self.features)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.Dropout(self.rate, deterministic=not train)(x)


class Nest(nn.Module):
    """A candidate that holds a choice of its own."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        return LayerChoice([Block(), nn.Dense(4)], key="inner")(x, arch, train=train)


class Zoo(nn.Module):
    """Every kind of choice and candidate. Input `[B, 3]`, output `[B, 2]`."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        candidates = {"nest": Nest(), "block": Block(), "seq": nn.Sequential([nn.Dense(4), jnp.tanh])}
        x = LayerChoice(candidates, key="layer")(x, arch, train=train)
        y = LayerChoice([Block(), jnp.tanh, nn.Dense(4)])(x, arch, train=train)
        skip = InputChoice(n_candidates=1, key="skip")([x], arch)
        y = y if skip is None else y + skip
        z = InputChoice(choose_from=["x", "y", "xy"], n_chosen=2, key="two")({"x": x, "y": y, "xy": x * y}, arch)
        z = nn.BatchNorm(use_running_average=not train, momentum=0.9)(z)
        one = InputChoice(n_candidates=2, n_chosen=1, key="one", reduction="mean")([z, x], arch)
        return nn.Dense(2)(one)


ZOO_ARCH = {"layer": "nest", "inner": 0, "LayerChoice_1": 2, "skip": 0, "two": ("x", "xy"), "one": 0}


class NoChoice(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        return nn.Dense(2)(x)


class Planted(nn.Module):
    """Only the squares of the signal tell the classes apart; the noise does not help."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        signal, noise = x[:, :6], x[:, 6:]
        layers = {"skip": lambda x: x, "square": jnp.square, "sine": jnp.sin, "zero": jnp.zeros_like}
        y = LayerChoice(layers, key="op")(signal, arch)
        y = InputChoice(n_candidates=2, n_chosen=1, key="one")([noise, y], arch)
        y = InputChoice(n_candidates=2, key="any")([y, noise], arch)
        return nn.Dense(2)(y)


def planted_data(n=1000, seed=0):
    x = np.random.RandomState(seed).randn(n, 12).astype(np.float32)
    radius = (x[:, :6] ** 2).sum(1)
    return x, (radius > np.median(radius)).astype(np.int32)


PLANTED_OPTIONS = {
    "epochs": 20,
    "batch_size": 50,
    "arch_optimizer": optax.adam(5e-2, b1=0.5),
    "weight_optimizer": optax.sgd(0.05, momentum=0.9),
    "progress": False,
}


def make_plan(model, data, **options):
    return plans.make_plan(model, {**SEARCH_DEFAULTS, "data": data, "epochs": 1, "batch_size": 8, **options})


def assert_trees_close(a, b, *, atol=1e-6):
    """Compares two pytrees leaf by leaf, structure included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5), a, b)


def same_bits(a, b):
    leaves = zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True)
    assert all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)
    for one, other in zip(a.history, b.history, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name] == other[name] for name in one if not name.endswith("seconds"))


def assert_same_run(one, other):
    """Compares all that two runs leave, bit for bit, but for times."""

    def without_times(value):
        if isinstance(value, dict):
            return {k: without_times(v) for k, v in value.items() if not k.endswith("seconds")}
        return value

    histories = [[without_times(record) for record in runs.read_history(path)] for path in (one, other)]
    assert histories[0] == histories[1]
    assert without_times(runs.read_result(one)) == without_times(runs.read_result(other))
    assert (one / "weights.msgpack").read_bytes() == (other / "weights.msgpack").read_bytes()
    if (one / "final_arch.json").exists():
        assert (one / "final_arch.json").read_bytes() == (other / "final_arch.json").read_bytes()


class CutOffError(Exception):
    """Stands for whatever ends a process."""


def cut_after(epoch):
    def progress(record):
        if record["epoch"] == epoch:
            raise CutOffError

    return progress


class AfterStep(jaxnas.callbacks.Callback):
    """Does something after a step of an epoch; -1 is the last."""

    def __init__(self, epoch, step, act):
        self.at, self.act = (epoch, step), act

    def on_step_end(self, step):
        if self.at in ((step.epoch, step.step), (step.epoch, step.step - step.steps - 1)):
            self.act()


def every_architecture(space):
    def values(spec):
        if spec.n_chosen is None:
            return [np.array(mask) for mask in itertools.product([False, True], repeat=spec.n_candidates)]
        return [np.int32(i) for i in range(spec.n_candidates)]

    combined = itertools.product(*(values(spec) for spec in space.values()))
    archs = [dict(zip(space, values, strict=True)) for values in combined]
    return {key: np.stack([arch[key] for arch in archs]) for key in space}


def position(space, arch):
    """Where a sampled architecture stands in `every_architecture(space)`."""
    index = 0
    for key, spec in space.items():
        value = arch[key]
        if spec.n_chosen is None:
            value = value @ 2 ** jnp.arange(spec.n_candidates)[::-1]
        index = index * spec.size + value
    return index


class EnasPlanted(nn.Module):
    """Only the squares of the signal tell the classes apart; the noise does not help."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = InputChoice(n_candidates=2, n_chosen=1, key="input")([x[:, 6:], x[:, :6]], arch)
        functions = {"same": lambda x: x, "square": jnp.square, "sine": jnp.sin, "zero": jnp.zeros_like}
        layers = {name: nn.Sequential([function, nn.Dense(2)]) for name, function in functions.items()}
        return LayerChoice(layers, key="op")(x, arch)


ENAS_OPTIONS = {
    "epochs": 10,
    "batch_size": 50,
    "controller_steps": 30,
    "controller_samples": 10,
    "controller_optimizer": optax.adam(5e-3),
    "weight_optimizer": optax.sgd(0.1, momentum=0.9),
    "train_portion": 0.6,
    "derive_samples": 30,
    "derive_examples": 200,
    "skip_weight": 0.0,
    "progress": False,
}
