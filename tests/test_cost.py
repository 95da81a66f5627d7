"""FLOPs and parameters by tracing: hand-computed values, loops, branches and expectations."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import InputChoice, LayerChoice


class Chain(nn.Module):
    """A Dense layer applied five times in a scan, each time with its own weights."""

    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(nn.Dense) if self.remat else nn.Dense
        scan = nn.scan(
            lambda layer, x, _: (layer(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=5
        )
        return scan(layer(4), x, None)[0]


@pytest.mark.parametrize(
    ("layer", "shape", "flops", "params"),
    [
        (nn.Dense(7), (2, 3), 2 * (3 * 7 + 7), 3 * 7 + 7),
        (nn.Dense(7, use_bias=False), (3,), 3 * 7, 3 * 7),
        (nn.Conv(5, (3, 3)), (1, 8, 6, 2), 48 * (9 * 2 * 5 + 5), 9 * 2 * 5 + 5),
        (nn.Conv(5, (3, 3), strides=2, use_bias=False), (1, 8, 6, 2), 12 * 9 * 2 * 5, 9 * 2 * 5),
        (nn.Conv(4, (5, 5), feature_group_count=4, use_bias=False), (1, 8, 8, 4), 64 * 25 * 4, 25 * 4),
        (nn.BatchNorm(use_running_average=True), (1, 8), 0, 16),
        (Chain(), (1, 4), 5 * (16 + 4), 5 * (16 + 4)),
        (Chain(remat=True), (1, 4), 5 * (16 + 4), 5 * (16 + 4)),
    ],
)
def test_hand_computed_costs(layer, shape, flops, params):
    assert jaxnas.cost(layer, shape) == (flops, params)


def test_a_residual_addition_is_no_bias():
    class Residual(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(3, use_bias=False)(x)

    assert jaxnas.cost(Residual(), (1, 3)).flops == 9


class Nested(nn.Module):
    """A choice whose second candidate has a choice of its own, and one more by the same decision outside."""

    @nn.compact
    def __call__(self, x, arch):
        x = LayerChoice([lambda x: x, Inner()], key="outer")(x, arch)
        y = InputChoice(n_candidates=2, n_chosen=1, key="input")([x, nn.Dense(4, use_bias=False)(x)], arch)
        return nn.Dense(2, use_bias=False)(y)


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, arch):
        layers = [nn.Dense(4, use_bias=False), nn.Sequential([nn.Dense(100, use_bias=False), nn.Dense(4)])]
        return LayerChoice(layers, key="inner")(x, arch)


WEIGHTS = {"outer": jnp.array([0.75, 0.25]), "inner": jnp.array([0.5, 0.5]), "input": jnp.array([0.1, 0.9])}


def test_the_expectation_over_nested_choices_is_the_mean_over_all_architectures():
    expected = jaxnas.cost(Nested(), (1, 4), WEIGHTS)
    flops = params = 0.0
    for outer in range(2):
        for inner in range(2):
            probability = float(WEIGHTS["outer"][outer] * WEIGHTS["inner"][inner])
            if outer == 0 and inner == 1:
                continue  # the same model as inner == 0
            probability = 0.75 if outer == 0 else probability
            found = jaxnas.cost(Nested(), (1, 4), {"outer": outer, "inner": inner, "input": 1})
            flops, params = flops + probability * found.flops, params + probability * found.params
    assert expected.flops == pytest.approx(flops)
    assert expected.params == pytest.approx(params)
    assert jaxnas.cost(Nested(), (1, 4), {"outer": 1, "inner": 1, "input": 0}) == (16 + 8 + 804, 16 + 8 + 804)


def test_the_expectation_is_differentiable_inside_jit():
    value, slope = jax.jit(jax.value_and_grad(lambda w: jaxnas.cost(Nested(), (1, 4), w).params))(WEIGHTS)
    assert float(value) == pytest.approx(jaxnas.cost(Nested(), (1, 4), WEIGHTS).params)
    assert slope["outer"].tolist() == pytest.approx([0, 0.5 * 16 + 0.5 * 804])
    assert slope["inner"].tolist() == pytest.approx([0.25 * 16, 0.25 * 804])


def test_one_hot_weights_cost_what_the_decision_costs():
    arch = {"outer": 1, "inner": 1, "input": 0}
    space = jaxnas.space(Nested(), jnp.zeros((1, 4)))
    assert jaxnas.cost(Nested(), (1, 4), space.one_hot(arch)) == jaxnas.cost(Nested(), (1, 4), arch)
    assert jaxnas.cost(Nested(), (1, 4), space.sampled(arch)) == jaxnas.cost(Nested(), (1, 4), arch)
    assert jaxnas.cost(jaxnas.apply_fixed_architecture(Nested(), arch), (1, 4)).params == 828


def test_what_cannot_be_costed_is_refused():
    with pytest.raises(jaxnas.ArchitectureError, match="Nested has open choices"):
        jaxnas.cost(Nested(), (1, 4))
    with pytest.raises(jaxnas.ArchitectureError, match="weights for every choice, or for none"):
        jaxnas.cost(Nested(), (1, 4), {**WEIGHTS, "outer": 1})
    with pytest.raises(jaxnas.ArchitectureError, match="Dense has no choices"):
        jaxnas.cost(nn.Dense(2), (1, 4), WEIGHTS)
    with pytest.raises(jaxnas.ArchitectureError, match="missing keys"):
        jaxnas.cost(Nested(), (1, 4), {"outer": 1})
