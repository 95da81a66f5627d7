"""The ENAS controller: its probabilities are a distribution, and those of the equations written out."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import every_architecture, position
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnas
from jaxnas import enas
from jaxnas.model.architecture import INPUT, LAYER, ChoiceSpec
from jaxnas.model.space import Space

pytestmark = pytest.mark.usefixtures("quickly_compiled")

MIXED = Space(
    {
        "a": ChoiceSpec(LAYER, 3, ("conv", "pool", "none")),
        "b": ChoiceSpec(LAYER, 2),
        "one": ChoiceSpec(INPUT, 3, ("a", "b", "c"), 1),
        "any": ChoiceSpec(INPUT, 2, ("a", "one"), None),
        "last": ChoiceSpec(LAYER, 3, ("conv", "pool", "none")),
    }
)
CELLS = Space(
    {
        "node_0/in": ChoiceSpec(INPUT, 2, ("x", "y"), 1),
        "node_0/op": ChoiceSpec(LAYER, 2, ("conv", "pool")),
        "node_1/in": ChoiceSpec(INPUT, 3, ("x", "y", "node_0"), 1),
        "node_1/op": ChoiceSpec(LAYER, 2, ("conv", "pool")),
    }
)


TWO_CELLS = Space(
    {
        f"{kind}/node_{i}/{part}": spec
        for kind in ("normal", "reduce")
        for i, inputs in enumerate([("x", "y"), ("x", "y", f"{kind}/node_0")])
        for part, spec in (
            ("in", ChoiceSpec(INPUT, len(inputs), inputs, 1)),
            ("op", ChoiceSpec(LAYER, 2, ("conv", "pool"))),
        )
    }
)


def make(space, *, scale=20.0, seed=0, **options):
    """A controller whose random parameters are large enough for its probabilities to differ."""
    policy = enas.controller(space, lstm_size=7, **options)
    return policy, jax.tree.map(lambda leaf: scale * leaf, policy.init(jax.random.key(seed)))


def score_all(policy, params):
    return jax.jit(jax.vmap(policy.score, (None, 0)))(params, every_architecture(policy.space))


@pytest.mark.parametrize("space", [MIXED, CELLS])
@pytest.mark.parametrize(
    "options",
    [{}, {"tanh_constant": None, "lstm_layers": 2}, {"temperature": 3.0, "cell_exit_extra_step": True}],
)
def test_probabilities_sum_to_one_and_the_entropy_is_theirs(space, options):
    policy, params = make(space, **options)
    scored = score_all(policy, params)
    assert scored.log_prob.shape == (space.size,)
    p = np.exp(np.float64(scored.log_prob))
    assert p.std() > 0.1 * p.mean()
    assert p.sum() == pytest.approx(1, abs=1e-5)
    # By the chain rule the mean of the decisions' entropies is the entropy of the whole.
    assert (p * scored.entropy).sum() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("space", [MIXED, CELLS])
def test_samples_have_the_probabilities_that_scoring_them_gives(space, extra):
    policy, params = make(space, cell_exit_extra_step=extra)
    drawn = jax.jit(jax.vmap(policy.sample, (None, 0)))(params, jax.random.split(jax.random.key(1), 10_000))
    scored = jax.jit(jax.vmap(policy.score, (None, 0)))(params, drawn.arch)
    for name in ("log_prob", "entropy", "skip_penalty"):
        np.testing.assert_allclose(getattr(drawn, name), getattr(scored, name), atol=1e-5)
    np.testing.assert_array_equal(
        jax.vmap(lambda arch: position(space, arch))(every_architecture(space)), range(space.size)
    )
    shares = np.bincount(jax.vmap(lambda arch: position(space, arch))(drawn.arch), minlength=space.size) / 10_000
    expected = np.exp(score_all(policy, params).log_prob)
    assert (abs(shares - expected) < 5 * np.sqrt(expected / 10_000) + 1e-3).all()


def by_hand(policy, params, arch, *, extra=False, tanh=1.5, reduce=1.0, target=0.4):
    """The walk with Python loops, after section 2.2 of the paper; gives log-probability and skip penalty."""
    p = jax.tree.map(np.float64, params)
    c = h = np.zeros(7)
    x, log_prob, penalty = p["start"], 0.0, 0.0
    anchors, rows = {}, {}
    for spec in policy.space.values():
        if spec.kind == LAYER:
            rows.setdefault(spec.labels, sum(len(labels) for labels in rows))

    steps = iter(p["step"]) if "step" in p else itertools.repeat(0)

    def lstm():
        nonlocal c, h
        i, f, o, g = np.split(np.concatenate([x + next(steps), h]) @ p["lstm"][0], 4)
        sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)

    keys = list(policy.space)
    for n, key in enumerate(keys):
        spec = policy.space[key]
        if spec.kind == LAYER:
            lstm()
            first = rows[spec.labels]
            logits = p["op_output"][first : first + spec.n_candidates] @ h
            logits += p.get("op_bias", np.zeros(99))[first : first + spec.n_candidates]
            logits = tanh / reduce * np.tanh(logits)
            log_prob += logits[arch[key]] - np.log(np.exp(logits).sum())
            x = p["op_embedding"][first + arch[key]]
        else:
            for name in spec.names:
                if name not in anchors:  # the source of no choice: a step of its own
                    lstm()
                    anchors[name] = h
            lstm()
            attention = [np.tanh(anchors[s] @ p["anchor"] + h @ p["query"]) @ p["attention"] for s in spec.names]
            logits = tanh * np.tanh(np.array(attention))
            vectors = np.stack([anchors[s] for s in spec.names])
            if spec.n_chosen == 1:
                log_prob += logits[arch[key]] - np.log(np.exp(logits).sum())
                x = vectors[arch[key]]
            else:
                take = 1 / (1 + np.exp(-2 * logits))
                log_prob += np.log(np.where(arch[key], take, 1 - take)).sum()
                penalty += (take * np.log(take / target) + (1 - take) * np.log((1 - take) / (1 - target))).sum()
                x = arch[key] @ vectors / (1 + arch[key].sum())
        anchors[key] = h
        group = key.rpartition("/")[0]
        if group:
            anchors[group] = h
            if extra and not any(later.startswith(group) for later in keys[n + 1 :]):
                lstm()
                anchors[group], x = h, p["start"]
    return log_prob, penalty


@pytest.mark.parametrize(
    ("space", "extra", "embedding"), [(MIXED, False, False), (CELLS, False, True), (CELLS, True, False)]
)
def test_log_probabilities_are_those_of_the_equations(space, extra, embedding):
    policy, params = make(space, cell_exit_extra_step=extra, op_tanh_reduce=2.5, step_embedding=embedding)
    every, scored = every_architecture(space), score_all(policy, params)
    for i in range(0, space.size, 5):
        arch = {key: leaf[i] for key, leaf in every.items()}
        log_prob, penalty = by_hand(policy, params, arch, extra=extra, reduce=2.5)
        assert float(scored.log_prob[i]) == pytest.approx(log_prob, abs=1e-4)
        assert float(scored.skip_penalty[i]) == pytest.approx(penalty, abs=1e-4)


def test_the_last_node_of_a_cell_has_its_extra_step_and_the_next_cell_starts_anew():
    """As in the authors' micro controller; nothing names the last node."""
    policy, params = make(TWO_CELLS, cell_exit_extra_step=True, step_embedding=False)
    sampled = jax.vmap(TWO_CELLS.sample)(jax.random.split(jax.random.key(0), 30))
    scored = jax.jit(jax.vmap(policy.score, (None, 0)))(params, sampled)
    expected = [by_hand(policy, params, {k: v[i] for k, v in sampled.items()}, extra=True)[0] for i in range(30)]
    np.testing.assert_allclose(scored.log_prob, expected, atol=1e-4)
    # 2 steps for the inputs of both cells; per cell 2 nodes of 2 decisions, and a step at the end of each node
    assert make(TWO_CELLS, cell_exit_extra_step=True)[1]["step"].shape[0] == 2 + 2 * 2 * 3


