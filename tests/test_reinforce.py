"""REINFORCE: its gradient is the policy gradient, and a policy that follows it finds the best architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import every_architecture, position

from experiments.enas.learning import LAYERS, SKIPS, learning_curves
from jaxnas import enas
from jaxnas.model.architecture import INPUT, LAYER, ChoiceSpec
from jaxnas.model.space import Space

TINY = Space(
    {
        "op": ChoiceSpec(LAYER, 3),
        "skip": ChoiceSpec(INPUT, 2, ("op", "other"), None),
        "end": ChoiceSpec(INPUT, 2, ("op", "skip"), 1),
    }
)
WEIGHTS = {"entropy_weight": 0.3, "skip_weight": 0.5}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_gradient_is_the_exact_policy_gradient_up_to_an_error_of_one_over_root_n():
    policy = enas.controller(TINY, lstm_size=6)
    params = jax.tree.map(lambda leaf: 2 * leaf, policy.init(jax.random.key(0)))
    every = every_architecture(TINY)
    table = jax.random.normal(jax.random.key(1), (TINY.size,))

    def objective(params):
        scored = jax.vmap(policy.score, (None, 0))(params, every)
        p = jnp.exp(scored.log_prob)
        value = table - WEIGHTS["entropy_weight"] * scored.log_prob - WEIGHTS["skip_weight"] * scored.skip_penalty
        return (p * value).sum()

    exact = flat(jax.grad(objective)(params))

    def estimate(key, n):
        drawn = jax.vmap(policy.sample, (None, 0))(params, jax.random.split(key, n))
        returns = table[jax.vmap(lambda arch: position(TINY, arch))(drawn.arch)]
        returns += WEIGHTS["entropy_weight"] * drawn.entropy - WEIGHTS["skip_weight"] * drawn.skip_penalty
        gradients = jax.grad(enas.surrogate)(params, policy, drawn.arch, returns - 0.4, **WEIGHTS)
        return -jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(gradients)])

    errors = {}
    for n in (100, 6400):
        estimates = jax.jit(jax.vmap(lambda key, n=n: estimate(key, n)))(jax.random.split(jax.random.key(2), 16))
        errors[n] = np.sqrt(((np.asarray(estimates) - exact) ** 2).sum(1).mean()) / np.linalg.norm(exact)
    assert errors[6400] < 0.15
    assert errors[100] / errors[6400] == pytest.approx(8, rel=0.3)


def test_the_baseline_starts_at_the_first_returns_and_moves_by_its_decay():
    policy = enas.controller(TINY)
    rule = enas.reinforce(policy, optax.sgd(0.0), samples=4, entropy_weight=0, skip_weight=0, baseline_decay=0.9)
    state = rule.init(jax.random.key(0))
    assert (float(state.baseline), int(state.updates)) == (0, 0)
    state, metrics = rule.update(state, jax.random.key(1), lambda arch: jnp.array([1.0, 2.0, 3.0, 6.0]))
    assert float(metrics["baseline"]) == pytest.approx(3)
    assert float(metrics["reward"]) == pytest.approx(3)
    assert float(metrics["reward_max"]) == 6
    state, metrics = rule.update(state, jax.random.key(2), lambda arch: jnp.zeros(4))
    assert float(metrics["baseline"]) == pytest.approx(3)  # from before this update
    assert float(state.baseline) == pytest.approx(0.9**4 * 3)
    assert int(state.updates) == 2


def test_a_reward_above_all_others_makes_its_architecture_likelier():
    policy = enas.controller(TINY)
    rule = enas.reinforce(policy, optax.adam(1e-2), samples=30)
    state = rule.init(jax.random.key(0))
    best = {"op": 2, "skip": ("other",), "end": 0}
    before = policy.score(state.params, best).log_prob
    reward = jax.vmap(lambda arch: (arch["op"] == 2) + 1.0 * arch["skip"][1] - arch["skip"][0] - arch["end"])
    for i in range(20):
        state, _ = jax.jit(rule.update, static_argnums=2)(state, jax.random.key(i), reward)
    assert float(policy.score(state.params, best).log_prob) > float(before) + 1


@pytest.mark.parametrize("space", [LAYERS, SKIPS])
def test_the_controller_finds_the_best_of_a_table_within_400_updates(space):
    assert space.size in (4**6, 4**4 * 2**6)
    curves = learning_curves(space, updates=400, entropy_weight=0.01)
    assert (curves["p_best"][:, 0] < 0.01).all()
    assert (curves["p_best"][:, -1] > 0.9).all(), curves["p_best"][:, -1]


def test_with_entropy_weight_the_policy_does_not_collapse_before_step_100():
    entropy = {weight: learning_curves(LAYERS, updates=101, entropy_weight=weight)["entropy"] for weight in (0, 0.1)}
    most = np.log(LAYERS.size)
    assert (entropy[0.1][:, 100] > 0.5 * most).all(), entropy[0.1][:, 100]
    assert (entropy[0.1][:, 100] > 2 * entropy[0][:, 100]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 0}, "samples"), ({"baseline_decay": 1.5}, "baseline_decay"), ({"samples": 2.5}, "samples")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        enas.reinforce(enas.controller(TINY), optax.adam(1e-3), **options)


@pytest.mark.parametrize("reward", [lambda arch: jnp.zeros((4, 2)), lambda arch: 1.0, lambda arch: jnp.zeros(3)])
def test_a_reward_that_is_no_number_per_architecture_is_named(reward):
    rule = enas.reinforce(enas.controller(TINY), optax.adam(1e-3), samples=4)
    with pytest.raises(ValueError, match=r"one number per architecture: expected shape \(4,\); got"):
        rule.update(rule.init(jax.random.key(0)), jax.random.key(1), reward)
