"""DARTS and ENAS give what they gave before methods were made of parts: history, logits and decisions.

`golden/searches.json` was written then, by these calls. Another processor may round otherwise, so numbers are compared
to a tolerance here.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import Block, Nest, Zoo

import jaxnas
from jaxnas import InputChoice, LayerChoice

GOLDEN = json.loads((Path(__file__).parent / "golden" / "searches.json").read_text())


class Sampled(nn.Module):
    """A net that ENAS's controller can decide."""

    @nn.compact
    def __call__(self, x, arch, train=False):
        layers = {"nest": Nest(), "block": Block(rate=0.1), "seq": nn.Sequential([nn.Dense(4), jnp.tanh])}
        x = LayerChoice(layers, key="layer")(x, arch, train=train)
        y = LayerChoice([Block(), jnp.tanh, nn.Dense(4)])(x, arch, train=train)
        z = InputChoice(choose_from=["layer", "LayerChoice_1"], key="any")([x, y], arch)
        one = InputChoice(n_candidates=2, n_chosen=1, key="one", reduction="mean")([z, x], arch)
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train, momentum=0.9)(one))


def data():
    x = np.random.RandomState(0).randn(256, 3).astype(np.float32)
    y = (x.sum(1) > 0).astype(np.int32)
    return x, y, x[:64], y[:64]


def darts1():
    return jaxnas.darts.search(Zoo, data(), epochs=3, batch_size=16, warmup_epochs=1, progress=False)


def darts2():
    return jaxnas.darts.search(Zoo, data(), epochs=2, batch_size=16, order=2, validate_every=2, progress=False)


def enas():
    fewer = {"controller_steps": 3, "controller_samples": 4, "derive_samples": 8, "derive_examples": 64}
    return jaxnas.enas.search(
        Sampled, data(), epochs=3, batch_size=8, warmup_epochs=1, validate_samples=3, progress=False, **fewer
    )


@pytest.mark.parametrize("search", [darts1, darts2, enas])
def test_a_search_gives_what_it_gave(search):
    golden, result = GOLDEN[search.__name__], search()
    assert_close(golden["history"], json.loads(json.dumps(result.history)))
    assert_close(golden["alphas"], {key: each.tolist() for key, each in result.alphas.items()})


def assert_close(before, now):
    if isinstance(before, dict):
        assert set(before) == {name for name in now if "seconds" not in name}
        for name in before:
            assert_close(before[name], now[name])
    elif isinstance(before, list):
        assert len(before) == len(now)
        for one, other in zip(before, now, strict=True):
            assert_close(one, other)
    elif isinstance(before, float):
        assert now == pytest.approx(before, rel=1e-4, abs=1e-6)
    else:
        assert before == now
