"""Runs that are cut off go on, to the same bits as runs that were not."""

import json
import shutil

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from test_darts import Planted as DartsPlanted
from test_darts import planted_data
from test_enas import OPTIONS as ENAS_OPTIONS
from test_enas import Planted as EnasPlanted

import jaxnas
from jaxnas import checkpoints, runs

SMALL = {"epochs": 4, "batch_size": 50, "seed": 2}


def darts(workdir, **options):
    model_options = {"weight_optimizer": optax.sgd(0.05, momentum=0.9), "progress": False}
    return jaxnas.darts.search(DartsPlanted, planted_data(), workdir=workdir, **{**SMALL, **model_options, **options})


def enas(workdir, **options):
    fewer = {"controller_steps": 2, "derive_samples": 5, "derive_examples": 100}
    return jaxnas.enas.search(
        EnasPlanted, planted_data(), workdir=workdir, **{**ENAS_OPTIONS, **SMALL, **fewer, **options}
    )


def fit(workdir, **options):
    x, y = planted_data()
    data = (x[:800], y[:800], x[800:], y[800:])
    return jaxnas.training.fit(nn.Dense(2), data, workdir=workdir, **{**SMALL, "progress": False, **options})


class CutOffError(Exception):
    """Stands for whatever ends a process."""


def cut_after(epoch):
    def progress(record):
        if record["epoch"] == epoch:
            raise CutOffError

    return progress


def same_bits(a, b):
    leaves = zip(jax.tree.leaves(a.variables), jax.tree.leaves(b.variables), strict=True)
    assert all(np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in leaves)
    for one, other in zip(a.history, b.history, strict=True):
        assert one.keys() == other.keys()
        assert all(one[name] == other[name] for name in one if not name.endswith("seconds"))


@pytest.mark.parametrize("run", [darts, enas, fit])
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(run, tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", progress=cut_after(0))  # logged but not saved: done again
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", progress=cut_after(2))
    assert runs.resumable(tmp_path / "cut")
    resumed = run(tmp_path / "cut")
    same_bits(whole, resumed)
    logged = [json.loads(line) for line in (tmp_path / "cut" / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in logged] == [0, 1, 2, 3]
    if run is not fit:
        files = [(tmp_path / name / "final_arch.json").read_text() for name in ("whole", "cut")]
        assert files[0] == files[1]
        assert whole.candidates == resumed.candidates
    assert not (tmp_path / "cut" / "checkpoints").exists()
    with pytest.raises(jaxnas.RunError, match="holds a run already"):
        run(tmp_path / "cut")


def test_max_minutes_stops_in_time_and_the_same_call_goes_on(tmp_path, capsys):
    whole = darts(None)
    for done in (1, 2, 3):
        result = darts(tmp_path, max_minutes=0, progress=True)
        assert len(result.history) == done
        assert set(result.arch) == {"op", "one", "any"}
        assert f"stopped in time after epoch {done} of 4" in capsys.readouterr().out
    same_bits(whole, darts(tmp_path, max_minutes=0))


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    darts(tmp_path, max_minutes=0)
    before = sorted((tmp_path / "checkpoints").iterdir())
    with pytest.raises(jaxnas.RunError, match=r"another configuration.*batch_size was 50, is now 25"):
        darts(tmp_path, batch_size=25)
    with pytest.raises(jaxnas.RunError, match=r"seed was 2, is now 3; order was 1, is now 2"):
        darts(tmp_path, seed=3, order=2)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


def test_damage_is_named_and_the_checkpoint_before_it_still_serves(tmp_path):
    whole = darts(None)
    with pytest.raises(CutOffError):
        darts(tmp_path, progress=cut_after(3))
    saved = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["000002", "000003"]
    for file in sorted(saved[1].rglob("*")):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(jaxnas.RunError, match=r"000003: this checkpoint is damaged.*one before it"):
        darts(tmp_path)
    shutil.rmtree(saved[1])
    same_bits(whole, darts(tmp_path))


def test_a_history_that_lacks_epochs_is_named(tmp_path):
    darts(tmp_path, max_minutes=0)
    (tmp_path / "history.jsonl").write_text("")
    with pytest.raises(jaxnas.RunError, match="checkpoint is of epoch 1, its history has 0"):
        darts(tmp_path)


def test_keys_and_optimiser_states_come_back_as_they_were(tmp_path):
    state = {
        "key": jax.random.key(3),
        "adam": optax.adam(1e-3).init({"w": np.arange(3.0)}),
        "empty": (),
        "step": jax.numpy.asarray(7, "int32"),
    }
    assert checkpoints.restore(tmp_path, state) is None
    for epoch in (1, 2, 3):
        checkpoints.save(tmp_path, epoch, state)
    epochs, restored = checkpoints.restore(tmp_path, state)
    assert epochs == 3
    assert len(list(tmp_path.iterdir())) == 2
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.random.uniform(restored["key"]) == jax.random.uniform(state["key"])
    assert jax.tree.map(lambda a: (a.shape, a.dtype), restored) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    with pytest.raises(jaxnas.RunError, match="damaged or of another model"):
        checkpoints.restore(tmp_path, {**state, "more": np.zeros(2)})


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(jaxnas.RunError, match="checkpoint cannot be written"):
        checkpoints.save(tmp_path / "checkpoints", 1, {"w": jax.numpy.zeros(2)})
