"""Runs that are cut off go on, to the same bits as runs that were not."""

import json
import shutil
import signal
from functools import partial

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import (
    ENAS_OPTIONS,
    AfterStep,
    CutOffError,
    EnasPlanted,
    assert_same_run,
    cut_after,
    planted_data,
    same_bits,
)
from helpers import Planted as DartsPlanted

import jaxnas
from jaxnas import runs
from jaxnas.programs import validation
from jaxnas.runs import checkpoints, session

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


@pytest.mark.parametrize("run", [darts, enas, fit])
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(run, tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", progress=cut_after(0))  # after the steps, before the epoch is logged
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
    assert not runs.working(tmp_path / "cut")
    with pytest.raises(jaxnas.RunError, match="holds a run already"):
        run(tmp_path / "cut")


@pytest.mark.parametrize("run", [darts, enas, fit])
@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_a_run_cut_off_within_an_epoch_ends_as_one_that_was_not(run, steps_per_call, tmp_path):
    whole = run(None, steps_per_call=steps_per_call)
    options = {"steps_per_call": steps_per_call, "checkpoint_minutes": 0}

    def cut():
        raise CutOffError

    for epoch, step in ((0, 4), (1, 4), (2, -1)):  # the last step of ENAS is one of the controller's
        with pytest.raises(CutOffError):
            run(tmp_path, **options, callbacks=[AfterStep(epoch, step, cut)])
        saved = checkpoints.newest(tmp_path / "checkpoints")
        assert saved is not None
        assert saved.startswith(f"{epoch:06d}-")
    same_bits(whole, run(tmp_path, **options))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(number, tmp_path, capfd):
    whole = darts(None)
    before = signal.getsignal(number)
    kill = AfterStep(1, 3, lambda: signal.raise_signal(number))
    with pytest.raises(jaxnas.Interrupted, match=f"{number.name} after step 3 of epoch 2.*same call resumes") as told:
        darts(tmp_path, callbacks=[kill])
    assert told.value.signal == number
    assert "finishing this step" in capfd.readouterr().err
    assert signal.getsignal(number) is before
    assert checkpoints.newest(tmp_path / "checkpoints") == "000001-00-00000003"
    same_bits(whole, darts(tmp_path))


def test_a_signal_during_validation_is_heeded_at_the_next_architecture(tmp_path, monkeypatch):
    whole = enas(None)
    calls = []

    def make_validation(*arguments, **options):
        validate = validation.make_validation(*arguments, **options)

        def counted(*arguments, **options):
            calls.append(None)
            if len(calls) == 3:
                signal.raise_signal(signal.SIGTERM)
            return validate(*arguments, **options)

        return counted

    monkeypatch.setattr("jaxnas.oneshot.engine.task.make_validation", make_validation)
    with pytest.raises(jaxnas.Interrupted, match="after the steps of epoch 1"):
        enas(tmp_path)
    assert len(calls) == 3
    assert checkpoints.newest(tmp_path / "checkpoints") == "000000-02-00000000"
    same_bits(whole, enas(tmp_path))


def test_without_a_directory_ctrl_c_acts_at_once():
    with pytest.raises(KeyboardInterrupt) as told:
        darts(None, callbacks=[AfterStep(0, 1, lambda: signal.raise_signal(signal.SIGINT))])
    assert told.type is KeyboardInterrupt


def test_a_second_ctrl_c_acts_at_once(tmp_path):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as told:
        darts(tmp_path, callbacks=[AfterStep(1, 1, twice)])
    assert told.type is KeyboardInterrupt
    assert checkpoints.newest(tmp_path / "checkpoints") == "000001-00-00000000"


def test_max_minutes_stops_in_time_and_the_same_call_goes_on(tmp_path, capsys):
    whole = darts(None)
    for done in (1, 2, 3):
        result = darts(tmp_path, max_minutes=0, progress=True)
        assert len(result.history) == done
        assert set(result.arch) == {"op", "one", "any"}
        assert f"stopped at the time limit after epoch {done} of 4" in capsys.readouterr().out
    same_bits(whole, darts(tmp_path, max_minutes=0))


def test_max_minutes_stops_within_an_epoch_that_would_take_long(tmp_path, monkeypatch, capsys):
    whole = fit(None)
    monkeypatch.setattr(session, "_MOMENT", 0.0)
    result = fit(tmp_path, max_minutes=0, progress=True)
    assert result.history == []
    assert "stopped at the time limit after step 2 of epoch 1 of 4" in capsys.readouterr().out
    assert checkpoints.newest(tmp_path / "checkpoints") == "000000-00-00000002"
    monkeypatch.undo()
    assert len(fit(tmp_path, max_minutes=0).history) == 1
    same_bits(whole, fit(tmp_path))


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    darts(tmp_path, max_minutes=0)
    before = sorted((tmp_path / "checkpoints").iterdir())
    with pytest.raises(jaxnas.RunError, match=r"another configuration.*batch_size was 50, is now 25"):
        darts(tmp_path, batch_size=25)
    with pytest.raises(jaxnas.RunError, match=r"seed was 2, is now 3; order was 1, is now 2"):
        darts(tmp_path, seed=3, order=2)
    with pytest.raises(jaxnas.RunError, match=r"was interrupted; with resume=True the same call resumes it"):
        darts(tmp_path, resume=False)
    with pytest.raises(jaxnas.RunError, match=r"seed was 2, is now 3"):
        darts(tmp_path, seed=3, resume=False)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


def damages(data):
    yield "cut off", data[:-7]
    yield "empty", b""
    if data:
        middle = len(data) // 2
        yield "flipped", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(tmp_path):
    """Every file of a checkpoint, cut off, emptied, or with one bit flipped."""
    state = {"w": jax.numpy.arange(5.0), "key": jax.random.key(1), "step": jax.numpy.int32(3)}
    older = jax.tree.map(lambda leaf: leaf, state) | {"w": jax.numpy.ones(5)}
    for epoch, saved in ((1, older), (2, state)):
        checkpoints.save(tmp_path, checkpoints.Position(epoch), saved)
    newest = tmp_path / checkpoints.newest(tmp_path)
    files = sorted(file for file in newest.rglob("*") if file.is_file())
    assert len(files) == 4
    for file in files:
        whole = file.read_bytes()
        for damage, data in damages(whole):
            if data == whole:
                continue
            file.write_bytes(data)
            with pytest.warns(RuntimeWarning, match=r"000002-\S+: this checkpoint is damaged.*one before it"):
                position, restored = checkpoints.restore(tmp_path, state)
            assert position.epoch == 1, (file, damage)
            assert (restored["w"] == 1).all()
        file.unlink()
        with pytest.warns(RuntimeWarning, match="damaged"):
            assert checkpoints.restore(tmp_path, state)[0].epoch == 1
        file.write_bytes(whole)
    assert checkpoints.restore(tmp_path, state)[0].epoch == 2


def test_a_search_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    whole = darts(None)
    with pytest.raises(CutOffError):
        darts(tmp_path, progress=cut_after(3))
    saved = sorted((tmp_path / "checkpoints").iterdir())
    assert [path.name for path in saved] == ["000003-00-00000000", "000003-01-00000000"]
    (saved[1] / "position.json").write_text("")
    with pytest.warns(RuntimeWarning, match="000003-01-00000000: this checkpoint is damaged"):
        same_bits(whole, darts(tmp_path))


def test_a_search_whose_checkpoints_are_all_damaged_is_refused(tmp_path):
    darts(tmp_path, max_minutes=0)
    for file in (tmp_path / "checkpoints").rglob("position.json"):
        file.write_bytes(b"")
    with (
        pytest.warns(RuntimeWarning, match="there is none before it"),
        pytest.raises(jaxnas.RunError, match="every checkpoint is damaged; remove this folder"),
    ):
        darts(tmp_path)


def test_a_checkpoint_that_was_being_written_is_not_taken_for_one(tmp_path):
    whole = darts(None)
    darts(tmp_path, max_minutes=0)
    half = tmp_path / "checkpoints" / "000002-00-00000000.partial"
    half.mkdir()
    (half / "position.json").write_text("{")
    same_bits(whole, darts(tmp_path))


def test_a_history_that_lacks_epochs_is_written_again_from_the_checkpoint(tmp_path):
    whole = darts(tmp_path / "whole")
    darts(tmp_path / "cut", max_minutes=0)
    (tmp_path / "cut" / "history.jsonl").write_text("")
    with pytest.warns(RuntimeWarning, match=r"history\.jsonl: is not as the checkpoint has it"):
        same_bits(whole, darts(tmp_path / "cut"))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_keys_and_optimiser_states_come_back_as_they_were(tmp_path):
    state = {
        "key": jax.random.key(3),
        "adam": optax.adam(1e-3).init({"w": np.arange(3.0), "half": jax.numpy.ones(2, "bfloat16")}),
        "empty": (),
        "step": jax.numpy.asarray(7, "int32"),
        "none": np.zeros((0, 3), np.float32),
    }
    assert checkpoints.restore(tmp_path, state) is None
    metrics = {"loss": np.asarray([0.1, 1 / 3], np.float32), "count": np.asarray([3, 4])}
    for epoch in (1, 2, 3):
        saved = checkpoints.Position(epoch, 1, 2, {"train_loss": 1 / 3}, metrics, 1.5, 0.5)
        checkpoints.save(tmp_path, saved, state, keep=2)
    position, restored = checkpoints.restore(tmp_path, state)
    assert (position.epoch, position.phase, position.step, position.record) == (3, 1, 2, {"train_loss": 1 / 3})
    for name, values in metrics.items():
        assert position.metrics[name].dtype == values.dtype
        np.testing.assert_array_equal(position.metrics[name], values)
    assert len(list(tmp_path.iterdir())) == 2
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.random.uniform(restored["key"]) == jax.random.uniform(state["key"])
    assert jax.tree.map(lambda a: (a.shape, a.dtype), restored) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    with pytest.raises(jaxnas.RunError, match=r"another model: \['more'\] is not there in it, and float64\[2\] now"):
        checkpoints.restore(tmp_path, {**state, "more": np.zeros(2)})


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(jaxnas.RunError, match="checkpoint cannot be written"):
        checkpoints.save(tmp_path / "checkpoints", checkpoints.Position(1), {"w": jax.numpy.zeros(2)})


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    state = {"w": jax.numpy.zeros(1_000_000)}
    checkpoints.save(tmp_path, checkpoints.Position(1), state)
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        jaxnas.RunError, match=r"4\.0 MB are needed, 3\.0 MB are free\. The checkpoints from before are"
    ):
        checkpoints.save(tmp_path, checkpoints.Position(2), state)
    assert [path.name for path in tmp_path.iterdir()] == ["000001-00-00000000"]