def test_the_skip_penalty_may_be_the_mean_over_the_layers():
    """The authors'; for 12 layers, of which 11 have skips, the sum is 11 times as much."""
    space = jaxnas.space(jaxnas.spaces.enas_macro(layers=12), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32))
    arch = space.sample(jax.random.key(0))
    policy, params = make(space)
    authors, _ = make(space, skip_reduction="mean")
    total, mean = policy.score(params, arch), authors.score(params, arch)
    assert float(total.skip_penalty) == pytest.approx(11 * float(mean.skip_penalty), rel=1e-5)
    assert float(total.log_prob) == float(mean.log_prob)


def test_a_learnt_bias_starts_as_told_and_is_shared_by_equal_choices():
    start = {"conv": 10.0, "pool": 0.0}
    policy, params = make(CELLS, scale=1.0, op_bias=lambda key, spec: [start[name] for name in spec.names])
    np.testing.assert_array_equal(params["op_bias"], [10, 0])
    plain = {key: leaf for key, leaf in params.items() if key != "op_bias"}
    same = enas.controller(CELLS, lstm_size=7).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, plain, same)  # other parameters are drawn as without it
    arch = {"node_0/in": 0, "node_0/op": 0, "node_1/in": 0, "node_1/op": 1}
    assert float(policy.score(params, arch).log_prob) == pytest.approx(by_hand(policy, params, arch)[0], abs=1e-4)
    gradient = jax.grad(lambda p: policy.score(p, arch).log_prob)({**params, "op_bias": jnp.zeros(2)})
    assert float(jnp.abs(gradient["op_bias"]).min()) > 0
    with pytest.raises(ValueError, match=r"op_bias gives shape \(3,\) for choice 'node_0/op'"):
        enas.controller(CELLS, op_bias=lambda key, spec: [0.0] * 3)


