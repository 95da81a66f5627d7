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
from hypothesis import settings

# The same examples in every CI run; new ones at home. No test measures time: a busy machine fails none.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("home", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "home")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def quickly_compiled():
    """Leaves out what LLVM can optimise, for files whose time is that of compiling: XLA's own passes are as ever."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()  # other files compile as users do


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real data beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs real data in {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def cases():
    """The folder of inputs from public reports beside the checkout."""
    folder = SHARED_DATA.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"needs the files in {folder}")
    return folder


@pytest.fixture(scope="session")
def cifar10(shared_data):
    """Real CIFAR-10."""
    pytest.importorskip("tensorflow_datasets")
    from jaxnas.data import load

    return load("cifar10", data_dir=shared_data / "tfds")


@pytest.fixture
def inputs():
    """A batch of eight with three features."""
    return jnp.asarray(np.random.RandomState(0).randn(8, 3), jnp.float32)