def test_not_a_number_keeps_the_last_good_state(tmp_path):
    with pytest.raises(jaxnas.NonFiniteLossError, match="became"):
        darts(tmp_path, weight_optimizer=optax.sgd(1e30), grad_clip=None)
    assert runs.status(tmp_path) == "failed"
    assert "learning rate" in runs.read_result(tmp_path)["error"]
    with pytest.raises(jaxnas.RunError, match="holds a run already, which has failed"):
        darts(tmp_path)


def other_loss(output, labels):
    return optax.softmax_cross_entropy_with_integer_labels(2 * output, labels).mean()


def other_accuracy(output, labels):
    return {"accuracy": (output.argmax(-1) != labels).mean()}


X, Y = planted_data()


@pytest.mark.parametrize(
    ("run", "changed", "message"),
    [
        (darts, {"data": (X + 1, Y)}, "fingerprint of data was 'float32"),
        (darts, {"data": (X, 1 - Y)}, "fingerprint of data"),
        (darts, {"loss_fn": other_loss}, "fingerprint of loss_fn was 'None', is now 'test_resume:other_loss#"),
        (darts, {"metrics": other_accuracy}, "fingerprint of metrics"),
        (darts, {"weight_optimizer": optax.sgd(0.06, momentum=0.9)}, "fingerprint of weight_optimizer"),
        (darts, {"arch_optimizer": optax.adam(1e-3)}, "arch_optimizer was 'paper', is now 'custom'"),
        (fit, {"data": (X[:400], Y[:400])}, "fingerprint of data"),
        (fit, {"optimizer": optax.sgd(0.1)}, "fingerprint of optimizer was 'None'"),
        (fit, {"model": nn.Dense(2, use_bias=False)}, "fingerprint of model"),
    ],
)
def test_other_data_and_functions_are_refused_with_both_values(run, changed, message, tmp_path):
    run(tmp_path, max_minutes=0)
    data, model = changed.get("data"), changed.get("model", nn.Dense(2))
    options = {name: value for name, value in changed.items() if name not in ("data", "model")}
    options = {"workdir": tmp_path, "progress": False, **SMALL, **options}
    if run is darts:
        options = {"weight_optimizer": optax.sgd(0.05, momentum=0.9), **options}
        again = partial(jaxnas.darts.search, DartsPlanted, data or (X, Y), **options)
    else:
        again = partial(jaxnas.training.fit, model, data or (X[:800], Y[:800], X[800:], Y[800:]), **options)
    with pytest.raises(jaxnas.RunError, match=message):
        again()