@st.composite
def spaces(draw):
    specs = {}
    for i in range(draw(st.integers(1, 5))):
        kind, n = draw(st.sampled_from([LAYER, INPUT])), draw(st.integers(1, 4))
        if kind == LAYER:
            names = draw(st.sampled_from([None, tuple("pqrs"[:n])]))
            specs[f"key_{i}"] = ChoiceSpec(LAYER, n, names)
        else:
            sources = [*specs, "outside", "", "more", "other"][-n:]
            names = draw(st.sampled_from([None, tuple(sources)]))
            specs[f"key_{i}"] = ChoiceSpec(INPUT, n, names, draw(st.sampled_from([1, None])))
    return Space(specs)


@settings(max_examples=10, deadline=None)
@given(space=spaces(), seed=st.integers(0, 1000))
def test_whatever_the_space_samples_fit_it_and_are_scored_as_sampled(space, seed):
    policy, params = make(space, seed=seed)
    drawn = jax.jit(policy.sample)(params, jax.random.key(seed))
    space.validate(drawn.arch)
    fixed = space.fixed(drawn.arch)
    again = policy.score(params, fixed)
    assert float(again.log_prob) == pytest.approx(float(drawn.log_prob), abs=1e-5)
    assert float(drawn.entropy) >= 0
    assert float(drawn.skip_penalty) >= -1e-6


