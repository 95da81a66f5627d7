"""Architectures as other tools write them: what is recognised, what is refused, and with which words."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxnas
from jaxnas import read_architecture
from jaxnas.benchmarks import nasbench201
from jaxnas.errors import ArchitectureError
from jaxnas.spaces import DARTS_V2, Genotype, arch_of, genotypes

DARTS = genotypes.CHOICES
V2 = arch_of(DARTS_V2)
STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|nor_conv_1x1~1|avg_pool_3x3~2|"


def nested(edges):
    return [list(edges[i : i + 2]) for i in range(0, 8, 2)]


LAYOUTS = {
    "plain": str(DARTS_V2),
    "assigned": f"BEST = {DARTS_V2}\n",
    "log": f"2026-01-01 10:00:00,123 genotype = {DARTS_V2}",
    "log in brackets": f"[2026-01-01 10:00:00] INFO {DARTS_V2}",
    "YAML": f"genotype: {DARTS_V2}\n",
    "NumPy": re.sub(r", (\d)\)", r", np.int64(\1))", str(DARTS_V2)),
    "nested": str(DARTS_V2._replace(normal=nested(DARTS_V2.normal), reduce=nested(DARTS_V2.reduce))),
    "object": json.dumps({"normal": DARTS_V2.normal, "reduce": DARTS_V2.reduce}),
    "object with nodes": json.dumps(
        {"normal": nested(DARTS_V2.normal), "normal_concat": [2, 3, 4, 5], "reduce": DARTS_V2.reduce}
    ),
    "texts": json.dumps({"0": str(DARTS_V2), "1": str(DARTS_V2)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_a_genotype(layout, tmp_path):
    text = LAYOUTS[layout]
    assert read_architecture(text) == read_architecture(text, space=DARTS) == V2
    (tmp_path / "found (1).txt").write_text(text)
    assert read_architecture(str(tmp_path / "found (1).txt"), space=DARTS) == V2
    assert "DARTS space" in read_architecture(tmp_path / "found (1).txt").form


sources = [[(i, j) for i in range(node) for j in range(node) if i != j] for node in range(2, 6)]
cells = st.tuples(*(st.tuples(st.sampled_from(pairs), *[st.integers(0, 6)] * 2) for pairs in sources))


@given(cells, cells, st.sampled_from([" ", "\n  "]), st.booleans(), st.booleans())
def test_any_genotype_in_any_layout(normal, reduce, blank, whole, in_json):
    def edges(cell):
        names = genotypes.OPERATIONS[1:]
        pairs = [((names[a], i), (names[b], j)) for (i, j), a, b in cell]
        return [edge for pair in pairs for edge in pair] if whole else [list(pair) for pair in pairs]

    genotype = Genotype(edges(normal), range(2, 6), edges(reduce), [2, 3, 4, 5])
    text = re.sub(r", ", f",{blank}", str(genotype))
    if in_json:
        text = json.dumps({"normal": genotype.normal, "reduce": genotype.reduce})
    found = read_architecture(text, space=DARTS)
    assert found == arch_of(genotype)
    compact = [[(int(i), int(op)) for (i, j), a, b in cell for i, op in ((i, a), (j, b))] for cell in (normal, reduce)]
    assert read_architecture(str(tuple(map(tuple, compact))), space=DARTS) == found
    assert read_architecture(compact, space=DARTS).form.startswith("pairs (source, operation) of NASLib")


def test_all_the_published_texts_are_read_or_refused(cases):
    texts = [line for line in (cases / "genotypes_in_darts_space.txt").read_text().splitlines() if "Genotype" in line]
    others = (cases / "genotypes_not_in_darts_space.txt").read_text().splitlines()
    others = [line for line in others if "Genotype" in line and not line.startswith("#")]
    assert len(texts) >= 130
    for text in texts:
        assert DARTS.fixed(read_architecture(text, space=DARTS))
    for text in others:
        with pytest.raises(ArchitectureError):
            read_architecture(text)
    raw = re.split(r"#####.*\n", (cases / "genotypes_raw_layouts.txt").read_text())[1:]
    outcomes = []
    for text in raw:
        try:
            outcomes.append(len(read_architecture(text)))
        except ArchitectureError as e:
            outcomes.append(str(e))
    assert outcomes.count(len(DARTS)) > len(raw) / 2
    assert all(each == len(DARTS) or re.search(r"edge|node|part|line|Genotype", str(each)) for each in outcomes)


def test_files_of_cdarts_nasbench301_and_nni(cases):
    file = cases / "cdarts_cifar_genotype.json"
    texts = json.loads(file.read_text())
    last = list(texts)[-1]
    assert read_architecture(file).form == f"{len(texts)} equal genotypes of the DARTS space"
    found = read_architecture(file, entry=last)
    assert found == arch_of(Genotype.parse(texts[last]))
    assert found.form == f"entry {last!r} of {len(texts)} genotypes of the DARTS space"
    with pytest.raises(ArchitectureError, match="has no entry 'best'"):
        read_architecture(file, entry="best")
    with pytest.raises(ArchitectureError, match=r"2 genotypes that differ; say which by entry=, one of \['a', 'b'\]"):
        read_architecture({"a": texts[last], "b": str(DARTS_V2)})

    config = cases / "nasbench301_config.json"
    assert read_architecture(config, space=DARTS).form == "a configuration of NAS-Bench-301"
    assert read_architecture(config) == arch_of(Genotype.from_nasbench301(json.loads(config.read_text())))

    exported = cases / "nni_spos_architecture_final.json"
    keys = json.loads(exported.read_text())
    space = jaxnas.Space({key: jaxnas.ChoiceSpec("layer", 4) for key in keys})
    found = read_architecture(exported, space=space)
    assert found["LayerChoice1"] == 2
    assert found.form == "decisions by key, as jaxnas and NNI write them"
    with pytest.raises(
        ArchitectureError, match=r"nni_spos_architecture_final.json: is decisions .* no member of the sp"
    ):
        read_architecture(exported, space=DARTS)


@pytest.mark.parametrize(
    "text",
    [
        STRING,
        STRING.replace("|", " | ").replace("+", " + "),
        f"[2020-01-01] epoch 250: Structure(4 nodes with {STRING}) with accuracy 88.1",
        f'{{"genotype": 1}} {STRING}'[16:],
    ],
)
def test_strings_of_nasbench201(text):
    found = read_architecture(text, space=nasbench201.SPACE)
    assert found == nasbench201.to_arch(STRING)
    assert found.form == "a string of NAS-Bench-201"


def test_naslibs_numbers():
    # Edges 1-2, 1-3, 1-4, 2-3, 2-4, 3-4; operations Identity, Zero, ReLUConvBN3x3, ReLUConvBN1x1, AvgPool1x1.
    found = read_architecture("(2, 2, 0, 1, 3, 4)", space=nasbench201.SPACE)
    assert nasbench201.to_string(found) == STRING
    assert read_architecture([2, 2, 0, 1, 3, 4], space=nasbench201.SPACE) == found
    with pytest.raises(ArchitectureError, match=r"do not say of which space they are: give space="):
        read_architecture("(2, 2, 0, 1, 3, 4)")
    with pytest.raises(ArchitectureError, match=r"number 2 \(edge 3<-0\) is 5; expected 0 to 4"):
        read_architecture((2, 2, 5, 1, 3, 4), space=nasbench201.SPACE)
    with pytest.raises(ArchitectureError, match="six numbers for this space; got 5"):
        read_architecture([2, 2, 0, 1, 3], space=nasbench201.SPACE)
    older = [[(0, 7), (1, 4)] * 4] * 2
    with pytest.raises(ArchitectureError, match=r"normal, pair 0 has the operation 7 \(7 occurs where `none`"):
        read_architecture(older, space=DARTS)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("nothing.json", FileNotFoundError, "there is no such file"),
        ("(1, 2", ArchitectureError, "no form of an architecture that is known here"),
        (f"{STRING}\n{STRING.replace('none', 'skip_connect')}", ArchitectureError, "2 different strings"),
        (STRING.replace("none", "sep_conv"), ArchitectureError, "node 2 has the unknown operation 'sep_conv'"),
        (str(DARTS_V2).replace("dil_conv_3x3", "dil_conv_9x9"), ArchitectureError, r"normal, edge 7 \(into node 5\)"),
        ('{"a": 1, "a": 2}', ArchitectureError, "stands twice"),
        (b"|", ArchitectureError, "read from a path, a text, a dict or a list"),
        ({"a": 0.5}, ArchitectureError, "choice 'a': got 0.5; expected an index"),
    ],
)
def test_what_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        read_architecture(source)


def test_a_space_of_another_kind_is_refused():
    other = jaxnas.Space({"op": jaxnas.ChoiceSpec("layer", 2)})
    with pytest.raises(ArchitectureError, match="is a string of NAS-Bench-201, but the space is another one"):
        read_architecture(STRING, space=other)
    with pytest.raises(ArchitectureError, match="genotype of the DARTS space, but the space is another one"):
        read_architecture(str(DARTS_V2), space=nasbench201.SPACE)
    with pytest.raises(ArchitectureError, match="the space is another one"):
        read_architecture([1, 0], space=other)
    with pytest.raises(ArchitectureError, match="choice 'op'"):
        read_architecture({"op": 5}, space=other)


def test_a_small_network_lacks_a_kind_of_cell(tmp_path):
    space = genotypes.choices_of(1)
    assert set(read_architecture(str(DARTS_V2), space=space)) == set(space)
    jaxnas.export(read_architecture(str(DARTS_V2)), tmp_path / "arch.json")
    assert read_architecture(tmp_path / "arch.json", space=DARTS) == V2
