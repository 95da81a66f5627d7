"""The dataflow among choices: hand-checked graphs, cells, and their layout."""

import itertools
import json

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from helpers import Zoo
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnas
from experiments.quickstart import Net
from jaxnas import InputChoice, LayerChoice
from jaxnas.model.graph import Cell, CellEdge, _scan_parts, graph_or_none, trace_graph
from jaxnas.report.layout import layout

X = jax.ShapeDtypeStruct((2, 4), jnp.float32)
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


def edges(graph):
    """The edges as text, `source>target` with the candidates after a colon."""
    return [f"{e['source']}>{e['target']}" + (f":{e['candidates']}" if e["candidates"] else "") for e in graph["edges"]]


def uses(graph):
    return {node["key"]: node["uses"] for node in graph["nodes"]}


def op(key):
    return LayerChoice([nn.Dense(4), jnp.tanh], key=key)


class Model(nn.Module):
    """A model of one function `(x, arch) -> output`, in which modules may be made."""

    run: object

    @nn.compact
    def __call__(self, x, arch):
        return self.run(x, arch)


def graph_of(run, *inputs):
    return trace_graph(Model(run), *(inputs or (X,)))


def test_quickstart():
    graph = trace_graph(Net, jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    assert graph == {
        "nodes": [
            {"key": "input", "kind": "input", "uses": 1, "inside": None},
            {"key": "conv1", "kind": "layer", "uses": 1, "inside": None},
            {"key": "conv2", "kind": "layer", "uses": 1, "inside": None},
            {"key": "skipconnect", "kind": "inputs", "uses": 1, "inside": None},
            {"key": "output", "kind": "output", "uses": 1, "inside": None},
        ],
        "edges": [
            {"source": "input", "target": "conv1", "candidates": None},
            {"source": "conv1", "target": "conv2", "candidates": None},
            {"source": "conv2", "target": "skipconnect", "candidates": [0]},
            {"source": "conv2", "target": "output", "candidates": None},
            {"source": "skipconnect", "target": "output", "candidates": None},
        ],
        "cells": [],
    }


def test_every_kind_of_choice_nested_ones_and_default_keys():
    graph = trace_graph(Zoo, jax.ShapeDtypeStruct((8, 3), jnp.float32))
    assert edges(graph) == [
        *("input>inner", "input>layer", "inner>layer", "layer>LayerChoice_1", "layer>skip:[0]"),
        *("layer>two:[0, 2]", "LayerChoice_1>two:[1, 2]", "skip>two:[1, 2]", "layer>one:[1]", "two>one:[0]"),
        "one>output",
    ]
    inside = {node["key"]: node["inside"] for node in graph["nodes"]}
    assert inside.pop("inner") == "layer"
    assert set(inside.values()) == {None}


def test_a_skip_past_a_choice_and_what_does_not_depend_on_the_input():
    def run(x, arch):
        a = op("a")(x, arch)
        constant = op("constant")(jnp.ones((2, 4)), arch)
        chosen, mask = InputChoice(n_candidates=3, key="i", return_mask=True)([x, a, constant], arch)
        return op("b")(chosen, arch) * mask[0] + a

    assert edges(graph_of(run)) == [
        *("input>a", "input>i:[0]", "a>i:[1]", "constant>i:[2]", "i>b", "a>output", "b>output"),
    ]


def test_a_mask_is_no_data():
    def run(x, arch):
        _, mask = InputChoice(n_candidates=1, key="i", return_mask=True)([x], arch)
        return op("a")(x * mask[0], arch)

    assert edges(graph_of(run)) == ["input>i:[0]", "input>a", "a>output"]


def test_a_choice_whose_result_is_not_used_is_a_node():
    def run(x, arch):
        op("unused")(x, arch)
        return op("a")(x, arch)

    graph = graph_of(run)
    assert [n["key"] for n in graph["nodes"]] == ["input", "unused", "a", "output"]
    assert "unused>output" not in edges(graph)


def test_pytrees_as_inputs_and_between_choices():
    def run(x, arch):
        both = LayerChoice([lambda t: {"p": t["u"] * 2, "q": t["v"][0]}, lambda t: {"p": t["u"], "q": t["u"]}], key="t")
        y = both({"u": x["left"], "v": (x["right"],)}, arch)
        return op("p")(y["p"], arch), {"other": op("q")(y["q"], arch), "none": None}

    graph = graph_of(run, {"left": X, "right": X})
    assert edges(graph) == ["input>t", "t>p", "t>q", "p>output", "q>output"]
    assert uses(graph)["t"] == 1


def test_shared_keys_are_one_node_without_ways_back():
    def run(x, arch):
        for _ in range(3):
            x = op("first")(x, arch) + op("second")(x, arch)
        return x

    graph = graph_of(run)
    assert edges(graph) == ["input>first", "input>second", "first>output", "second>output"]
    assert uses(graph) == {"input": 1, "first": 3, "second": 3, "output": 1}


def test_a_later_use_is_linked_where_the_choice_before_it_is_called_once():
    def run(x, arch):
        x = op("twice")(x, arch)
        y = op("between")(x, arch)
        return op("end")(op("twice")(y, arch), arch)

    assert edges(graph_of(run)) == ["input>twice", "twice>between", "twice>end", "end>output"]


class Pair(nn.Module):
    """Two choices one after the other, with keys of their paths."""

    @nn.compact
    def __call__(self, x, arch):
        y = LayerChoice([nn.Dense(4), jnp.tanh], name="a")(x, arch)
        return x + LayerChoice([nn.Dense(4), jnp.tanh], name="b")(y, arch)


def scanned(length):
    def run(x, arch):
        scan = nn.scan(
            lambda cell, x, _: (cell(x, arch), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=length,
        )
        return scan(Pair(name="pair"), x, None)[0]

    return run


PAIR = ["input>pair/a", "pair/a>pair/b", "input>output", "pair/b>output"]


def test_scan_is_one_node_per_choice_counted_by_its_length():
    graph = graph_of(scanned(5))
    assert edges(graph) == PAIR
    assert uses(graph) == {"input": 1, "pair/a": 5, "pair/b": 5, "output": 1}


def test_the_parts_of_a_scan_in_jax_0_10_and_0_11():
    class FlatTree(tuple):
        def unpack(self):
            return self

    assert _scan_parts({"num_consts": 2, "num_carry": 3}) == (2, 5)
    assert _scan_parts({"ft_in": FlatTree([(None,) * 2, (None,) * 3, (None,)])}) == (2, 5)


def test_a_carry_reaches_what_comes_after_the_loop_over_several_turns():
    def run(x, arch):
        def step(cell, carry, _):
            return (carry[1], carry[2], cell(carry[0], arch)), None

        scan = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
        (first, _, _), _ = scan(op("a"), (x, x * 2, x * 3), None)
        return first

    # After four turns the first carry is a(x) of the second turn: the input reaches it only through a.
    assert edges(graph_of(run)) == ["input>a", "a>output"]


@pytest.mark.parametrize("lift", [nn.remat, nn.jit])
def test_remat_and_jit_change_nothing(lift):
    def run(x, arch):
        return lift(Pair)(name="pair")(x, arch)

    for _ in range(2):  # what was traced before is not taken from a cache
        graph = graph_of(run)
        assert edges(graph) == PAIR
        assert uses(graph)["pair/a"] == 1


def test_vmap_jit_branches_loops_and_solvers_inside():
    def run(x, arch):
        over = nn.vmap(Pair, variable_axes={"params": None}, split_rngs={"params": False}, in_axes=(0, None))
        y = over(name="pair")(x, arch)
        z = jax.jit(lambda u, v: (v, u))(x, y)[0]
        w = jax.lax.cond(z.sum() > 0, lambda a: a, lambda a: a * 2, z)
        v = jax.lax.while_loop(lambda c: c[1] < 3, lambda c: (c[0] + 1, c[1] + 1), (w, 0))[0]
        f = jax.custom_jvp(lambda t: t * 2)
        f.defjvp(lambda p, t: (f(*p), t[0]))
        g = jax.custom_vjp(lambda t: t * 2)
        g.defvjp(lambda t: (t * 2, None), lambda _, t: (t * 2,))
        solved = jax.scipy.sparse.linalg.cg(lambda t: t * 2, g(f(v)), maxiter=2)[0]
        return op("end")(solved, arch)

    assert edges(graph_of(run)) == ["input>pair/a", "pair/a>pair/b", "input>end", "pair/b>end", "end>output"]


def test_a_while_loop_over_choices_ends_by_what_it_computes():
    class Loop(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            gate = op("gate")(x, arch)
            body = op("body")
            body(x, arch)  # makes its parameters

            def turn(module, carry):
                return module(carry[0], arch), carry[1] + 1

            return nn.while_loop(lambda _, c: c[1] < gate.sum(), turn, body, (x, 0.0))[0]

    graph = trace_graph(Loop, X)
    assert edges(graph) == ["input>gate", "input>body", "input>output", "gate>output", "body>output"]


def test_a_subclass_with_a_call_of_another_form():
    class Sum(LayerChoice):
        def __call__(self, x, y, arch):
            return super().__call__(x + y, arch)

    def run(x, arch):
        a = op("a")(x, arch)
        return Sum([nn.Dense(4), jnp.tanh], key="sum")(a, x, arch)

    graph = graph_of(run)
    assert edges(graph) == ["input>a", "input>sum", "a>sum", "sum>output"]
    assert uses(graph)["sum"] == 1


def test_choices_called_input_and_output():
    def run(x, arch):
        return InputChoice(n_candidates=1, key="output")([op("input")(x, arch)], arch)

    graph = graph_of(run)
    assert edges(graph) == ["(input)>input", "input>output:[0]", "output>(output)"]
    assert [n["kind"] for n in graph["nodes"]] == ["input", "layer", "inputs", "output"]


def test_a_model_without_architecture_is_refused():
    with pytest.raises(jaxnas.ArchitectureError, match="Dense takes no `arch`"):
        trace_graph(nn.Dense(2), X)


@st.composite
def models(draw):
    """A random model of up to eight choices, some sharing keys, some nested, each on values made before."""
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["layer", "inputs", "nested"]),
                st.integers(0, 3),
                st.lists(st.integers(0, 20), min_size=1, max_size=3),
            ),
            min_size=1,
            max_size=8,
        )
    )

    def run(x, arch):
        values = [x]
        for kind, key, sources in steps:
            taken = [values[i % len(values)] for i in sources]
            if kind == "inputs":
                y = InputChoice(n_candidates=len(taken), key=f"inputs_{key}_{len(taken)}")(taken, arch)
            elif kind == "layer":
                y = LayerChoice([jnp.tanh, lambda x: x], key=f"layer_{key}")(sum(taken), arch)
            else:
                inner = Model(lambda x, arch, key=key: LayerChoice([jnp.tanh, jnp.sin], key=f"inner_{key}")(x, arch))
                y = LayerChoice([inner, jnp.tanh], key=f"outer_{key}")(sum(taken), arch)
            values.append(y)
        return values[-1]

    return Model(run)


