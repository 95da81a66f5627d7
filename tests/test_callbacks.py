"""Callbacks: when they are called, early stopping, TensorBoard, the progress bar."""

import dataclasses
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import Planted, planted_data

import jaxnas
from jaxnas import callbacks, runs
from jaxnas.callbacks import hessian
from jaxnas.model.entropy import arch_entropy
from jaxnas.oneshot.parts.relaxation import relax
from jaxnas.programs.evaluation import cross_entropy
from jaxnas.runs.progress import epoch_line, short_arch

OPTIONS = {"epochs": 3, "batch_size": 50, "seed": 2, "progress": False}


def search(*followers, **options):
    return jaxnas.darts.search(Planted, planted_data(), callbacks=followers, **{**OPTIONS, **options})


class Recorder(callbacks.Callback):
    """Notes every call."""

    def __init__(self):
        self.calls = []

    def on_begin(self, run):
        self.calls.append(("begin", run.epochs, run.steps, len(run.history)))

    def on_step_end(self, step):
        assert {"train_loss", "valid_loss"} <= set(step.metrics)
        self.calls.append(("step", step.epoch, step.step, step.steps))

    def on_epoch_end(self, state, metrics):
        assert set(state.alphas) == set(metrics["arch"])
        self.calls.append(("epoch", metrics["epoch"]))
        metrics["mine"] = 7.0 + metrics["epoch"]

    def on_end(self):
        self.calls.append(("end",))


def test_callbacks_are_called_in_order_and_what_they_add_is_recorded(tmp_path):
    recorder = Recorder()
    result = search(recorder, workdir=tmp_path)
    expected = [("begin", 3, 10, 0)]
    for epoch in range(3):
        expected += [("step", epoch, step, 10) for step in range(1, 11)] + [("epoch", epoch)]
    assert recorder.calls == [*expected, ("end",)]
    assert [record["mine"] for record in result.history] == [7.0, 8.0, 9.0]
    assert [record["mine"] for record in runs.read_history(tmp_path)] == [7.0, 8.0, 9.0]


def test_callbacks_do_not_change_the_search_and_end_also_when_it_fails():
    plain, followed = search(), search(Recorder(), callbacks.StableRanking(50))
    assert all((plain.alphas[key] == followed.alphas[key]).all() for key in plain.alphas)
    recorder = Recorder()
    with pytest.raises(jaxnas.NonFiniteLossError):
        search(recorder, weight_optimizer=optax.sgd(1e30), grad_clip=None)
    assert recorder.calls[-1] == ("end",)


def test_a_callback_that_fails_costs_no_step(tmp_path):
    class Fails(callbacks.Callback):
        def on_epoch_end(self, state, metrics):
            raise OSError("no such luck")

    with pytest.raises(OSError, match="no such luck"):
        search(Fails(), workdir=tmp_path)
    recorder = Recorder()
    search(recorder, workdir=tmp_path)
    assert recorder.calls[1] == ("epoch", 0)


def test_stopping_ends_the_search_with_this_or_an_earlier_architecture(tmp_path, capsys):
    class StopAt(callbacks.Callback):
        def __init__(self, epoch, back=None):
            self.epoch, self.back = epoch, back

        def on_epoch_end(self, state, metrics):
            if metrics["epoch"] == 0:
                metrics["arch"] = {"op": "square", "one": 0, "any": 0}
            return callbacks.Stop("enough", self.back) if metrics["epoch"] == self.epoch else None

    moving = {"epochs": 5}
    result = search(StopAt(2), workdir=tmp_path / "a", progress=True, **moving)
    assert len(result.history) == 3
    assert "stopped after epoch 3: enough" in capsys.readouterr().out
    ended = runs.read_result(tmp_path / "a")
    assert (ended["status"], ended["stopped"], ended["epochs"]) == ("finished", "enough", 3)
    assert result.arch == result.history[-1]["arch"]
    back = search(StopAt(2, back=0), workdir=tmp_path / "b", **moving)
    assert back.arch == {"op": "square", "one": 0, "any": 0} != back.history[2]["arch"]
    assert jaxnas.load(tmp_path / "b" / "final_arch.json") == back.arch
    fitted = jaxnas.training.fit(
        nn.Dense(2), planted_data(), callbacks=[StopAt(1)], epochs=5, batch_size=50, progress=False
    )
    assert len(fitted.history) == 2


