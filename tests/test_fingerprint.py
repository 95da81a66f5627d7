"""Fingerprints of data and of functions: the same for the same, another for what differs."""

import functools
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jaxnas.runs import entering
from jaxnas.runs.fingerprint import data_fingerprint, function_fingerprint

X = np.arange(12, dtype=np.float32).reshape(3, 4)
LARGE = np.arange(3_000_000, dtype=np.int64)


def test_the_same_data_have_the_same_fingerprint():
    assert data_fingerprint(X, None) == data_fingerprint(X.copy(), None) == data_fingerprint(jnp.asarray(X), None)
    assert data_fingerprint(X.T) == data_fingerprint(np.ascontiguousarray(X.T))
    assert data_fingerprint(X.astype(">f4")).split()[-1] != ""
    assert data_fingerprint(X, None).startswith("float32[3, 4] none ")
    assert data_fingerprint(LARGE) == data_fingerprint(LARGE.copy())
    assert data_fingerprint(np.asfortranarray(LARGE.reshape(1000, -1))) == data_fingerprint(LARGE.reshape(1000, -1))


def changed(array, index):
    array = array.copy()
    array[index] += 1
    return array


@pytest.mark.parametrize(
    "other",
    [
        (changed(X, (0, 0)),),
        (changed(X, (2, 3)),),
        (X.reshape(4, 3),),
        (X.astype(np.float64),),
        (X[:2],),
        (X, None),
        (X, X),
        (),
    ],
)
def test_other_data_have_another(other):
    assert data_fingerprint(*other) != data_fingerprint(X)


def test_of_large_data_the_ends_halves_and_orders_are_told_apart():
    known = {data_fingerprint(each) for each in (LARGE, LARGE[::-1], LARGE[:-1], LARGE[: len(LARGE) // 2])}
    assert len(known) == 4
    for index in (0, -1, slice(None, None, 50_000)):
        assert data_fingerprint(changed(LARGE, index)) not in known


def test_gigabytes_take_no_longer_than_megabytes(monkeypatch):
    read = []
    monkeypatch.setattr(np, "ascontiguousarray", lambda block: read.append(block.nbytes) or block)
    data_fingerprint(np.broadcast_to(np.uint8(1), (20_000, 10, 10_000)))  # 2 GB that take no memory
    assert sum(read) <= 2**22


def scale(x, by=2.0):
    return by * x


def scaled(by):
    def inner(x):
        return by * x

    return inner


class Net(nn.Module):
    features: int = 3


def test_functions_are_named_with_a_hash_of_their_source():
    assert function_fingerprint(scale).startswith("test_fingerprint:scale#")
    assert function_fingerprint(None) == "None"
    assert function_fingerprint(Net).startswith("test_fingerprint:Net#")
    assert function_fingerprint(Net(3)).startswith("custom test_fingerprint:Net#")
    assert function_fingerprint(optax.adam(1e-3)).startswith("custom optax")
    assert function_fingerprint(functools.partial(scale, by=3)).startswith("partial(test_fingerprint:scale#")
    assert "by=3" in function_fingerprint(functools.partial(scale, by=3))
    assert function_fingerprint(len) == "builtins:len"
    for make in (lambda: scaled(2), lambda: optax.adam(1e-3), lambda: functools.partial(scaled(2), 3), lambda: Net(4)):
        assert function_fingerprint(make()) == function_fingerprint(make())


def test_functions_that_differ_have_different_fingerprints():
    schedule = optax.cosine_decay_schedule(0.1, 100)
    different = [
        scale,
        scaled(2),
        scaled(3),
        scaled(scaled(2)),
        functools.partial(scale, by=2),
        functools.partial(scale, by=3),
        lambda x: x,
        lambda x: x + 1,
        Net,
        Net(3),
        Net(4),
        optax.sgd(0.1),
        optax.sgd(0.2),
        optax.sgd(0.1, momentum=0.9),
        optax.adam(1e-3),
        optax.adam(2e-3),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
        optax.chain(optax.clip_by_global_norm(2.0), optax.adam(1e-3)),
        optax.sgd(schedule),
        optax.sgd(optax.cosine_decay_schedule(0.1, 200)),
        np.sin,
        len,
        None,
    ]
    assert len({function_fingerprint(fn) for fn in different}) == len(different)


def test_fingerprints_are_the_same_in_another_process():
    script = (
        "import optax, numpy as np, test_fingerprint as t\n"
        "from jaxnas.runs.fingerprint import *\n"
        "print(function_fingerprint(optax.adam(1e-3)), function_fingerprint(t.scaled(2)), data_fingerprint(t.X))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120
    )
    mine = (function_fingerprint(optax.adam(1e-3)), function_fingerprint(scaled(2)), data_fingerprint(X))
    assert done.stdout.strip() == " ".join(mine), done.stderr


def test_what_differs_is_said_in_few_words():
    said = entering.differences({"x" * 3000: "y" * 3000, **{f"option {i}": i for i in range(20)}}, {})
    assert len(said) < 1000
    assert said.startswith("xxxx")
    assert "option 6 was 6, is now None; and 13 more" in said
