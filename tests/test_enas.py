"""ENAS: what a search finds, how it derives it, and that one program serves all architectures."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import ENAS_OPTIONS, Block, EnasPlanted, NoChoice, assert_trees_close, make_plan, planted_data

import jaxnas
from jaxnas import InputChoice, LayerChoice, enas
from jaxnas.programs.epoch import own_buffers
from jaxnas.programs.evaluation import accuracy, cross_entropy

pytestmark = pytest.mark.usefixtures("quickly_compiled")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("enas") / "run"
    return folder, enas.search(EnasPlanted, planted_data(2000), seed=3, workdir=folder, **ENAS_OPTIONS)


def test_finds_the_planted_operation(found):
    _, result = found
    assert result.arch == {"op": "square", "input": 1}
    last = result.history[-1]
    assert last["probabilities"]["op"][1] > 0.5
    assert last["derived_accuracy"] > 0.9
    assert last["reward"] > result.history[0]["reward"]


def test_the_architecture_is_the_best_of_those_scored_on_held_out_data(found):
    folder, result = found
    top = result.top(3)
    assert top[0].arch == result.arch
    assert [c.score for c in top] == sorted((c.score for c in result.candidates), reverse=True)[:3]
    assert len({repr(c.arch) for c in result.candidates}) == len(result.candidates) <= 30
    # 40 % of 2,000 are held out; the first 200 of them select.
    plan = make_plan(EnasPlanted, planted_data(2000), batch_size=50, seed=3, train_portion=0.6)
    x, y = (a[plan.arch_examples[:200]] for a in planted_data(2000))
    for candidate in top:
        fixed = jaxnas.apply_fixed_architecture(EnasPlanted, candidate.arch)
        logits = fixed.apply(jaxnas.inherit(fixed, result.variables, result.example), x)
        assert candidate.score == pytest.approx(float(accuracy(logits, y)["accuracy"]), abs=1e-6)
        assert candidate.metrics["loss"] == pytest.approx(float(cross_entropy(logits, y)), abs=1e-5)
    x, y = (a[plan.arch_examples[-200:]] for a in planted_data(2000))
    logits = result.fixed_model().apply(result.inherit(), x)
    assert result.history[-1]["derived_accuracy"] == pytest.approx(float(accuracy(logits, y)["accuracy"]), abs=1e-6)
    ended = json.loads((folder / "result.json").read_text())
    assert [c["score"] for c in ended["candidates"]] == [c.score for c in result.candidates]


def test_records_and_files_tell_the_search(found):
    folder, result = found
    assert len(result.history) == 10
    names = ("train_loss", "train_accuracy", "reward", "entropy", "baseline", "sampled_accuracy", "derived_loss")
    for record in result.history:
        assert all(np.isfinite(record[name]) for name in names)
        assert set(record["arch"]) == set(result.space)
    for key, spec in result.space.items():
        shares = result.history[-1]["probabilities"][key]
        assert len(shares) == spec.n_candidates
        if spec.n_chosen == 1:
            assert sum(shares) == pytest.approx(1, abs=1e-5)
    assert jaxnas.load(folder / "final_arch.json") == result.arch
    config = json.loads((folder / "config.json").read_text())
    assert (config["algorithm"], config["controller_samples"], config["child_steps"]) == ("enas", 10, 24)
    assert result.alphas == {}


def test_the_same_seed_gives_the_same_bits():
    options = {**ENAS_OPTIONS, "epochs": 2, "derive_samples": 4}
    one, two, other = (enas.search(EnasPlanted, planted_data(), seed=seed, **options) for seed in (1, 1, 2))
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(two.variables), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert one.arch == two.arch
    assert [r["probabilities"] for r in one.history] == [r["probabilities"] for r in two.history]
    assert one.history[0]["train_loss"] != other.history[0]["train_loss"]


def test_derive_sample_keeps_one_random_sample_of_the_policy():
    result = enas.search(EnasPlanted, planted_data(), **{**ENAS_OPTIONS, "epochs": 1, "derive": "sample"})
    result.space.validate(result.arch)
    assert result.candidates == ()
    with pytest.raises(ValueError, match=r"scored no architectures.*jaxnas\.evaluate"):
        result.top(1)
    algorithm = make_algorithm(EnasPlanted, planted_data())
    drawn = {repr(algorithm.derive(result.state.replace(step=jnp.asarray(i)))) for i in range(10)}
    assert len(drawn) > 2


class Images(nn.Module):
    """Convolutions, batch norm, dropout, a skip, and an auxiliary head."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        convs = {f"conv_{k}": nn.Conv(4, (k, k)) for k in (1, 3, 5)}
        x = LayerChoice(convs, key="stem")(x, arch)
        y = LayerChoice({"block": Block(4, 0.2), "dense": nn.Dense(4)}, key="body")(nn.relu(x), arch, train=train)
        skip = InputChoice(choose_from=["stem"], key="skip")([x], arch)
        y = y if skip is None else y + skip
        y = nn.BatchNorm(use_running_average=not train, momentum=0.9)(y)
        logits = nn.Dense(3)(y.mean((1, 2)))
        auxiliary = nn.Dense(3, name="auxiliary")(x.mean((1, 2)))
        return (logits, auxiliary) if train else logits