def test_enas_that_is_stopped_early_still_scores_its_candidates():
    class StopNow(callbacks.Callback):
        def on_epoch_end(self, state, metrics):
            return callbacks.Stop("enough")

    fewer = {"controller_steps": 2, "controller_samples": 2, "derive_samples": 7, "derive_examples": 50}
    result = jaxnas.enas.search(
        Planted, planted_data(), callbacks=[StopNow()], validate_samples=2, **{**OPTIONS, **fewer, "epochs": 9}
    )
    assert len(result.history) == 1
    scored = {json.dumps(candidate.arch) for candidate in result.top(7)}
    assert len(scored) > 2
    assert result.arch == result.top(1)[0].arch


def run_of(space):
    return callbacks.Run(
        workdir=None,
        config={},
        epochs=50,
        steps=1,
        history=[],
        model_fn=None,
        dataset=None,
        loss_fn=None,
        batch_size=1,
        seed=0,
        space=space,
    )


SPACE = jaxnas.Space(
    {
        "normal/a": jaxnas.ChoiceSpec("layer", 3, ("skip_connect", "conv", "none")),
        "normal/b": jaxnas.ChoiceSpec("layer", 3, ("skip_connect", "conv", "none")),
        "reduce/a": jaxnas.ChoiceSpec("layer", 3, ("skip_connect", "conv", "none")),
        "gates": jaxnas.ChoiceSpec("input", 2, None, None),
    }
)


def feed(callback, space, records):
    """The epoch after which a callback stops, and why; None if it never does."""
    run = run_of(space)
    callback.on_begin(run)
    for epoch, record in enumerate(records):
        metrics = {"epoch": epoch, **record}
        stop = callback.on_epoch_end(None, metrics)
        run.history.append(metrics)
        if stop is not None:
            return epoch, stop
    return None


def test_skip_connections_are_counted_where_asked():
    def arch(*chosen):
        return {"arch": dict(zip(SPACE, (*chosen, (0,)), strict=True))}

    records = [arch("conv", "conv", "skip_connect"), arch("skip_connect", "conv", "skip_connect")]
    records.append(arch("skip_connect", "skip_connect", "conv"))
    assert feed(callbacks.SkipConnections(2), SPACE, records)[0] == 1
    assert feed(callbacks.SkipConnections(2, prefix="normal"), SPACE, records)[0] == 2
    assert feed(callbacks.SkipConnections(1, names=["none"]), SPACE, records) is None
    with pytest.raises(jaxnas.ArchitectureError, match="no choice that begins with 'other' has a candidate named"):
        feed(callbacks.SkipConnections(prefix="other"), SPACE, records)


def test_a_ranking_is_stable_if_no_choice_changed_it():
    def shares(*values):
        return {"probabilities": {"k": list(values)}}

    moving = [shares(0.5, 0.3, 0.2), shares(0.2, 0.5, 0.3), shares(0.1, 0.6, 0.3), shares(0.05, 0.9, 0.05 + 1e-6)]
    assert feed(callbacks.StableRanking(2), None, moving)[0] == 3
    assert feed(callbacks.StableRanking(3), None, moving) is None


def test_entropy_is_one_for_open_and_zero_for_decided_choices():
    space = jaxnas.Space({"one": jaxnas.ChoiceSpec("layer", 4), "gates": jaxnas.ChoiceSpec("input", 2, None, None)})
    assert arch_entropy(space, {"one": [0.25] * 4, "gates": [0.5, 0.5]}) == pytest.approx(1)
    assert arch_entropy(space, {"one": [1, 0, 0, 0], "gates": [0, 1]}) == 0
    half = arch_entropy(space, {"one": [0.5, 0.5, 0, 0], "gates": [0, 1]})
    assert half == pytest.approx(0.25)  # log 2 / log 4, and 0
    two = jaxnas.Space({"two": jaxnas.ChoiceSpec("input", 4, None, 2)})
    assert arch_entropy(two, {"two": [1, 1, 0, 0]}) == 0
    assert arch_entropy(two, {"two": [0.5] * 4}) == pytest.approx(1)
    records = [{"probabilities": {"one": [p, 1 - p, 0, 0], "gates": [0.5, 1]}} for p in (0.5, 0.9, 0.999)]
    epoch, stop = feed(callbacks.AlphaEntropy(0.4), space, records)
    assert epoch == 1
    assert "below 0.4" in stop.reason


