"""Searches, trainings and evaluations over many devices: the numbers of one device, few sums, nothing gathered.

This file is also the program that runs them: XLA makes eight devices of a CPU only where nothing has been computed yet.
Tolerance: after three epochs of a few steps weights agree to 2e-5, what is computed of them to 2e-4. (Sums over a batch
are made in another order; nothing else is different.)
"""

import collections
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import ROOT
from jax.sharding import AxisType, Mesh

import jaxnas
from jaxnas import LayerChoice, ops, runs
from jaxnas.data import Dataset
from jaxnas.errors import DataError

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Net(nn.Module):
    """Every convolution that has a form of its own on CPU, pooling, batch statistics. Kernels of different shapes."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = LayerChoice([nn.Conv(4, (3, 3)), nn.Conv(4, (1, 1))], key="merged")(x, arch)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = LayerChoice([nn.Conv(4, (3, 3), feature_group_count=4), lambda x: x], key="depthwise")(x, arch)
        x = nn.Conv(16, (1, 1))(x)
        pools = [lambda x: ops.max_pool_3x3(x, 1), lambda x: ops.avg_pool_3x3(x, 1)]
        x = LayerChoice([nn.Conv(16, (3, 3)), *pools], key="wide")(x, arch)
        return nn.Dense(3)(x.mean((1, 2)))


class Small(nn.Module):
    """Compiles in a moment."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = LayerChoice([nn.Dense(4), nn.Sequential([nn.Dense(4), nn.tanh])], key="op")(x.reshape(len(x), -1), arch)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = nn.Dropout(0.2, deterministic=not train)(x)
        return nn.Dense(3)(x)


def noisy(rng, x):
    return x + 0.1 * jax.random.normal(rng, x.shape)


def data(n_test=0):
    random = np.random.RandomState(0)
    x = random.randint(0, 256, (96, 5, 5, 3)).astype(np.uint8)
    y = (x.mean((1, 2, 3)) / 86).astype(int)
    test = {"x_test": x[:n_test] // 2, "y_test": y[:n_test]} if n_test else {}
    return Dataset(x, y, num_classes=3, augment=noisy, **test)


def darts(model=Small, **options):
    return jaxnas.darts.search(
        model, data(), **{"order": 1, "epochs": 3, "batch_size": 16, "progress": False, **options}
    )


def assert_close(one, other):
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for a, b in zip(one.history, other.history, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if isinstance(a[name], float) and not name.endswith("seconds"):
                assert a[name] == pytest.approx(b[name], abs=2e-4), name


def assert_same_bits(one, other):
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    strip = lambda record: {k: v for k, v in record.items() if not k.endswith("seconds")}  # noqa: E731
    assert [strip(each) for each in one.history] == [strip(each) for each in other.history]


# ---------------------------------------------------------------------- what one device gives


@case
def darts_over_eight(folder):
    one, eight = darts(Net, epochs=2), darts(Net, epochs=2, devices=8, workdir=folder / "run")
    assert_close(one, eight)
    assert one.arch == eight.arch
    assert runs.read_config(folder / "run")["devices"] == {"platform": "cpu", "mesh": {"data": 8}}
    leaf = jax.tree.leaves(eight.variables)[0]
    assert len(leaf.sharding.device_set) == 1, "the result lies on one device, for what is done with it next"


@case
def second_order_over_a_mesh_of_explicit_axes(folder):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    assert_close(darts(order=2), darts(order=2, mesh=mesh))


@case
def steps_in_one_call(folder):
    assert_close(darts(steps_per_call=3), darts(steps_per_call=3, devices="all"))


@case
def seeds_times_data(folder):
    singles = [darts(seed=seed) for seed in (0, 1)]
    for single, own in zip(singles, darts(seeds=[0, 1], devices=8, workdir=folder / "run"), strict=True):
        assert_close(single, own)
    config = runs.read_config(folder / "run" / "seed_1")
    assert (config["batching"], config["devices"]["mesh"]) == ("shard", {"seeds": 2, "data": 4})
    axes = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "seeds"))  # in another order
    for single, own in zip(singles, darts(seeds=[0, 1, 2], mesh=axes)[:2], strict=True):  # one lane is a copy
        assert_close(single, own)
    for single, own in zip(singles, darts(seeds=[0, 1], batching="sequence", devices=4), strict=True):
        assert_close(single, own)


