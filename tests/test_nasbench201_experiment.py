"""The NAS-Bench-201 experiment: its searches give the paper's means where its protocol is the paper's."""

import jax
import numpy as np
import pytest

import jaxnas
from experiments.nasbench201 import grid
from experiments.nasbench201.black_box import BUDGET, PAPER, SEARCHERS, markdown, simulate
from experiments.nasbench201.methods import METHODS, SMALL
from experiments.nasbench201.one_shot import course, prepare, search
from experiments.nasbench201.pieces import load_pieces, save_pieces
from experiments.nasbench201.rank import rank
from jaxnas.benchmarks import nasbench201
from jaxnas.data import Dataset


@pytest.mark.parametrize(("name", "allowed"), [("random search", (0.1, 0.2, 0.25)), ("evolution", (0.1, 0.15, 0.15))])
def test_searches_have_the_papers_means(name, allowed):
    keys = jax.random.split(jax.random.key(0), 4000)
    outcome = jax.device_get(jax.jit(simulate(SEARCHERS[name], points=4))(keys))
    # The paper's means are of 500 runs: their standard errors are about 0.02, 0.05 and 0.055 on the three data sets.
    assert np.all(np.abs(outcome.found.mean(0) - np.array(PAPER[name][0])) < np.repeat(allowed, 2))
    assert np.all(np.diff(outcome.curve[..., 0].mean(1)) > 0)  # more time, better architectures
    # An architecture costs 12 / 200 of its training time, 110 s on average, of the 12,000.
    expected = BUDGET / nasbench201.table("cifar10", "train_seconds", 12).mean()
    assert outcome.trials.mean() == pytest.approx(expected, rel=0.1)


def test_a_budget_of_one_architecture_finds_that_one():
    keys = jax.random.split(jax.random.key(0), 4)
    seconds = nasbench201.table("cifar10", "train_seconds", 12)
    outcome = jax.device_get(simulate(SEARCHERS["random search"], budget=float(seconds.max()), points=1)(keys))
    for found in outcome.found[outcome.trials == 1]:
        assert np.isclose(nasbench201.table("cifar10", "test_accuracy"), found[1], atol=1e-4).any()
    assert outcome.trials.min() >= 1


def test_the_table_sets_ours_beside_the_papers():
    found = {"trials": 109.0, "mean": [91.0, 93.7, 71.0, 71.0, 44.5, 44.5], "deviation": [0.4] * 6}
    text = markdown({"random search": {**found, "derived_mean": found["mean"]}})
    assert "| random search | 109 | 91.00 ± 0.40 | 93.70 ± 0.40 |" in text
    assert "| *the paper's* | | 90.93 ± 0.36 | 93.70 ± 0.36 | 70.93 |" in text
    assert "| *difference* | | +0.07 | +0.00 | +0.07 | -0.04 |" in text


def test_a_search_on_data_in_pieces_follows_the_table(tmp_path):
    random = np.random.RandomState(0)
    parts = [(random.randint(0, 255, (n, 32, 32, 3), np.uint8), np.arange(n) % 10) for n in (160, 32)]
    whole = Dataset(*parts[0], *parts[1])
    assert all(file.stat().st_size < 60e6 for file in save_pieces(whole, tmp_path / "pieces"))
    again = load_pieces(tmp_path / "pieces")
    np.testing.assert_array_equal(again.x_train, whole.x_train)
    np.testing.assert_array_equal(again.y_test, whole.y_test)

    settings = SMALL._replace(channels=4, images=None, side=8, epochs=1, sampled=2, scored=2, controller_steps=1)
    images = prepare(again, settings)
    assert images.x_train.shape == (160, 8, 8, 3)
    np.testing.assert_allclose(images.x_train[0, 0, 0], whole.x_train[0, :4, :4].mean((0, 1)), atol=0.51)

    out = tmp_path / "rsps-0"
    assert search("rsps", settings, images, out=out, seed=0)
    (only,) = course(out)
    assert only["cifar10"] == nasbench201.query(only["arch"])
    found = rank(out, settings, images, architectures=5, examples=32)
    assert -1 <= found["tau"] <= 1
    assert found["top"] == pytest.approx(found["all"])  # of five the best ten are all
    one = grid.looked_up(out, "rsps", settings, images)
    assert one["index"] == nasbench201.to_index(only["arch"])
    assert one == grid.looked_up(out, "rsps", settings, images)  # kept
    grid.write({"rsps": {"0": one}}, tmp_path)
    assert f"| rsps | 1 | {only['cifar10']:.2f} |" in (tmp_path / "grid.md").read_text()
    assert "rsps" in (tmp_path / "grid.svg").read_text()


def test_the_grid_has_every_method_and_builds_it():
    assert {name.partition("-")[0] for name in METHODS} == set(jaxnas.METHODS)
    for name, entry in METHODS.items():
        method = entry.method(SMALL)
        assert method.name == name.partition("-")[0]
        assert len(entry.published) in (0, 3)


def test_the_grid_compares_the_order_of_the_methods():
    def of(*accuracies):
        cell = {"cifar100": 70.0, "imagenet16-120": 44.0, "skips": 1, "index": 7, "tau": 0.5, "step_seconds": 0.1}
        return {str(seed): {**cell, "cifar10": value} for seed, value in enumerate(accuracies)}

    same = {"enas": of(50, 52), "darts": of(54, 53), "gdas": of(90, 91), "drnas": of(94, 93)}
    assert grid.agreement(same)["rho"] == pytest.approx(1)
    assert grid.agreement(same) | {"methods": 4, "low": 1.0, "high": 1.0} == pytest.approx(grid.agreement(same))
    swapped = same | {"enas": of(94, 94), "drnas": of(50, 50)}
    assert grid.agreement(swapped)["rho"] == pytest.approx(-0.8)  # 1 - 6 (3² + 0 + 0 + 3²) / (4 · 15)
    assert "| gdas | 2 | 90.50 ± 0.71 | 70.00 ± 0.00 |" in grid.markdown(same)
    assert "4 methods: 1.00 (1.00 to 1.00)" in grid.markdown(same)


def test_a_missing_piece_is_an_error(tmp_path):
    np.savez(tmp_path / "train-1.npz", x=np.zeros(1), y=np.zeros(1))
    with pytest.raises(FileNotFoundError, match=r"expected train-0.npz and so on; found \['train-1.npz'\]"):
        load_pieces(tmp_path)
