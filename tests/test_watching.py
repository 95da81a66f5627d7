"""States that stop being finite though losses and gradients are: the step is found, the last good state is kept."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import runs
from jaxnas.programs.watching import host_copy, not_finite

X = np.random.RandomState(0).randn(64, 4).astype(np.float32)
DATA = (X, (X.sum(1) > 0).astype(np.int32))


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, arch, train=False):
        return nn.Dense(2)(jaxnas.LayerChoice({"a": nn.Dense(4), "b": nn.tanh}, key="op")(x, arch))


def broken_after(steps):
    """SGD whose learning rate is NaN in the step with this number, and not said in its state."""
    return optax.sgd(lambda step: jnp.where(step == steps, jnp.nan, 0.1))


def search(optimizer=None, **options):
    options = {"epochs": 3, "batch_size": 8, "progress": False, **options}
    return jaxnas.darts.search(Net, DATA, weight_optimizer=optimizer, **options)


def is_finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("step", "options"),
    [
        (5, {}),
        (5, {"steps_per_call": 4}),
        (11, {}),  # the last one, after which there is no loss to show it
        (0, {"checkpoint_minutes": 0}),
        (5, {"checkpoint_minutes": 0}),
    ],
)
def test_the_step_that_spoils_the_state_fails_with_what_was_before_it(step, options, tmp_path):
    with pytest.raises(jaxnas.NonFiniteLossError, match=r"params\['Dense_0'\]\['bias'\] of the state") as failed:
        search(broken_after(step), workdir=tmp_path, **options)
    error = failed.value
    assert (error.epoch, error.step) == divmod(step, 4)
    assert int(error.result.state.step) == step
    assert is_finite(error.result.variables)
    assert is_finite(runs.read_weights(tmp_path))
    ended = runs.read_ended(tmp_path)
    assert (ended["status"], ended["step"]) == ("failed", error.step)
    assert jaxnas.load(tmp_path / "final_arch.json") == ended["arch"] == error.result.arch


def test_a_learning_rate_in_the_state_is_named_before_the_weights_that_it_spoils():
    schedule = optax.inject_hyperparams(optax.sgd)(lambda step: jnp.where(step == 3, jnp.inf, 0.1))
    with pytest.raises(jaxnas.NonFiniteLossError, match=r"hyperparams\['learning_rate'\] of the state") as failed:
        search(schedule)
    assert failed.value.step == 3


def test_a_training_is_watched_too(tmp_path):
    with pytest.raises(jaxnas.NonFiniteLossError, match="step 7") as failed:
        jaxnas.training.fit(
            nn.Dense(2), DATA, epochs=1, batch_size=8, optimizer=broken_after(7), progress=False, workdir=tmp_path
        )
    assert is_finite(failed.value.result.variables)
    assert not (tmp_path / "final_arch.json").exists()


class Shaky(nn.Module):
    """Where it is not trained, its output overflows."""

    @nn.compact
    def __call__(self, x, arch, train=False):
        x = nn.Dense(2)(jaxnas.LayerChoice({"a": nn.Dense(4), "b": nn.tanh}, key="op")(x, arch))
        return x if train else x * jnp.inf


def test_a_last_validation_that_is_not_finite_is_a_failure(tmp_path):
    with pytest.raises(jaxnas.NonFiniteLossError, match="in the last validation, after epoch 1") as failed:
        jaxnas.darts.search(Shaky, DATA, epochs=2, batch_size=8, progress=False, workdir=tmp_path)
    assert is_finite(failed.value.result.variables)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
    assert (tmp_path / "final_arch.json").exists()


def test_what_was_infinite_from_the_beginning_may_stay_so():
    before = {"best": np.float32(np.inf), "w": np.ones(3, np.float32), "n": np.int32(3), "key": jax.random.key(0)}
    assert not_finite(before, host_copy(before)) is None
    for spoiled in (np.nan, -np.inf):
        after = {**before, "w": np.asarray([1, spoiled, 1], np.float32)}
        assert not_finite(before, after) == "['w']"
        assert not_finite(after, after) is None
