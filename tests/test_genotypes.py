"""Genotypes: the authors' text read and written, architectures made of them and derived from weights."""

import ast
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import write_run

import jaxnas
from jaxnas import spaces
from jaxnas.cli.looking import show
from jaxnas.errors import ArchitectureError
from jaxnas.spaces import DARTS_V1, DARTS_V2, Genotype, arch_of, genotype_of
from jaxnas.spaces.genotypes import CHOICES, EDGES, KINDS, OPERATIONS, edge_key, node_key

DARTS_V2_TEXT = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=range(2, 6), "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=range(2, 6))"
)


@st.composite
def genotypes(draw):
    def cell():
        edges = []
        for node in range(2, 6):
            sources = draw(st.permutations(range(node)))[:2]
            edges += [(draw(st.sampled_from(OPERATIONS[1:])), source) for source in sources]
        return edges

    return Genotype(cell(), range(2, 6), cell(), range(2, 6))


def in_order(genotype):
    """The two edges of each node in order of their sources."""
    cells = [
        [edge for i in range(0, 8, 2) for edge in sorted(edges[i : i + 2], key=lambda edge: edge[1])]
        for edges in (genotype.normal, genotype.reduce)
    ]
    return genotype._replace(normal=cells[0], reduce=cells[1])


@given(genotypes())
@settings(max_examples=50, deadline=None)
def test_texts_and_architectures_give_the_genotype_again(genotype):
    assert Genotype.parse(str(genotype)) == genotype
    arch = arch_of(genotype)
    assert genotype_of(arch) == in_order(genotype)
    assert arch_of(genotype_of(arch)) == arch
    CHOICES.validate(arch)


def test_the_authors_texts():
    assert str(DARTS_V2) == DARTS_V2_TEXT
    broken = DARTS_V2_TEXT.replace(", (", ",\n   (").replace("range(2, 6)", "[2, 3, 4, 5]")
    assert Genotype.parse(f"\n  DARTS_V2 = {broken}\n") == DARTS_V2
    assert Genotype.parse(DARTS_V2_TEXT.replace("range(2, 6)", "(2, 3, 4, 5)").replace("'", '"')) == DARTS_V2
    assert Genotype.parse(re.sub(r"\w+=", "", DARTS_V2_TEXT)) == DARTS_V2
    assert DARTS_V1 != DARTS_V2


def test_an_architecture_has_the_edges_and_nothing_for_the_others(tmp_path):
    arch = arch_of(DARTS_V2)
    assert list(arch) == list(CHOICES)
    assert arch["normal/5<-2"] == "dil_conv_3x3"
    assert arch["normal/5<-1"] == ()
    assert arch["normal/5"] == ("normal/5<-0", "normal/5<-2")
    assert arch["reduce/4"] == ("reduce/4<-0", "reduce/4<-2")
    jaxnas.export(arch, tmp_path / "arch.json")
    assert arch_of(genotype_of(jaxnas.load(tmp_path / "arch.json"))) == arch


def test_weights_keep_the_two_strongest_edges_of_each_node_the_stronger_first():
    """Section 2.4 of the paper; worked out by hand."""
    weights = {edge_key(kind, j, i): np.full(8, 0.01, np.float32) for kind in KINDS for j, i in EDGES}

    def put(key, **values):
        for operation, value in values.items():
            weights[key][OPERATIONS.index(operation)] = value

    put("normal/2<-0", none=0.9, skip_connect=0.2)
    put("normal/2<-1", sep_conv_5x5=0.3)
    put("normal/3<-0", none=0.99, max_pool_3x3=0.05)  # `none` is strong, and does not count
    put("normal/3<-1", avg_pool_3x3=0.2, sep_conv_3x3=0.1)
    put("normal/3<-2", dil_conv_3x3=0.06)
    put("reduce/5<-4", dil_conv_5x5=0.5)
    found = genotype_of({key: jnp.asarray(value) for key, value in weights.items()})
    assert found.normal[:2] == [("sep_conv_5x5", 1), ("skip_connect", 0)]
    assert found.normal[2:4] == [("avg_pool_3x3", 1), ("dil_conv_3x3", 2)]
    # Of equals the first edge, and of an edge's equal operations the first, as in the authors' code.
    assert found.normal[4:6] == [("max_pool_3x3", 0), ("max_pool_3x3", 1)]
    assert found.reduce[6:] == [("dil_conv_5x5", 4), ("max_pool_3x3", 0)]
    assert genotype_of({**weights, node_key("normal", 2): np.zeros(2, np.float32)}) == found


