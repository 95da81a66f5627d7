"""Inputs and labels that are pytrees of arrays: dicts and tuples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import LayerChoice
from jaxnas.model import trees
from jaxnas.runs.fingerprint import fingerprints

RANDOM = np.random.RandomState(0)
TOKENS = RANDOM.randint(0, 7, (40, 5)).astype(np.int32)
MASK = (RANDOM.rand(40, 5) < 0.8).astype(np.float32)
AGE = RANDOM.randn(40, 1).astype(np.float32)
TEXT = {"tokens": TOKENS, "meta": (MASK, AGE)}
Y = RANDOM.randint(0, 2, 40).astype(np.int32)


class Net(nn.Module):
    """Takes `{"tokens": int32 [B, 5], "meta": (mask [B, 5], age [B, 1])}`."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        mask, age = x["meta"]
        words = nn.Embed(7, 4)(x["tokens"]) * mask[..., None]
        layers = {"skip": lambda h: h, "dense": nn.Dense(4), "wide": nn.Sequential([nn.Dense(8), nn.Dense(4)])}
        words = LayerChoice(layers, key="op")(words.sum(1), arch)
        return nn.Dense(2)(jnp.concatenate([words, age], -1))


def test_leaves_have_names():
    names = ["x/meta/0", "x/meta/1", "x/tokens"]
    assert [name for name, _ in trees.named_leaves(TEXT, "x")] == names
    assert [leaf.shape for _, leaf in trees.named_leaves(TEXT, "x")] == [a.shape for a in jax.tree.leaves(TEXT)]
    assert trees.form(trees.shapes_of(TEXT)) == "{'meta': (float32[40, 5], float32[40, 1]), 'tokens': int32[40, 5]}"


def test_costs_and_latencies_of_several_inputs():
    tokens = jax.ShapeDtypeStruct((1, 5), jnp.int32)
    shapes = {"tokens": tokens, "meta": ((1, 5), (1, 1))}
    head = 5 * 2 + 2
    fixed = {name: jaxnas.cost(Net, shapes, {"op": name}).flops for name in ("skip", "dense", "wide")}
    assert fixed == {"skip": head, "dense": head + 20, "wide": head + 40 + 36}
    assert jaxnas.cost(Net, shapes, {"op": jnp.array([0.5, 0.5, 0.0])}) == (head + 10, 28 + head + 10)
    model = jaxnas.apply_fixed_architecture(Net, {"op": "dense"})
    assert jaxnas.cost(model, jax.tree.map(lambda a: a[:1], TEXT)) == (head + 20, 28 + head + 20)
    table = jaxnas.measure_latency(Net, shapes, repeats=2, warmup=1)
    assert list(table.microseconds["op"]) == ["skip", "dense", "wide"]


@pytest.mark.parametrize("wrong", [{"tokens": (1, 0)}, ((1, 5), 3), [(1, 5), (1, 1)], {"tokens": "5"}, (), None])
def test_shapes_that_are_none_are_refused(wrong):
    with pytest.raises(TypeError, match=r"input_shape must be the shape .* or a dict or tuple of these; got"):
        jaxnas.cost(Net, wrong, {"op": 0})


def test_tokens_given_as_a_plain_shape_are_floats_and_the_error_says_so():
    with pytest.raises(ValueError, match="Input type must be an integer") as caught:
        jaxnas.cost(Net, {"tokens": (1, 5), "meta": ((1, 5), (1, 1))}, {"op": 0})
    assert any("'tokens': float32[1, 5]" in note for note in caught.value.__notes__)


def test_pure_algorithms_take_pytrees():
    space = jaxnas.space(Net, TEXT)
    batch = (jax.tree.map(lambda a: a[:8], TEXT), Y[:8])
    darts = jaxnas.darts.algorithm(Net, space, weight_optimizer=optax.sgd(0.1), arch_optimizer=optax.sgd(0.1))
    policy = jaxnas.enas.controller(space)
    options = {"weight_optimizer": optax.sgd(0.1), "controller_optimizer": optax.adam(0.1), "controller_samples": 2}
    for algorithm in (darts, jaxnas.enas.algorithm(Net, policy, **options)):
        state = algorithm.init(jax.random.key(0), batch)
        state, metrics = jax.jit(algorithm.step)(state, batch, batch)
        assert np.isfinite(metrics["train_loss"])
        assert set(algorithm.derive(state)) == {"op"}


IMAGES = RANDOM.randint(0, 256, (40, 4, 4, 1)).astype(np.uint8)
FLAGS = RANDOM.randint(0, 9, (40, 3)).astype(np.uint8)


