"""DARTS: its gradients against numerical derivatives, its steps against hand-written ones, what it finds."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import PLANTED_OPTIONS, Block, NoChoice, Planted, assert_trees_close, make_plan, planted_data

import jaxnas
from jaxnas import InputChoice, LayerChoice, darts
from jaxnas.data import as_dataset
from jaxnas.oneshot.parts.relaxation import relax
from jaxnas.programs.evaluation import accuracy, cross_entropy

pytestmark = pytest.mark.usefixtures("quickly_compiled")

RATE, MOMENTUM, DECAY = 0.1, 0.9, 3e-2


class Smooth(nn.Module):
    """A twice differentiable net in float64, with every kind of relaxation."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        def dense(width):
            return nn.Dense(width, param_dtype=jnp.float64)

        layers = [nn.Sequential([dense(5), jnp.tanh]), nn.Sequential([dense(5), nn.softplus]), dense(5)]
        x = LayerChoice(layers, key="op")(x, arch)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, param_dtype=jnp.float64)(x)
        y = jnp.tanh(dense(5)(x))
        y = y + InputChoice(n_candidates=2, key="any")([x, y * y], arch)
        y = InputChoice(n_candidates=3, n_chosen=2, key="two")([x, y, x * y], arch)
        return dense(3)(y)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def smooth_problem(**options):
    """A DARTS step on `Smooth`, a few steps in, so that the momentum is not zero."""
    random = np.random.RandomState(0)
    batches = [(jnp.asarray(random.randn(16, 4)), jnp.asarray(random.randint(0, 3, 16))) for _ in range(2)]
    space = jaxnas.space(Smooth, batches[0][0])
    algorithm = darts.algorithm(
        Smooth,
        space,
        weight_optimizer=optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE, momentum=MOMENTUM)),
        arch_optimizer=optax.sgd(1.0),
        **options,
    )
    state = algorithm.init(jax.random.key(1), batches[0])
    for _ in range(3):
        state, _ = algorithm.step(state, *batches)
    return algorithm, state, batches, space


def arch_gradient(algorithm, state, batches):
    """The gradient that a step of plain descent with rate one has taken."""
    new, _ = algorithm.step(state, *batches)
    return jax.tree.map(jnp.subtract, state.alphas, new.alphas)


def objective(state, batches, space, alphas, *, order):
    """L_val(w', alpha), written out as in the paper and its code."""
    train, valid = batches

    def loss(params, batch):
        variables = {"params": params, **state.model_state}
        output, _ = Smooth().apply(variables, batch[0], relax(space, alphas), train=True, mutable=["batch_stats"])
        return cross_entropy(output, batch[1])

    params = state.params
    if order == 2:
        buffer = optax.tree_utils.tree_get(state.weight_opt_state, "trace")
        gradients = jax.grad(loss)(params, train)
        params = jax.tree.map(lambda w, b, g: w - RATE * (MOMENTUM * b + g + DECAY * w), params, buffer, gradients)
    return loss(params, valid)


def numerical_gradient(function, alphas, step=1e-5):
    flat, unflatten = jax.flatten_util.ravel_pytree(alphas)
    basis = step * jnp.eye(len(flat))
    function = jax.jit(function)
    differences = [function(unflatten(flat + e)) - function(unflatten(flat - e)) for e in basis]
    return unflatten(jnp.stack(differences) / (2 * step))


def relative_error(a, b):
    difference = jax.tree.map(jnp.subtract, a, b)
    return float(optax.global_norm(difference) / optax.global_norm(b))


@pytest.mark.parametrize("order", [1, 2])
def test_arch_gradient_is_the_numerical_derivative(float64, order):
    algorithm, state, batches, space = smooth_problem(order=order)
    expected = numerical_gradient(lambda a: objective(state, batches, space, a, order=order), state.alphas)
    assert jax.tree.leaves(expected)[0].dtype == jnp.float64
    assert relative_error(arch_gradient(algorithm, state, batches), expected) < 1e-5


def test_finite_difference_agrees_with_exact_on_a_smooth_net(float64):
    exact, state, batches, _ = smooth_problem(order=2)
    estimate, _, _, _ = smooth_problem(order=2, hypergradient="finite_difference")
    first, _, _, _ = smooth_problem(order=1)
    gradients = [arch_gradient(a, state, batches) for a in (exact, estimate, first)]
    assert relative_error(gradients[1], gradients[0]) < 1e-3
    assert relative_error(gradients[2], gradients[0]) > 1e-2  # the second order does something
    implicit = [jax.tree.map(jnp.subtract, g, gradients[2]) for g in gradients[:2]]
    assert relative_error(implicit[1], implicit[0]) < 1e-3