@case
def enas_over_eight_and_two_by_four(folder):
    few = {"controller_steps": 2, "controller_samples": 3, "derive_samples": 4, "derive_examples": 30}
    options = {"epochs": 2, "batch_size": 16, "train_portion": 0.5, "progress": False, **few}
    one = jaxnas.enas.search(Small, data(), **options)
    assert_close(one, jaxnas.enas.search(Small, data(), devices=8, **options))
    assert_close(one, jaxnas.enas.search(Small, data(), devices=8, seeds=[0, 1], **options)[0])


@case
def fit_and_evaluate(folder):
    model = jaxnas.apply_fixed_architecture(Small, {"op": 1})
    options = {"epochs": 3, "batch_size": 24, "progress": False, "optimizer": optax.sgd(0.1)}
    one, eight = (jaxnas.training.fit(model, data(21), devices=n, **options) for n in (1, 8))  # 21 = 2 * 8 + 5
    assert_close(one, eight)
    np.testing.assert_allclose(one.predict(data(21).x_test), eight.predict(data(21).x_test), atol=1e-4)
    supernet = darts(epochs=1).variables
    archs = [{"op": 0}, {"op": 1}, {"op": 0}]
    for options in ({}, {"recalibrate": True, "split": "train", "batch_size": 40}):
        alone = jaxnas.evaluate(Small, supernet, archs, data(21), **options)
        spread = jaxnas.evaluate(Small, supernet, archs, data(21), devices=jax.devices()[4:], **options)
        for name in alone:
            np.testing.assert_allclose(alone[name], spread[name], atol=1e-5)


@case
def planned_as_it_runs(folder):
    options = {"batch_size": 16, "seeds": [0, 1]}
    forecast = jaxnas.plan(Small, data(), jaxnas.darts.method(order=1), devices=8, **options)
    assert forecast.device == "each of 8 cpu devices: 2 (seeds) x 4 (data)"
    assert set(forecast.steps[0].cost.collectives) == {"all-reduce"}
    with pytest.raises(ValueError, match="planned only for the devices that are here"):
        jaxnas.plan(Small, data(), jaxnas.darts.method(order=1), devices=8, topology="v5e:2x2", **options)


# ---------------------------------------------------------------------- resuming


@case
def resumed_on_other_devices(folder):
    whole = darts(devices=4)
    stopped = darts(devices=4, workdir=folder / "four", max_minutes=0)
    assert len(stopped.history) == 1
    for count in (4, 1, 8):
        path = folder / f"on {count}"
        shutil.copytree(folder / "four", path)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            resumed = darts(devices=count, workdir=path)
        said = [str(each.message) for each in caught if "began on" in str(each.message)]
        assert len(said) == (count != 4), said
        (assert_same_bits if count == 4 else assert_close)(whole, resumed)
        config = runs.read_config(path)
        assert config.get("devices", {}).get("mesh") == ({"data": count} if count > 1 else None)
        assert ("changes" in config) == (count != 4)


