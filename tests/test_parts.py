"""The update rules of one-shot methods, against numbers worked out by hand or by a few lines of NumPy."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from scipy import special, stats

import jaxnas
from jaxnas import ChoiceSpec, Gated, LayerChoice, Space, parts
from jaxnas.oneshot.parts.part import Seen
from jaxnas.oneshot.parts.perturbation import _noise
from jaxnas.oneshot.parts.relaxation import decide
from jaxnas.oneshot.parts.scoring import most_probable
from jaxnas.spaces.nasbench201 import Cell
from jaxnas.spaces.partial import divided, joined

pytestmark = pytest.mark.usefixtures("quickly_compiled")

ONE = Space({"a": ChoiceSpec("layer", 3), "b": ChoiceSpec("layer", 4)})
MIXED = Space(
    {
        "e0": ChoiceSpec("layer", 3, ("none", "skip", "conv")),
        "e1": ChoiceSpec("layer", 3, ("none", "skip", "conv")),
        "e2": ChoiceSpec("layer", 3, ("none", "skip", "conv")),
        "any": ChoiceSpec("input", 3, None, None),
        "two": ChoiceSpec("input", 3, None, 2),
        "node": ChoiceSpec("input", 3, ("e0", "e1", "e2"), 2, True),
    }
)
T0 = jnp.float32(0)


def logits_of(space, seed=0):
    rng = np.random.RandomState(seed)
    return {k: jnp.asarray(rng.randn(s.n_candidates), jnp.float32) for k, s in space.items() if not s.ranked}


def softmax(x):
    return special.softmax(np.asarray(x, np.float64))


def many(relaxation, logits, t=0.0, n=4000):
    """Samples of a relaxation, each leaf `[n, …]`."""
    draw = jax.jit(jax.vmap(lambda rng: relaxation.arch(logits, rng, jnp.float32(t))))
    return jax.device_get(draw(jax.random.split(jax.random.key(1), n)))


def test_beta_decay_moves_logits_by_their_softmax():
    logits = logits_of(ONE)
    penalty = parts.beta_decay(8.0)(ONE)
    value, gradient = jax.value_and_grad(lambda a: penalty(jnp.float32(1), a, {}, jnp.float32(0.25)))(logits)
    assert value == pytest.approx(
        1 + 2 * np.mean([special.logsumexp(np.asarray(a)) for a in logits.values()]), rel=1e-5
    )
    for key, a in logits.items():
        np.testing.assert_allclose(gradient[key], 2 * softmax(a) / 2, rtol=1e-5)


@pytest.mark.parametrize("form", ["l2", "l1"])
def test_zero_one_loss(form):
    logits = logits_of(ONE)
    away = special.expit(np.concatenate(list(logits.values())).astype(np.float64)) - 0.5
    expected = 2 - 10 * np.mean(away**2 if form == "l2" else np.abs(away))
    got = parts.zero_one(form=form)(ONE)(jnp.float32(2), logits, {}, T0)
    assert got == pytest.approx(expected, rel=1e-5)


def test_anchors_of_drnas():
    logits = logits_of(ONE)
    c = {k: np.where(a > 0, a, np.exp(np.minimum(a, 0)) - 1) + 1 for k, a in logits.items()}
    l2 = parts.anchor(3.0)(ONE)(jnp.float32(1), logits, {}, T0)
    assert l2 == pytest.approx(1 + 1.5 * sum(((each - 1) ** 2).sum() for each in c.values()), rel=1e-4)
    kl = parts.anchor(1.0, distance="kl")(ONE)(T0, logits, {}, T0)
    draws = {k: stats.dirichlet.rvs(each, size=200_000, random_state=0) for k, each in c.items()}
    log_ratio = {
        k: special.gammaln(c[k].sum()) - special.gammaln(c[k]).sum() - special.gammaln(len(c[k]))
        + (np.log(d) * (c[k] - 1)).sum(1)
        for k, d in draws.items()
    }  # fmt: skip
    assert kl == pytest.approx(sum(each.mean() for each in log_ratio.values()), abs=0.02)
    zeros = {k: jnp.zeros(s.n_candidates) for k, s in ONE.items()}
    assert parts.anchor(1.0, distance="kl")(ONE)(T0, zeros, {}, T0) == pytest.approx(0, abs=1e-4)


def test_dirichlet_weights_have_the_moments_of_their_concentration():
    logits = {"a": jnp.asarray([1.0, 0.0, -2.0]), "b": jnp.zeros(4)}
    relaxation = parts.dirichlet(ONE)
    drawn = many(relaxation, logits)
    c = np.asarray([2.0, 1.0, np.exp(-2)])
    mean = c / c.sum()
    np.testing.assert_allclose(drawn["a"].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(drawn["a"].mean(0), mean, atol=0.02)
    np.testing.assert_allclose(drawn["a"].var(0), mean * (1 - mean) / (c.sum() + 1), atol=0.01)
    np.testing.assert_allclose(relaxation.probabilities(logits)["a"], mean, rtol=1e-4)

    def first(logits):  # E[θ₁] = c₁ / Σc, so its gradient is known
        arch = jax.vmap(lambda rng: relaxation.arch(logits, rng, T0))(jax.random.split(jax.random.key(0), 4000))
        return arch["a"][:, 0].mean()

    total = c.sum()
    expected = np.asarray([(total - c[0]) / total**2, -c[0] / total**2, -c[0] / total**2 * np.exp(-2)])
    np.testing.assert_allclose(jax.jit(jax.grad(first))(logits)["a"], expected, atol=0.02)


def test_gumbel_weights_are_largest_as_often_as_probable_and_sharpen():
    logits = logits_of(ONE)
    relaxation = parts.gumbel((2.0, 0.1))(ONE)
    for t, tau in ((0.0, 2.0), (1.0, 0.1)):
        drawn = many(relaxation, logits, t)["a"]
        shares = np.bincount(drawn.argmax(1), minlength=3) / len(drawn)
        np.testing.assert_allclose(shares, softmax(logits["a"]), atol=0.03)
        noise = np.random.RandomState(0).gumbel(size=(4000, 3))
        alike = special.softmax((np.log(softmax(logits["a"])) + noise) / tau, axis=1)
        np.testing.assert_allclose(drawn.mean(0), alike.mean(0), atol=0.03)
        np.testing.assert_allclose(drawn.std(0), alike.std(0), atol=0.03)


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_reinmax_has_the_gradient_of_its_formula(temperature):
    logits, g = logits_of(ONE), np.asarray([0.3, -1.0, 2.0])
    relaxation = parts.reinmax(temperature, one_path=False)(ONE)
    gated = parts.reinmax(temperature)(ONE)
    rng = jax.random.key(3)

    def jacobian(p):
        return np.diag(p) - np.outer(p, p)

    def expected(chosen, g):
        p0, half = softmax(logits["a"]), (chosen + softmax(np.asarray(logits["a"]) / temperature)) / 2
        return 2 * jacobian(half) @ g - jacobian(p0) @ g / 2

    value, gradient = jax.value_and_grad(lambda a: relaxation.arch(a, rng, T0)["a"] @ g)(logits)
    chosen = np.asarray(relaxation.arch(logits, rng, T0)["a"])
    assert sorted(chosen) == [0, 0, 1]
    assert value == pytest.approx(chosen @ g)
    np.testing.assert_allclose(gradient["a"], expected(chosen, g), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(gradient["b"], 0)

    path = gated.arch(logits, rng, T0)["a"]
    assert isinstance(path, Gated)
    assert (path.index.tolist(), path.gate.tolist()) == ([chosen.argmax()], [1.0])
    only = jax.grad(lambda a: (gated.arch(a, rng, T0)["a"].gate * g[chosen.argmax()]).sum())(logits)
    np.testing.assert_allclose(only["a"], expected(chosen, g * chosen), rtol=1e-4, atol=1e-6)
    shares = np.bincount(many(gated, logits)["a"].index[:, 0], minlength=3) / 4000
    np.testing.assert_allclose(shares, softmax(logits["a"]), atol=0.03)


def test_random_perturbation_stays_in_its_ball_and_on_the_simplex():
    mixture = parts.softmax(MIXED).probabilities(logits_of(MIXED))
    rng = jax.random.key(0)
    changed = parts.random_perturbation(0.2, start=0.1)(MIXED)(None, mixture, rng, jnp.float32(0.5))
    noise = _noise(MIXED, mixture, rng, 0.15)
    assert all(np.abs(each).max() <= 0.15 for each in noise.values())
    for key in ("e0", "e1", "two"):
        moved = np.clip(mixture[key] + noise[key], 0, 1)
        np.testing.assert_allclose(changed[key], moved * np.sum(mixture[key]) / moved.sum(), rtol=1e-5)
    np.testing.assert_allclose(changed["any"], np.clip(mixture["any"] + noise["any"], 0, 1), rtol=1e-6)
    np.testing.assert_array_equal(changed["node"], 1)


def test_adversary_takes_signed_steps_inside_the_ball():
    space = Space({"a": ChoiceSpec("layer", 3)})
    mixture, slope, rng = {"a": jnp.asarray([0.5, 0.3, 0.2])}, np.asarray([1.0, -2.0, 0.5]), jax.random.key(2)
    found = parts.adversarial(0.1, start=0.1, steps=7)(space)(lambda m: m["a"] @ slope, mixture, rng, T0)

    def projected(delta):
        moved = np.clip(np.asarray(mixture["a"]) + delta, 0, 1)
        return moved / moved.sum()

    now = projected(np.asarray(_noise(space, mixture, rng, 0.1)["a"]))
    for _ in range(7):
        now = projected(np.clip(now + 0.2 / 7 * np.sign(slope) - np.asarray(mixture["a"]), -0.1, 0.1))
    np.testing.assert_allclose(found["a"], now, rtol=1e-5)
    assert found["a"] @ slope > mixture["a"] @ slope
    best = {"a": jnp.asarray([1.0, 0.0, 0.0])}  # no neighbour is worse: it is kept as it is
    kept = parts.adversarial(0.1, start=0.1)(space)(lambda m: m["a"][0], best, rng, T0)
    np.testing.assert_array_equal(kept["a"], best["a"])


def plan_of(space, **options):
    return types.SimpleNamespace(space=space, **{"arch_lr": None, **options})


def test_exponentiated_gradient():
    relaxation, g = parts.simplex(MIXED), logits_of(MIXED, 5)
    theta = relaxation.init(jax.random.key(0))
    np.testing.assert_allclose(theta["e0"], 1 / 3)
    np.testing.assert_allclose(relaxation.probabilities(theta)["two"], 2 / 3, rtol=1e-6)
    optimizer = parts.exponentiated_gradient(0.5)(plan_of(MIXED))
    state = optimizer.init(theta)
    for _ in range(3):
        updates, state = optimizer.update(g, state, theta)
        theta = optax.apply_updates(theta, updates)
    for key in ("e0", "two"):
        scaled = np.exp(-1.5 * np.asarray(g[key]))
        np.testing.assert_allclose(theta[key], scaled / scaled.sum(), rtol=1e-4)
    np.testing.assert_allclose(theta["any"], special.expit(-1.5 * np.asarray(g["any"])), rtol=1e-4)
    steep = {key: 1e30 * each for key, each in g.items()}
    updates, _ = optimizer.update(steep, state, theta)
    for key, each in optax.apply_updates(theta, updates).items():
        assert np.all((each > 0) & (each <= 1)), key
    assert parts.exponentiated_gradient(0.5)(plan_of(ONE, arch_lr=0.1)).update(
        {"a": jnp.asarray([1.0, 0, 0])}, state, {"a": jnp.full(3, 1 / 3)}
    )[0]["a"][0] == pytest.approx(np.exp(-0.1) / (np.exp(-0.1) + 2) - 1 / 3, rel=1e-4)


def test_sigmoid_gates_do_not_compete():
    relaxation, logits = parts.sigmoid(MIXED), logits_of(MIXED)
    assert all(np.all(each == 0) for each in relaxation.init(jax.random.key(0)).values())
    arch = relaxation.arch(logits, None, T0)
    for key in ("e0", "any", "two"):
        np.testing.assert_allclose(arch[key], special.expit(np.asarray(logits[key])), rtol=1e-5)
    np.testing.assert_array_equal(arch["node"], 1)


def view_of(space, probabilities):
    algorithm = types.SimpleNamespace(logits=lambda state: probabilities, mixture=lambda logits: logits, one_path=False)
    return types.SimpleNamespace(algorithm=algorithm, state=None, space=space, score=None)


def test_threshold_keeps_what_is_above_it_and_counts_the_rest():
    mixture = {
        "e0": jnp.asarray([0.99, 0.2, 0.9]),
        "e1": jnp.asarray([0.1, 0.7, 0.3]),
        "e2": jnp.asarray([0.1, 0.6, 0.3]),
        "any": jnp.asarray([0.6, 0.9, 0.86]),
        "two": jnp.asarray([0.9, 0.1, 0.3]),
        "node": jnp.ones(3),
    }
    review = parts.by_threshold()(view_of(MIXED, mixture))
    assert review.arch == {"e0": "conv", "e1": "skip", "e2": (), "any": (1, 2), "two": (0, 2), "node": ("e0", "e1")}
    assert review.record["below_threshold"] == 1  # e1
    MIXED.validate(review.arch)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: jaxnas.snas.method(temperature=(1.0, 0.0)), "temperature must be two positive numbers"),
        (lambda: parts.gumbel((-1.0, 1.0)), "temperature must be two positive numbers"),
        (lambda: parts.reinmax(0.5), "temperature of at least 1; got 0.5"),
        (lambda: jaxnas.beta_darts.method(weight=-1.0), "weight must be a finite number of at least 0; got -1.0"),
        (lambda: jaxnas.sdarts.method(perturbation="noise"), "perturbation must be one of .*; got 'noise'"),
        (lambda: jaxnas.sdarts.method(radius=float("nan")), "radius must be"),
        (lambda: parts.adversarial(steps=0), "steps must be"),
        (lambda: jaxnas.drnas.method(anchor="l1"), "anchor must be"),
        (lambda: jaxnas.fair_darts.method(zero_one_form="l3"), "form must be"),
        (lambda: jaxnas.fair_darts.method(threshold=1.5), "threshold must be"),
        (lambda: parts.exponentiated_gradient(0.0), "lr must be"),
    ],
)
def test_bad_input_is_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_edges_are_normalised_and_count_for_the_decision():
    relaxation, logits = parts.edge_normalised()(MIXED), logits_of(MIXED)
    assert relaxation.init(jax.random.key(0))["node"].shape == (3,)
    logits["node"] = jnp.asarray([0.0, 1.0, 3.0])
    arch = relaxation.arch(logits, None, T0)
    np.testing.assert_allclose(arch["node"], softmax([0.0, 1.0, 3.0]), rtol=1e-5)
    np.testing.assert_allclose(arch["e0"], softmax(logits["e0"]), rtol=1e-5)
    for key, strong in (("e0", 0.9), ("e1", 0.5), ("e2", 0.2)):
        logits[key] = jnp.log(jnp.asarray([0.0 + 1e-9, strong, 1 - strong - 0.05]))
    strengths = {"e0": 0.9 / 0.95, "e1": 0.5 / 0.95, "e2": 0.75 / 0.95}  # times 0.042, 0.114, 0.844
    assert min(strengths, key=lambda key: strengths[key] * softmax([0, 1, 3])[int(key[1])]) == "e0"
    decided = decide(MIXED, jax.device_get(relaxation.probabilities(logits)))
    assert decided["node"] == ("e1", "e2")
    assert decided["e0"] == ()


def test_an_auxiliary_skip_is_added_while_searching_only():
    space = Space({"a": ChoiceSpec("layer", 3, ("none", "skip_connect", "conv")), "i": ChoiceSpec("input", 2)})
    relaxation, logits = parts.auxiliary_skip(first=1.0)(space), logits_of(space)
    arch = relaxation.arch(logits, None, jnp.float32(0.25))
    np.testing.assert_allclose(arch["a"] - softmax(logits["a"]), [0, 0.75, 0], atol=1e-6)
    np.testing.assert_allclose(arch["i"], softmax(logits["i"]), rtol=1e-5)
    np.testing.assert_allclose(relaxation.probabilities(logits)["a"], softmax(logits["a"]), rtol=1e-5)
    with pytest.raises(jaxnas.ArchitectureError, match="choice 'b' .* needs one candidate named one of"):
        parts.auxiliary_skip()(Space({"b": ChoiceSpec("layer", 2, ("none", "conv"))}))
    with pytest.raises(jaxnas.ArchitectureError, match="that computes all candidates"):
        parts.auxiliary_skip(parts.gumbel_path())(space)


def test_the_most_probable_architectures_are_found_in_order():
    space = Space(
        {"a": ChoiceSpec("layer", 3), "s": ChoiceSpec("input", 2, None, None), "k": ChoiceSpec("input", 3, None, 2)}
    )
    p = {"a": np.asarray([0.2, 0.5, 0.3]), "s": np.asarray([0.9, 0.4]), "k": np.asarray([0.1, 0.6, 1.3])}

    def probability(arch):
        taken = [i in np.atleast_1d(arch["s"]) for i in range(2)]
        subset = np.prod(np.where(taken, p["s"], 1 - p["s"]))
        return p["a"][arch["a"]] * subset * np.prod(p["k"][list(arch["k"])])

    found = most_probable(space, p, 36)
    every = sorted((probability(arch) for arch in found), reverse=True)
    assert len({str(arch) for arch in found}) == 36
    np.testing.assert_allclose([probability(arch) for arch in found], every)
    assert found[0] == {"a": 1, "s": 0, "k": (1, 2)}
    assert [str(arch) for arch in most_probable(space, p, 5)] == [str(arch) for arch in found[:5]]
    with pytest.raises(jaxnas.ArchitectureError, match="choice 'node'"):
        most_probable(MIXED, parts.softmax(MIXED).probabilities(logits_of(MIXED)), 3)


def test_partial_channels_pass_by_and_are_shuffled():
    x = jnp.arange(2 * 4 * 4 * 8, dtype=jnp.float32).reshape(2, 4, 4, 8)
    entering, rest = divided(x, 4)
    assert (entering.shape[-1], rest.shape[-1]) == (2, 6)
    y = np.asarray(joined(entering * 10, rest, 4, share=0.5))
    whole = np.concatenate([np.asarray(x)[..., :2] * 10, np.asarray(x)[..., 2:] * 0.5], -1)
    # Channel i of part j comes to i·4 + j.
    np.testing.assert_array_equal(y, whole[..., [0, 2, 4, 6, 1, 3, 5, 7]])
    pooled = np.asarray(joined(entering[:, ::2, ::2], rest, 4, stride=2))
    assert pooled.shape == (2, 2, 2, 8)
    np.testing.assert_array_equal(pooled[0, 0, 0, 1], x[0, :2, :2, 2].max())
    assert joined(x, None, 1) is x
    for make in (jaxnas.spaces.nasbench201, jaxnas.spaces.darts):
        with pytest.raises(ValueError, match="channels must be divisible by partial; got channels=16 with partial=3"):
            make(partial=3)
    with pytest.raises(ValueError, match="even"):
        jaxnas.spaces.darts(channels=12, partial=4)


def test_a_cell_with_partial_channels_computes_the_same_in_every_form():
    model = jaxnas.spaces.nasbench201(channels=8, cells=1, num_classes=3, partial=4)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    space = jaxnas.space(model, x)
    arch = dict(
        zip(space, ["nor_conv_3x3", "skip_connect", "none", "avg_pool_3x3", "nor_conv_1x1", "none"], strict=True)
    )
    variables = jax.jit(model.init)(jax.random.key(1), x, space.uniform())
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]["stage_0"]["cells"]) if leaf.ndim == 5]
    assert {shape[-2:] for shape in kernels} == {(2, 2)}
    mixed = jax.jit(model.apply)(variables, x, space.one_hot(arch))
    fixed = jaxnas.apply_fixed_architecture(model, arch)
    alone = fixed.apply(jaxnas.inherit(fixed, variables, x), x)
    np.testing.assert_allclose(mixed, alone, atol=1e-5)


class Costly(nn.Module):
    """One of three layers of different sizes on 8 features, one of two on 16."""

    same: bool = False

    @nn.compact
    def __call__(self, x, arch):
        wide = nn.Sequential([nn.Dense(32, use_bias=False), nn.Dense(16, use_bias=False)])
        narrow = nn.Dense(16, use_bias=False)
        one = [narrow, nn.Dense(16, use_bias=False)] if self.same else [narrow, wide]
        x = LayerChoice(one, key="a")(x, arch)
        return nn.Dense(2, use_bias=False)(LayerChoice([lambda x: x, jnp.tanh], key="b")(x, arch))


def costly(penalty, model=Costly, *, told=True):
    example = jax.ShapeDtypeStruct((1, 8), jnp.float32)
    space = jaxnas.space(model, example)
    return penalty.for_model(Seen(model, space, example if told else None, parts.softmax(space)))


@pytest.mark.parametrize("kind", ["flops", "params"])
def test_expected_cost_in_the_loss(kind):
    logits = {"a": jnp.asarray([0.3, -0.4]), "b": jnp.zeros(2)}
    p = softmax(logits["a"])
    dear = 8 * 32 + 32 * 16 - 8 * 16  # beside the narrow layer
    expected = 8 * 16 + p[1] * dear + 16 * 2
    add = costly(parts.expected_cost(kind, target=400, weight=0.5))
    value, slope = jax.jit(jax.value_and_grad(lambda a: add(jnp.float32(2), a, {}, T0)))(logits)
    assert value == pytest.approx(2 + 0.5 * (expected / 400 - 1), rel=1e-5)
    np.testing.assert_allclose(slope["a"], 0.5 / 400 * dear * p[0] * p[1] * np.asarray([-1, 1]), rtol=1e-4)
    np.testing.assert_allclose(slope["b"], 0, atol=1e-7)
    multiply = costly(parts.expected_cost(kind, target=400, form="multiply", weight=0.07))
    assert multiply(jnp.float32(2), logits, {}, T0) == pytest.approx(2 * (expected / 400) ** 0.07, rel=1e-5)


def test_a_cost_that_cannot_be_lowered_is_refused():
    with pytest.raises(jaxnas.ArchitectureError, match="the flops of this model are the same for every architecture"):
        costly(parts.expected_cost("flops", target=1.0), functools.partial(Costly, same=True))
    with pytest.raises(ValueError, match="the shape of the model's input"):
        costly(parts.expected_cost("flops", target=1.0), told=False)
    with pytest.raises(TypeError, match="is built from the model"):
        parts.expected_cost("flops", target=1.0)(ONE)
    for bad, said in (({"target": 0.0}, "target"), ({"target": 1.0, "form": "times"}, "form")):
        with pytest.raises(ValueError, match=said):
            parts.expected_cost("flops", **bad)
    with pytest.raises(ValueError, match="expected_cost of latency needs a table"):
        parts.expected_cost("latency", target=1.0)


class OneCell(nn.Module):
    """A cell of NAS-Bench-201 with partial channels."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        return nn.Dense(2)(Cell(filters=4, search_norm=True, partial=2)(x, arch, train).mean((1, 2)))