def test_the_weight_step_is_clipped_sgd_with_the_new_alphas(float64):
    algorithm, state, batches, space = smooth_problem(grad_clip=0.05)
    new, metrics = algorithm.step(state, *batches)

    def loss(params):
        variables = {"params": params, **state.model_state}
        mixture = relax(space, new.alphas)
        return cross_entropy(
            Smooth().apply(variables, batches[0][0], mixture, True, mutable=["batch_stats"])[0], batches[0][1]
        )

    value, gradients = jax.value_and_grad(loss)(state.params)
    norm = optax.global_norm(gradients)
    assert norm > 0.05
    buffer = optax.tree_utils.tree_get(state.weight_opt_state, "trace")
    expected = jax.tree.map(
        lambda w, b, g: w - RATE * (MOMENTUM * b + g * 0.05 / norm + DECAY * w), state.params, buffer, gradients
    )
    assert_trees_close(new.params, expected, atol=1e-12)
    np.testing.assert_allclose(metrics["train_loss"], value)
    np.testing.assert_allclose(metrics["weight_grad_norm"], norm)
    assert int(new.step) == int(state.step) + 1


def test_default_optimisers_are_the_papers():
    weights = darts.paper_weight_optimizer(epochs=50, steps_per_epoch=10)
    state = weights.init(jnp.array(2.0))
    rates = []
    for step in range(500):
        updates, state = weights.update(jnp.array(0.0), state, jnp.array(1.0 if step == 0 else 0.0))
        if step == 0:  # weight decay alone
            np.testing.assert_allclose(updates, -0.025 * 3e-4, rtol=1e-6)
        rates.append(-float(updates) / (3e-4 * 0.9**step))
        if step == 20:
            break
    np.testing.assert_allclose(rates[:10], 0.025, rtol=1e-5)  # the same within an epoch
    cosine = 0.001 + (0.025 - 0.001) * (1 + np.cos(np.pi * np.array([1, 2]) / 50)) / 2
    np.testing.assert_allclose([rates[10], rates[20]], cosine, rtol=1e-5)

    arch = darts.paper_arch_optimizer()
    updates, _ = arch.update(jnp.array([1.0, -2.0]), arch.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_allclose(updates, [-3e-4, 3e-4], rtol=1e-5)
    updates, _ = arch.update(jnp.zeros(1), arch.init(jnp.ones(1)), jnp.ones(1))
    np.testing.assert_allclose(updates, [-3e-4], rtol=1e-4)  # weight decay goes through Adam


def test_step_is_jit_scan_and_vmap_able(float64):
    algorithm, state, batches, _ = smooth_problem()
    expected, _ = algorithm.step(*(state, *batches))
    jitted, metrics = jax.jit(algorithm.step)(state, *batches)
    assert_trees_close(jitted.alphas, expected.alphas, atol=1e-10)
    assert set(metrics) >= {"train_loss", "valid_loss", "train_accuracy", "weight_grad_norm", "arch_grad_norm"}
    scanned, _ = jax.lax.scan(lambda s, _: algorithm.step(s, *batches), state, None, length=2)
    twice, _ = algorithm.step(expected, *batches)
    assert_trees_close(scanned.params, twice.params, atol=1e-10)
    states = jax.vmap(lambda rng: algorithm.init(rng, batches[0]))(jax.random.split(jax.random.key(0), 3))
    many, _ = jax.vmap(algorithm.step, in_axes=(0, None, None))(states, *batches)
    one, _ = algorithm.step(jax.tree.map(lambda leaf: leaf[1], states), *batches)
    assert_trees_close(jax.tree.map(lambda leaf: leaf[1], many.alphas), one.alphas, atol=1e-10)


def test_warm_up_steps_leave_the_architecture(float64):
    algorithm, state, batches, _ = smooth_problem()
    new, metrics = algorithm.step(state, batches[0], None)
    assert_trees_close((new.alphas, new.arch_opt_state), (state.alphas, state.arch_opt_state), atol=0)
    assert "valid_loss" not in metrics
    assert relative_error(new.params, state.params) > 1e-3


@pytest.mark.parametrize("order", [1, 2])
def test_finds_the_planted_architecture_for_five_seeds_of_five(order):
    for seed in range(5):
        result = darts.search(Planted, planted_data(seed=seed), order=order, seed=seed, **PLANTED_OPTIONS)
        assert result.arch == {"op": "square", "one": 1, "any": 0}, seed
        assert result.history[-1]["supernet_accuracy"] > 0.95


@pytest.fixture(scope="module")
def planted_result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "run"
    return folder, darts.search(Planted, planted_data(), seed=3, workdir=folder, **PLANTED_OPTIONS)


def test_the_same_seed_gives_the_same_bits(planted_result):
    _, first = planted_result
    again = darts.search(Planted, planted_data(), seed=3, **PLANTED_OPTIONS)
    other = darts.search(Planted, planted_data(), seed=4, **PLANTED_OPTIONS)
    for a, b in zip(jax.tree.leaves(first.variables), jax.tree.leaves(again.variables), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert first.history[-1]["alphas"] == again.history[-1]["alphas"]
    assert [r["train_loss"] for r in first.history] == [r["train_loss"] for r in again.history]
    assert first.history[-1]["alphas"] != other.history[-1]["alphas"]


def test_history_and_files_tell_the_search(planted_result):
    folder, result = planted_result
    assert len(result.history) == 20
    last = result.history[-1]
    for name in (
        "train_loss",
        "valid_loss",
        "train_accuracy",
        "supernet_loss",
        "supernet_accuracy",
        "derived_accuracy",
    ):
        assert np.isfinite(last[name])
    assert last["arch"] == result.arch
    for key, alphas in result.alphas.items():
        np.testing.assert_array_equal(last["alphas"][key], alphas)
        assert alphas.shape == (result.space[key].n_candidates,)
    logged = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [r["alphas"] for r in logged] == [r["alphas"] for r in result.history]
    assert jaxnas.load(folder / "final_arch.json") == result.arch
    config, ended = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "result"))
    assert (config["algorithm"], config["epochs"], config["seed"]) == ("darts", 20, 3)
    assert (ended["status"], ended["arch"]) == ("finished", {"op": "square", "one": 1, "any": 0})
    with pytest.raises(jaxnas.RunError, match="holds a run already"):
        darts.search(Planted, planted_data(), workdir=folder, **PLANTED_OPTIONS)