@given(genotypes())
@settings(max_examples=10, deadline=None)
def test_one_hot_weights_and_sampled_values_give_the_same(genotype):
    arch = arch_of(genotype)
    assert arch_of(genotype_of(CHOICES.one_hot(arch))) == arch
    filled = {key: value or "sep_conv_3x3" for key, value in arch.items()}  # an unused edge has some operation
    assert genotype_of(CHOICES.sampled(filled)) == in_order(genotype)


def nested(edges):
    return [list(edges[i : i + 2]) for i in range(0, 8, 2)]


SAME_TEXTS = {
    "numpy numbers": re.sub(r"', (\d)", r"', np.int64(\1)", DARTS_V2_TEXT),
    "numpy strings": re.sub(r"('\w+')", r"np.str_(\1)", DARTS_V2_TEXT),
    "list of a range": DARTS_V2_TEXT.replace("range(2, 6)", "list(range(2, 6))"),
    "arange": DARTS_V2_TEXT.replace("range(2, 6)", "np.arange(2, 6)"),
    "numpy.arange": DARTS_V2_TEXT.replace("range(2, 6)", "numpy.arange(2, 6, dtype=int)", 1),
    "an array": DARTS_V2_TEXT.replace("range(2, 6)", "array([2, 3, 4, 5])"),
    "byte order mark": "\ufeff" + DARTS_V2_TEXT,
    "a line of a log": f"08/04 01:23:45 PM genotype = {DARTS_V2_TEXT}\n",
    "a log that names it": f"INFO genotype: {DARTS_V2_TEXT} after 50 epochs (1.2 GPU-days)",
    "a module": DARTS_V2_TEXT.replace("Genotype(", "genotypes.Genotype("),
    "an annotation": f"DARTS: Genotype = {DARTS_V2_TEXT}",
    "a trailing comma": f"DARTS = {DARTS_V2_TEXT},",
    "commas inside": DARTS_V2_TEXT.replace(")]", "),]").replace("range(2, 6))", "range(2, 6),)"),
    "comments": f"# found\n{DARTS_V2_TEXT.replace(', (', ', # yes' + chr(10) + '(')}  # end",
    "nested per node": str(DARTS_V2._replace(normal=nested(DARTS_V2.normal), reduce=nested(DARTS_V2.reduce))),
}


@pytest.mark.parametrize("name", SAME_TEXTS)
def test_the_ways_people_keep_a_genotype_are_read(name):
    assert SAME_TEXTS[name] != DARTS_V2_TEXT
    assert Genotype.parse(SAME_TEXTS[name]) == DARTS_V2


def test_a_genotype_of_numpy_values_is_written_so_that_it_reads_back():
    edges = [(np.str_(operation), np.int64(source)) for operation, source in DARTS_V2.normal]
    genotype = DARTS_V2._replace(normal=edges, normal_concat=np.arange(2, 6))
    assert "np." not in str(genotype)
    assert Genotype.parse(str(genotype)) == DARTS_V2
    assert arch_of(genotype) == arch_of(DARTS_V2)


