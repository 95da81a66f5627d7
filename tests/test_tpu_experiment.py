"""experiments/tpu: the plain Flax versions are the same supernets, and the table comes out."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from experiments.tpu import plain
from jaxnas.model.functional import model_fns
from jaxnas.quickstart.net import Net

ROOT = Path(__file__).resolve().parents[1]
IMAGE = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
PAIRS = {
    "quickstart": (Net(), plain.Quickstart()),
    "nasbench201": (jaxnas.spaces.nasbench201(channels=8, cells=2), plain.NasBench201(channels=8, cells=2)),
    "darts": (jaxnas.spaces.darts(channels=4, cells=5), plain.Darts(channels=4, cells=5)),
}


def sizes(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", PAIRS)
def test_a_plain_version_has_the_parameters_and_the_output_of_ours(name):
    ours, theirs = PAIRS[name]
    space = jaxnas.space(ours, IMAGE)
    weights = jax.tree.map(jnp.asarray, space.uniform())
    key = jax.random.key(0)
    mine = jax.eval_shape(model_fns(ours).init, key, IMAGE, weights)
    other = jax.eval_shape(lambda key: theirs.init(key, jnp.zeros(IMAGE.shape), weights, True), key)
    assert sizes(mine["params"]) == sizes(other["params"])
    assert sizes(mine["batch_stats"]) <= sizes(other["batch_stats"])  # ours pools once per source


def test_plain_nasbench201_computes_what_ours_does():
    ours = jaxnas.spaces.nasbench201(channels=4, cells=1)
    theirs = plain.NasBench201(channels=4, cells=1)
    space = jaxnas.space(ours, IMAGE)
    rng = np.random.RandomState(0)
    weights = {key: jnp.asarray(rng.dirichlet(np.ones(5)), jnp.float32) for key in space}
    x = jnp.asarray(rng.randn(2, 8, 8, 3), jnp.float32)
    params = theirs.init(jax.random.key(0), x, weights, True)["params"]
    moved = _as_ours(params)
    variables = model_fns(ours).init(jax.random.key(1), x, weights)
    assert jax.tree.map(jnp.shape, moved) == jax.tree.map(jnp.shape, variables["params"])
    mine = ours.apply({**variables, "params": moved}, x, weights, train=True, mutable=["batch_stats"])[0]
    variables = theirs.init(jax.random.key(0), x, weights, True)
    other = theirs.apply(variables, x, weights, True, mutable=["batch_stats"])[0]
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)


def _as_ours(params):
    """The parameters of the plain version where ours has them; its cells have a leading axis."""
    found = {"stem": params["Conv_0"], "stem_norm": params["BatchNorm_0"], "head": params["Dense_0"]}
    found["head_norm"] = params["BatchNorm_5"]
    for i in (1, 2):
        at = 3 * (i - 1) + 1
        found[f"reduction_{i}"] = {
            "first": {"conv": params[f"Conv_{at}"], "norm": params[f"BatchNorm_{2 * i - 1}"]},
            "second": {"conv": params[f"Conv_{at + 1}"], "norm": params[f"BatchNorm_{2 * i}"]},
            "shortcut": params[f"Conv_{at + 2}"],
        }
    for stage in range(3):
        cell, edges = params[f"NasBench201Cell_{stage}"], {}
        for e, (source, node) in enumerate((s, n) for n in (1, 2, 3) for s in range(n)):
            edges[f"edge_{source}_{node}"] = {
                f"candidates_{name}": {"conv": cell[f"Conv_{2 * e + i}"], "norm": cell[f"BatchNorm_{2 * e + i}"]}
                for i, name in enumerate(("nor_conv_1x1", "nor_conv_3x3"))
            }
        found[f"stage_{stage}"] = {"cells": jax.tree.map(lambda leaf: leaf[None], edges)}
    return found


def test_the_table(tmp_path):
    command = [sys.executable, "-m", "experiments.tpu", "--rows", "quickstart", "--topology", "here", "--out", tmp_path]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]["quickstart"]
    for form in ("jaxnas", "plain"):
        assert rows[form]["gflop"] == pytest.approx(0.9, rel=0.3)
        assert rows[form]["collectives"] == {}
    assert "| quickstart | plain | 0." in ran.stdout
