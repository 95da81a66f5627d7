"""Predictions: raw examples in, the same bits out, here and in another process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flax import linen as nn
from typer.testing import CliRunner

import jaxnas
from jaxnas import DataError, InputChoice, LayerChoice, RunError

ROOT = Path(__file__).resolve().parents[1]


class Net(nn.Module):
    """With batch statistics and both kinds of choice. uint8 images `[B, 6, 6, 1]`, three classes."""

    features: int = 4

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {"narrow": nn.Conv(self.features, (1, 1)), "wide": nn.Conv(self.features, (3, 3))}
        x = LayerChoice(layers, key="conv")(x, arch)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        x = InputChoice(n_candidates=2, n_chosen=1, key="skip")([x, nn.relu(x)], arch)
        return nn.Dense(3)(x.reshape(len(x), -1))


class Plain(nn.Module):
    """Without choices."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(1)(x)


def images(n=96, seed=0):
    random = np.random.RandomState(seed)
    y = random.randint(0, 3, n).astype(np.int32)
    return (random.randint(0, 60, (n, 6, 6, 1)) + 60 * y[:, None, None, None]).astype(np.uint8), y


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A search, a training of what it found, and where they are."""
    folder, data = tmp_path_factory.mktemp("predict"), (*images(), *images(30, 1))
    options = {"batch_size": 16, "progress": False}
    result = jaxnas.darts.search(Net, data, epochs=1, workdir=folder / "run", **options)
    fitted = jaxnas.training.fit(result.fixed_model(), data, epochs=3, workdir=folder / "fit", **options)
    return result, fitted, folder


def test_predictions_are_those_that_the_test_saw(trained):
    _, fitted, _ = trained
    x, y = images(30, 1)
    output = fitted.predict(x)
    assert output.shape == (30, 3)
    assert (output.argmax(-1) == y).mean() == pytest.approx(fitted.test_accuracy)
    assert (fitted.predict_classes(x) == output.argmax(-1)).all()
    np.testing.assert_array_equal(fitted.predict(x[0])[0], fitted.predict(x[:1])[0])  # one example, without its axis
    np.testing.assert_allclose(fitted.predict(x, batch_size=7), output, atol=1e-5)  # the last batch is shorter
    float_of = fitted.predictor.model.apply(fitted.variables, jaxnas.data.as_dataset((x, y)).x_train.astype(np.float32))
    assert not np.allclose(float_of, output)  # raw numbers given to the model itself mean something else


@pytest.mark.parametrize("how", ["saved", "fit", "run"])
def test_a_loaded_model_predicts_the_same_bits(trained, how, tmp_path):
    result, fitted, folder = trained
    x, _ = images(30, 1)
    expected = result.predict(x) if how == "run" else fitted.predict(x)
    path = fitted.save(tmp_path / "model") if how == "saved" else folder / how
    np.testing.assert_array_equal(jaxnas.load_model(path).predict(x), expected)
    np.testing.assert_array_equal(jaxnas.load_model(path, model_fn=Net).predict(x), expected)
    if how == "saved":
        again = jaxnas.load_model(path).save(tmp_path / "again")
        assert json.loads((again / "model.json").read_text()) == json.loads((path / "model.json").read_text())


def test_in_another_process(trained, tmp_path):
    _, fitted, _ = trained
    x, _ = images(30, 1)
    fitted.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", x)
    code = "import jaxnas, numpy as np; np.save('out.npy', jaxnas.load_model('model').predict(np.load('x.npy')))"
    environment = {**__import__("os").environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300, env=environment)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), fitted.predict(x))


def test_the_command(trained, tmp_path):
    from jaxnas.cli import app

    _, fitted, folder = trained
    x, _ = images(30, 1)
    np.savez(tmp_path / "x.npz", x=x)
    found = CliRunner().invoke(
        app, ["predict", str(folder / "fit"), str(tmp_path / "x.npz"), "--out", str(tmp_path / "out.npz")]
    )
    assert found.exit_code == 0, found.output
    assert f"example 0: class {fitted.predict_classes(x)[0]}" in found.output
    assert "30 in all" in found.output
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["classes"], fitted.predict_classes(x))
    from PIL import Image

    Image.fromarray(x[0, ..., 0]).save(tmp_path / "one.png")
    found = CliRunner().invoke(app, ["predict", str(folder / "fit"), str(tmp_path / "one.png")])
    assert f"class {fitted.predict_classes(x)[0]}" in found.output


def test_a_plain_model_and_a_regression(tmp_path):
    x = np.random.RandomState(0).randn(64, 2).astype(np.float32)
    data = (x, x.sum(1, keepdims=True))
    fitted = jaxnas.training.fit(Plain(), data, loss_fn="mse", epochs=2, batch_size=16, progress=False)
    np.testing.assert_array_equal(jaxnas.load_model(fitted.save(tmp_path / "m")).predict(x), fitted.predict(x))
    with pytest.raises(DataError, match=r"classes need \[N, classes\]"):
        fitted.predict_classes(x)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (lambda x: x[..., 0], r"shape \(30, 6, 6\).*takes uint8\[N, 6, 6, 1\].*channel axis is missing"),
        (lambda x: x[:, :5], r"shape \(30, 5, 6, 1\)"),
        (lambda x: x / 255, r"float64.*raw as the training data were"),
        (lambda x: x.astype(int) + 400, "from 400"),
        (lambda x: x[:0], "no examples"),
    ],
)
def test_examples_of_another_form_are_refused(trained, examples, message):
    with pytest.raises(DataError, match=message):
        trained[1].predict(examples(images(30, 1)[0]))


def test_what_cannot_be_loaded_is_named(trained, tmp_path):
    result, fitted, _ = trained
    with pytest.raises(RunError, match="there is no model here"):
        jaxnas.load_model(tmp_path)
    path = fitted.save(tmp_path / "model")
    with pytest.raises(RunError, match="is there already"):
        fitted.save(path)
    data = bytearray((path / "weights.msgpack").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "weights.msgpack").write_bytes(data)
    with pytest.raises(RunError, match="damaged"):
        jaxnas.load_model(path)
    wide = jaxnas.apply_fixed_architecture(Net(features=8), result.arch)
    data = (*images(), *images(30, 1))
    other = jaxnas.training.fit(wide, data, epochs=1, batch_size=16, progress=False).save(tmp_path / "wide")
    with pytest.raises(RunError, match="pass the model itself, model_fn="):
        jaxnas.load_model(other)
    assert jaxnas.load_model(other, model_fn=Net(features=8)).predict(images()[0]).shape == (96, 3)