def test_the_position_of_what_cannot_be_read_is_that_in_the_text():
    lines = ["", "", "   X = Genotype(normal=[('sep_conv_3x3', 0),", "     ('sep_conv_3x3', f(1))], normal_concat=[],"]
    with pytest.raises(ArchitectureError, match=r"normal: not a list of constants .line 4, column 23."):
        Genotype.parse("\n".join([*lines, "reduce=[], reduce_concat=[])"]))
    with pytest.raises(ArchitectureError, match=r"normal: not a list of constants .line 3, column 24."):
        Genotype.parse(
            "\n".join([*lines[:2], "   X = Genotype(normal=open('x'), normal_concat=[], reduce=[], reduce_concat=[])"])
        )
    with pytest.raises(ArchitectureError, match=r"line 3 cannot be read: .*column"):
        Genotype.parse("\n\n  X = Genotype(normal=[('a', 0)")


# ---------------------------------------------------------------------- files of others


def _texts(file):
    return [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]


def test_the_published_genotypes_of_the_space_are_read(cases):
    texts = _texts(cases / "genotypes_in_darts_space.txt")
    assert len(texts) == 130
    for text in texts:
        genotype = Genotype.parse(text)
        CHOICES.validate(arch_of(genotype))
        assert Genotype.parse(str(genotype)) == genotype


def test_genotypes_of_other_spaces_are_refused_with_what_does_not_fit(cases):
    reason = ""
    for line in (cases / "genotypes_not_in_darts_space.txt").read_text().splitlines():
        if line.startswith("# because: "):
            reason = line.removeprefix("# because: ")
        if not line.strip() or line.startswith("#"):
            continue
        with pytest.raises(ArchitectureError) as refused:
            Genotype.parse(line)
        named = re.match(r"(normal_concat|normal|reduce|parts)", reason)[0]
        assert named in str(refused.value)
        if "operation " in reason:
            assert repr(reason.split()[-1]) in str(refused.value)


def test_texts_over_many_lines_are_read_or_refused_with_the_reason(cases):
    texts = re.split(r"#####.*\n", (cases / "genotypes_raw_layouts.txt").read_text())[1:]
    assert len(texts) == 3
    with pytest.raises(ArchitectureError, match=r"normal, edge 4 .into node 4.: the operation is 'none'"):
        Genotype.parse(texts[0])
    for text in texts[1:]:
        CHOICES.validate(arch_of(Genotype.parse(text)))


def test_a_json_file_of_nested_genotypes(cases):
    file = cases / "cdarts_cifar_genotype.json"
    for text in json.loads(file.read_text()).values():
        genotype = Genotype.parse(text)
        flat = re.sub(r"\], \[", ", ", text).replace("[[", "[").replace("]]", "]")
        assert flat != text
        assert Genotype.parse(flat) == genotype
        CHOICES.validate(arch_of(genotype))
    with pytest.raises(ArchitectureError, match=r"a JSON object of \d+ texts, with the keys .'0', '1'"):
        Genotype.parse(file.read_text()[:9000])
    with pytest.raises(
        ArchitectureError,
        match=r"cdarts_cifar_genotype.json: holds 3 genotype texts, not one architecture.*Genotype.parse",
    ):
        jaxnas.apply_fixed_architecture(spaces.darts_evaluation, file)


def test_edges_nested_for_other_nodes_are_refused():
    three = DARTS_V2._replace(normal=[[("skip_connect", 0), ("skip_connect", 1)]] * 3)
    with pytest.raises(ArchitectureError, match="normal: got edges nested for 3 nodes; expected 4"):
        arch_of(three)
    uneven = [[("skip_connect", 0), ("skip_connect", 1)]] * 3 + [[("skip_connect", 0)]]
    with pytest.raises(ArchitectureError, match="normal: node 5 has 1 edges; expected 2"):
        arch_of(DARTS_V2._replace(normal=uneven))