def test_another_architecture_is_refused_choice_by_choice(tmp_path):
    def train(arch, **options):
        model = jaxnas.apply_fixed_architecture(DartsPlanted, arch)
        return jaxnas.training.fit(model, (X, Y), workdir=tmp_path, progress=False, **{**SMALL, **options})

    space = jaxnas.space(DartsPlanted, jax.ShapeDtypeStruct((1, *X.shape[1:]), X.dtype))
    key, spec = next(iter(space.items()))
    first, second = ({**space.fixed(space.sample(jax.random.key(0))), key: spec.labels[i]} for i in (0, 1))
    train(first, max_minutes=0)
    with pytest.raises(jaxnas.RunError, match=rf"arch/{key} was {spec.labels[0]!r}, is now {spec.labels[1]!r}"):
        train(second)


def test_by_force_a_run_of_another_configuration_is_resumed(tmp_path):
    darts(tmp_path, max_minutes=0)
    with pytest.warns(RuntimeWarning, match="continues with another configuration: .*loss_fn"):
        result = darts(tmp_path, loss_fn=other_loss, resume="force")
    assert len(result.history) == 4
    assert "loss_fn" in runs.read_config(tmp_path)["changes"][0]
    with pytest.raises(ValueError, match='resume must be True, False or "force"'):
        darts(tmp_path / "new", resume="yes")


