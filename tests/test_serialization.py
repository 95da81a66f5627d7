"""Architectures in files: NNI's dialects, damage, and the way there and back over random spaces."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import Block
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jaxnas
from jaxnas import ChoiceSpec, InputChoice, LayerChoice, Space


def write(tmp_path, content):
    path = tmp_path / "arch.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_file_is_nnis_plain_form(tmp_path):
    path = tmp_path / "deep" / "arch.json"
    jaxnas.export({"b": "conv", "a": jnp.array(1), "two": (0, 2), "none": (), "one": (1,)}, path)
    expected = {"a": 1, "b": "conv", "none": [], "one": 1, "two": [0, 2]}
    assert path.read_text() == json.dumps(expected, indent=2, sort_keys=True)
    assert [p.name for p in path.parent.iterdir()] == ["arch.json"]  # nothing left beside it


def test_sampled_architectures_export_as_their_decisions(tmp_path):
    arch = {"k": np.int64(2), "two": [np.int64(0), np.int32(3)], "any": jnp.array([True, False, True])}
    jaxnas.export(arch, tmp_path / "a.json")
    assert jaxnas.load(tmp_path / "a.json") == {"k": 2, "two": (0, 3), "any": (0, 2)}


def test_weights_are_not_exported(tmp_path):
    for value in (0.5, [0.1, 0.9], jnp.array([0.1, 0.9])):
        with pytest.raises(jaxnas.ArchitectureError, match="'k'.*decision|'k'.*Weights"):
            jaxnas.export({"k": value}, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


QUICKSTART = Space(
    {
        "LayerChoice1": ChoiceSpec("layer", 2),
        "LayerChoice2": ChoiceSpec("layer", 2, ("conv3x3", "conv5x5")),
        "InputChoice3": ChoiceSpec("input", 1, None, None),
        "InputChoice4": ChoiceSpec("input", 3, ("layer1", "layer2", "layer3"), 2),
    }
)


@pytest.mark.parametrize(
    "file",
    [
        {"LayerChoice1": 1, "LayerChoice2": "conv5x5", "InputChoice3": 0, "InputChoice4": ["layer1", "layer3"]},
        {"LayerChoice1": 1, "LayerChoice2": 1, "InputChoice3": [0], "InputChoice4": [0, 2]},
        {"LayerChoice1": 1, "LayerChoice2": "conv5x5", "InputChoice3": "", "InputChoice4": ["layer3", "layer1"]},
        {
            "LayerChoice1": [False, True],
            "LayerChoice2": [False, True],
            "InputChoice3": [True],
            "InputChoice4": [True, False, True],
        },
        {"LayerChoice1": "1", "LayerChoice2": "1", "InputChoice3": ["0"], "InputChoice4": ["0", "2"]},
        {"LayerChoice1": [1], "LayerChoice2": ["conv5x5"], "InputChoice3": [0], "InputChoice4": [2, 0]},
        {
            "LayerChoice1": {"_value": "1", "_idx": 1},
            "LayerChoice2": {"_value": "conv5x5", "_idx": 1},
            "InputChoice3": {"_value": [""], "_idx": [0]},
            "InputChoice4": {"_value": ["layer1", "layer3"], "_idx": [0, 2]},
        },
    ],
)
def test_every_dialect_gives_the_same_architecture(tmp_path, file):
    loaded = jaxnas.load(write(tmp_path, file))
    assert QUICKSTART.fixed(loaded) == {
        "LayerChoice1": 1,
        "LayerChoice2": "conv5x5",
        "InputChoice3": 0,
        "InputChoice4": ("layer1", "layer3"),
    }


def test_multi_hot_lists_load_as_indices_and_remember_their_length(tmp_path):
    loaded = jaxnas.load(write(tmp_path, {"k": [False, True, False], "any": [True, True], "none": [False, False]}))
    assert loaded == {"k": 1, "any": (0, 1), "none": ()}
    with pytest.raises(jaxnas.ArchitectureError, match="'k'.*length 3.*length 2"):
        Space({"k": ChoiceSpec("layer", 2)}).validate({"k": loaded["k"]})
    with pytest.raises(jaxnas.ArchitectureError, match="'none'.*length 2.*length 3"):
        Space({"none": ChoiceSpec("input", 3, None, None)}).validate({"none": loaded["none"]})


def test_an_int_list_is_indices_not_a_mask(tmp_path):
    loaded = jaxnas.load(write(tmp_path, {"k": [0, 1]}))
    assert Space({"k": ChoiceSpec("input", 2, None, None)}).fixed(loaded) == {"k": (0, 1)}
    with pytest.raises(jaxnas.ArchitectureError, match="'k'.*2 chosen"):
        Space({"k": ChoiceSpec("layer", 2)}).fixed(loaded)


def test_names_that_are_digits_are_written_as_names():
    space = Space({"k": ChoiceSpec("layer", 2, ("3", "5"))})
    assert space.fixed({"k": "5"}) == {"k": "5"}
    with pytest.raises(jaxnas.ArchitectureError, match="'k'.*number 1, which may mean"):
        space.fixed({"k": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"k": 1', "line 1.*cut off"),
        ('{"k": [1, ', "cut off"),
        ("", "cut off"),
        ("[1, 2]", "object.*list"),
        ("3", "object.*int"),
        ('{"k": 1, "k": 2}', "'k'.*twice"),
        ('{"k": NaN}', "NaN"),
        ('{"k": 0.5}', "'k'.*0.5"),
        ('{"k": [0.1, 0.9]}', "'k'.*0.1"),
        ('{"k": null}', "'k'.*None"),
        ('{"k": true}', "'k'.*True"),
        ('{"k": [true, 1]}', "'k'"),
        ('{"k": [[1]]}', "'k'"),
        ('{"k": {"a": 1}}', "'k'"),
        ('{"k": {"_value": "a", "_idx": "b"}}', "'k'.*_idx"),
        ('{"k": 1' + "0" * 5000 + "}", "4300 digits"),
        ("__import__('os').system('x')", "line 1, column 1"),
        ('{"k":' * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_damaged_files_name_the_file_and_the_place(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(jaxnas.ArchitectureError, match=message) as caught:
        jaxnas.load(path)
    assert str(path) in str(caught.value)


def test_files_that_are_not_text_or_not_there(tmp_path):
    (tmp_path / "binary.json").write_bytes(b"\x80\x04\x95")
    with pytest.raises(jaxnas.ArchitectureError, match=r"binary\.json.*UTF-8"):
        jaxnas.load(tmp_path / "binary.json")
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        jaxnas.load(tmp_path / "none.json")
    for name in ("a\0b", "n" * 300):
        with pytest.raises((jaxnas.ArchitectureError, FileNotFoundError), match="not a file name|no such file"):
            jaxnas.load(tmp_path / name)
    with pytest.raises(jaxnas.ArchitectureError, match="cannot be read"):
        jaxnas.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        jaxnas.apply_fixed_architecture(Chain, tmp_path / "none.json")


class Chain(nn.Module):
    """A model made from a list of choices: (kind, n, named, n_chosen)."""

    choices: tuple = ()

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        for i, (kind, n, named, n_chosen) in enumerate(self.choices):
            names = [f"c{j}" for j in range(n)]
            if kind == "layer":
                layers = [
                    (Block(3), nn.Dense(3), jnp.tanh, nn.Sequential([nn.Dense(3), nn.relu]))[j % 4] for j in range(n)
                ]
                layers = dict(zip(names, layers, strict=True)) if named else layers
                x = LayerChoice(layers, key=f"k{i}")(x, arch, train=train)
            else:
                tensors = [x * (j + 1) for j in range(n)]
                source = {"choose_from": names} if named else {"n_candidates": n}
                y = InputChoice(**source, n_chosen=n_chosen, key=f"k{i}")(tensors, arch)
                x = x if y is None else x + y
        return x


@st.composite
def chains(draw):
    choices = []
    for _ in range(draw(st.integers(1, 4))):
        n = draw(st.integers(1, 4))
        kind = draw(st.sampled_from(["layer", "input"]))
        n_chosen = None if kind == "layer" else draw(st.one_of(st.none(), st.integers(1, n)))
        choices.append((kind, n, draw(st.booleans()), n_chosen))
    return Chain(tuple(choices))


X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(model=chains(), seed=st.integers(0, 2**31 - 1))
def test_export_load_apply_export_is_the_identity(tmp_path, model, seed):
    space = jaxnas.space(model, X)
    arch = space.fixed(space.sample(jax.random.key(seed)))
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    jaxnas.export(arch, first)
    loaded = jaxnas.load(first)
    assert loaded == arch
    fixed = jaxnas.apply_fixed_architecture(model, first)
    variables = model.init(jax.random.key(0), X, space.uniform())
    own = fixed.init(jax.random.key(1), X)
    inherited = jaxnas.inherit(fixed, variables, X)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, inherited)
    np.testing.assert_allclose(
        fixed.apply(inherited, X), model.apply(variables, X, space.one_hot(loaded)), atol=1e-5, rtol=1e-5
    )
    jaxnas.export(dict(fixed.arch), second)
    assert second.read_text() == first.read_text()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_dialects_of_random_architectures_agree(tmp_path, data):
    specs = {}
    for i in range(data.draw(st.integers(1, 5))):
        n = data.draw(st.integers(1, 6))
        names = tuple(f"n{j}" for j in range(n)) if data.draw(st.booleans()) else None
        kind = data.draw(st.sampled_from(["layer", "input"]))
        n_chosen = 1 if kind == "layer" else data.draw(st.one_of(st.none(), st.integers(1, n)))
        specs[f"k{i}"] = ChoiceSpec(kind, n, names, n_chosen)
    space = Space(specs)
    arch = space.fixed(space.sample(jax.random.key(data.draw(st.integers(0, 1000)))))
    chosen = {k: np.flatnonzero(v).tolist() for k, v in space.one_hot(arch).items()}
    dialects = {
        "bools": {k: [j in c for j in range(specs[k].n_candidates)] for k, c in chosen.items()},
        "indices": chosen,
        "reversed": {k: c[::-1] for k, c in chosen.items()},
        "strings": {k: [str(j) for j in c] for k, c in chosen.items()},
        "scalars": {k: c[0] if len(c) == 1 else c for k, c in chosen.items()},
    }
    for content in dialects.values():
        assert space.fixed(jaxnas.load(write(tmp_path, content))) == arch
    key = data.draw(st.sampled_from(sorted(specs)))
    for length in (specs[key].n_candidates - 1, specs[key].n_candidates + 1):
        if length:
            wrong = write(tmp_path, {**dialects["bools"], key: [True] + [False] * (length - 1)})
            with pytest.raises(jaxnas.ArchitectureError, match=f"'{key}'"):
                space.validate(jaxnas.load(wrong))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 10**6))
def test_every_truncation_raises_and_names_the_file(tmp_path, cut):
    path = tmp_path / "arch.json"
    jaxnas.export({"conv1": 1, "conv2": "conv5x5", "skip": (), "two": (0, 2)}, path)
    text = path.read_text()
    path.write_text(text[: cut % len(text)])
    with pytest.raises(jaxnas.ArchitectureError, match=r"arch\.json"):
        jaxnas.load(path)
