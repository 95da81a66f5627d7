"""P-DARTS: its schedule of dropout, its limit of skips, and its stages on the network of its paper."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import planted_data

import jaxnas
from jaxnas import LayerChoice, parts
from jaxnas.model import functional
from jaxnas.model.architecture import Gated, StaticArch
from jaxnas.model.restriction import RestrictedArch, read_step
from jaxnas.oneshot.engine.base import Algorithm, View
from jaxnas.spaces import darts, darts_cell
from jaxnas.spaces.darts_decisions import read
from jaxnas.spaces.darts_edge import Edge, dropped
from jaxnas.spaces.genotypes import CHOICES, OPERATIONS, edge_key

pytestmark = pytest.mark.usefixtures("quickly_compiled")

X = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


def test_the_rate_falls_as_in_the_authors_code():
    plan = types.SimpleNamespace(epochs=25, warmup_epochs=10, model_fn=darts())
    rate = parts.skip_dropout(0.4)(plan)
    steps = 25 * 260
    at = {e: float(rate(jnp.float32(e * 260 + 13) / steps)["skip_dropout"]) for e in (0, 1, 9, 10, 11, 24)}
    by_hand = {0: 0.4 * 24 / 25, 1: 0.4 * 23 / 25, 9: 0.4 * 15 / 25, 10: 0.4, 11: 0.4 * math.exp(-0.2)}
    by_hand[24] = 0.4 * math.exp(-0.2 * 14)
    assert at == pytest.approx(by_hand, rel=1e-5)
    for epoch in range(25):  # the first step of an epoch counts to it, however t is rounded
        first = float(rate(jnp.float32(epoch * 260) / steps)["skip_dropout"])
        assert first == float(rate(jnp.float32(epoch * 260 + 100) / steps)["skip_dropout"])
    assert parts.skip_dropout(0.0)(plan) is None


def test_dropout_keeps_the_mean():
    x = jnp.ones((200, 200))
    y = dropped(x, {"key": jax.random.key(0), "rate": jnp.float32(0.7)})
    assert set(np.unique(np.asarray(y)).round(4)) == {0.0, np.float32(1 / 0.3).round(4)}
    assert float(y.mean()) == pytest.approx(1, abs=0.02)
    assert dropped(x, None) is x


@pytest.fixture(scope="module")
def network():
    """A small network in training, with skip connections alone: `(variables, rate, key) -> logits`, and variables."""
    model = functional.model_fns(darts(channels=4, cells=3, num_classes=3))
    skip = np.eye(8, dtype=np.float32)[OPERATIONS.index("skip_connect")]
    arch = {key: skip if spec.kind == "layer" else np.ones(spec.n_candidates) for key, spec in CHOICES.items()}

    def run(variables, rate, key):
        return model.apply(variables, X, arch, train=True, rngs=key, mutable=["batch_stats"], skip_dropout=rate)[0]

    return jax.jit(run), model.init(jax.random.key(0), X, CHOICES.uniform())


def test_the_network_drops_its_identities(network):
    run, variables = network
    plain, some, same, other = (
        np.asarray(run(variables, rate, jax.random.key(key))) for rate, key in [(0.0, 0), (0.7, 0), (0.7, 0), (0.7, 1)]
    )
    np.testing.assert_array_equal(some, same)
    assert min(np.abs(plain - some).max(), np.abs(some - other).max()) > 1e-2


def test_an_edge_drops_its_identity_and_nothing_else():
    x, ones = jax.random.normal(jax.random.key(1), (2, 4, 4, 6)), jnp.float32(1)
    drop = {"drop": {"key": jax.random.key(2), "rate": jnp.float32(0.5)}}
    edge = Edge(1, True, ("none", "skip_connect", "avg_pool_3x3"))
    stats = {"avg_pool_3x3": {"mean": jnp.zeros((1, 6)), "var": jnp.ones((1, 6))}}
    expected = np.asarray(dropped(x, drop["drop"]))
    assert 0.3 < (expected == 0).mean() < 0.7
    mixed, _ = edge.mixture_alone(x, ones, jnp.asarray([0.0, 1.0, 0.0]), drop, stats)
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(edge.sampled(x, ones, jnp.int32(1), drop, stats)[0], expected, atol=1e-6)
    gated = Gated(jnp.asarray([1, 0]), jnp.asarray([2.0, 1.0]))
    np.testing.assert_allclose(edge.gated(x, ones, gated, drop, stats)[0], 2 * expected, atol=1e-6)
    pooled = [edge.sampled(x, ones, jnp.int32(2), params, stats)[0] for params in (drop, {})]
    np.testing.assert_array_equal(*pooled)
    np.testing.assert_array_equal(edge.sampled(x, ones, jnp.int32(1), {}, stats)[0], x)


@pytest.mark.parametrize("fixed", [False, True])
def test_restricted_and_fixed_cells_drop_too(fixed):
    left = {key: ("none", "skip_connect") for key, spec in CHOICES.items() if spec.kind == "layer"}
    arch = RestrictedArch({key: jnp.asarray([0.0, 1.0]) for key in left}, (read_step(left),))
    if fixed:
        arch = StaticArch(dict.fromkeys(left, "skip_connect"))
    edges = {
        key: spec.labels[:2] if fixed else jnp.ones(spec.n_candidates)
        for key, spec in CHOICES.items()
        if key not in left
    }
    arch = StaticArch({**arch, **edges}) if fixed else RestrictedArch({**arch.arch, **edges}, arch.steps)
    decisions = read("normal", arch)
    inputs = [jax.random.normal(jax.random.key(i), (2, 4, 4, 4)) for i in range(2)]
    form = {"reduces": False, "train": True, **({} if fixed else {"remat": False})}
    compute = darts_cell.fixed if fixed else darts_cell.mixed_or_sampled
    outputs = []
    for rate in (0.0, 0.7):
        drop = {"key": jax.random.split(jax.random.key(3), 14), "rate": jnp.full(14, rate)}
        outputs.append(np.asarray(compute(inputs, decisions, {"drop": drop}, {}, **form)[0]))
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1
    assert (outputs[1][..., :4] == 0).mean() == pytest.approx(0.49, abs=0.2)  # node 2: of two edges both are dropped


def view_of(weights):
    """A search of the DARTS space after its last epoch, with these weights."""
    algorithm = Algorithm(None, None, None, logits=lambda state: state, mixture=lambda logits: logits)
    return View(types.SimpleNamespace(space=CHOICES), algorithm, weights, 0, True, None, None)


def test_the_weakest_skips_give_way():
    """Five skip connections are strongest; the three weakest fall to the next operation, or to another edge."""
    sep, skip = OPERATIONS.index("sep_conv_3x3"), OPERATIONS.index("skip_connect")
    weights = {key: np.zeros(spec.n_candidates) for key, spec in CHOICES.items()}
    for key, spec in CHOICES.items():
        weights[key][:] = 1.0 if spec.kind == "input" else 0.01
    for kind in ("normal", "reduce"):
        for node, source, skipped, other in [
            (2, 0, 0.5, 0.3),
            (2, 1, 0.6, 0.2),  # both edges of node 2 are kept, whatever they have
            (3, 0, 0.4, 0.05),
            (3, 1, 0.7, 0.1),
            (3, 2, 0.02, 0.35),  # node 3 has a third edge that is next
            (4, 0, 0.45, 0.44),
            (4, 1, 0.02, 0.6),
            (5, 0, 0.02, 0.6),
            (5, 1, 0.02, 0.6),
        ]:
            weights[edge_key(kind, source, node)][[skip, sep]] = skipped, other
    review = parts.limited_skips(2)(view_of(weights))
    arch = review.arch
    assert review.record["skips"] == 2
    assert arch["normal/3"] == ("normal/3<-1", "normal/3<-2")  # 0.4 went first, and its edge with it
    assert arch["normal/3<-0"] == ()
    assert (arch["normal/3<-1"], arch["normal/3<-2"]) == ("skip_connect", "sep_conv_3x3")
    assert arch["normal/4<-0"] == "sep_conv_3x3"  # then 0.45
    assert (arch["normal/2<-0"], arch["normal/2<-1"]) == ("sep_conv_3x3", "skip_connect")  # then 0.5
    skips = [key for key, value in arch.items() if value == "skip_connect"]
    assert sum(key.startswith("reduce/") for key in skips) == 5  # which has no limit
    assert parts.limited_skips(5)(view_of(weights)).record["skips"] == 5
    assert parts.limited_skips(0)(view_of(weights)).record["skips"] == 0
    with pytest.raises(ValueError, match="most"):
        parts.limited_skips(-1)


def test_the_defaults_are_the_papers():
    method = jaxnas.p_darts.method()
    assert method.settings == {"keep": [5 / 8, 3 / 8], "cells": [5, 11, 17], "dropout": [0.0, 0.4, 0.7], "max_skips": 2}
    assert {"epochs": 25, "batch_size": 96, "warmup_epochs": 10}.items() <= method.defaults.items()
    network = darts()
    assert [stage.model(network).cells for stage in method.stages] == [5, 11, 17]
    assert [None if stage.keep is None else repr(stage.keep) for stage in method.stages] == [
        "strongest(0.625)",
        "strongest(0.375)",
        None,
    ]
    kept = [stage.keep(CHOICES)(CHOICES.uniform())["normal/2<-0"] for stage in method.stages[:2]]
    assert [len(each) for each in kept] == [5, 3]
    numbers = jaxnas.p_darts.method(keep=(5, 3.0))
    assert [repr(stage.keep) for stage in numbers.stages[:2]] == ["strongest(5)", "strongest(3)"]


def test_its_stages_on_the_network_of_the_paper():
    """What each stage searches, if the first operations are strongest; the network is not trained here."""
    left, found = {}, []
    for stage, cells in zip(jaxnas.p_darts.method().stages, (5, 11, 17), strict=True):
        model = jaxnas.restrict(stage.model(darts(channels=4)), left)
        space = jaxnas.space(model, X)
        found.append({spec.n_candidates for spec in space.values() if spec.kind == "layer"})
        assert model.open.model.cells == cells
        assert space["normal/5"].n_candidates == 5
        if stage.keep is not None:
            left = stage.keep(space)({key: -np.arange(spec.n_candidates) for key, spec in space.items()})
    assert found == [{8}, {5}, {3}]
    assert left["normal/2<-0"] == ("none", "max_pool_3x3", "avg_pool_3x3")


class Deep(nn.Module):
    depth: int = 1

    @nn.compact
    def __call__(self, x, arch):
        for i in range(self.depth):
            x = nn.Dense(4, name=f"deep_{i}")(x)
        layers = {"skip": lambda x: x, "dense": nn.Dense(4), "sine": jnp.sin, "zero": jnp.zeros_like}
        return nn.Dense(2)(LayerChoice(layers, key="op")(x, arch))


def test_another_model_is_made_deeper_and_what_does_not_apply_is_said(capsys):
    options = {"epochs": 1, "warmup_epochs": 0, "batch_size": 16}
    jaxnas.p_darts.search(Deep, planted_data(64), **options)
    said = capsys.readouterr().out
    assert "stage 1 of 3: layers have up to 4 candidates; this is not jaxnas.spaces.darts" in said
    assert "stage 3 of 3: layers have up to 2 candidates" in said
    for part in ("all stages have one depth", "skip connections are not dropped", "no key begins with normal/"):
        assert said.count(part) == 3
    deepened = {"cells": (1, 2, 3), "deepen": lambda net, cells: net.clone(depth=cells), "progress": False}
    result = jaxnas.p_darts.search(Deep, planted_data(64), **options, **deepened)
    assert [sum("deep" in name for name in each.variables["params"]) for each in [*result.stages, result]] == [1, 2, 3]


def test_logits_are_frozen_at_first_and_the_network_trains():
    result = jaxnas.p_darts.search(
        Deep, planted_data(64), epochs=2, warmup_epochs=1, batch_size=16, progress=False, arch_lr=0.1
    )
    for each in [*result.stages, result]:
        first, second = (np.asarray(each.history[i]["alphas"]["op"]) for i in (0, 1))
        assert np.abs(first).max() < 0.01  # as they began
        assert np.abs(second - first).max() > 0.05
        assert ["valid_loss" in record for record in each.history] == [False, True]
        assert each.history[-1]["skips"] == 0  # there is no normal cell


def test_bad_arguments():
    with pytest.raises(ValueError, match="two numbers to keep, three of cells and three rates"):
        jaxnas.p_darts.method(cells=(5, 11))
    with pytest.raises(ValueError, match="what is kept"):
        jaxnas.p_darts.method(keep=(5.5, 3))
    with pytest.raises(ValueError, match="a rate in"):
        jaxnas.p_darts.method(dropout=(0, 0.4, 1.0))
    with pytest.raises(jaxnas.ArchitectureError, match="keep 5 candidates of choice 'op', which then has 4"):
        jaxnas.p_darts.search(Deep, planted_data(64), keep=(5, 3), batch_size=16, progress=False)
    plain = jaxnas.differentiable("mine", call_with=parts.skip_dropout(0.3))
    with pytest.raises(jaxnas.ArchitectureError, match="no argument skip_dropout"):
        jaxnas.search(Deep, planted_data(64), plain, batch_size=16, progress=False)
