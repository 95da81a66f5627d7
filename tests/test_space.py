"""Space: what it finds, counts, draws, checks and prints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import ZOO_ARCH, Zoo

import jaxnas
from jaxnas import ChoiceSpec, InputChoice, LayerChoice, Space

SPACE = Space(
    {
        "op": ChoiceSpec("layer", 3, ("a", "b", "c")),
        "plain": ChoiceSpec("layer", 4),
        "two": ChoiceSpec("input", 4, None, 2),
        "any": ChoiceSpec("input", 3, None, None),
    }
)
FIXED = {"op": "b", "plain": 3, "two": (0, 2), "any": ()}


def test_finds_all_choices_in_order(inputs):
    space = jaxnas.space(Zoo, inputs)
    assert list(space) == ["layer", "inner", "LayerChoice_1", "skip", "two", "one"]
    assert space["layer"] == ChoiceSpec("layer", 3, ("nest", "block", "seq"), 1)
    assert space["skip"] == ChoiceSpec("input", 1, None, None)
    assert space["two"] == ChoiceSpec("input", 3, ("x", "y", "xy"), 2)
    assert space.size == 3 * 2 * 3 * 2 * 3 * 2
    assert jaxnas.space(Zoo(), jax.ShapeDtypeStruct((1, 3), jnp.float32)) == space
    assert hash(jaxnas.space(Zoo, inputs)) == hash(space)


def test_nothing_is_computed():
    class Huge(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return LayerChoice([nn.Dense(10**6), nn.Dense(10**6)], key="k")(x, arch)

    space = jaxnas.space(Huge, jax.ShapeDtypeStruct((10**6, 10**6), jnp.float32))  # 4 terabytes, were it real
    assert space.size == 2


def test_size_is_exact_however_large():
    space = Space({str(i): ChoiceSpec("layer", 7) for i in range(200)})
    assert space.size == 7**200
    assert "10^169.0" in str(space)


def test_shared_keys_are_one_decision_and_must_agree(inputs):
    class Net(nn.Module):
        n: int = 2

        @nn.compact
        def __call__(self, x, arch):
            x = LayerChoice([nn.Dense(4), nn.Dense(4)], key="k")(x, arch)
            return LayerChoice([nn.Dense(4)] * self.n, key="k")(x, arch)

    assert jaxnas.space(Net, inputs).size == 2
    with pytest.raises(jaxnas.ArchitectureError, match=r"'k'.*1 of 2.*1 of 3"):
        jaxnas.space(Net(3), inputs)


def test_sample_is_uniform_and_batches():
    batch = jax.vmap(SPACE.sample)(jax.random.split(jax.random.key(0), 4000))
    assert {k: v.shape for k, v in batch.items()} == {
        "op": (4000,),
        "plain": (4000,),
        "two": (4000, 2),
        "any": (4000, 3),
    }
    assert batch["two"].dtype == jnp.int32
    assert batch["any"].dtype == bool
    np.testing.assert_allclose(np.bincount(batch["op"]) / 4000, 1 / 3, atol=0.04)
    assert (batch["two"][:, 0] < batch["two"][:, 1]).all()
    pairs = np.bincount(batch["two"][:, 0] * 4 + batch["two"][:, 1])
    np.testing.assert_allclose(pairs[pairs > 0] / 4000, 1 / 6, atol=0.03)
    assert (pairs > 0).sum() == 6
    np.testing.assert_allclose(batch["any"].mean(0), 0.5, atol=0.04)
    SPACE.validate(jax.tree.map(lambda leaf: leaf[0], batch))


def test_uniform_is_the_mean_of_sample():
    batch = jax.vmap(SPACE.sample)(jax.random.split(jax.random.key(1), 4000))
    hot = jax.vmap(lambda i: jnp.zeros(4).at[i].set(1))(batch["two"])
    np.testing.assert_allclose(SPACE.uniform()["two"], hot.mean(0), atol=0.04)
    np.testing.assert_allclose(SPACE.uniform()["op"], np.full(3, 1 / 3))
    np.testing.assert_allclose(SPACE.uniform()["any"], np.full(3, 0.5))


def test_the_forms_of_one_architecture_are_one():
    hot = SPACE.one_hot(FIXED)
    assert {k: v.tolist() for k, v in hot.items()} == {
        "op": [0, 1, 0],
        "plain": [0, 0, 0, 1],
        "two": [1, 0, 1, 0],
        "any": [0, 0, 0],
    }
    for form in (hot, SPACE.sampled(FIXED), FIXED, {**FIXED, "op": [False, True, False], "two": [2, 0], "any": []}):
        assert SPACE.fixed(form) == FIXED


def test_weights_are_decided_by_size():
    weights = {
        "op": jnp.array([0.2, 0.5, 0.3]),
        "plain": jnp.array([0.4, 0.1, 0.4, 0.1]),
        "two": jnp.array([0.9, 0.1, 0.4, 0.6]),
        "any": jnp.array([0.6, 0.5, 0.51]),
    }
    assert SPACE.fixed(weights) == {"op": "b", "plain": 0, "two": (0, 3), "any": (0, 2)}


def test_mutate_changes_exactly_one_decision_to_any_alternative():
    seen = set()
    for i in range(300):
        changed = SPACE.mutate(jax.random.key(i), FIXED)
        differing = [k for k in FIXED if changed[k] != FIXED[k]]
        assert len(differing) == 1
        SPACE.validate(changed)
        if differing == ["two"]:
            assert len(set(changed["two"]) & {0, 2}) == 1
        if differing == ["any"]:
            assert isinstance(changed["any"], int)
        seen.add((differing[0], changed[differing[0]]))
    assert len(seen) == 2 + 3 + 4 + 3  # every neighbour there is


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (Space({}), 1),
        (SPACE, 1),  # 2 + 2 + 2·2 + 3 bits
        (Space({f"op{i}": ChoiceSpec("layer", 8) for i in range(10)}), 1),
        (Space({f"op{i}": ChoiceSpec("layer", 8) for i in range(11)}), 2),  # 33 bits
        (Space({"one": ChoiceSpec("layer", 1), "any": ChoiceSpec("input", 40, None, None)}), 2),
        (Space({"five": ChoiceSpec("input", 300, None, 5), "op": ChoiceSpec("layer", 2**31 - 1)}), 3),  # 3·9, 2·9, 31
    ],
)
def test_bits_give_back_the_architecture(space, words):
    archs = [space.sample(jax.random.key(i)) for i in range(20)]
    archs += [{key: jnp.full_like(leaf, space[key].n_candidates - 1) for key, leaf in archs[0].items()}]
    for arch in archs:
        bits = space.to_bits(arch)
        assert (bits.shape, bits.dtype) == ((words,), jnp.int32)
        assert (bits >= 0).all()
        back = space.from_bits(bits)
        assert list(back) == list(arch)
        for key, leaf in arch.items():
            assert back[key].dtype == leaf.dtype
            np.testing.assert_array_equal(back[key], leaf)


def test_mutate_under_jit_keeps_the_form():
    arch = SPACE.sampled(FIXED)
    changed = jax.jit(jax.vmap(SPACE.mutate, in_axes=(0, None)))(jax.random.split(jax.random.key(0), 5), arch)
    for i in range(5):
        one = SPACE.fixed(jax.tree.map(lambda leaf, i=i: leaf[i], changed))
        assert sum(one[k] != FIXED[k] for k in FIXED) == 1
    with pytest.raises(jaxnas.ArchitectureError, match="nothing to mutate"):
        Space({"k": ChoiceSpec("layer", 1)}).mutate(jax.random.key(0), {"k": 0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": None}, "'op'"),
        ({"op": "d"}, r"'op'.*'d'.*\['a', 'b', 'c'\]"),
        ({"op": "aa"}, "did you mean 'a'"),
        ({"plain": 4}, "'plain'.*index 4.*0 to 3"),
        ({"plain": -1}, "'plain'.*index -1"),
        ({"plain": "x"}, "'plain'.*'x'.*no names"),
        ({"plain": 0.5}, "'plain'.*0.5"),
        ({"plain": ()}, "'plain'.*none chosen"),
        ({"plain": (0, 1)}, "'plain'.*2 chosen.*expected 1"),
        ({"plain": [True, False, False]}, "'plain'.*3 bools.*expected 4"),
        ({"plain": [False] * 4}, "'plain'.*none chosen"),
        ({"two": 1}, "'two'.*1 chosen.*expected 2"),
        ({"two": (1, 1)}, "'two'.*once"),
        ({"two": jnp.array([True, True, True, False])}, "'two'.*3 chosen"),
        ({"two": jnp.array([0, 9])}, "'two'.*index 9"),
        ({"any": jnp.array([0, 1])}, "'any'.*bool"),
        ({"any": jnp.ones(4)}, r"'any'.*\(4,\).*\(3,\)"),
        ({"zzz": 1}, "unexpected keys.*zzz"),
    ],
)
def test_validate_names_what_is_wrong(change, message):
    SPACE.validate(FIXED)
    with pytest.raises(jaxnas.ArchitectureError, match=message):
        SPACE.validate({**FIXED, **change})


def test_validate_names_missing_and_unexpected_keys_together():
    with pytest.raises(jaxnas.ArchitectureError, match=r"missing keys: \['op'\].*unexpected keys: \['opp'\]"):
        SPACE.validate({**{k: v for k, v in FIXED.items() if k != "op"}, "opp": "a"})
    with pytest.raises(jaxnas.ArchitectureError, match="dict"):
        SPACE.validate(3)


def test_an_unused_layer_is_allowed_where_an_input_choice_leaves_it_out():
    specs = {"a": ChoiceSpec("layer", 2), "b": ChoiceSpec("layer", 2), "pick": ChoiceSpec("input", 2, ("a", "b"), 1)}
    space = Space(specs)
    space.validate({"a": (), "b": 1, "pick": "b"})
    with pytest.raises(jaxnas.ArchitectureError, match="'a'.*none chosen"):
        space.validate({"a": (), "b": 1, "pick": "a"})


def test_weights_that_are_not_finite_decide_nothing():
    with pytest.raises(jaxnas.ArchitectureError, match="'op'.*not finite"):
        SPACE.fixed({**SPACE.uniform(), "op": jnp.array([0.1, jnp.nan, 0.2])})


def test_prints_as_a_table(inputs):
    lines = str(jaxnas.space(Zoo, inputs)).splitlines()
    assert lines[0].split() == ["key", "kind", "choose", "candidates"]
    assert lines[2].split() == ["layer", "LayerChoice", "1", "of", "3", "nest,", "block,", "seq"]
    assert lines[5].split() == ["skip", "InputChoice", "any", "of", "1", "0"]
    assert lines[-1] == "6 choices, 216 architectures"
    assert repr(SPACE) == "Space(4 choices, 576 architectures)"


def test_model_fn_may_be_a_class_a_lambda_or_an_instance(inputs):
    expected = jaxnas.space(Zoo, inputs)
    assert jaxnas.space(lambda: Zoo(), inputs) == expected
    assert jaxnas.space(Zoo(), inputs) == expected
    expected.validate(ZOO_ARCH)
    for wrong in (3, lambda: 3):
        with pytest.raises(TypeError, match="model_fn"):
            jaxnas.space(wrong, inputs)


def test_specs_that_describe_no_choice_are_refused():
    for wrong in (("foo", 2), ("layer", 0), ("layer", 2, ("a", "a")), ("layer", 2, ("a",)), ("input", 2, None, 3)):
        with pytest.raises(ValueError, match="a choice|n_chosen"):
            ChoiceSpec(*wrong)


def test_models_with_several_inputs(inputs):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, a, b, arch):
            return InputChoice(n_candidates=2, n_chosen=1, key="which")([a, b], arch)

    assert list(jaxnas.space(Two, inputs, inputs)) == ["which"]
    model = jaxnas.apply_fixed_architecture(Two, {"which": 1})
    assert model.init(jax.random.key(0), inputs, 2 * inputs) == {}
    np.testing.assert_allclose(model.apply({}, inputs, 2 * inputs), 2 * inputs)


def test_a_ranked_input_ranks_layers_of_the_model():
    layer, ranked = ChoiceSpec("layer", 2), ChoiceSpec("input", 2, ("a", "b"), 1, ranked=True)
    assert Space({"a": layer, "b": layer, "which": ranked})["which"].ranked
    with pytest.raises(jaxnas.ArchitectureError, match=r"'which' ranks the layers .* \['b'\] are no LayerChoice"):
        Space({"a": layer, "which": ranked})
    with pytest.raises(ValueError, match="a ranked choice is an input with n_chosen"):
        ChoiceSpec("input", 2, None, 1, ranked=True)