def test_a_configuration_of_nasbench301(cases):
    file = cases / "nasbench301_config.json"
    config = json.loads(file.read_text())
    genotype = Genotype.from_nasbench301(config)
    assert genotype.normal == [
        *(("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 1)),
        *(("dil_conv_3x3", 0), ("dil_conv_5x5", 2), ("sep_conv_3x3", 1), ("skip_connect", 2)),
    ]
    assert genotype.reduce == [
        *(("max_pool_3x3", 0), ("avg_pool_3x3", 1), ("skip_connect", 0), ("dil_conv_5x5", 1)),
        *(("sep_conv_3x3", 1), ("sep_conv_5x5", 2), ("sep_conv_3x3", 2), ("dil_conv_3x3", 3)),
    ]
    with pytest.raises(ArchitectureError, match=r"is a configuration of NAS-Bench-301; read it by .*from_nasbench301"):
        jaxnas.load(file)
    prefix = "NetworkSelectorDatasetInfo:darts:"
    with pytest.raises(ArchitectureError, match="has no '.*edge_normal_0'"):
        Genotype.from_nasbench301({})
    with pytest.raises(ArchitectureError, match="inputs_node_normal_3: got '0_7'; expected as in '0_1'"):
        Genotype.from_nasbench301({**config, f"{prefix}inputs_node_normal_3": "0_7"})


def test_an_export_of_nni_is_read_for_a_space_with_its_keys(cases):
    space = jaxnas.Space({f"LayerChoice{i}": jaxnas.ChoiceSpec("layer", 4) for i in range(1, 21)})
    arch = space.fixed(jaxnas.load(cases / "nni_spos_architecture_final.json"))
    assert list(arch.values()) == [2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3]


BAD_TEXTS = {
    "unknown operation": (("('dil_conv_3x3', 2)", "('dil_conv3x3', 2)"), "edge 7 .into node 5.*did you mean 'dil_conv"),
    "none": (("('skip_connect', 0)", "('none', 0)"), "normal, edge 5.*'none'.*expected one of"),
    "no name of an operation": (("'dil_conv_3x3'", "3"), "the operation is 3"),
    "too few edges": ((", ('dil_conv_3x3', 2)]", "]"), "normal: got 7 edges; expected 8"),
    "too many edges": (("normal=[", "normal=[('skip_connect', 0), "), "normal: got 9 edges"),
    "source too large": (("('dil_conv_3x3', 2)", "('dil_conv_3x3', 5)"), "node 5 cannot take node 5; it takes 0 to 4"),
    "source negative": (("('dil_conv_3x3', 2)", "('dil_conv_3x3', -1)"), "cannot take node -1"),
    "source no number": (("('dil_conv_3x3', 2)", "('dil_conv_3x3', True)"), "source is True; expected the number"),
    "source very large": (
        ("('dil_conv_3x3', 2)", f"('dil_conv_3x3', 0x{'f' * 9000})"),
        "cannot take node a number too",
    ),
    "two edges from one source": (("('dil_conv_3x3', 2)", "('dil_conv_3x3', 0)"), "both edges into node 5 come from"),
    "edge no pair": (("('dil_conv_3x3', 2)", "'dil_conv_3x3'"), "expected .operation, source."),
    "another output": (("range(2, 6)", "range(3, 6)"), "normal_concat: got range.3, 6."),
    "an endless output": (("range(2, 6)", "range(10**9)"), "normal_concat: not a list of constants"),
    "a long output": (("range(2, 6)", "range(999999999999)"), "normal_concat: got range.0, 999999999999."),
    "a step of zero": (("range(2, 6)", "range(2, 6, 0)"), "normal_concat: not a list"),
    "missing part": (("normal_concat=range(2, 6), ", ""), "has the parts.*got"),
    "part twice": (("normal_concat=range(2, 6)", "normal=[]"), "has the parts.*'normal', 'normal'"),
    "part unknown": (("normal_concat", "concat"), "has the parts.*'concat'"),
    "a call inside": (("'dil_conv_3x3'", "print('!')"), "normal: not a list of constants"),
    "code before": (("Genotype(", "import os; Genotype("), "expected one text Genotype"),
    "another call": (("Genotype(", "print("), "expected one text Genotype"),
    "an attribute": (("Genotype(", "os.system("), "expected one text Genotype"),
    "a statement": (("Genotype(", "return Genotype("), "expected one text Genotype"),
    "cut off": ((", reduce_concat=range(2, 6))", ""), "line 1 cannot be read"),
    "null byte": (("normal=", "\0normal="), "expected one text Genotype"),
    "too long": (("normal=", " " * 10_000 + "normal="), "got a text of 10,"),
    "nested deeply": (("'dil_conv_3x3'", "(" * 4000 + ")" * 4000), "expected one text Genotype|not a list"),
    "strange escape": (("dil_conv_3x3", r"dil\_conv"), "did you mean"),
}


@pytest.mark.parametrize("name", BAD_TEXTS)
def test_a_bad_text_is_refused_with_what_is_wrong(name):
    change, message = BAD_TEXTS[name]
    text = DARTS_V2_TEXT.replace(*change, 1)
    assert text != DARTS_V2_TEXT
    with pytest.raises(ArchitectureError, match=message):
        Genotype.parse(text)


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_other_text_is_refused(text):
    for attempt in (text, f"Genotype({text})", DARTS_V2_TEXT.replace("'sep_conv_3x3'", text, 1)):
        try:
            Genotype.parse(attempt)
        except ArchitectureError:
            continue
        assert ast.literal_eval(text.strip()) in OPERATIONS[1:]


def test_what_is_no_genotype_or_architecture_is_refused():
    with pytest.raises(ArchitectureError, match="read from a text; got bytes"):
        Genotype.parse(b"Genotype()")
    with pytest.raises(ArchitectureError, match="expected a Genotype; got tuple"):
        arch_of(tuple(DARTS_V2))
    with pytest.raises(ArchitectureError, match="normal: got None"):
        arch_of(DARTS_V2._replace(normal=None))
    arch = arch_of(DARTS_V2)
    with pytest.raises(ArchitectureError, match=r"'normal/5<-2'.*taken.*'none'"):
        genotype_of({**arch, "normal/5<-2": "none"})
    with pytest.raises(ArchitectureError, match=r"'normal/5<-2'.*none chosen"):
        genotype_of({**arch, "normal/5<-2": ()})
    with pytest.raises(ArchitectureError, match="missing keys"):
        genotype_of({"conv1": 0})
    with pytest.raises(ArchitectureError, match="must be a dict|is a dict"):
        genotype_of(None)
    weights = {edge_key(kind, j, i): np.full(8, np.nan, np.float32) for kind in KINDS for j, i in EDGES}
    with pytest.raises(ArchitectureError, match="not finite"):
        genotype_of(weights)
    with pytest.raises(ArchitectureError, match=r"'normal/2<-0'.*shape \(7,\)"):
        genotype_of({**weights, "normal/2<-0": np.zeros(7, np.float32)})


def test_the_choices_are_those_of_the_evaluation_network():
    found = jaxnas.space(spaces.darts_evaluation(channels=2, cells=3), np.zeros((1, 8, 8, 3), np.float32))
    assert found == CHOICES
    assert found.size == 8**28 * (1 * 3 * 6 * 10) ** 2


def test_show_prints_the_genotype_of_a_run(tmp_path, capsys):
    show(write_run(tmp_path / "run", CHOICES, epochs=1, arch=arch_of(DARTS_V2)))
    shown = capsys.readouterr().out
    assert f"{genotype_of(arch_of(DARTS_V2))}\n" in shown
    without = {**arch_of(DARTS_V2), "normal/2<-0": "none"}  # as ENAS may find
    show(write_run(tmp_path / "other", CHOICES, epochs=1, arch=without))
    assert "Genotype" not in capsys.readouterr().out
