"""The project's main job, as README shows it."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import jaxnas
from experiments.quickstart import Net, run
from jaxnas.data import load
from jaxnas.quickstart.net import adaptive_avg_pool

ROOT = Path(__file__).resolve().parents[1]


def test_readme_shows_the_code_that_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for name, start in (("net", "class Net"), ("steps", "def run")):
        code = (ROOT / "jaxnas" / "quickstart" / f"{name}.py").read_text()
        (shown,) = [block for block in blocks if block.startswith(start)]
        assert shown in code


def test_the_net_is_nnis():
    shapes = {"conv1": [(3, 3, 3, 6), (5, 5, 3, 6)], "conv2": [(3, 3, 6, 16), (5, 5, 6, 16)]}
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    assert list(jaxnas.space(Net, x)) == ["conv1", "conv2", "skipconnect"]
    for conv1 in (0, 1):
        model = jaxnas.apply_fixed_architecture(Net, {"conv1": conv1, "conv2": 1 - conv1, "skipconnect": []})
        params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        kernels = {leaf.shape for leaf in jax.tree.leaves(params) if len(leaf.shape) > 1}
        expected = {shapes["conv1"][conv1], shapes["conv2"][1 - conv1], (1, 1, 16, 16), (256, 120), (120, 84), (84, 10)}
        assert kernels == expected


def test_adaptive_pool_averages_overlapping_windows():
    x = np.arange(5.0).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(adaptive_avg_pool(x, 2)[0, :, 0, 0], [1.0, 3.0])
    np.testing.assert_allclose(adaptive_avg_pool(x, 5)[0, :, 0, 0], x[0, :, 0, 0])
    assert adaptive_avg_pool(np.ones((2, 8, 8, 3)), 4).shape == (2, 4, 4, 3)


def test_quickstart_on_digits(tmp_path):
    result, trained = run(load("digits"), epochs=10, retrain_epochs=20, out=tmp_path / "q")
    assert trained.test_accuracy >= 0.95
    assert jaxnas.load(tmp_path / "q" / "final_arch.json") == result.arch
    assert json.loads((tmp_path / "q" / "retrain" / "result.json").read_text())["test_accuracy"] >= 0.95


def test_the_command_of_make_quickstart(tmp_path):
    short = ("--epochs", "1", "--retrain-epochs", "1", "--out", str(tmp_path / "q"))
    command = [sys.executable, "-m", "experiments.quickstart", *short]
    for out in (tmp_path / "q", tmp_path / "q-2"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert f"Architecture: {out / 'final_arch.json'}" in done.stdout
        assert f"jaxnas report {out}" in done.stdout
        assert (out / "retrain" / "result.json").exists()


def test_quickstart_on_a_part_of_cifar10(cifar10, tmp_path):
    """README's command takes all 50,000 images and minutes; this takes a fifth of them."""
    part = dataclasses.replace(cifar10, x_train=cifar10.x_train[:10_000], y_train=cifar10.y_train[:10_000])
    result, trained = run(part, epochs=2, retrain_epochs=6, out=tmp_path / "q")
    assert result.history[-1]["supernet_accuracy"] > 0.25
    assert trained.test_accuracy > 0.45