@given(models())
@settings(max_examples=40, deadline=None)
def test_graphs_are_acyclic_complete_and_the_same_each_time(model):
    graph = trace_graph(model, X)
    keys = [node["key"] for node in graph["nodes"]]
    assert (keys[0], keys[-1]) == ("input", "output")
    assert sorted(keys[1:-1]) == sorted(jaxnas.space(model, X))
    assert all(keys.index(e["source"]) < keys.index(e["target"]) for e in graph["edges"])
    assert {e["target"] for e in graph["edges"]} == set(keys[1:])  # all depend on the input
    kinds = {node["key"]: node["kind"] for node in graph["nodes"]}
    assert all((e["candidates"] is not None) == (kinds[e["target"]] == "inputs") for e in graph["edges"])
    assert graph == trace_graph(model, X) == json.loads(json.dumps(graph))


# ---------------------------------------------------------------------- cells


def test_cells_of_nasbench201():
    graph = trace_graph(jaxnas.spaces.nasbench201(channels=2, cells=2), IMAGE)
    (cell,) = graph["cells"]
    assert cell["nodes"] == ["0", "1", "2", "3"]
    assert [(e["source"], e["target"], e["choice"]) for e in cell["edges"]] == [
        *(("0", "1", "1<-0"), ("0", "2", "2<-0"), ("1", "2", "2<-1")),
        *(("0", "3", "3<-0"), ("1", "3", "3<-1"), ("2", "3", "3<-2")),
    ]
    assert all(e["switch"] is None and not e["loose"] for e in cell["edges"])
    assert uses(graph)["3<-2"] == 6
    assert edges(graph) == [
        *("input>1<-0", "input>2<-0", "1<-0>2<-1", "input>3<-0", "1<-0>3<-1", "2<-0>3<-2", "2<-1>3<-2"),
        *("3<-0>output", "3<-1>output", "3<-2>output"),
    ]


