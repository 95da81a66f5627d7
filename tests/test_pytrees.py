"""Inputs and labels that are pytrees of arrays: dicts and tuples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import LayerChoice
from jaxnas.model import trees

RANDOM = np.random.RandomState(0)
TOKENS = RANDOM.randint(0, 7, (40, 5)).astype(np.int32)
MASK = (RANDOM.rand(40, 5) < 0.8).astype(np.float32)
AGE = RANDOM.randn(40, 1).astype(np.float32)
TEXT = {"tokens": TOKENS, "meta": (MASK, AGE)}
Y = RANDOM.randint(0, 2, 40).astype(np.int32)


class Net(nn.Module):
    """Takes `{"tokens": int32 [B, 5], "meta": (mask [B, 5], age [B, 1])}`."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        mask, age = x["meta"]
        words = nn.Embed(7, 4)(x["tokens"]) * mask[..., None]
        layers = {"skip": lambda h: h, "dense": nn.Dense(4), "wide": nn.Sequential([nn.Dense(8), nn.Dense(4)])}
        words = LayerChoice(layers, key="op")(words.sum(1), arch)
        return nn.Dense(2)(jnp.concatenate([words, age], -1))


def test_leaves_have_names():
    names = ["x/meta/0", "x/meta/1", "x/tokens"]
    assert [name for name, _ in trees.named_leaves(TEXT, "x")] == names
    assert [leaf.shape for _, leaf in trees.named_leaves(TEXT, "x")] == [a.shape for a in jax.tree.leaves(TEXT)]
    assert trees.form(trees.shapes_of(TEXT)) == "{'meta': (float32[40, 5], float32[40, 1]), 'tokens': int32[40, 5]}"


def test_costs_and_latencies_of_several_inputs():
    tokens = jax.ShapeDtypeStruct((1, 5), jnp.int32)
    shapes = {"tokens": tokens, "meta": ((1, 5), (1, 1))}
    head = 5 * 2 + 2
    fixed = {name: jaxnas.cost(Net, shapes, {"op": name}).flops for name in ("skip", "dense", "wide")}
    assert fixed == {"skip": head, "dense": head + 20, "wide": head + 40 + 36}
    assert jaxnas.cost(Net, shapes, {"op": jnp.array([0.5, 0.5, 0.0])}) == (head + 10, 28 + head + 10)
    model = jaxnas.apply_fixed_architecture(Net, {"op": "dense"})
    assert jaxnas.cost(model, jax.tree.map(lambda a: a[:1], TEXT)) == (head + 20, 28 + head + 20)
    table = jaxnas.measure_latency(Net, shapes, repeats=2, warmup=1)
    assert list(table.microseconds["op"]) == ["skip", "dense", "wide"]


@pytest.mark.parametrize("wrong", [{"tokens": (1, 0)}, ((1, 5), 3), [(1, 5), (1, 1)], {"tokens": "5"}, (), None])
def test_shapes_that_are_none_are_refused(wrong):
    with pytest.raises(TypeError, match=r"input_shape must be the shape .* or a dict or tuple of these; got"):
        jaxnas.cost(Net, wrong, {"op": 0})


def test_tokens_given_as_a_plain_shape_are_floats_and_the_error_says_so():
    with pytest.raises(ValueError, match="Input type must be an integer") as caught:
        jaxnas.cost(Net, {"tokens": (1, 5), "meta": ((1, 5), (1, 1))}, {"op": 0})
    assert any("'tokens': float32[1, 5]" in note for note in caught.value.__notes__)


def test_pure_algorithms_take_pytrees():
    space = jaxnas.space(Net, TEXT)
    batch = (jax.tree.map(lambda a: a[:8], TEXT), Y[:8])
    darts = jaxnas.darts.algorithm(Net, space, weight_optimizer=optax.sgd(0.1), arch_optimizer=optax.sgd(0.1))
    policy = jaxnas.enas.controller(space)
    options = {"weight_optimizer": optax.sgd(0.1), "controller_optimizer": optax.adam(0.1), "controller_samples": 2}
    for algorithm in (darts, jaxnas.enas.algorithm(Net, policy, **options)):
        state = algorithm.init(jax.random.key(0), batch)
        state, metrics = jax.jit(algorithm.step)(state, batch, batch)
        assert np.isfinite(metrics["train_loss"])
        assert set(algorithm.derive(state)) == {"op"}