def test_no_improvement_goes_back_to_the_best_epoch():
    records = [{"derived_accuracy": a} for a in (0.5, 0.7, 0.6, None, 0.65)]
    epoch, stop = feed(callbacks.NoImprovement(patience=2), None, records)
    assert (epoch, stop.epoch) == (4, 1)
    assert "since epoch 2, where it was 0.7000" in stop.reason
    falling = [{"test_loss": loss} for loss in (3.0, 2.0, 2.5, 1.0, 1.1, 1.2)]
    assert feed(callbacks.NoImprovement("test_loss", patience=2, mode="min"), None, falling)[1].epoch == 3


def test_a_metric_that_no_epoch_has_is_named_and_the_search_ends(tmp_path):
    with pytest.warns(UserWarning, match=r"no epoch had a metric 'accurracy'; there are .*derived_accuracy"):
        search(callbacks.NoImprovement("accurracy"), workdir=tmp_path)
    assert runs.status(tmp_path) == "finished"


def test_the_eigenvalue_criterion_is_the_papers():
    """Stops at the first epoch where mean(λ of the window before) / mean(λ of this window) < 0.75."""
    growing = [1.0, 1.0, 1.0, 1.1, 1.1, 1.2, 2.0, 3.0]
    callback = callbacks.HessianEigenvalue(window=2)
    run = run_of(SPACE)
    callback.run = run
    stops = []
    for epoch, value in enumerate(growing):
        callback._eigenvalue = lambda state, epoch, value=value: value
        metrics = {"epoch": epoch}
        stops.append(callback.on_epoch_end(None, metrics))
        run.history.append(metrics)
    first = next(i for i, stop in enumerate(stops) if stop is not None)
    by_hand = [np.mean(growing[i - 3 : i - 1]) / np.mean(growing[i - 1 : i + 1]) for i in range(3, 8)]
    assert first == 3 + next(i for i, ratio in enumerate(by_hand) if ratio < 0.75) == 6
    assert stops[first].epoch == 4
    assert run.history[6]["hessian_eigenvalue"] == 2.0