def test_cells_of_enas_micro():
    graph = trace_graph(jaxnas.spaces.enas_micro(cells=3, nodes=2, filters=2), IMAGE)
    assert [cell["name"] for cell in graph["cells"]] == ["normal", "reduce"]
    cell = graph["cells"][1]
    assert cell["nodes"] == ["c_{k-2}", "c_{k-1}", "0", "1", "c_k"]
    into_1 = [e for e in cell["edges"] if e["target"] == "1"]
    assert [(e["source"], *e["switch"], e["choice"]) for e in into_1] == [
        (source, f"reduce/node_1/{side}_input", i, f"reduce/node_1/{side}_op")
        for side in "xy"
        for i, source in enumerate(["c_{k-2}", "c_{k-1}", "0"])
    ]
    loose = [e["source"] for e in cell["edges"] if e["loose"]]
    assert loose == ["c_{k-2}", "c_{k-1}", "0", "1"]
    assert uses(graph)["normal/node_0/x_op"] == 3
    assert uses(graph)["reduce/node_0/x_op"] == 2
    # Cells of a kind are one: no node of the normal cell is fed by later nodes of the cell before.
    assert not [e for e in edges(graph) if e.startswith(("normal/node_1/x_op>normal", "normal/node_1/y_op>normal"))]


