"""How a search decides is an argument of every method: `select=`, and perturbation (DARTS-PT) among the rules."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import typer
from flax import linen as nn
from helpers import Planted, planted_data

import jaxnas
from jaxnas import InputChoice, LayerChoice, parts
from jaxnas.cli.inputs import selection
from jaxnas.errors import ArchitectureError
from jaxnas.oneshot.parts import perturbing

FEW = {"epochs": 2, "batch_size": 50, "progress": False}


class Missed(nn.Module):
    """The largest logit is `loud`'s, without which nothing is missed; only `needed` tells the classes apart."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {"loud": jnp.zeros_like, "needed": lambda x: x, "noise": lambda x: jnp.sin(1e3 * x)}
        y = LayerChoice(layers, key="op")(x, arch)
        other = LayerChoice({"none": jnp.zeros_like, "same": lambda x: x}, key="other")(x, arch)
        y = y + 0 * other
        z = InputChoice(n_candidates=3, n_chosen=2, key="two")([y, 0 * x, y], arch)
        gate = InputChoice(n_candidates=2, key="any")([z, 0 * x], arch)
        return jnp.stack([gate.sum(-1), -gate.sum(-1)], -1)


def missed_data():
    x = np.random.RandomState(0).randn(400, 2).astype(np.float32)
    return x, (x.sum(1) < 0).astype(np.int32)


def lying(key):
    """Logits that favour what is not missed."""

    def relax(space):
        plain = parts.softmax(space)

        def init(rng):
            return {**plain.init(rng), key: jnp.array([3.0, 0.0, 0.0])}

        return parts.Relaxation(init, plain.arch, plain.probabilities)

    return relax


def test_what_is_missed_is_kept_whatever_the_logits_say():
    base = jaxnas.differentiable("lying", relax=lying("op"))
    still = {**FEW, "arch_lr": 1e-9}
    by_weight = jaxnas.search(Missed, missed_data(), base, **still)
    assert by_weight.arch["op"] == "loud"
    result = jaxnas.search(Missed, missed_data(), base, select=parts.by_perturbation(0.5, examples=200), **still)
    assert result.arch["op"] == "needed"
    assert result.arch["two"] == (0, 2)
    assert result.arch["any"] == 0
    assert result.history[-1]["decided"][-1] in result.arch
    assert sorted(result.history[-1]["decided"]) == ["any", "op", "other", "two"]
    assert len(result.history[0]["decided"]) == 0  # four decisions in the last half of two epochs: all after the second


def test_decisions_are_spread_and_stay():
    options = {**FEW, "epochs": 8, "arch_lr": 0.05, "weight_lr": 0.3}
    result = jaxnas.darts_pt.search(Planted, planted_data(), share=0.75, examples=200, **options)
    decided = [record["decided"] for record in result.history]
    assert [len(each) for each in decided] == [0, 0, 0, 1, 1, 2, 2, 3]  # three in the last six epochs
    for before, after in itertools.pairwise(decided):
        assert after[: len(before)] == before
    for record in result.history:
        for key in record["decided"]:  # gates of any subset, and one of n: only 0 and 1 are left
            assert set(np.round(record["probabilities"][key], 6)) <= {0.0, 1.0}
            assert record["arch"][key] == result.arch[key]
    assert result.arch["op"] == "square"


def test_when_a_choice_is_due():
    class Plan:
        epochs = 10

    class View:
        plan = Plan

    def due(epoch, count, share):
        View.epoch = epoch
        return perturbing._due(View, count, share)

    assert [due(epoch, 5, 0.5) for epoch in range(10)] == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
    assert [due(epoch, 2, 0.5) for epoch in range(10)] == [0, 0, 0, 0, 0, 0, 0, 1, 1, 2]
    assert [due(epoch, 3, 0.0) for epoch in range(10)] == [0] * 9 + [3]


def test_edges_of_ranked_inputs_are_left_out_by_none():
    space = jaxnas.Space(
        {
            "a": jaxnas.ChoiceSpec("layer", 2, ("none", "op")),
            "b": jaxnas.ChoiceSpec("layer", 2, ("none", "op")),
            "node": jaxnas.ChoiceSpec("input", 2, ("a", "b"), 1, ranked=True),
        }
    )
    logits = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    mixture = parts.softmax(space).probabilities(logits)

    def score(weights):  # b is worth more than a, `none` most of all: it must not be taken for an edge
        return float(weights["b"][1] + 0.1 * weights["a"][1] - 5 * weights["a"][0])

    assert not perturbing._is_decided(space, "node", logits)
    for key in ("a", "b"):
        logits |= perturbing._decided(space, key, logits, mixture, score)
        assert perturbing._is_decided(space, key, logits)
        assert parts.softmax(space).probabilities(logits)[key].tolist() == [0.0, 1.0]
    mixture = parts.softmax(space).probabilities(logits)
    logits |= perturbing._decided(space, "node", logits, mixture, score)
    assert perturbing._is_decided(space, "node", logits)
    found = parts.softmax(space).probabilities(logits)
    assert found["a"].tolist() == [1.0, 0.0]
    assert found["b"].tolist() == [0.0, 1.0]


def test_every_method_takes_another_rule():
    few = parts.by_evolution(4, population=2, sample=1, examples=50)
    for method in (jaxnas.darts.method(), jaxnas.rsps.method()):
        result = jaxnas.search(Planted, planted_data(200), method, select=few, **{**FEW, "epochs": 1})
        assert 1 <= len(result.trials) <= 4
        assert result.arch == result.trials[0].arch


def test_the_rule_is_in_the_configuration(tmp_path):
    options = {**FEW, "epochs": 1}
    result = jaxnas.darts.search(Planted, planted_data(200), select=parts.by_weight, workdir=tmp_path, **options)
    assert '"derive": "by_weight"' in (tmp_path / "config.json").read_text()
    assert result.arch


@pytest.mark.parametrize(
    ("search", "select", "error", "message"),
    [
        (jaxnas.darts.search, "evolution", TypeError, "select must be a derivation, such as jaxnas.parts.by_evolution"),
        (jaxnas.rsps.search, parts.by_weight, ArchitectureError, "decides by the weights of logits"),
        (jaxnas.rsps.search, parts.by_perturbation(), ArchitectureError, "decides by the weights of logits"),
        (jaxnas.rsps.search, parts.best_of_probable(3), ArchitectureError, "needs the probabilities of logits"),
        (jaxnas.gaea.search, parts.by_perturbation(), ArchitectureError, "whose logits are those of a softmax"),
    ],
)
def test_rules_that_do_not_fit_are_refused(search, select, error, message):
    with pytest.raises(error, match=message):
        search(Planted, planted_data(200), select=select, **{**FEW, "epochs": 1})


def test_on_the_command_line():
    assert selection(None) is None
    assert selection("by-weight") is parts.by_weight
    assert repr(selection("by_evolution:200")) == "by_evolution(200)"
    assert repr(selection("by_perturbation:0.5")) == "by_perturbation(0.5)"
    for text in ("evolution", "by_weight:3", "by_evolution:many", "best_of_probable:0"):
        with pytest.raises(typer.BadParameter):
            selection(text)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="must be"):
        parts.by_perturbation(1.5)
    with pytest.raises(ValueError, match="examples"):
        parts.by_perturbation(examples=0)
    with pytest.raises(ValueError, match="blank=True never trains the logits"):
        jaxnas.darts_pt.method(blank=True, arch_optimizer=jaxnas.darts.paper_arch_optimizer())