def test_by_force_an_epoch_that_was_begun_begins_again(tmp_path):
    def cut_off():
        raise CutOffError

    with pytest.raises(CutOffError):
        darts(tmp_path, callbacks=[AfterStep(0, 3, cut_off)], checkpoint_minutes=0)
    with (
        pytest.warns(RuntimeWarning, match="another configuration"),
        pytest.warns(RuntimeWarning, match="epoch 1 begins again"),
    ):
        result = darts(tmp_path, batch_size=100, metrics=other_accuracy, resume="force")
    assert [record["epoch"] for record in result.history] == [0, 1, 2, 3]


def test_by_force_fewer_epochs_than_are_done_are_refused(tmp_path):
    with pytest.raises(CutOffError):
        darts(tmp_path, progress=cut_after(2))
    with pytest.raises(jaxnas.RunError, match="has 2 epochs already; epochs=2 leaves nothing"):  # noqa: SIM117
        with pytest.warns(RuntimeWarning, match="another configuration"):
            darts(tmp_path, epochs=2, resume="force")


def test_a_run_from_before_there_were_fingerprints_is_resumed(tmp_path, monkeypatch):
    whole = darts(tmp_path / "whole")
    with monkeypatch.context() as earlier:
        earlier.setattr("jaxnas.oneshot.engine.plan.fingerprints", lambda *_, **__: {})
        darts(tmp_path / "cut", max_minutes=0)
    assert "fingerprints" not in runs.read_config(tmp_path / "cut")
    same_bits(whole, darts(tmp_path / "cut"))