@case
def seeds_resumed_on_other_devices(folder):
    seeds = {"seeds": [0, 1, 2], "batching": "shard"}  # on an even number of devices one lane is a copy
    whole = darts(**seeds, devices=8)
    assert darts(**seeds, devices=8, workdir=folder / "run", max_minutes=0)
    shutil.copytree(folder / "run", folder / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for each, own in zip(whole, darts(**seeds, devices=1, workdir=folder / "run"), strict=True):
            assert_close(each, own)
    for each, own in zip(whole, darts(**seeds, devices=8, workdir=folder / "again"), strict=True):
        assert_same_bits(each, own)


# ---------------------------------------------------------------------- the compiled programs

COLLECTIVE = re.compile(r" = (.*?) (all-[a-z-]+|collective-[a-z-]+|reduce-scatter|ragged-[a-z-]+)\(")


def collectives(folder):
    """Of each program of steps that was compiled: `[(operation, shapes of what it sums)]`."""
    for path in sorted(folder.glob("*after_optimizations.txt")):
        found = COLLECTIVE.findall(path.read_text())
        yield [
            (name, [tuple(map(int, re.findall(r"\d+", one))) for one in re.findall(r"\w+\[([\d,]*)\]", types)])
            for types, name in found
        ]


def check_sums(folder, gradients):
    """Each kernel's gradient is summed over the devices once per gradient; nothing but sums goes between devices."""
    programs = [each for each in collectives(folder) if each]
    assert programs
    for program in programs:
        assert {name for name, _ in program} == {"all-reduce"}, program
        shapes = collections.Counter(shape for _, together in program for shape in together)
        largest = max(int(np.prod(shape)) for shape in shapes)
        assert largest <= 3 * 3 * 16 * 16, f"something larger than the largest kernel: {shapes}"
        assert all(16 not in shape[:1] or shape == (16,) for shape in shapes), f"a batch: {shapes}"
        for kernel, count in shapes.items():
            assert len(kernel) < 2 or count <= gradients, f"{kernel} is summed {count} times"
    return programs


def steps_compiled():  # in a process of its own, with XLA's flags for writing programs down
    jax.config.update("jax_enable_compilation_cache", False)
    darts(Net, epochs=1, devices=8)


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """Runs this file on eight devices; gives `(its arguments) -> lines that it printed`."""

    def run(*arguments, flags=""):
        both = f"--xla_force_host_platform_device_count=8 {flags}"
        env = {**os.environ, "XLA_FLAGS": both, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, __file__, *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()

    return run


@pytest.fixture(scope="module")
def outcomes(eight, tmp_path_factory):
    return dict(json.loads(line) for line in eight("cases", tmp_path_factory.mktemp("devices")))


def test_gradients_are_summed_once_and_no_batch_is_gathered(eight, tmp_path):
    eight("steps", flags=f"--xla_dump_to={tmp_path} --xla_dump_hlo_module_re=.*steps_of_one.*")
    [program] = check_sums(tmp_path, gradients=2)  # of the weights, and of the architecture
    assert len(program) <= 8, "sums are made together"


# ---------------------------------------------------------------------- what is refused


@case
def refusals(folder):
    cpus, sixteen = jax.devices(), {"batch_size": 16}
    for options, error, message in (
        ({"devices": 3}, DataError, "a batch of 16 cannot be spread evenly over 3 devices; give batch_size=15 or 18"),
        ({"devices": 8, "batch_size": 4}, DataError, "batch of 4 cannot .* over 8 devices; give batch_size=8, or an"),
        ({"devices": 9}, ValueError, "devices=9: there are 8 cpu devices. XLA_FLAGS=--xla_force_host.*=9 divides"),
        ({"devices": 0}, ValueError, "devices=0: there are 8 cpu devices"),
        ({"devices": "eight"}, TypeError, "devices must be a number, .*got 'eight'"),
        ({"devices": True}, TypeError, "devices must be a number, .*got True"),
        ({"devices": [0, 1]}, TypeError, "devices must be a number, .*got 0 in a list"),
        ({"devices": []}, ValueError, "the list is empty"),
        ({"devices": cpus[:1] * 2}, ValueError, "devices must differ"),
        ({"devices": 2, "mesh": Mesh(cpus, ("data",))}, ValueError, "devices or mesh, not both"),
        ({"mesh": cpus}, TypeError, "mesh must be a jax.sharding.Mesh"),
        ({"mesh": Mesh(cpus, ("batch",))}, ValueError, r"must have an axis 'data', .*; it has batch \(8\)"),
        ({"mesh": Mesh(np.reshape(cpus, (4, 2)), ("data", "model"))}, ValueError, r"this one also has model \(2\)"),
        (
            {"mesh": Mesh(np.reshape(cpus, (4, 2)), ("data", "seeds"))},
            ValueError,
            "has an axis 'seeds' of 2.*give seeds",
        ),
        (
            {"mesh": Mesh(cpus, ("data",)), "seeds": [0, 1], "batching": "shard"},
            ValueError,
            "spreads seeds over an axis 'seeds' of a mesh; this one has none",
        ),
        (
            {"devices": 8, "seeds": [0, 1], "batch_size": 6},
            DataError,
            "batch of 6 cannot be spread evenly over 4 devices",
        ),
    ):
        with pytest.raises(error, match=message):
            darts(**{**sixteen, **options}, workdir=folder / "run")
    assert not (folder / "run").exists()
    model, variables = jaxnas.apply_fixed_architecture(Small, {"op": 1}), darts(epochs=1).variables
    with pytest.raises(DataError, match="batch of 10 cannot be spread evenly over 4"):
        jaxnas.training.fit(model, data(), batch_size=10, devices=4)
    with pytest.raises(DataError, match="batch of 256 cannot be spread evenly over 7"):
        jaxnas.evaluate(Small, variables, [{"op": 0}], data(), devices=7)


def test_devices_of_another_platform_are_refused(monkeypatch):
    class Elsewhere:
        platform = "tpu"

    cpu = jax.devices()
    monkeypatch.setattr(jax, "local_devices", lambda: [Elsewhere()])
    with pytest.raises(ValueError, match="has devices of the platform cpu, but .* default, tpu; .*JAX_PLATFORMS=cpu"):
        darts(devices=cpu)
    with pytest.raises(ValueError, match="mesh: has devices of the platform cpu"):
        darts(mesh=Mesh(cpu, ("data",)))


def test_accelerators_are_used_as_far_as_the_batch_allows(monkeypatch):
    from jaxnas.programs import devices

    class Accelerator:
        platform = "gpu"

    there = [Accelerator() for _ in range(6)]
    monkeypatch.setattr(jax, "local_devices", lambda: there)
    monkeypatch.setattr(devices, "Mesh", lambda grid, names, **_: (names, grid.shape))
    find = lambda size, **more: devices.find_mesh(None, None, batch_size=size, **more)  # noqa: E731
    assert find(96) == (("data",), (6,))
    assert find(64) == (("data",), (4,))
    assert find(7) is None  # what is not asked for refuses nothing
    assert find(64, searches=4) == (("seeds", "data"), (3, 2))
    assert find(7, searches=4) == (("seeds",), (3,))


@pytest.mark.parametrize("name", CASES)
def test_over_devices(outcomes, name):
    assert outcomes[name] == "as it should be"


def test_without_devices_on_a_cpu_nothing_changes():
    assert jax.local_device_count() == 1
    from jaxnas.programs import devices, layout

    for asked in (None, 1, "all", jax.devices()):
        assert devices.find_mesh(asked, None, batch_size=7) is None
    assert devices.find_mesh(None, Mesh(jax.devices(), ("data",)), batch_size=7) is None
    assert layout.single(None) is layout.ONE


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    if sys.argv[1] == "steps":
        steps_compiled()
    else:
        for name, function in CASES.items():
            if sys.argv[3:] and name not in sys.argv[3:]:
                continue
            folder = Path(sys.argv[2]) / name
            folder.mkdir()
            try:
                function(folder)
                outcome = "as it should be"
            except Exception as e:
                import traceback

                outcome = "".join(traceback.format_exception(e))[-3000:]
            print(json.dumps([name, outcome]), flush=True)
