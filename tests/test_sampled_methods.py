"""FBNet, ProxylessNAS and FairNAS: their rules against values worked out by hand or by a few lines of NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import AfterStep, CutOffError, EnasPlanted, planted_data, same_bits
from scipy import special

import jaxnas
from jaxnas import ChoiceSpec, Gated, LatencyTable, LayerChoice, Space, parts
from jaxnas.oneshot import differentiable, sampled
from jaxnas.oneshot.parts.part import Seen
from jaxnas.policies.simple import uniform

ONE = Space({"a": ChoiceSpec("layer", 4)})
T0 = jnp.float32(0)
LOGITS = {"a": jnp.asarray([0.3, -0.5, 1.0, 0.1])}


class Pair(nn.Module):
    """Two layers, of 2 and of 3 candidates."""

    @nn.compact
    def __call__(self, x, arch):
        x = LayerChoice([nn.Dense(3, use_bias=False), nn.Dense(3)], key="a")(x, arch)
        return nn.Dense(2)(LayerChoice({"id": lambda x: x, "d": nn.Dense(3), "t": jnp.tanh}, key="b")(x, arch))


EXAMPLE = jax.ShapeDtypeStruct((1, 4), jnp.float32)
PAIR = jaxnas.space(Pair, EXAMPLE)
TABLE = LatencyTable({"a": {"0": 10.0, "1": 30.0}, "b": {"id": 0.0, "d": 50.0, "t": 5.0}})
X = np.random.RandomState(0).randn(48, 4).astype(np.float32)
DATA = X, (X[:, 0] > 0).astype(np.int32)


def built(penalty):
    return penalty.for_model(Seen(Pair, PAIR, EXAMPLE, parts.softmax(PAIR)))


# ------------------------------------------------------------------------ FBNet


def test_fbnets_cost_is_that_of_the_drawn_weights():
    mixture = {"a": jnp.asarray([0.25, 0.75]), "b": jnp.asarray([0.2, 0.5, 0.3])}
    penalty = built(parts.expected_cost("latency", form="log", weight=0.6, scale=0.2, drawn=True, table=TABLE))
    value, slope = jax.value_and_grad(lambda m: penalty(jnp.float32(2), {}, m, T0))(mixture)
    latency = 2.5 + 22.5 + 25 + 1.5
    assert value == pytest.approx(2 * 0.2 * np.log(latency) ** 0.6, rel=1e-5)
    outer = 2 * 0.2 * 0.6 * np.log(latency) ** -0.4 / latency
    np.testing.assert_allclose(slope["a"], outer * np.asarray([10, 30]), rtol=1e-4)
    np.testing.assert_allclose(slope["b"], outer * np.asarray([0, 50, 5]), rtol=1e-4)
    with_target = built(parts.expected_cost("latency", form="log", target=100, weight=0.3, drawn=True, table=TABLE))
    assert with_target(jnp.float32(2), {}, mixture, T0) == pytest.approx(2 * (np.log(latency) / np.log(100)) ** 0.3)


def test_the_temperature_falls_exponentially():
    for t in (0.0, 0.5, 1.0):
        relaxation, rng = parts.gumbel((5.0, 0.05), fall="exponential")(ONE), jax.random.key(0)
        noise = jax.random.gumbel(jax.random.split(rng, 1)[0], (4,))
        tau = 5 * 0.01**t
        wanted = special.softmax((np.log(special.softmax(np.asarray(LOGITS["a"]))) + np.asarray(noise)) / tau)
        np.testing.assert_allclose(relaxation.arch(LOGITS, rng, jnp.float32(t))["a"], wanted, rtol=1e-3, atol=1e-6)


def test_an_epoch_in_turns_moves_the_weights_and_then_the_logits():
    method = jaxnas.fbnet.method()
    plan_options = {"epochs": 2, "batch_size": 8, "warmup_epochs": 1, "train_portion": 0.5, "progress": False}
    result = jaxnas.search(Pair, DATA, method, **plan_options)
    assert "valid_loss" not in result.history[0]
    assert {"valid_loss", "train_loss"} <= result.history[1].keys()
    algorithm = differentiable.algorithm(
        Pair, PAIR, weight_optimizer=optax.sgd(0.1), arch_optimizer=optax.sgd(0.1), steps=4
    )
    batch = jnp.asarray(X[:8]), jnp.asarray(DATA[1][:8])
    state = algorithm.init(jax.random.key(0), batch)
    after, report = algorithm.step(state, None, batch)
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    assert np.abs(after.alphas["b"] - state.alphas["b"]).max() > 0
    assert "train_loss" not in report
    assert after.step == 1
    with pytest.raises(ValueError, match="in_turns trains the logits without the weights' batch"):
        jaxnas.differentiable("x", in_turns=True, hypergradient=parts.exact)


# ----------------------------------------------------------------- ProxylessNAS


def test_two_paths_are_drawn_without_replacement_by_probability():
    relaxation = parts.two_paths(ONE)
    draw = jax.jit(jax.vmap(lambda rng: relaxation.arch(LOGITS, rng, T0)["a"]))
    drawn = jax.device_get(draw(jax.random.split(jax.random.key(1), 8000)))
    assert np.all(drawn.index[:, 0] != drawn.index[:, 1])
    assert sorted(np.unique(drawn.gate)) == [0.0, 1.0]
    assert np.all(drawn.gate.sum(1) == 1)
    p = special.softmax(np.asarray(LOGITS["a"]))
    pairs = p[:, None] * p[None] / (1 - p[:, None])  # the first, then the second among the rest
    np.fill_diagonal(pairs, 0)
    found = np.zeros((4, 4))
    np.add.at(found, (drawn.index[:, 0], drawn.index[:, 1]), 1 / 8000)
    np.testing.assert_allclose(found, pairs, atol=0.02)
    first = p[drawn.index[:, 0]] / p[drawn.index].sum(1)  # the gate of the first is 1 as often as p' says
    assert drawn.gate[:, 0].mean() == pytest.approx(first.mean(), abs=0.02)


def test_binary_gates_have_the_gradient_of_the_pair():
    relaxation, g = parts.two_paths(ONE), jnp.asarray([2.0, -1.0])
    path = relaxation.arch(LOGITS, jax.random.key(0), T0)["a"]
    slope = jax.grad(lambda a: relaxation.arch(a, jax.random.key(0), T0)["a"].gate @ g)(LOGITS)["a"]
    p = special.softmax(np.asarray(LOGITS["a"])[path.index])
    wanted = np.zeros(4)
    wanted[path.index] = [sum(g[j] * p[j] * ((i == j) - p[i]) for j in range(2)) for i in range(2)]
    np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-7)


def test_an_update_of_two_paths_leaves_the_others_their_probability():
    relaxation = parts.two_paths(ONE)
    path = Gated(jnp.asarray([2, 0]), jnp.asarray([1.0, 0.0]))
    updated = {"a": LOGITS["a"] + jnp.asarray([0.7, 0.9, -0.2, 0.4])}  # as an optimiser with momentum would
    settled = relaxation.settle(LOGITS, updated, {"a": path})["a"]
    before, after = special.softmax(np.asarray(LOGITS["a"])), special.softmax(np.asarray(settled))
    np.testing.assert_allclose(after[[1, 3]], before[[1, 3]], rtol=1e-5)
    assert after[0] + after[2] == pytest.approx(before[0] + before[2], rel=1e-5)
    assert after[0] / after[2] == pytest.approx(np.exp(0.3 + 0.7 - 1.0 + 0.2), rel=1e-5)
    np.testing.assert_array_equal(np.asarray(settled)[[1, 3]], np.asarray(LOGITS["a"])[[1, 3]])


def test_a_step_moves_two_logits():
    method = jaxnas.proxyless.method(arch_optimizer=optax.adam(0.1))
    options = {"epochs": 1, "warmup_epochs": 0, "batch_size": 32, "train_portion": 0.5, "progress": False}
    result = jaxnas.search(EnasPlanted, planted_data(64), method, **options)
    moved = np.abs(np.asarray(result.alphas["op"])) > 0.01  # they begin at 1e-3
    assert moved.sum() == 2


def test_the_cost_of_the_pair_reaches_the_pair_alone():
    logits = {"a": jnp.asarray([0.2, 0.1]), "b": jnp.asarray([0.0, 0.5, 1.0])}
    relaxation = parts.two_paths(PAIR)
    penalty = built(parts.expected_cost("latency", target=20, weight=0.1, drawn=True, table=TABLE))
    rng = jax.random.key(3)
    slope = jax.grad(lambda a: penalty(T0, a, relaxation.arch(a, rng, T0), T0))(logits)["b"]
    index = np.asarray(relaxation.arch(logits, rng, T0)["b"].index)
    costs, p = np.asarray([0.0, 50.0, 5.0])[index], special.softmax(np.asarray(logits["b"])[index])
    wanted = np.zeros(3)
    wanted[index] = 0.1 / 20 * p * (costs - p @ costs)
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-7)


REINFORCE = {"learn": "reinforce", "reinforce_steps": 3, "reinforce_samples": 4}
QUICK = {"epochs": 2, "warmup_epochs": 0, "batch_size": 8, "train_portion": 0.5, "progress": False}


def test_reinforce_resumes_to_the_bit(tmp_path):
    def cut():
        raise CutOffError

    method = jaxnas.proxyless.method(**REINFORCE, cost="latency", cost_target=40.0, table=TABLE)
    whole = jaxnas.search(Pair, DATA, method, **QUICK)
    callbacks = [AfterStep(1, 1, cut)]
    with pytest.raises(CutOffError):
        jaxnas.search(Pair, DATA, method, **QUICK, workdir=tmp_path, checkpoint_minutes=0, callbacks=callbacks)
    same_bits(whole, jaxnas.search(Pair, DATA, method, **QUICK, workdir=tmp_path))
    record = whole.history[-1]
    assert {key: np.argmax(p) for key, p in record["probabilities"].items()} == {
        key: PAIR[key].labels.index(whole.arch[key]) for key in PAIR
    }


def test_reinforce_learns_to_be_cheap():
    """The reward is the cost alone, so the cheapest candidates win."""
    method = jaxnas.proxyless.method(
        **{**REINFORCE, "reinforce_steps": 60}, cost="latency", cost_target=40.0, cost_weight=2.0, table=TABLE
    )
    result = jaxnas.search(Pair, DATA, method, **QUICK, arch_lr=0.05)
    assert result.arch == {"a": 0, "b": "id"}


def test_a_table_may_be_a_file(tmp_path):
    TABLE.save(tmp_path / "table.json")
    for made in (jaxnas.fbnet, functools.partial(jaxnas.proxyless.method, cost_target=9.0)):
        method = getattr(made, "method", made)
        of_file, of_table = (method(cost="latency", table=t) for t in (str(tmp_path / "table.json"), TABLE))
        assert of_file.settings == of_table.settings
        assert "times " in str(of_table.settings)  # another table is another search
    with pytest.raises(FileNotFoundError):
        jaxnas.spos.method(max_latency=3.0, table=str(tmp_path / "no.json"))


# ---------------------------------------------------------------------- rewards


def test_cost_in_a_reward():
    arch = {"a": jnp.int32(1), "b": jnp.int32(1)}
    seen = Seen(Pair, PAIR, EXAMPLE, None)
    multiplied = parts.cost_in_reward("latency", target=40, weight=0.07, table=TABLE).for_model(seen)
    assert multiplied(jnp.float32(0.9), arch) == pytest.approx(0.9 * 2**-0.07, rel=1e-5)
    added = parts.cost_in_reward("flops", target=10, form="add", weight=0.5).for_model(seen)
    flops = jaxnas.cost(Pair, (1, 4), {"a": 1, "b": "d"}).flops
    assert added(jnp.float32(0.9), arch) == pytest.approx(0.9 - 0.5 * (flops - 10) / 10, rel=1e-5)


# ---------------------------------------------------------------------- FairNAS

MANY = Space(
    {
        "a": ChoiceSpec("layer", 3),
        "b": ChoiceSpec("layer", 2),
        "any": ChoiceSpec("input", 2, None, None),
        "two": ChoiceSpec("input", 3, None, 2),
    }
)


def test_every_candidate_is_in_as_many_paths():
    rows = jax.device_get(jax.vmap(parts.fair_paths(MANY))(jax.random.split(jax.random.key(0), 50)))
    for i in range(50):
        drawn = {key: leaf[i] for key, leaf in rows.items()}
        assert np.bincount(drawn["a"]).tolist() == [2, 2, 2]
        assert sorted(drawn["a"][:3]) == [0, 1, 2]  # each three paths have each once
        assert np.bincount(drawn["b"]).tolist() == [3, 3]
        assert drawn["any"].sum(0).tolist() == [3, 3]
        assert np.bincount(drawn["two"].ravel()).tolist() == [4, 4, 4]
        assert np.all(drawn["two"][:, 0] < drawn["two"][:, 1])
    assert len({str(row) for row in rows["a"]}) > 20
    with pytest.raises(jaxnas.ArchitectureError, match="strict fairness needs 77 paths in every step"):
        parts.fair_paths(Space({"a": ChoiceSpec("layer", 7), "b": ChoiceSpec("layer", 11)}))


def test_the_gradients_of_all_paths_make_one_update():
    space = PAIR
    fair = parts.fair_paths(space)
    pure = sampled.algorithm(
        Pair, uniform(space), weight_optimizer=optax.sgd(0.1), train_on=parts.fair_paths, grad_clip=None
    )
    batch = jnp.asarray(X[:16]), jnp.asarray(DATA[1][:16])
    state = pure.init(jax.random.key(0), batch)
    after, report = jax.jit(pure.step)(state, batch, None)
    paths = fair(jax.random.split(jax.random.fold_in(state.rng, state.step), 4)[0])
    assert np.bincount(paths["b"]).tolist() == [2, 2, 2]

    @jax.jit
    def loss(params, arch):
        output = Pair().apply({"params": params}, batch[0], arch)
        return optax.softmax_cross_entropy_with_integer_labels(output, batch[1]).mean()

    archs = [{key: leaf[i] for key, leaf in paths.items()} for i in range(6)]
    gradient = jax.jit(jax.grad(loss))
    gradients = [gradient(state.params, arch) for arch in archs]
    total = jax.tree.map(lambda *each: sum(each), *gradients)
    wanted = jax.tree.map(lambda w, g: w - 0.1 * g, state.params, total)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), after.params, wanted)
    assert report["train_loss"] == pytest.approx(np.mean([loss(state.params, arch) for arch in archs]), rel=1e-5)


def test_fairnas_selects_by_the_best_of_samples_too():
    method = jaxnas.fairnas.method(selection="samples", derive_samples=8, derive_examples=16)
    result = jaxnas.search(Pair, DATA, method, epochs=1, batch_size=8, progress=False)
    scores = [trial.score for trial in result.trials]
    assert scores == sorted(scores, reverse=True)
    assert result.arch == result.trials[0].arch


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: jaxnas.fbnet.method(temperature=(5.0, 0.0)), "temperature must be two positive numbers"),
        (lambda: jaxnas.fbnet.method(cost="latency"), "needs a table, from jaxnas.measure_latency"),
        (lambda: jaxnas.fbnet.method(table=TABLE), "but no cost"),
        (lambda: jaxnas.fbnet.method(cost="energy"), "knows .*; got 'energy'"),
        (lambda: parts.gumbel(fall="slow"), "fall must be"),
        (lambda: parts.expected_cost("flops", form="log", target=1.0), "needs a target above 1"),
        (lambda: parts.expected_cost("flops", target=2.0, table=TABLE), "needs no latency table"),
        (lambda: jaxnas.proxyless.method(learn="evolution"), "learn must be"),
        (lambda: jaxnas.proxyless.method(cost="flops"), "cost='flops' needs a cost_target"),
        (lambda: jaxnas.proxyless.method(cost_target=3.0), "but no cost"),
        (lambda: jaxnas.fairnas.method(selection="best"), "selection must be"),
        (lambda: jaxnas.fairnas.method(selection="samples", max_flops=3), "max_flops is a limit of selection"),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()