class WithCells(Zoo):
    cells: tuple = ()

    def describe_cells(self):
        return self.cells


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (Cell("c", ["a", "a"], []), "two nodes have one name"),
        (Cell("c", ["a", "b"], [CellEdge("a", "x")]), "no node 'x'"),
        (Cell("c", ["a", "b"], [CellEdge("a", "b", choice="nothing")]), "'nothing' is no LayerChoice"),
        (Cell("c", ["a", "b"], [CellEdge("a", "b", choice="two")]), "'two' is no LayerChoice"),
        (Cell("c", ["a", "b"], [CellEdge("a", "b", switch=("two", 3))]), "no candidate"),
        (Cell("c", ["a", "b"], [CellEdge("a", "b", switch=("layer", 0))]), "no candidate"),
        (Cell("c", ["a", "b"], [CellEdge("a", "b"), CellEdge("b", "a")]), "form a cycle"),
        ("c", "expected a jaxnas.graph.Cell"),
        (Cell("c", ["a", "b"], [("a", "b")]), "edges of type CellEdge"),
    ],
)
def test_cells_that_do_not_fit_are_refused(cell, message):
    x = jax.ShapeDtypeStruct((8, 3), jnp.float32)
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        trace_graph(WithCells(cells=(cell,)), x)
    with pytest.warns(UserWarning, match=message):  # and a search goes on without a picture
        assert graph_or_none(WithCells(cells=(cell,)), x) is None


