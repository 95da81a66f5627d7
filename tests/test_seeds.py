"""Many seeds at once: each gives what its single search gives, and what ends one leaves the others alone."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import ROOT, AfterStep, Block, CutOffError, assert_same_run, planted_data, same_bits
from hypothesis import given
from hypothesis import strategies as st

import jaxnas
from jaxnas import InputChoice, LayerChoice, runs
from jaxnas.data import Dataset
from jaxnas.errors import RunEndedError
from jaxnas.model.functional import model_fns
from jaxnas.policies.simple import independent
from jaxnas.programs import layout as batching
from jaxnas.report import compare
from jaxnas.runs import checkpoints

pytestmark = pytest.mark.usefixtures("quickly_compiled")

AS_ONE = ("map", "vmap", "shard")
SEEDS = (3, 0, 1)
TRACES = []


class Net(nn.Module):
    """With batch statistics, dropout and both kinds of choice."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        TRACES.append(train)
        x = LayerChoice([Block(4, rate=0.2), nn.Dense(4)], key="op")(x, arch, train=train)
        x = InputChoice(n_candidates=2, n_chosen=1, key="skip")([x, jnp.tanh(x)], arch)
        return nn.Dense(2)(x)


class Fated(nn.Module):
    """Its loss is NaN from step 12 on where a random weight is large, which it is for seeds 1 and 2 of 0 to 3."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        count = self.variable("batch_stats", "count", lambda: jnp.zeros(()))
        fate = self.param("fate", nn.initializers.uniform(1.0), ())
        if train:
            count.value = count.value + 1
        x = jnp.where((jax.lax.stop_gradient(fate) > 0.5) & (count.value > 12), jnp.nan, x)
        x = LayerChoice([nn.Conv(3, (3,)), nn.Conv(3, (5,))], key="op")(x[..., None], arch)
        return nn.Dense(2)(x.mean(1))


def noisy(rng, x):
    return x + 0.1 * jax.random.normal(rng, x.shape)


def data():
    return Dataset(*planted_data(200), augment=noisy)


OPTIONS = {"epochs": 3, "batch_size": 10, "progress": False}


def darts(**options):
    return jaxnas.darts.search(options.pop("model", Net), data(), **{**OPTIONS, **options})


def enas(**options):
    fewer = {"controller_steps": 2, "controller_samples": 3, "derive_samples": 4, "derive_examples": 30}
    own = {"train_portion": 0.6, "controller": independent}  # compiles faster than an LSTM
    return jaxnas.enas.search(Net, data(), **{**OPTIONS, **fewer, **own, **options})


SEARCHES = {"darts": darts, "enas": enas}


@pytest.fixture(scope="module")
def singles():
    """What the single searches find, and the runs they leave."""
    found = {}

    def single(name, seed, folder):
        if (name, seed) not in found:
            found[name, seed] = SEARCHES[name](seed=seed, workdir=folder), folder
        return found[name, seed]

    return single


def assert_close(one, other, atol=2e-5):
    assert one.arch == other.arch
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)
    for a, b in zip(one.history, other.history, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if isinstance(a[name], float) and not name.endswith("seconds"):
                assert a[name] == pytest.approx(b[name], abs=10 * atol), name
        for key, shares in a["probabilities"].items():
            assert shares == pytest.approx(b["probabilities"][key], abs=10 * atol)


@pytest.mark.parametrize(
    ("name", "how"), [*(("darts", how) for how in ("sequence", *AS_ONE)), ("enas", "sequence"), ("enas", "shard")]
)
def test_each_seed_finds_what_its_single_search_finds(name, how, singles, tmp_path, tmp_path_factory):
    seeds = SEEDS if name == "darts" else SEEDS[:2]
    results = SEARCHES[name](seeds=seeds, batching=how, workdir=tmp_path)
    assert len(results) == len(seeds)
    for seed, result in zip(seeds, results, strict=True):
        folder = tmp_path / f"seed_{seed}"
        single, alone = singles(name, seed, tmp_path_factory.mktemp("single") / "run")
        assert runs.read_config(folder)["seed"] == seed
        if how == "sequence":
            same_bits(single, result)
            assert_same_run(alone, folder)
            assert runs.read_config(folder) == runs.read_config(alone)
        else:
            assert_close(single, result)
            assert runs.read_config(folder)["batching"] == how
        assert {file.name for file in folder.iterdir()} == {file.name for file in alone.iterdir()}
        assert result.candidates == () if name == "darts" else result.top(1)[0].arch == result.arch
    assert not (tmp_path / "checkpoints").exists()
    compared = compare.read([tmp_path / f"seed_{seed}" for seed in seeds])
    assert [len(members) for members in compared.groups.values()] == [len(seeds)]
    with pytest.raises(jaxnas.RunError, match=r"a run for each of several seeds; name one, such as .*seed_3"):
        runs.read_config(tmp_path)
    with pytest.raises(RunEndedError, match="all its seeds have finished"):
        SEARCHES[name](seeds=seeds, batching=how, workdir=tmp_path)


def test_several_steps_in_one_call():
    [result] = darts(seeds=[0], batching="vmap", steps_per_call=5)
    assert_close(darts(seed=0, steps_per_call=5), result)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_second_seed_of_a_sequence_compiles_nothing(name):
    def traces(seeds):
        TRACES.clear()
        SEARCHES[name](seeds=seeds, batching="sequence")
        return len(TRACES)

    TRACES.clear()
    functions = model_fns(Net)
    space = jaxnas.space(Net, jax.ShapeDtypeStruct((1, 12), jnp.float32))
    TRACES.clear()
    functions.init(jax.random.key(0), jax.ShapeDtypeStruct((10, 12), jnp.float32), space.uniform())
    of_init = len(TRACES)
    assert traces([0, 1]) - traces([0]) == of_init > 0


def cut():
    raise CutOffError


@pytest.mark.parametrize("how", ["sequence", "vmap"])
def test_interrupted_seeds_go_on_to_the_same_bits(how, tmp_path):
    def search(**options):
        return darts(seeds=SEEDS, batching=how, **options)

    whole = search()
    options = {"workdir": tmp_path, "checkpoint_minutes": 0}
    with pytest.raises(CutOffError):
        search(**options, callbacks=[AfterStep(0, 4, cut)])
    with pytest.raises(jaxnas.Interrupted, match="SIGTERM after step 7 of epoch 1; saved in .*the same call resumes"):
        search(**options, callbacks=[AfterStep(0, 7, lambda: signal.raise_signal(signal.SIGTERM))])
    stopped = search(**options, max_minutes=0)
    assert len(stopped) == (1 if how == "sequence" else 3)
    assert [len(result.history) for result in stopped] == [1] * len(stopped)

    def cut_in_the_review(record):  # of the second seed
        if (record["seed"], record["epoch"]) == (0, 1):
            raise CutOffError

    with pytest.raises(CutOffError):
        search(**options, progress=cut_in_the_review)
    resumed = search(**options)
    for one, other in zip(whole, resumed, strict=True):
        same_bits(one, other)
        assert one.arch == other.arch
        assert {key: value.tolist() for key, value in one.alphas.items()} == {
            key: value.tolist() for key, value in other.alphas.items()
        }
        assert one.history[-1]["arch"] == other.history[-1]["arch"]
    assert not list(tmp_path.glob("**/checkpoints"))


def test_an_interrupted_run_goes_on_as_it_was_begun(tmp_path):
    darts(seeds=SEEDS, batching="map", workdir=tmp_path, max_minutes=0)
    for changed, message in (
        ({"batching": "sequence"}, "batching was 'map', is now 'sequence'"),
        ({"batching": "vmap"}, "batching was 'map', is now 'vmap'"),
        ({"seeds": (0, 1, 3)}, r"seeds was \[3, 0, 1\], is now \[0, 1, 3\]"),
        ({"epochs": 4}, "epochs was 3, is now 4"),
        ({"resume": False}, "with resume=True the same call resumes it"),
    ):
        with pytest.raises(jaxnas.RunError, match=message):
            darts(**{"seeds": SEEDS, "workdir": tmp_path, **changed})
    darts(seeds=SEEDS, workdir=tmp_path)
    assert {runs.read_config(tmp_path / f"seed_{seed}")["batching"] for seed in SEEDS} == {"map"}
    with pytest.raises(jaxnas.RunError, match=r"seed_3 holds a run.*configuration: batching was 'map', is now None"):
        darts(seeds=SEEDS, batching="sequence", workdir=tmp_path)


def test_a_sequence_takes_further_seeds(tmp_path):
    before = darts(seeds=[0], batching="sequence", workdir=tmp_path)
    after = darts(seeds=[0, 1], batching="sequence", workdir=tmp_path)
    same_bits(before[0], after[0])
    assert after[0].arch == before[0].arch
    assert after[0].state is None  # read back
    np.testing.assert_array_equal(after[0].alphas["op"], before[0].alphas["op"])
    assert len(after[1].history) == 3
    with pytest.raises(jaxnas.RunError, match=r"seed_0 holds a run.*batching was None, is now 'vmap'"):
        darts(seeds=[0, 1], batching="vmap", workdir=tmp_path)


class StopAt(jaxnas.callbacks.Callback):
    """Stops one seed; notes what each is told."""

    def __init__(self, seed, epoch, told):
        self.at, self.told = (seed, epoch), told

    def on_begin(self, run):
        self.seed = run.seed

    def on_step_end(self, step):
        assert np.shape(step.metrics["train_loss"]) == (1,)
        self.told.append((self.seed, step.epoch, step.step))

    def on_epoch_end(self, state, metrics):
        assert jax.tree.map(jnp.shape, state.alphas) == {"op": (2,), "skip": (2,)}
        if (self.seed, metrics["epoch"]) == self.at:
            return jaxnas.callbacks.Stop("enough")
        return None


@pytest.mark.parametrize("how", ["sequence", "vmap"])
def test_a_seed_that_stops_early_leaves_the_others_alone(how, tmp_path):
    told = []
    whole = darts(seeds=SEEDS, batching=how, callbacks=[StopAt(3, 0, told)])
    assert [len(result.history) for result in whole] == [1, 3, 3]
    steps = {seed: [(e, s) for each, e, s in told if each == seed] for seed in SEEDS}
    assert steps[3] == [(0, step) for step in range(1, 11)]
    assert steps[0] == steps[1] == [(epoch, step) for epoch in range(3) for step in range(1, 11)]
    for epoch in (1, 2):  # cut off after one seed has ended
        with pytest.raises(CutOffError):
            darts(seeds=SEEDS, batching=how, callbacks=[StopAt(3, 0, []), AfterStep(epoch, 4, cut)], workdir=tmp_path)
        assert runs.read_result(tmp_path / "seed_3")["stopped"] == "enough"
    resumed = darts(seeds=SEEDS, batching=how, callbacks=[StopAt(3, 0, [])], workdir=tmp_path)
    for one, other in zip(whole, resumed, strict=True):
        same_bits(one, other)


@pytest.mark.parametrize("how", ["sequence", "vmap"])
def test_a_loss_that_is_not_finite_ends_its_own_seed_only(how, tmp_path):
    def search(**options):
        return darts(model=Fated, seeds=range(4), batching=how, workdir=tmp_path, **options)

    if how == "vmap":  # the failure is before the checkpoint from which it goes on
        with pytest.raises(CutOffError):
            search(checkpoint_minutes=0, callbacks=[AfterStep(1, 7, cut)])
    with pytest.raises(jaxnas.NonFiniteLossError) as told:
        search()
    error = told.value
    assert (error.epoch, error.step) == (1, 2)
    for text in (
        "seed 1: train_loss",
        "became nan in epoch 1, step 2",
        "with seed 2 in epoch 1",
        "other seeds have finished",
    ):
        assert text in str(error)
    assert [len(result.history) for result in error.result] == [3, 1, 1, 3]
    assert [runs.status(tmp_path / f"seed_{seed}") for seed in range(4)] == ["finished", "failed", "failed", "finished"]
    for seed, result in enumerate(error.result):
        if seed in (1, 2):
            with pytest.raises(jaxnas.NonFiniteLossError) as alone:
                darts(model=Fated, seed=seed)
            assert_close(result, alone.value.result)
            assert runs.read_result(tmp_path / f"seed_{seed}")["step"] == 2
        else:
            assert_close(result, darts(model=Fated, seed=seed))
    with pytest.raises(jaxnas.RunError, match=r"all its seeds have ended; 1, 2 failed.*Remove .*seed_1 to search it"):
        search()
    shutil.rmtree(tmp_path / "seed_1")
    with pytest.raises(jaxnas.NonFiniteLossError, match="seed 1.*seed 2"):
        search()
    assert runs.read_result(tmp_path / "seed_1")["step"] == 2


def test_progress_tells_the_seeds_apart(capsys):
    darts(seeds=[0, 1], batching="vmap", progress=True)
    out = capsys.readouterr().out
    for text in ("seeds 0, 1 as one: vmap", "seed 0  epoch 1/3  train loss", "seed 1  epoch 3/3  train loss"):
        assert out.count(text) == 1
    darts(seeds=[0, 1], batching="sequence", progress=True)
    out = capsys.readouterr().out
    for text in ("seed 0, 1 of 2\n", "seed 1, 2 of 2\n"):
        assert out.count(text) == 1
    records = []
    darts(seeds=[4, 2], batching="vmap", progress=records.append)
    assert [(record["seed"], record["epoch"]) for record in records] == [(s, e) for e in range(3) for s in (4, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [1, 2, 1]}, "seeds must differ, but 1 is given more than once"),
        ({"seeds": [1], "seed": 1}, "give seed or seeds, not both"),
        ({"seeds": 3}, "seeds must be a list of integers; got 3"),
        ({"seeds": [-1]}, "seed must be an integer from 0"),
        ({"seeds": [1], "batching": "pmap"}, "batching must be one of"),
        ({"batching": "vmap"}, "give their seeds as well"),
    ],
)
def test_what_contradicts_itself_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        darts(**options, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@given(st.integers(1, 5), st.sampled_from(AS_ONE))
def test_taking_apart_undoes_putting_together(count, how):
    layout = batching.make_layout(how, count, one_path=False)
    trees = [{"key": jax.random.key(i), "x": (np.full((2, 3), i, np.float32), None), "n": i} for i in range(count)]
    parts = layout.parts(layout.place(layout.join(trees)))
    assert len(parts) == count
    for tree, part in zip(trees, parts, strict=True):
        assert (jax.random.key_data(part["key"]) == jax.random.key_data(tree["key"])).all()
        np.testing.assert_array_equal(part["x"][0], tree["x"][0])
        assert part["x"][0].dtype == np.float32
        assert (part["x"][1], int(part["n"])) == (None, tree["n"])


def test_the_default_is_one_after_the_other_on_cpu():
    assert jax.local_device_count() == 1
    assert {batching.default_batching(n, one_path=one_path) for n in (1, 2, 9) for one_path in (True, False)} == {
        "sequence"
    }


def test_seeds_spread_over_two_devices_survive_a_kill(tmp_path):
    """Three seeds on two devices, by command: killed, gone on with, and as good as the single searches."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags.strip(), "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    model = ("--model", "experiments.quickstart:Net", "--data", "digits", "--epochs", "2", "--checkpoint-minutes", "0")

    def command(out):
        return [sys.executable, "-m", "jaxnas", "search", "darts", *model, "--seeds", "0,1,2", "--out", str(out)]

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(command(whole), check=False, timeout=600, **pipes)
    assert done.returncode == 0, done.stderr
    assert "seeds 0, 1, 2 as one: shard" in done.stdout  # the default on several devices
    assert f"jaxnas compare {whole / 'seed_0'}" in done.stdout
    process = subprocess.Popen(command(killed), **pipes)
    while process.poll() is None and (checkpoints.newest(killed / "checkpoints") or "") < "000000-00-00000004":
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert checkpoints.newest(killed / "checkpoints") is not None
    done = subprocess.run(command(killed), check=False, timeout=600, **pipes)
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    for seed in range(3):
        assert_same_run(whole / f"seed_{seed}", killed / f"seed_{seed}")
    from experiments.quickstart import Net as Quickstart

    single = jaxnas.darts.search(Quickstart, "digits", epochs=2, seed=2, progress=False)
    history = runs.read_history(whole / "seed_2")
    assert history[-1]["train_loss"] == pytest.approx(single.history[-1]["train_loss"], rel=1e-3)
    assert history[-1]["alphas"]["conv1"] == pytest.approx(single.history[-1]["alphas"]["conv1"], abs=1e-4)