def test_derived_accuracy_is_that_of_the_fixed_model_with_inherited_weights(planted_result):
    _, result = planted_result
    x, y = planted_data()
    plan = make_plan(Planted, (x, y), batch_size=50, seed=3)
    held_out = plan.arch_examples
    assert len(held_out) == 500
    assert not set(held_out) & set(plan.weight_examples)
    model, variables = result.fixed_model(), result.inherit()
    expected = accuracy(model.apply(variables, x[held_out]), y[held_out])["accuracy"]
    assert result.history[-1]["derived_accuracy"] == pytest.approx(float(expected), abs=1e-6)
    mixed = Planted().apply(result.variables, x[held_out], relax(result.space, result.alphas))
    expected = accuracy(mixed, y[held_out])["accuracy"]
    assert result.history[-1]["supernet_accuracy"] == pytest.approx(float(expected), abs=1e-6)


def test_warmup_epochs_train_only_the_weights():
    options = {**PLANTED_OPTIONS, "epochs": 3, "warmup_epochs": 2, "validate_every": 2}
    result = darts.search(Planted, planted_data(), **options)
    assert result.history[0]["alphas"] == result.history[1]["alphas"]
    assert result.history[1]["alphas"] != result.history[2]["alphas"]
    assert result.history[0]["train_loss"] > result.history[1]["train_loss"]
    assert ["supernet_loss" in record for record in result.history] == [False, True, True]


def test_chunks_of_steps_search_alike():
    one, many = (
        darts.search(Planted, planted_data(), **{**PLANTED_OPTIONS, "epochs": 3, "steps_per_call": n}) for n in (1, 5)
    )
    assert one.arch == many.arch
    assert_trees_close(one.alphas, many.alphas, atol=1e-4)