def test_ten_thousand_architectures_in_one_call_of_one_program():
    space = jaxnas.space(jaxnas.spaces.enas_macro(), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    policy = enas.controller(space)
    traces = []

    @jax.jit
    def draw(params, keys):
        traces.append(None)
        return jax.vmap(policy.sample, (None, 0))(params, keys)

    params = policy.init(jax.random.key(0))
    drawn = [draw(params, jax.random.split(jax.random.key(i), 10_000)) for i in range(2)]
    assert len(traces) == 1
    assert drawn[0].arch["layer_11/skip"].shape == (10_000, 11)
    assert drawn[0].arch["layer_3/op"].shape == (10_000,)
    assert not np.array_equal(drawn[0].arch["layer_3/op"], drawn[1].arch["layer_3/op"])
    # Untrained, it is close to uniform.
    shares = np.bincount(drawn[0].arch["layer_3/op"], minlength=6) / 10_000
    np.testing.assert_allclose(shares, 1 / 6, atol=0.03)


def test_branch_bias_favours_convolutions_in_reduction_cells():
    space = Space({key: ChoiceSpec(LAYER, 3, ("sep_conv", "pool", "skip")) for key in ("normal/op", "reduce/op")})
    policy = enas.controller(space, branch_bias=enas.reduction_bias(0.25))
    params = jax.tree.map(jnp.zeros_like, policy.init(jax.random.key(0)))
    p = np.exp(jax.vmap(policy.score, (None, 0))(params, every_architecture(space)).log_prob).reshape(3, 3)
    np.testing.assert_allclose(p.sum(1), 1 / 3, rtol=1e-5)
    expected = np.exp([0.25, -0.25, -0.25])
    np.testing.assert_allclose(p.sum(0), expected / expected.sum(), rtol=1e-5)
    with pytest.raises(ValueError, match=r"branch_bias.*\(2,\).*'normal/op'.*\(3,\)"):
        enas.controller(space, branch_bias=lambda key, spec: [0.1, 0.2])


def test_tanh_constant_bounds_the_probabilities():
    space = Space({"op": ChoiceSpec(LAYER, 6)})
    for bound, most in ((1.5, 0.80), (0.6, 0.40)):
        policy, params = make(space, tanh_constant=bound)
        decided = 1e6 * params["op_output"][0]
        tops = []
        for sign in (1, -1):  # one of them is for the first candidate and against the others
            outputs = sign * jnp.stack([decided, *[-decided] * 5])
            tops.append(np.exp(score_all(policy, {**params, "op_output": outputs}).log_prob).max())
        assert max(tops) == pytest.approx(most, abs=0.005)


def test_gradients_of_an_impossible_candidate_are_not_nan():
    policy, params = make(MIXED, tanh_constant=None, scale=300.0)
    gradients = jax.grad(lambda p: score_all(policy, p).log_prob.sum())(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"a": 0, "b": 1, "one": 3, "any": (), "last": 0}, "'one'.*3"),
        ({"a": "conv", "b": 1, "one": 0, "any": ("a",)}, "missing keys.*'last'"),
        ({"a": "what", "b": 1, "one": 0, "any": ("a",), "last": 0}, "'a'.*'what'"),
        ({"a": jnp.ones(3), "b": 1, "one": 0, "any": ("a",), "last": 0}, "'a'.*weights"),
        ({"a": 0, "b": (), "one": 0, "any": ("a",), "last": 0}, "'b'.*none chosen"),
    ],
)
def test_an_architecture_it_cannot_have_produced_is_named(arch, message):
    policy, params = make(MIXED)
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        policy.score(params, arch)


@pytest.mark.parametrize(
    ("space", "options", "error", "message"),
    [
        (Space({}), {}, jaxnas.ArchitectureError, "no choices"),
        (
            Space({"two": ChoiceSpec(INPUT, 4, None, 2)}),
            {},
            jaxnas.ArchitectureError,
            "'two'.*n_chosen=1.*n_chosen=None.*got n_chosen=2",
        ),
        (MIXED, {"lstm_size": 0}, ValueError, "lstm_size"),
        (MIXED, {"tanh_constant": -1.0}, ValueError, "tanh_constant"),
        (MIXED, {"temperature": 0.0}, ValueError, "temperature"),
        (MIXED, {"skip_target": 1.0}, ValueError, "skip_target"),
        (MIXED, {"skip_reduction": "max"}, ValueError, 'skip_reduction must be "sum" or "mean"; got .max'),
    ],
)
def test_what_it_cannot_do_is_said(space, options, error, message):
    with pytest.raises(error, match=message):
        enas.controller(space, **options)


def test_partial_applications_serve_as_builders():
    build = functools.partial(enas.controller, tanh_constant=1.1, cell_exit_extra_step=True)
    assert build(CELLS).space == CELLS