def image_data(n=400):
    random = np.random.RandomState(0)
    y = random.randint(0, 3, n)
    return (random.randn(n, 6, 6, 2) + y[:, None, None, None]).astype(np.float32), y.astype(np.int32)


def make_algorithm(model, data, **options):
    space = jaxnas.space(model, data[0][:1])
    return enas.algorithm(
        model,
        enas.controller(space),
        weight_optimizer=optax.sgd(0.05),
        controller_optimizer=optax.adam(1e-2),
        controller_samples=4,
        **options,
    )


def test_one_compilation_serves_200_child_steps():
    x, y = image_data()
    algorithm = make_algorithm(Images, (x, y), loss_fn=lambda output, y: cross_entropy(output[0], y))
    traces = []

    def counted(state, train_batch):
        traces.append(None)
        return algorithm.step(state, train_batch, None)

    step = jax.jit(counted)
    state = own_buffers(algorithm.init(jax.random.key(0), (x[:20], y[:20])))
    losses = []
    for i in range(200):
        rows = np.arange(20) + 20 * (i % 20)
        state, metrics = step(state, (x[rows], y[rows]))
        losses.append(float(metrics["train_loss"]))
    assert len(traces) == 1
    assert step._cache_size() == 1
    assert int(state.step) == 200
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


def test_a_child_step_trains_only_the_weights_of_its_architecture():
    x, y = image_data(20)
    algorithm = make_algorithm(Images, (x, y), loss_fn=lambda output, y: cross_entropy(output[0], y))
    state = algorithm.init(jax.random.key(0), (x, y))
    new, _ = algorithm.step(state, (x, y), None)
    kernels = [
        [layer["kernel"] for name, layer in params.items() if name in ("Conv_0", "Conv_1", "Conv_2")]
        for params in (state.params, new.params)
    ]
    assert sum(not np.array_equal(before, after) for before, after in zip(*kernels, strict=True)) == 1
    assert_trees_close(new.policy, state.policy)
    again, metrics = algorithm.step(state, None, (x, y))
    assert_trees_close(again.params, state.params)
    assert not np.array_equal(again.policy.params["op_output"], state.policy.params["op_output"])
    assert 0 <= float(metrics["reward"]) <= 1


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_searches_batch_norm_dropout_auxiliary_heads_and_uint8_images(statistics):
    x, y = image_data()
    x = np.clip(40 * x + 100, 0, 255).astype(np.uint8)
    result = enas.search(
        Images, (x, y), epochs=3, batch_size=20, controller_steps=3, controller_samples=3, derive_samples=10,
        derive_examples=40, train_portion=0.8, reward_statistics=statistics, progress=False,
        weight_optimizer=optax.sgd(0.05, momentum=0.9), warmup_epochs=1,
    )  # fmt: skip
    assert "reward" not in result.history[0]
    assert "reward" in result.history[1]
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]
    assert result.history[-1]["derived_accuracy"] > 0.6
    trained = jaxnas.training.fit(
        result.fixed_model(), (x[:300], y[:300], x[300:], y[300:]), epochs=4, batch_size=20, progress=False,
        variables=result.inherit(),
    )  # fmt: skip
    assert trained.test_accuracy > 0.8


