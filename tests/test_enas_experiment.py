"""ENAS on real images: the experiment's steps, in a form that takes a minute."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from experiments.enas.settings import SETTINGS
from experiments.enas.steps import compare, limited, run
from experiments.enas.steps import search as search_step
from jaxnas import runs, spaces

IMAGES = 4000


@pytest.fixture(scope="module")
def images(cifar10):
    """CIFAR-10 averaged to 16x16."""
    data = limited(cifar10, IMAGES)

    def smaller(x):
        return x.reshape(len(x), 16, 2, 16, 2, 3).mean((2, 4)).round().astype("uint8")

    return dataclasses.replace(data, x_train=smaller(data.x_train), x_test=smaller(data.x_test))


SMALL = SETTINGS["macro", "small"]
TINY = SMALL.search._replace(
    model=spaces.enas_macro(layers=3, filters=8), epochs=8, controller_steps=5, controller_samples=10
)


def test_the_derived_architecture_beats_the_mean_of_50_random_ones(images, tmp_path):
    """From two seeds of three at least: rounding alone makes other searches of the same seed."""
    better = []
    for seed in range(3):
        out = tmp_path / str(seed)
        assert search_step(TINY, images, out=out, seed=seed, minutes=30)
        found = compare(TINY, images, out=out, seed=seed)
        assert found["random"] == 50
        assert found["random_mean"] > 0.15  # the supernet has learnt something: chance is 0.1
        better.append(found["derived"] - found["random_mean"])
    assert sum(each > 0 for each in better) >= 2


def test_the_experiment_runs_in_pieces(images, tmp_path, capsys):
    data = limited(images, 640)
    final = SMALL.final._replace(model=spaces.enas_macro(layers=2, filters=4), epochs=2)
    search = TINY._replace(model=spaces.enas_macro(layers=2, filters=4), epochs=1, controller_steps=1)
    settings = SMALL._replace(search=search, final=final, images=None)
    for _ in range(6):
        run(settings, data, out=tmp_path, seed=0, minutes=0.01)
        if (tmp_path / "final" / "result.json").exists():
            break
    out = capsys.readouterr().out
    assert "stopped at the time limit after epoch 1 of 2" in out
    assert "trained from scratch: test error" in out
    assert runs.read_result(tmp_path / "final")["status"] == "finished"
    report = json.loads((tmp_path / "comparison.json").read_text())
    assert 0 <= report["derived"] <= 1


def test_the_papers_micro_controller_has_the_authors_biases():
    settings = SETTINGS["micro", "paper"].search
    space = jaxnas.space(spaces.enas_micro(cells=3, filters=4), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    policy = settings.controller(space)
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    params["op_bias"] = policy.init(jax.random.key(0))["op_bias"]
    assert params["op_bias"].tolist() == [10, 10, 0, 0, 0]

    def log_prob(**changes):
        arch = dict.fromkeys(space, 0) | {key: 2 for key in space if key.endswith("_op")}
        return float(policy.score(params, arch | changes).log_prob)

    # With all else zero: bound · tanh(10) or 0, and a quarter up or down in the normal cell.
    bound = 1.1 / 2.5 * np.tanh(10)
    normal, reduce = (log_prob(**{f"{kind}/node_0/x_op": 1}) - log_prob() for kind in ("normal", "reduce"))
    assert normal == pytest.approx(bound + 0.5, abs=1e-5)
    assert reduce == pytest.approx(bound, abs=1e-5)
