"""Short texts: whatever a notebook cell ends with, nothing floods the screen."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import jaxnas
from jaxnas import data
from jaxnas.model.text import short_repr, summary
from jaxnas.quickstart.net import Net


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (np.zeros((3, 4), np.float32), "float32 [3, 4]"),
        (jnp.asarray(0.123456789), "float32 0.12346"),
        (np.int64(7), "int64 7"),
        (jax.random.key(0), "key []"),
        (jax.ShapeDtypeStruct((2,), jnp.bfloat16), "bfloat16 [2]"),
        (None, "None"),
        ("x" * 100, "'" + "x" * 78 + "…"),
        ({}, "{}"),
        ({"a": 1, "b": (2, 3)}, "{'a': 1, 'b': (2, 3)}"),
        ([np.zeros(3), np.zeros((2, 2)), np.arange(4)], "3 arrays, 7 float64 + 4 int64"),
        ([np.zeros(3, np.float32), 5], "1 array and 1 other values, 3 float32"),
        ({"params": {"w": np.zeros((9, 9), np.float32)}, "stats": {}}, "{params: 1 array, 81 float32, stats: {}}"),
        (list(range(100)), "list of 100 values"),
    ],
)
def test_summaries(tree, text):
    assert summary(tree) == text


def test_dataclasses_and_named_tuples_in_short():
    @short_repr
    @struct.dataclass
    class State:
        weights: Any
        step: Any

    @short_repr
    class Pair(NamedTuple):
        a: Any
        b: Any

    state = State({"w": np.zeros((1000, 1000))}, jnp.int32(3))
    assert repr(state) == "State(weights=1 array, 1,000,000 float64, step=int32 3)"
    assert repr(Pair(1, np.zeros(2))) == "Pair(a=1, b=float64 [2])"
    assert dataclasses.replace(state, step=4).step == 4
    assert repr(jax.jit(lambda s: [print(s), s][1])(state)).startswith("State(")  # traced values have shapes only


def test_what_users_hold_is_shown_in_a_line():
    digits = data.load("digits")
    assert repr(digits) == "Dataset(digits: 1,437 training and 360 test examples, uint8 [8, 8, 1], 10 classes)"
    curve = data.Dataset(np.zeros((5, 3)), np.zeros((5, 2)))
    assert repr(curve) == "Dataset(arrays: 5 training examples, float64 [3], labels float64 [2])"
    model = jaxnas.apply_fixed_architecture(Net, {"conv1": 1, "conv2": 0, "skipconnect": []})
    assert repr(model) == "FixedModel(Net; conv1: 1, conv2: 0, skipconnect: none)"
    big = jaxnas.apply_fixed_architecture(jaxnas.spaces.darts_evaluation, jaxnas.spaces.arch_of(jaxnas.spaces.DARTS_V2))
    assert len(repr(big)) < 260


def test_states_and_courses_of_black_box_searches_in_a_line():
    space = jaxnas.Space({f"{i}": jaxnas.ChoiceSpec("layer", 5) for i in range(20)})
    for name in ("random_search", "grid_search", "local_search", "evolution", "reinforce"):
        searcher = getattr(jaxnas, name).algorithm(space)
        run = jaxnas.rollout(searcher, lambda arch: 0.0, jax.random.key(0), trials=30)
        for shown in (repr(run), repr(run.state)):
            assert "\n" not in shown
            assert len(shown) < 500
    policy = jaxnas.enas.controller(space)
    assert "log_prob=float32 -" in repr(policy.sample(policy.init(jax.random.key(0)), jax.random.key(1)))