class WithBlocks(nn.Module):
    """Candidates with batch norm and dropout, and one of them holding a choice."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        class Inner(nn.Module):
            @nn.compact
            def __call__(self, x, arch, train=False):
                return LayerChoice([Block(8), nn.Dense(8)], key="inner")(x, arch, train=train)

        x = LayerChoice({"block": Block(8, 0.2), "nest": Inner()}, key="outer")(x, arch, train=train)
        return nn.Dense(2)(nn.relu(x))


@pytest.mark.parametrize("order", [1, 2])
def test_searches_batch_norm_dropout_and_nested_choices(order):
    result = darts.search(
        WithBlocks, planted_data(), epochs=4, batch_size=50, order=order, progress=False,
        weight_optimizer=optax.sgd(0.1, momentum=0.9),
    )  # fmt: skip
    assert set(result.arch) == {"outer", "inner"}
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert "batch_stats" in result.variables
    x, y = planted_data()
    trained = jaxnas.training.fit(
        result.fixed_model(),
        (x[:800], y[:800], x[800:], y[800:]),
        epochs=15,
        batch_size=50,
        optimizer=optax.sgd(0.1, momentum=0.9),
        variables=result.inherit(),
        progress=False,
    )
    assert trained.test_accuracy > 0.7


def test_a_loss_that_is_not_finite_stops_with_the_last_good_values(tmp_path):
    options = {**PLANTED_OPTIONS, "weight_optimizer": optax.sgd(optax.piecewise_constant_schedule(0.05, {13: 1e30}))}
    with pytest.raises(jaxnas.NonFiniteLossError, match=r"epoch 1, step 4.*learning rate") as caught:
        darts.search(Planted, planted_data(), workdir=tmp_path / "run", **options)
    error = caught.value
    assert (error.epoch, error.step) == (1, 4)
    assert len(error.result.history) == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((error.result.variables, error.result.alphas)))
    ended = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (ended["status"], ended["epoch"], ended["step"]) == ("failed", 1, 4)
    assert ended["arch"].keys() == error.result.arch.keys()
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 1
    assert jaxnas.runs.read_weights(tmp_path / "run").keys() == {"params"}


def test_own_loss_and_metrics_for_labels_that_are_no_classes():
    class Regression(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return nn.Dense(1)(LayerChoice([jnp.square, jnp.sin], key="op")(x, arch))[:, 0]

    x = np.random.RandomState(0).randn(400, 4).astype(np.float32)
    result = darts.search(
        Regression, (x, (x**2).sum(1)), epochs=8, batch_size=20, progress=False,
        loss_fn=lambda output, y: jnp.mean((output - y) ** 2),
        metrics=lambda output, y: {"error": jnp.abs(output - y).mean()},
        arch_optimizer=optax.adam(2e-2),
    )  # fmt: skip
    assert result.arch == {"op": 0}
    assert result.history[-1]["derived_error"] < 2.0


def test_progress_may_be_a_function(capsys):
    seen = []
    darts.search(Planted, planted_data(), **{**PLANTED_OPTIONS, "epochs": 2, "progress": seen.append})
    assert [(record["epoch"], record["epochs"]) for record in seen] == [(0, 2), (1, 2)]
    darts.search(Planted, planted_data(), **{**PLANTED_OPTIONS, "epochs": 1, "progress": True})
    out = capsys.readouterr().out
    assert out.startswith("Space(3 choices, 32 architectures); 10 steps per epoch")
    assert "epoch 1/1  train loss" in out
    assert "derived accuracy" in out


class TwoLogits(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        return LayerChoice([nn.Dense(2)], key="k")(x, arch)


@pytest.mark.parametrize("hypergradient", ["exact", "finite_difference"])
def test_second_order_goes_through_adam_where_gradients_are_zero(hypergradient):
    x, y = planted_data(200)
    x[:, 0] = 0  # its weights have no gradient, and Adam's square root no slope there
    result = darts.search(
        TwoLogits, (x, y), epochs=2, batch_size=20, order=2, hypergradient=hypergradient, progress=False,
        weight_optimizer=optax.adamw(1e-2),
    )  # fmt: skip
    assert result.history[1]["train_loss"] < result.history[0]["train_loss"]


@pytest.mark.parametrize(
    ("model", "change", "error", "message"),
    [
        (NoChoice, {}, jaxnas.ArchitectureError, "NoChoice has no LayerChoice"),
        (lambda: nn.Dense(2), {}, jaxnas.ArchitectureError, "Dense takes no `arch`"),
        (TwoLogits, {"seed": 2**40}, ValueError, "seed"),
        (TwoLogits, {"steps_per_call": 0}, ValueError, "steps_per_call"),
        (TwoLogits, {"metrics": lambda output, y: {"loss": 0.0}}, ValueError, '"loss"'),
        (TwoLogits, {"metrics": lambda output, y: 1.0}, TypeError, "metrics.*dict.*float"),
        (TwoLogits, {"metrics": lambda output, y: {"m": y}}, ValueError, "'m' has shape"),
        (TwoLogits, {"batch_size": 600}, jaxnas.DataError, "600.*500"),
        (TwoLogits, {"batch_size": 0}, jaxnas.DataError, "batch_size"),
        (TwoLogits, {"epochs": 0}, ValueError, "epochs"),
        (TwoLogits, {"order": 3}, ValueError, "order"),
        (TwoLogits, {"order": 2, "hypergradient": "neumann"}, ValueError, "hypergradient.*neumann"),
        (TwoLogits, {"train_portion": 1.5}, jaxnas.DataError, "train_portion"),
    ],
)
def test_bad_arguments_are_named(model, change, error, message):
    options = {**PLANTED_OPTIONS, **change}
    with pytest.raises(error, match=message):
        darts.search(model, planted_data(), **options)


def test_labels_that_do_not_fit_the_model_are_named():
    x, y = planted_data()
    with pytest.raises(jaxnas.DataError, match="7 classes.*2 logits"):
        darts.search(TwoLogits, (x, y * 6), progress=False)
    with pytest.raises(jaxnas.DataError, match="float.*loss_fn"):
        darts.search(TwoLogits, (x, y.astype(np.float32)), progress=False)
    dataset = dataclasses.replace(as_dataset((x, y)), num_classes=2)
    assert make_plan(TwoLogits, dataset).steps_per_epoch == 62