def test_partial_channels_beta_decay_and_gumbel_in_one_expression():
    penalties = [parts.beta_decay(5.0), parts.expected_cost("flops", target=1e3)]
    method = jaxnas.differentiable("mine", relax=parts.gumbel((1.0, 0.1)), penalties=penalties)
    data = np.random.RandomState(0).randn(16, 4, 4, 4).astype(np.float32), np.arange(16) % 2
    result = jaxnas.search(OneCell, data, method, epochs=1, batch_size=4, progress=False)
    assert set(result.arch.values()) <= set(jaxnas.benchmarks.nasbench201.OPERATIONS)
    assert result.history[-1]["arch_loss"] > result.history[-1]["valid_loss"]
    both = jaxnas.differentiable("not", relax=parts.gumbel_path(), perturb=parts.adversarial())
    with pytest.raises(ValueError, match="perturb changes the weights of a mixture"):
        jaxnas.search(OneCell, data, both, epochs=1, batch_size=4, progress=False)


def test_evolution_keeps_the_limit_and_says_if_nothing_does():
    model, x = functools.partial(Costly), np.random.RandomState(0).randn(64, 8).astype(np.float32)
    data = (x, (x[:, 0] > 0).astype(np.int32))
    options = {"epochs": 1, "batch_size": 8, "progress": False}

    def found(**limit):
        method = jaxnas.spos.method(derive_samples=4, derive_examples=16, population=2, **limit)
        return jaxnas.search(model, data, method, **options)

    assert {trial.arch["a"] for trial in found().trials} == {0, 1}
    cheap = found(max_flops=8 * 16 + 16 * 2)
    assert {trial.arch["a"] for trial in cheap.trials} == {0}
    assert {trial.arch["b"] for trial in found(filter=lambda arch: arch["b"] == 1).trials} == {1}
    with pytest.raises(jaxnas.ArchitectureError, match="the filter leaves nothing: it refused all 4"):
        found(max_params=10)
    with pytest.raises(ValueError, match="limit has"):
        parts.by_evolution(limit={"energy": 3})
    with pytest.raises(ValueError, match="a limit of latency needs a table"):
        parts.by_evolution(limit={"latency": 3})
    table = jaxnas.LatencyTable({"a": {"0": 5.0, "1": 20.0}, "b": {"0": 0.0, "1": 7.0}})
    quick = found(max_latency=12, table=table)
    assert {trial.arch["a"] for trial in quick.trials} == {0}


@pytest.mark.parametrize(
    "method",
    [
        jaxnas.differentiable("one", relax=parts.reinmax(), train_on=parts.uniform_path),
        jaxnas.differentiable(
            "all", relax=parts.reinmax(1.5, one_path=False), derive=parts.by_evolution(3, population=2)
        ),
        jaxnas.sdarts.method(perturbation="adversarial"),
        jaxnas.drnas.method(anchor="kl"),
        jaxnas.gaea.method(single_level=True),
    ],
    ids=lambda method: method.name,
)
def test_parts_in_a_search(method):
    x = np.random.RandomState(0).randn(32, 8).astype(np.float32)
    data = x, (x[:, 0] > 0).astype(np.int32)
    result = jaxnas.search(Costly, data, method, epochs=1, batch_size=8, progress=False)
    assert np.isfinite(result.history[-1]["arch_grad_norm"])
    assert set(result.arch) == {"a", "b"}
