"""What several tests need."""

import os
from pathlib import Path

# Programs that several tests or their subprocesses compile are compiled once. Each worker has a folder of its own.
_CACHE = Path(__file__).resolve().parents[1] / ".jax_cache" / os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import settings

from jaxnas import InputChoice, LayerChoice

# The same examples in every CI run; new ones at home.
settings.register_profile("ci", derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs real data in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def cifar10(shared_data):
    """Real CIFAR-10."""
    pytest.importorskip("tensorflow_datasets")
    from jaxnas.data import load

    return load("cifar10", data_dir=shared_data / "tfds")


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


@pytest.fixture
def inputs():
    """A batch of eight with three features."""
    return jnp.asarray(np.random.RandomState(0).randn(8, 3), jnp.float32)


def assert_trees_close(a, b, *, atol=1e-6):
    """Compares two pytrees leaf by leaf, structure included."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5), a, b)