def test_auxiliary_heads_count_in_the_loss_with_their_weight():
    x, y = image_data()
    options = {**ENAS_OPTIONS, "epochs": 1, "controller_steps": 1, "derive_samples": 2, "derive_examples": 50}
    without, with_heads = (
        enas.search(Images, (x, y), **{**options, "aux_weight": weight, "weight_optimizer": optax.sgd(0.0)})
        for weight in (0.0, 2.0)
    )
    assert with_heads.history[0]["train_loss"] > 2 * without.history[0]["train_loss"]
    assert with_heads.history[0]["derived_loss"] == pytest.approx(without.history[0]["derived_loss"], rel=1e-5)


def test_a_reward_of_ones_own():
    options = {**ENAS_OPTIONS, "epochs": 4, "reward_fn": lambda output, y: -jnp.abs(output).mean()}
    result = enas.search(EnasPlanted, planted_data(), **options)
    assert all(c.score < 0 for c in result.candidates)
    assert result.top(1)[0].score == max(c.score for c in result.candidates)


@pytest.mark.parametrize(
    ("model", "change", "error", "message"),
    [
        (NoChoice, {}, jaxnas.ArchitectureError, "NoChoice has no LayerChoice"),
        (
            EnasPlanted,
            {"reward_fn": lambda o, y: o.argmax(-1) == y},
            ValueError,
            r"reward_fn returned .*\[50\]",
        ),
        (EnasPlanted, {"train_portion": 0.97}, jaxnas.DataError, "batch of 50.*architecture's split.*30"),
        (EnasPlanted, {"derive": "luck"}, ValueError, "derive.*luck"),
        (EnasPlanted, {"reward_statistics": "own"}, ValueError, "reward_statistics.*own"),
        (EnasPlanted, {"controller_steps": 0}, ValueError, "controller_steps"),
        (EnasPlanted, {"child_steps": 0}, ValueError, "child_steps"),
        (EnasPlanted, {"entropy_weight": float("nan")}, ValueError, "entropy_weight"),
    ],
)
def test_bad_arguments_are_named(model, change, error, message):
    with pytest.raises(error, match=message):
        enas.search(model, planted_data(), **{**ENAS_OPTIONS, **change})


class TwoOfThree(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        return nn.Dense(2)(InputChoice(n_candidates=3, n_chosen=2, key="pair")([x, x, x], arch))


def test_choosing_two_is_refused_with_what_is_supported():
    with pytest.raises(jaxnas.ArchitectureError, match="'pair'.*n_chosen=1.*n_chosen=None.*got n_chosen=2"):
        enas.search(TwoOfThree, planted_data(), **ENAS_OPTIONS)


def test_a_reward_that_is_not_finite_stops_with_the_last_good_values(tmp_path):
    options = {**ENAS_OPTIONS, "reward_fn": lambda output, y: jnp.where(y[0] >= 0, jnp.nan, 0.0)}
    with pytest.raises(jaxnas.NonFiniteLossError, match=r"reward.*epoch 0, step 12 ") as caught:
        enas.search(EnasPlanted, planted_data(), workdir=tmp_path / "run", **options)
    error = caught.value
    assert (error.epoch, error.step) == (0, 12)  # after the weights' 12 steps
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(error.result.variables))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


def test_the_learning_rate_restarts_after_10_30_and_70_epochs():
    optimizer = enas.paper_weight_optimizer(steps_per_epoch=3, weight_decay=0.0)
    rate = jax.jit(
        lambda step: -optimizer.update(
            {"w": jnp.ones(())}, jax.tree.map(lambda leaf: step.astype(leaf.dtype) if leaf.dtype == jnp.int32 else leaf,
                                              optimizer.init({"w": jnp.zeros(())})), {"w": jnp.zeros(())},
        )[0]["w"] / 1.9
    )  # fmt: skip
    by_epoch = [float(rate(jnp.asarray(3 * epoch))) for epoch in range(71)]
    for start in (0, 10, 30, 70):
        assert by_epoch[start] == pytest.approx(0.05, rel=1e-5)
    for start, end in ((0, 10), (10, 30), (30, 70)):
        assert by_epoch[(start + end) // 2] == pytest.approx((0.05 + 0.001) / 2, rel=1e-3)
        assert all(a > b for a, b in zip(by_epoch[start : end - 1], by_epoch[start + 1 : end], strict=True))
    assert float(rate(jnp.asarray(3 * 5 + 2))) == pytest.approx(by_epoch[5])
