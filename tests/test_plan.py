"""`jaxnas.plan`: what a search will take, before it runs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import jaxnas
from jaxnas.programs.counting import program_cost
from jaxnas.programs.forecast import size_in_bytes

ROOT = Path(__file__).resolve().parents[1]
N = 32
PRODUCT = 2 * N**3
SQUARE = jax.ShapeDtypeStruct((N, N), jnp.float32)
MANY = jax.ShapeDtypeStruct((10, N, N), jnp.float32)


def flops(f, *shapes, **options):
    return program_cost(jax.jit(f), *shapes, **options).flops


def test_a_product_counts_its_multiplications_and_additions():
    cost = program_cost(jax.jit(jnp.matmul), SQUARE, SQUARE)
    assert cost.flops == pytest.approx(PRODUCT, rel=0.01)
    assert cost.bytes == pytest.approx(3 * 4 * N**2, rel=0.01)
    assert cost.memory == pytest.approx(3 * 4 * N**2, rel=0.01)
    assert cost.collectives == {}
    assert cost.seconds > 0


@pytest.mark.parametrize("compiled", [True, False])
def test_the_body_of_a_scan_counts_as_often_as_it_runs(compiled):
    def nested(c, xs):
        def body(c, x):
            d = jax.lax.scan(lambda d, _: (d @ x, None), c, length=3)[0]
            return c @ x + d, None

        return jax.lax.scan(body, c, xs)[0]

    assert flops(nested, SQUARE, MANY, compiled=compiled) == pytest.approx(40 * PRODUCT, rel=0.02)

    def unrolled(c, xs):
        return jax.lax.scan(lambda c, x: (c @ x, None), c, xs, unroll=10)[0]

    assert flops(unrolled, SQUARE, MANY, compiled=compiled) == pytest.approx(10 * PRODUCT, rel=0.02)

    def branches(which, c, xs):
        return jax.lax.cond(which, lambda: jax.lax.scan(lambda c, x: (c @ x, None), c, xs)[0], lambda: c @ c)

    shapes = jax.ShapeDtypeStruct((), jnp.bool_), SQUARE, MANY
    assert flops(branches, *shapes, compiled=compiled) == pytest.approx(10 * PRODUCT, rel=0.02)


class Wide(nn.Module):
    """One dense layer of two, and eight layers after it, as a loop or one by one."""

    scanned: bool = False

    @nn.compact
    def __call__(self, x, arch):
        x = x.reshape(len(x), -1)
        x = jaxnas.LayerChoice([nn.Dense(96), nn.Dense(96, use_bias=False)], key="op")(x, arch)
        if self.scanned:
            each = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=8)
            return nn.Dense(10)(each()(x, None)[0])
        for _ in range(8):
            x = Layer()(x, None)[0]
        return nn.Dense(10)(x)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(96)(x)), None


class Named(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        x = nn.Dense(96)(x.reshape(len(x), -1))
        return nn.Dense(10)(jaxnas.LayerChoice({"dense": nn.Dense(96), "skip": lambda x: x}, key="op")(x, arch))


def test_the_step_of_a_search_by_hand():
    batch, parts = 50, {}
    for scanned in (False, True):
        forecast = jaxnas.plan(Wide(scanned), "digits", jaxnas.darts.method(), batch_size=batch, epochs=4)
        [step] = forecast.steps
        parts[scanned] = step.cost
        # On the training batch two forward products, eight, one; as many of gradients of kernels; of gradients of
        # inputs as many but for the first layer's. On the validation batch no gradients of kernels.
        first, deep, last = 2 * 64 * 96, 8 * 96 * 96, 96 * 10
        weights = 2 * (first + deep + last) + deep + last
        logits = (first + deep + last) + (deep + last)
        assert step.cost.flops == pytest.approx(2 * batch * (weights + logits), rel=0.12)
        assert step.per_epoch == forecast.epochs + 10 == 14  # 718 examples
        assert step.trains == "weights and architecture"
        assert forecast.flops == pytest.approx(4 * 14 * step.cost.flops)
        sizes = 2 * 64 * 96 + 96 + 8 * (96 * 96 + 96) + 96 * 10 + 10
        assert forecast.params == sizes
        assert forecast.data_bytes == 1437 * 64 + 4 * 1437
        assert forecast.memory > forecast.state_bytes + forecast.data_bytes
    assert parts[True].flops == pytest.approx(parts[False].flops, rel=0.1)


def test_the_state_is_that_of_the_search():
    forecast = jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), epochs=1, compiled=False)
    result = jaxnas.darts.search(Wide(), "digits", epochs=1, progress=False)
    assert forecast.state_bytes == size_in_bytes(result.state)
    assert forecast.params == sum(leaf.size for leaf in jax.tree.leaves(result.variables["params"]))
    assert forecast.memory is None
    assert "not known: it was not compiled" in repr(forecast)


@pytest.mark.parametrize("name", jaxnas.METHODS)
def test_every_method_can_be_planned(name):
    forecast = jaxnas.plan(Named(), "digits", jaxnas.METHODS[name](), batch_size=64, compiled=False)
    assert all(step.per_epoch > 0 and step.cost.flops > 1e6 for step in forecast.steps)
    assert f"search with {name}" in repr(forecast)
    assert "nan" not in repr(forecast)


def test_several_seeds():
    one = jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), epochs=1)
    for batching, rows in (("sequence", 1), ("vmap", 3), ("map", 3), ("shard", 3)):
        several = jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), epochs=1, seeds=[0, 1, 2], batching=batching)
        assert several.flops == pytest.approx(3 * one.flops, rel=0.05)
        assert several.state_bytes == rows * one.state_bytes
        assert f"3 seeds ({batching})" in repr(several)


def test_what_was_planned_is_not_compiled_again(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import jax, jaxnas
from test_plan import Wide

jax.config.update("jax_compilation_cache_dir", {str(tmp_path)!r})
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), epochs=1)
print("planned")
jaxnas.darts.search(Wide(), "digits", epochs=1, progress=False)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert len(list(tmp_path.glob("jit_steps_of_one*-cache"))) == 1


def test_the_command_says_it_and_writes_nothing(tmp_path):
    search = [sys.executable, "-m", "jaxnas", "search", "darts", "--model", "experiments.quickstart:Net"]

    def run(*more):
        return subprocess.run([*search, *map(str, more)], cwd=ROOT, capture_output=True, text=True)

    out = tmp_path / "run"
    planned = run("--dry-run", "--out", out)
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"^parameters +45,670$", planned.stdout, re.M)
    assert re.search(r"^memory at once +[0-9.]+ MiB$", planned.stdout, re.M)
    assert not out.exists()
    assert run("--dry-run", "--epochs", 0).returncode == 1
    for wrong, message in (((), "needed to keep"), (("--out", out, "--topology", "v5e:2x2"), "for --dry-run")):
        refused = run(*wrong)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_unsound_plans_are_refused():
    with pytest.raises(TypeError, match=r"method must be what a method function gives"):
        jaxnas.plan(Wide(), "digits", "darts")
    with pytest.raises(TypeError, match=r"no argument 'epoch'. Did you mean 'epochs'"):
        jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), epoch=3)
    with pytest.raises(jaxnas.DataError, match="batch"):
        jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), batch_size=1000)
    if importlib.util.find_spec("libtpu") is None:
        with pytest.raises(ValueError, match=r"'v5e:2x2' is compiled for by libtpu: pip install -e \"\.\[tpu\]\""):
            jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), topology="v5e:2x2")


def test_a_tpu_that_is_not_here():
    pytest.importorskip("libtpu")
    forecast = jaxnas.plan(Wide(True), "digits", jaxnas.darts.method(), topology="v5e:2x2", epochs=4)
    here = jaxnas.plan(Wide(True), "digits", jaxnas.darts.method(), epochs=4)
    assert forecast.flops == pytest.approx(here.flops, rel=0.2)
    assert "TPU v5 lite (v5e:2x2, compiled ahead of time)" in repr(forecast)
    with pytest.raises(ValueError, match=r"topology='v5e:nonsense'"):
        jaxnas.plan(Wide(), "digits", jaxnas.darts.method(), topology="v5e:nonsense")
