"""Latency tables: measured, written, read, summed, and refused where they do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import InputChoice, LatencyTable, LayerChoice, parts
from jaxnas.model import latency
from jaxnas.oneshot.parts.part import Seen


class Deep(nn.Module):
    """A choice of named candidates, of which one is far dearer, used twice; one of unnamed ones; inputs."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        heavy = nn.Sequential([nn.Dense(1024), nn.Dense(1024), nn.Dense(1024), nn.Dense(8)])
        choice = LayerChoice({"skip": lambda x: x, "heavy": heavy}, key="op")
        x = choice(choice(x, arch), arch)
        y = LayerChoice([nn.Dense(4), nn.BatchNorm(use_running_average=not train)], key="last")(x[:, :4], arch)
        return InputChoice(n_candidates=2, n_chosen=1, key="in")([y, jnp.tanh(y)], arch)


EXAMPLE = jax.ShapeDtypeStruct((64, 8), jnp.float32)
SPACE = jaxnas.space(Deep, EXAMPLE)


@pytest.fixture(scope="module")
def table():
    return jaxnas.measure_latency(Deep, (64, 8), repeats=15)


def test_a_measured_table_has_every_candidate_and_its_spread(table):
    assert {key: list(row) for key, row in table.microseconds.items()} == {
        "op": ["skip", "heavy"],
        "last": ["0", "1"],
    }
    assert {key: list(row) for key, row in table.spread.items()} == {"op": ["skip", "heavy"], "last": ["0", "1"]}
    # Two times 130 million multiply-accumulates against nothing.
    assert table.microseconds["op"]["heavy"] > 10 * table.microseconds["op"]["skip"]
    assert table.device.startswith("cpu")


def test_a_table_survives_its_file(table, tmp_path):
    table.save(tmp_path / "cpu.json")
    assert LatencyTable.load(tmp_path / "cpu.json") == table
    assert repr(LatencyTable({"op": {"a": 1.0}})) != repr(LatencyTable({"op": {"a": 2.0}}))  # what config.json holds
    for text in ("{", "[]", '{"format": "another"}', '{"format": "jaxnas latency table 1"}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json is not a latency table"):
            LatencyTable.load(tmp_path / "bad.json")
    with pytest.raises(ValueError, match="candidate 'a' of choice 'op' must be a finite number of at least 0; got -1"):
        LatencyTable({"op": {"a": -1}})


MADE = LatencyTable({"op": {"skip": 1.0, "heavy": 100.0}, "last": {"0": 10.0, "1": 20.0}})


def test_latencies_add_up():
    assert MADE.latency({"op": "heavy", "last": 1, "in": 0}) == 120
    assert MADE.latency({"op": (), "last": 0}) == 10
    weights = {"op": jnp.asarray([0.25, 0.75]), "last": jnp.asarray([0.5, 0.5]), "in": jnp.ones(2)}
    value, slope = jax.value_and_grad(MADE.expected(SPACE))(weights)
    assert value == pytest.approx(0.25 + 75 + 15)
    np.testing.assert_allclose(slope["op"], [1, 100])
    assert MADE.expected(SPACE)(SPACE.one_hot({"op": "heavy", "last": 1, "in": 0})) == 120


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"op": {"skip": 1.0, "heavy": 2.0}}, r"lacks choice 'last'; it has \['op'\]"),
        (
            {"op": {"skip": 1.0}, "last": {"0": 1.0, "1": 2.0}},
            r"lacks candidate 'heavy' of choice 'op'; it has \['skip'",
        ),
        ({"op": {"skip": 1.0, "heavy": 2.0}, "last": {"0": 1.0}}, "lacks candidate 1 of choice 'last'"),
    ],
)
def test_what_a_table_lacks_is_named(rows, said):
    seen = Seen(Deep, SPACE, EXAMPLE, parts.softmax(SPACE))
    with pytest.raises(jaxnas.ArchitectureError, match=said):
        parts.expected_cost("latency", target=5.0, table=LatencyTable(rows)).for_model(seen)


def test_a_constant_latency_and_a_log_of_too_little_are_refused():
    seen = Seen(Deep, SPACE, EXAMPLE, parts.softmax(SPACE))
    same = LatencyTable({"op": {"skip": 3.0, "heavy": 3.0}, "last": {"0": 1.0, "1": 1.0}})
    with pytest.raises(jaxnas.ArchitectureError, match="the latency of this model are the same for every architecture"):
        parts.expected_cost("latency", target=5.0, table=same).for_model(seen)
    quick = LatencyTable({"op": {"skip": 0.25, "heavy": 3.0}, "last": {"0": 0.5, "1": 1.0}})
    with pytest.raises(jaxnas.ArchitectureError, match=r"needs latency above 1; the cheapest architecture has 0\.75"):
        parts.expected_cost("latency", form="log", table=quick).for_model(seen)
    with pytest.raises(jaxnas.ArchitectureError, match="the architecture lacks choice 'last'"):
        MADE.latency({"op": "skip"})


class Cells(nn.Module):
    """Four cells in a scan, each of one choice."""

    inside: bool = False

    @nn.compact
    def __call__(self, x, arch):
        if self.inside:
            return LayerChoice([Cells(), jnp.tanh], key="outer")(x, arch)

        def cell(module, x, _):
            return LayerChoice([nn.Dense(4), jnp.tanh], key="op", name="op")(x, arch), None

        scan = nn.scan(cell, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
        return scan(self, x, None)[0]


def test_uses_in_a_loop_count_and_nests_are_refused():
    x = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    calls, uses = latency._calls(Cells, jaxnas.space(Cells, x), x)
    assert sum(uses[i] for i in range(len(calls))) == 4
    assert {call[1] for call in calls} == {"op"}
    with pytest.raises(jaxnas.ArchitectureError, match="choice 'op' is inside a candidate of 'outer'"):
        jaxnas.measure_latency(lambda: Cells(inside=True), (2, 4))
    with pytest.raises(ValueError, match="repeats must be"):
        jaxnas.measure_latency(Cells, (2, 4), repeats=0)