def test_only_images_are_normalised_and_augmented():
    x = {"picture": IMAGES, "flags": FLAGS, "tokens": TOKENS, "age": AGE.astype(np.float64)}
    data = jaxnas.data.Dataset(x, Y, augment=jaxnas.data.Augment(flip=True))
    assert set(data.mean) == set(data.std) == {"picture"}
    ready = data.prepare({name: leaf[:9] for name, leaf in x.items()}, jax.random.key(0))
    assert {name: leaf.dtype.name for name, leaf in ready.items()} == {
        **{"picture": "float32", "flags": "uint8", "tokens": "int32", "age": "float32"}
    }
    np.testing.assert_array_equal(ready["flags"], FLAGS[:9])
    scaled = (IMAGES[:9] / 255 - data.mean["picture"]) / data.std["picture"]
    flipped = [not np.allclose(a, b, atol=1e-5) for a, b in zip(ready["picture"], scaled, strict=True)]
    assert 0 < sum(flipped) < 9
    text = "Dataset(arrays: 40 training examples, {age: float64 [1], flags: uint8 [3], picture: uint8 [4, 4, 1], "
    assert repr(data).startswith(text)
    given = jaxnas.data.Dataset(x, Y, mean=(0.5,), std={"picture": (0.25,)})
    assert (given.mean, given.std) == ({"picture": (0.5,)}, {"picture": (0.25,)})
    for wrong, message in (
        ({"augment": jaxnas.data.STANDARD, "x_train": {"a": IMAGES, "b": IMAGES}}, r"\['a', 'b'\] are images"),
        ({"augment": jaxnas.data.STANDARD, "x_train": TEXT}, "none of the inputs is"),
        ({"mean": {"age": (0.5,)}, "x_train": x}, r"mean is for the inputs \['age'\]; only uint8 images"),
        ({"mean": (0.5,), "x_train": TEXT}, r"mean is for uint8 images, of which there are \[\]"),
    ):
        with pytest.raises(jaxnas.DataError, match=message):
            jaxnas.data.Dataset(**{"y_train": Y, **wrong})


def test_files_hold_trees(tmp_path):
    data = jaxnas.data.Dataset({"a": (IMAGES, AGE), "b": TOKENS}, {"class": Y, "age": AGE}, name="trees")
    data.save(tmp_path / "trees.npz")
    names = set(np.load(tmp_path / "trees.npz").files)
    assert {"x_train/a/0", "x_train/a/1", "x_train/b", "y_train/age", "y_train/class", "mean/a/0"} <= names
    again = jaxnas.data.load(tmp_path / "trees.npz")
    assert jax.tree.structure(again.x_train) == jax.tree.structure(data.x_train)
    jax.tree.map(np.testing.assert_array_equal, (again.x_train, again.y_train), (data.x_train, data.y_train))
    assert again.preprocessing == data.preprocessing
    assert fingerprints(again) == fingerprints(data)
    changed = jaxnas.data.Dataset({"a": (IMAGES, AGE), "c": TOKENS}, data.y_train, name="trees")
    assert fingerprints(changed) != fingerprints(data)
    np.savez(tmp_path / "bad.npz", **{"x_train/0": AGE, "x_train/2": AGE, "y_train": Y})
    with pytest.raises(jaxnas.DataError, match="the numbers of a tuple go from 0 to 1"):
        jaxnas.data.load(tmp_path / "bad.npz")


OPTIONS = {"epochs": 1, "batch_size": 8, "progress": False}


def test_a_search_a_training_and_an_evaluation_on_a_tree(tmp_path):
    data = (TEXT, Y, jax.tree.map(lambda leaf: leaf[:11], TEXT), Y[:11])
    found = jaxnas.darts.search(Net, data, workdir=tmp_path / "search", **OPTIONS)
    assert {"derived_accuracy", "valid_loss"} <= found.history[-1].keys()
    assert found.predict(TEXT).shape == (40, 2)
    scores = jaxnas.evaluate(Net, found.variables, [{"op": 0}, {"op": 1}], data)
    assert scores["accuracy"].shape == (2,)
    trained = jaxnas.training.fit(
        found.fixed_model(), data, variables=found.inherit(), workdir=tmp_path / "fit", **OPTIONS
    )
    outputs = trained.predict(TEXT)
    read = jaxnas.load_model(tmp_path / "fit", model_fn=Net)
    np.testing.assert_array_equal(read.predict(TEXT, batch_size=256), outputs)
    assert jaxnas.load_model(tmp_path / "search", model_fn=Net).predict(TEXT).shape == (40, 2)
    one = read.predict(jax.tree.map(lambda leaf: leaf[3], TEXT))
    np.testing.assert_allclose(one[0], outputs[3], atol=1e-6)
    assert jaxnas.report.payload(tmp_path / "search")
    with pytest.raises(jaxnas.DataError, match=r"got a dict of the inputs \['tokens'\]; this model takes \{meta: "):
        read.predict({"tokens": TOKENS})
    with pytest.raises(jaxnas.DataError, match=r"input 'tokens': got examples of shape \(40, 4\)"):
        read.predict({**TEXT, "tokens": TOKENS[:, :4]})


def test_enas_and_several_labels():
    def both(output, labels):
        wrong = optax.softmax_cross_entropy_with_integer_labels(output, labels["class"]).mean()
        return wrong + jnp.square(output[:, 0] - labels["age"][:, 0]).mean()

    data = (TEXT, {"class": Y, "age": AGE})
    collected = jaxnas.metrics.collected(lambda output, labels: {"rows": float(len(output) + len(labels["class"]))})
    found = jaxnas.enas.search(
        Net, data, loss_fn=both, metrics=collected, controller_samples=2, train_portion=0.5, **OPTIONS
    )
    assert found.history[-1]["derived_rows"] > 0
    with pytest.raises(jaxnas.DataError, match=r"y_train is \{'age': float32\[40, 1\], .*\}; the default"):
        jaxnas.darts.search(Net, data, **OPTIONS)
    with pytest.raises(TypeError, match="mse: the labels are several arrays, but this loss compares one output"):
        jaxnas.darts.search(Net, data, loss_fn="mse", **OPTIONS)