class Small(nn.Module):
    """Smooth, with five alphas in two choices and a gate."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        x = jaxnas.LayerChoice([nn.Dense(3), nn.Dense(3, use_bias=False), jnp.sin], key="op")(x, arch)
        x = jnp.tanh(x)
        gated = jaxnas.InputChoice(n_candidates=2, n_chosen=None, key="gates")([x, x**2], arch)
        return nn.Dense(2)(gated)


def test_the_alpha_hessian_is_the_second_derivative_of_the_validation_loss():
    rng = np.random.RandomState(0)
    data = jaxnas.data.as_dataset((rng.randn(40, 3).astype(np.float32), rng.randint(0, 2, 40)))
    space = jaxnas.space(Small, data.example())
    model = Small()
    alphas = {key: jnp.asarray(rng.randn(spec.n_candidates), jnp.float32) for key, spec in space.items()}
    variables = model.init(jax.random.key(0), jnp.zeros((1, 3)), relax(space, alphas))
    run = dataclasses.replace(
        run_of(space),
        arch_examples=np.arange(40),
        model_fn=Small,
        dataset=data,
        loss_fn=cross_entropy,
        batch_size=40,
        logits=lambda state: state.alphas,
        mixture=lambda logits: relax(space, logits),
    )

    class State:
        pass

    State.alphas, State.variables = alphas, variables
    found = hessian.alpha_hessian(run)(State, 3)
    flat, unravel = jax.flatten_util.ravel_pytree(alphas)

    def loss(flat):
        x = data.prepare(jnp.asarray(data.x_train), jax.random.key(0))
        return cross_entropy(model.apply(variables, x, relax(space, unravel(flat))), jnp.asarray(data.y_train))

    whole = jax.hessian(loss)(flat)
    assert found == pytest.approx(float(np.linalg.eigvalsh(np.asarray(whole, float))[-1]), rel=1e-4)
    with pytest.raises(ValueError, match="needs a method with logits"):
        hessian.alpha_hessian(dataclasses.replace(run, logits=None))


@pytest.mark.parametrize("n", [1, 5, 60, 200])
def test_the_largest_eigenvalue_is_that_of_the_matrix(n):
    rng = np.random.RandomState(n)
    matrix = rng.randn(n, n)
    matrix = matrix + matrix.T - 3 * np.eye(n)  # the largest in size is negative
    found = hessian.largest_eigenvalue(lambda v: matrix @ v, n)
    assert found == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-3)


def test_the_eigenvalue_is_recorded_in_a_real_search_and_its_resumption_decides_alike(tmp_path):
    whole = search(callbacks.HessianEigenvalue(window=1, ratio=0.999))
    values = [record["hessian_eigenvalue"] for record in whole.history]
    assert all(np.isfinite(values))
    for _ in range(3):
        resumed = search(callbacks.HessianEigenvalue(window=1, ratio=0.999), workdir=tmp_path, max_minutes=0)
        if runs.status(tmp_path) == "finished":
            break
    assert [record["hessian_eigenvalue"] for record in resumed.history] == values
    assert resumed.arch == whole.arch
    with pytest.raises(ValueError, match="needs a method with logits"):
        jaxnas.enas.search(
            Planted,
            planted_data(),
            callbacks=[callbacks.HessianEigenvalue()],
            **{**OPTIONS, "epochs": 1, "controller_steps": 1, "controller_samples": 1, "derive_examples": 50},
        )


def events(folder):
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_number_and_the_alphas(tmp_path):
    pytest.importorskip("tensorboardX")
    search(callbacks.TensorBoard(), workdir=tmp_path, max_minutes=0)
    result = search(callbacks.TensorBoard(), workdir=tmp_path)
    scalars, histograms, purged = {}, set(), False
    for event in events(tmp_path / "tensorboard"):
        purged = purged or event.session_log.status == event.session_log.START
        for value in event.summary.value:
            if value.HasField("histo"):
                histograms.add((value.tag, event.step))
            else:
                scalars[value.tag, event.step] = value.simple_value
    for record in result.history:
        assert scalars["loss/train", record["epoch"]] == pytest.approx(record["train_loss"])
        assert scalars["accuracy/derived", record["epoch"]] == pytest.approx(record["derived_accuracy"])
        assert scalars["probabilities/one/0", record["epoch"]] == pytest.approx(record["probabilities"]["one"][0])
    assert histograms == {(f"alphas/{key}", epoch) for key in result.space for epoch in range(3)}
    assert purged
    with pytest.raises(ValueError, match="needs a logdir"):
        search(callbacks.TensorBoard())


def test_what_is_no_callback_is_refused():
    with pytest.raises(TypeError, match="callbacks must be"):
        search(print)
    for wrong in ({"checkpoint_minutes": -1}, {"max_minutes": "3"}):
        with pytest.raises(ValueError, match="minutes must be a finite number"):
            search(**wrong)
    with pytest.raises(ValueError, match="keep_checkpoints must be an integer of at least 1"):
        search(keep_checkpoints=0)


def test_lines_where_there_is_no_terminal(capsys):
    search(progress=True)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Space(3 choices, 32 architectures); 10 steps per epoch, of which the first compiles"
    lines = [line for line in out if line.startswith("epoch")]
    assert len(lines) == 3
    for text in ("train loss", "valid loss", "train accuracy", "derived accuracy", " s"):
        assert all(text in line for line in lines)
    assert "\x1b" not in "".join(out)


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    rich_console = pytest.importorskip("rich.console")
    plain = rich_console.Console
    monkeypatch.setattr(
        rich_console, "Console", lambda: plain(force_terminal=True, width=150, _environ={"TERM": "xterm"})
    )
    search(progress=True, epochs=2)
    out = capsys.readouterr().out
    for text in ("compiling", "epoch 2/2", "step 10/10", "train loss", "valid loss", "steps/s", "so far: ", "\x1b["):
        assert text in out


def test_an_epoch_is_told_in_one_line():
    record = {"epoch": 1, "train_loss": 0.5, "derived_accuracy": 0.25, "seconds": 3.0, "compile_seconds": 1.0}
    line = epoch_line({**record, "arch": {"a": "conv", "b": (0, 2), "c": ()}}, 9)
    assert line == "epoch 2/9  train loss 0.5000  derived accuracy 0.2500  conv 0,2 -  (3.0 s, 1.0 s of them compiling)"
    assert len(short_arch({str(i): "conv_3x3" for i in range(100)})) <= 60