def test_cells_that_fit():
    cells = (Cell("c", ("a", "b"), (CellEdge("a", "b", choice="layer", switch=("two", 1)),)),)
    edge = {"source": "a", "target": "b", "choice": "layer", "switch": ["two", 1], "loose": False}
    graph = trace_graph(WithCells(cells=cells), jax.ShapeDtypeStruct((8, 3), jnp.float32))
    assert graph["cells"] == [{"name": "c", "nodes": ["a", "b"], "edges": [edge]}]


def test_a_search_writes_the_graph(tmp_path):
    def run(x, arch):
        return LayerChoice([nn.Dense(10), nn.Dense(10, use_bias=False)], key="head")(x.reshape(len(x), -1), arch)

    jaxnas.darts.search(Model(run), "digits", epochs=1, batch_size=256, workdir=tmp_path, progress=False)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["graph"] == trace_graph(Model(run), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    assert edges(config["graph"]) == ["input>head", "head>output"]


# ---------------------------------------------------------------------- layout


@st.composite
def graphs(draw):
    n = draw(st.integers(1, 12))
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=25))
    nodes = draw(st.permutations([f"n{i}" for i in range(n)]))
    return nodes, [(f"n{min(pair)}", f"n{max(pair)}") for pair in pairs if pair[0] != pair[1]]


@given(graphs())
@settings(max_examples=80, deadline=None)
def test_layout_has_every_node_and_leads_downwards(graph):
    nodes, links = graph
    drawn = layout(nodes, links)
    assert list(drawn.positions) == list(nodes)
    assert len(drawn.paths) == len(links)
    for (source, target), path in zip(links, drawn.paths, strict=True):
        assert (path[0], path[-1]) == (drawn.positions[source], drawn.positions[target])
        assert all(b[1] == pytest.approx(a[1] + 1) for a, b in itertools.pairwise(path))
    points = [*drawn.positions.values(), *(point for path in drawn.paths for point in path)]
    for axis, size in ((0, drawn.width), (1, drawn.height)):
        assert (min(p[axis] for p in points), max(p[axis] for p in points)) == (0, size)
    placed = sorted((y, x) for x, y in drawn.positions.values())
    assert all(a[0] != b[0] or b[1] - a[1] > 0.999 for a, b in itertools.pairwise(placed))
    assert drawn == layout(nodes, links)


def test_layouts_by_hand():
    assert layout([], []) == ({}, [], 0, 0)
    assert layout(["a"], []) == ({"a": (0, 0)}, [], 0, 0)
    chain = layout(["c", "b", "a"], [("a", "b"), ("b", "c"), ("a", "b")])
    assert chain.positions == {"c": (0, 2), "b": (0, 1), "a": (0, 0)}
    assert chain.paths == [[(0, 0), (0, 1)], [(0, 1), (0, 2)], [(0, 0), (0, 1)]]
    beside = layout(["alone", "a", "b"], [("a", "b")])  # parts in the order of their first nodes
    assert beside.positions == {"alone": (0, 0), "a": (1.5, 0), "b": (1.5, 1)}
    over = layout(["a", "b", "c"], [("a", "b"), ("b", "c"), ("a", "c")])
    assert len(over.paths[2]) == 3  # past the layer of b, beside it
    assert over.paths[2][1][0] != over.positions["b"][0]


def test_sources_on_top():
    nodes, links = ["a", "b", "c", "d", "late"], [("a", "b"), ("b", "c"), ("c", "d"), ("late", "d")]
    assert layout(nodes, links).positions["late"][1] == 2  # beside c, where its edge is shortest
    drawn = layout(nodes, links, sources_on_top=True)
    assert [y for _, y in drawn.positions.values()] == [0, 1, 2, 3, 0]
    assert len(drawn.paths[3]) == 4


@pytest.mark.parametrize("edge", [("a", "x"), ("a", "a")])
def test_layout_refuses_edges_of_nothing(edge):
    with pytest.raises(ValueError, match="no edge between two"):
        layout(["a", "b"], [edge])
