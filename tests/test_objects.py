"""Things of the wrong kind, and data that mean something else: each gets one message that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import jaxnas
from jaxnas import checks
from jaxnas.callbacks import Callback, Stop
from jaxnas.data import Dataset, as_dataset
from jaxnas.model.functional import model_fns
from jaxnas.programs.tracing import check_fit, check_searchable, check_trainable

X = np.random.RandomState(0).randn(26, 3).astype(np.float32)
Y = np.arange(26, dtype=np.int32) % 2
IMAGES = np.random.RandomState(0).randint(0, 256, (26, 8, 8, 3)).astype(np.uint8)


class Small(nn.Module):
    """A choice, batch statistics, two classes. Input `[B, 3]`."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {"dense": nn.Dense(4), "plain": nn.Dense(4, use_bias=False)}
        x = jaxnas.LayerChoice(layers, key="layer")(x, arch)
        return nn.Dense(2)(nn.BatchNorm(use_running_average=not train)(x))


# ---------------------------------------------------------------------- forms of data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([X, X], r"a list of 2 arrays of one shape, \(26, 3\).*if they are images and labels, give a tuple"),
        ([X[0], X[1], X[2], X[3]], r"a list of 4 arrays of one shape, \(3,\)"),
        ([X[0], X[1], X[2]], "a list of 3 arrays of one shape"),
        ((Y, IMAGES), r"x_train has shape \(26,\) and y_train has \(26, 8, 8, 3\).*look swapped"),
        ((X, Y, Y, X), r"x_test has shape \(26,\) and y_test has \(26, 3\).*look swapped"),
        (((X, Y), (X, Y)), r"a tuple of pairs\. If these are .*give \(x_train, y_train, x_test, y_test\)"),
        ([(X[0], 1), (X[1], 0)], r"a list of 2 pairs, taken for samples \(image, label\): stack them"),
        (list(zip(X, Y, strict=True)), "a list of 26 pairs, taken for samples"),
        ((tuple(X), Y), r"x_train/0 has 3, x_train/1 has 3.*and 19 more\)\. A tuple holds .*stack these"),
        (([X, X[:25]], Y), r"x_train is a list of 2 arrays of shapes .*Several inputs .* are a dict or tuple"),
        (
            ({"a": X, "b": X[:25]}, Y),
            r"numbers of examples: x_train/a has 26, x_train/b has 25, y_train has 26",
        ),
        (({"a": X, "b/c": X}, Y), "x_train has an input called 'b/c'; names are texts without '/'"),
        (({"a": X, "b": np.array(["u"] * 26)}, Y), "x_train/b has dtype <U1; expected numbers"),
        (({"a": X, "b": np.array([X, 1], object)}, Y), "x_train/b has dtype object; expected numbers"),
        (({"a": ()}, Y), "x_train/a is an empty tuple; expected arrays"),
        (({"a": X}, Y, {"b": X}, Y), r"different inputs: \['a'\] and \['b'\]"),
        (({"a": X}, Y, {"a": X[:, :2]}, Y), r"examples of x_train/a have shape \(3,\), those of x_test/a \(2,\)"),
        ({"image": X, "label": Y}, r"a dict with \['image', 'label'\]; expected x_train, y_train"),
        ({"x_train": X}, r"a dict with \['x_train'\]"),
        ((x for x in X), "got a generator; a loader or generator must be read into arrays first"),
        (X, r"got a ndarray, an array \(26, 3\) without labels"),
        ((X.astype(complex), Y), r"x_train is complex128; expected real numbers.*two channels"),
        ((X, Y.astype(complex)), r"y_train is complex128"),
        ((X.astype(jnp.bfloat16), Y), r"x_train is bfloat16; expected uint8, float16, float32 or float64"),
        ((np.array(["a", "b"]), Y[:2]), r"x_train has dtype <U1; expected numbers"),
        ((X, ["cat"] * 26), r"y_train has dtype <U3; expected numbers"),
    ],
)
def test_data_that_mean_something_else_are_understood(data, message):
    with pytest.raises(jaxnas.DataError, match=message):
        as_dataset(data)


def test_a_dict_of_named_arrays_is_clear():
    dataset = as_dataset({"x_train": X, "y_train": Y, "x_test": X[:5], "y_test": Y[:5], "num_classes": 4})
    assert (len(dataset.x_train), len(dataset.x_test), dataset.num_classes) == (26, 5, 4)


def test_lists_and_targets_like_inputs_are_fine():
    assert as_dataset((X, X)).y_train.shape == (26, 3)  # an autoencoder
    assert as_dataset([X, Y]).y_train.shape == (26,)
    assert as_dataset([X.tolist(), Y.tolist()]).x_train.shape == (26, 3)
    assert as_dataset((list(X), list(Y))).x_train.shape == (26, 3)
    assert as_dataset(([[1.0, 2.0], [3.0, 4.0]], [0, 1])).x_train.shape == (2, 2)


# ---------------------------------------------------------------------- layouts of images


class Images(nn.Module):
    """A small net of images `[N, 8, 8, channels]`."""

    channels: int = 1

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        kernels = {"a": nn.Conv(4, (3, 3)), "b": nn.Conv(4, (5, 5))}
        x = jaxnas.LayerChoice(kernels, key="conv")(x, arch)
        return nn.Dense(2)(nn.avg_pool(x, (8, 8)).reshape(x.shape[0], -1))


FORMS = [
    (
        "float",
        (IMAGES[..., 0] / 255).astype(np.float32),
        r"x_train has shape \[26, 8, 8\].*\[N, 8, 8, 1\].*x\[\.\.\., None",
    ),
    ("uint8", IMAGES[..., 0], r"give x\[\.\.\., None\], for x_test too"),
    ("first", IMAGES.transpose(0, 3, 1, 2), r"\[26, 3, 8, 8\].*\[N, 8, 8, 3\]: give x\.transpose\(0, 2, 3, 1\)"),
    ("flat", IMAGES[..., 0].reshape(26, -1), r"\[26, 64\].*give x\.reshape\(-1, 8, 8, 1\)"),
]


@pytest.mark.parametrize(("x", "message"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_another_layout_of_images_is_proposed_if_it_works(x, message):
    dataset = Dataset(x, Y)
    with pytest.raises(jaxnas.DataError, match=message):
        check_searchable(Images, dataset)
    fixed = jaxnas.apply_fixed_architecture(Images, {"conv": "a"})
    with pytest.raises(jaxnas.DataError, match=message):
        check_trainable(fixed, dataset)
    variables = model_fns(Images).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), {"conv": jnp.array(0)})
    with pytest.raises(jaxnas.DataError, match=message):
        jaxnas.evaluate(Images, variables, [{"conv": "a"}], (x, Y))


def test_what_no_layout_repairs_keeps_its_error_and_says_of_which_data():
    with pytest.raises(Exception) as caught:  # noqa: PT011
        check_searchable(Images, Dataset(X[:, :2], Y))
    assert not isinstance(caught.value, jaxnas.DataError)
    assert "traced on an input float32[1, 2]." in caught.value.__notes__[-1]


def test_cost_says_which_shape_the_model_takes():
    fixed = jaxnas.apply_fixed_architecture(Images, {"conv": "a"})
    expected = r"input_shape \(1, 8, 8\): the model fails on it .*, but takes \(1, 8, 8, 1\)"
    with pytest.raises(ValueError, match=expected):
        jaxnas.cost(fixed, (1, 8, 8))
    for arch in ({"conv": "a"}, {"conv": jnp.ones(2) / 2}):
        with pytest.raises(ValueError, match=expected):
            jaxnas.cost(Images, (1, 8, 8), arch)
    assert jaxnas.cost(fixed, (1, 8, 8, 1)).flops == 64 * (9 * 4 + 4) + 4 * 2 + 2


class Pooled(nn.Module):
    """Takes images of any size and layout."""

    @nn.compact
    def __call__(self, x, arch):
        return nn.Dense(2)(jaxnas.LayerChoice([nn.Conv(4, (1, 1)), nn.Conv(4, (3, 3))], key="a")(x, arch).mean((1, 2)))


def test_channels_first_that_happens_to_run_is_warned_of():
    with pytest.warns(UserWarning, match=r"\[26, 3, 8, 8\], which looks as if channels came first.*8 channels"):
        check_searchable(Pooled, Dataset(IMAGES.transpose(0, 3, 1, 2), Y))
    check_searchable(Pooled, Dataset(IMAGES, Y))


# ---------------------------------------------------------------------- models that cannot be told


def net(body, *modes):
    """A model with a choice; `body(x)` after it. With the arguments `modes`."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, arch):
            return nn.Dense(2)(body(jaxnas.LayerChoice([nn.Dense(4), jnp.tanh], key="a")(x[:, [0, 1, 2, 0]], arch)))

    if modes:

        class Told(Net):
            @nn.compact
            def __call__(self, x, arch, train: bool = False):
                return nn.Dense(2)(body(x)) + Net(name="net")(x, arch)

        return Told
    return Net


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda x: nn.Dropout(0.5, deterministic=True)(x), r"has dropout \(.*'dropout'\), but its call takes neither"),
        (lambda x: nn.Dropout(0.5, deterministic=False)(x), "has dropout"),
        (lambda x: nn.BatchNorm(use_running_average=True)(x), "batch statistics .*'batch_stats'"),
        (lambda x: nn.Dropout(0.1, deterministic=True)(nn.BatchNorm(True)(x)), "has dropout .* and batch statistics"),
    ],
)
def test_models_that_cannot_be_told_whether_they_train_are_warned_of(body, message):
    dataset = Dataset(X, Y)
    with pytest.warns(UserWarning, match=message) as seen:
        check_searchable(net(body), dataset)
    assert len(seen) == 1
    fixed = jaxnas.apply_fixed_architecture(net(body), {"a": 0})
    with pytest.warns(UserWarning, match=message):
        check_trainable(fixed, dataset)
    check_searchable(net(body, "train"), dataset)
    check_searchable(net(body), dataset, trains=False)


class Noisy(nn.Module):
    """Draws from the stream itself."""

    @nn.compact
    def __call__(self, x, arch):
        x = jaxnas.LayerChoice([nn.Dense(2), nn.Dense(2, use_bias=False)], key="a")(x, arch)
        return x * jax.random.bernoulli(self.make_rng("dropout"), 0.5, x.shape)


def test_drawing_from_the_dropout_stream_counts():
    with pytest.warns(UserWarning, match="Noisy has dropout"):
        check_searchable(Noisy, Dataset(X, Y))
    check_searchable(net(lambda x: nn.Dropout(0.0, deterministic=True)(x)), Dataset(X, Y))  # nothing is dropped
    check_searchable(net(jnp.tanh), Dataset(X, Y))


# ---------------------------------------------------------------------- objects


def test_fixed_and_open_models_are_not_mistaken():
    fixed = jaxnas.apply_fixed_architecture(Small, {"layer": 0})
    with pytest.raises(TypeError, match=r"model_fn is a model whose architecture is fixed already.*\(Small\)"):
        check_searchable(fixed, Dataset(X, Y))
    with pytest.raises(TypeError, match="model_fn is a model whose architecture is fixed already"):
        jaxnas.evaluate(fixed, {}, [{}], (X, Y))
    with pytest.raises(TypeError, match="Small takes an architecture; fix it first"):
        check_trainable(Small(), Dataset(X, Y))


@pytest.fixture(scope="module")
def small():
    space = jaxnas.space(Small, X)
    return space, model_fns(Small).init(jax.random.key(0), X, space.sample(jax.random.key(1)))


def test_variables_of_the_wrong_kind_are_named(small):
    space, variables = small
    archs = [space.fixed(space.sample(jax.random.key(2)))]
    for wrong, error, message in (
        (variables["params"], ValueError, r"variables holds \[.*'Dense_0'.*which are parameters: give the whole dict"),
        ({"params": variables["params"]}, ValueError, r"batch_stats/.*none: it is missing"),
        (None, TypeError, r"variables must be a dict of collections.*got None"),
        ([variables], TypeError, "got a list"),
        ({"params": X}, ValueError, r"\['params'\], of which 'params' is a ndarray"),
        (
            {**variables, "params": {**variables["params"], "Dense_0": {"kernel": X, "bias": X[0]}}},
            ValueError,
            r"variables do not fit the model: params/Dense_0/bias has shape \(3,\), the model has \(4,\)",
        ),
        (
            {**variables, "params": {**variables["params"], "Dense_7": {"kernel": X}}},
            ValueError,
            "params/Dense_7/kernel .*no such variable",
        ),
    ):
        with pytest.raises(error, match=message):
            jaxnas.evaluate(Small, wrong, archs, (X, Y))
    assert len(jaxnas.evaluate(Small, {**variables, "intermediates": {"a": 1}}, archs, (X, Y))["loss"]) == 1
    check_fit(model_fns(nn.Dense(2)), {"params": {"kernel": X[:3, :2], "bias": X[0, :2]}}, X)


def test_architectures_that_come_one_by_one_are_refused(small):
    _, variables = small
    with pytest.raises(TypeError, match=r"archs must be a list of architectures; got a generator: give list\(archs\)"):
        jaxnas.evaluate(Small, variables, (arch for arch in [{}]), (X, Y))
    with pytest.raises(TypeError, match="archs must be a list of architectures; got 3"):
        jaxnas.evaluate(Small, variables, 3, (X, Y))
    with pytest.raises(jaxnas.ArchitectureError, match="an architecture is a dict"):
        jaxnas.evaluate(Small, variables, ["dense"], (X, Y))


def test_optimisers_are_optax_objects():
    checks.check_optimizer("weight_optimizer", None)
    checks.check_optimizer("weight_optimizer", optax.chain(optax.sgd(0.1)))
    for wrong, message in (
        (optax.adam, r"such as optax\.adam\(1e-3\); got the function adam: call it, as in adam\(1e-3\)"),
        ("adam", r"got the string 'adam': write optax\.adam\(1e-3\)"),
        (0.1, r"weight_optimizer must be an optax optimiser.*got 0\.1"),
    ):
        with pytest.raises(TypeError, match=message):
            checks.check_optimizer("weight_optimizer", wrong)


def test_callbacks_and_their_answers():
    checks.check_callbacks([Callback()], Callback)
    checks.check_answer(Callback(), None, Stop)
    checks.check_answer(Callback(), Stop("enough"), Stop)
    for wrong, message in (
        (Callback(), "callbacks must be a list of Callback objects; got a Callback"),
        ([Callback], r"callbacks: Callback is a class; call it, as in Callback\(\)"),
        ([print], "callbacks must be Callback objects; got the function print"),
    ):
        with pytest.raises(TypeError, match=message):
            checks.check_callbacks(wrong, Callback)
    with pytest.raises(TypeError, match=r"Callback\.on_epoch_end returned True; expected None, or Stop\(reason\)"):
        checks.check_answer(Callback(), True, Stop)


def test_functions_are_functions():
    checks.check_function("progress", None, "(record)")
    checks.check_function("progress", print, "(record)")
    with pytest.raises(TypeError, match=r"progress must be a function \(record\); got 'yes'"):
        checks.check_function("progress", "yes", "(record)")


# ---------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("grad_clip", (5, 0.1, np.float32(2), None), (-1, 0, np.nan, np.inf, "5", True)),
        ("aux_weight", (0, 0.4), (-1, np.nan, None, "0.4")),
        ("epochs", (1, np.int64(3)), (0, 1.5, "5", True, None, 2.0)),
        ("batch_size", (1, 10**9), (0, -1, "8")),
        ("seed", (0, 2**32 - 1), (-1, 2**32, 1.0, "0", False)),
        ("train_portion", (0.5, np.float64(0.1)), (0, 1.5, np.nan, "0.5", True)),
        ("max_minutes", (None, 0, 1.5), (-1, np.inf, "1")),
        ("steps_per_call", (None, 1), (0, 2.5, True)),
        ("baseline_decay", (0, 0.999), (1, -0.1, 10**400)),
        ("entropy_weight", (-1, 0, 1e-4), (np.nan, np.inf, "0", None)),
    ],
)
def test_numeric_options_are_checked_in_one_place(name, good, bad):
    for value in good:
        checks.check_options(**{name: value})
    for value in bad:
        with pytest.raises(ValueError, match=rf"{name} must be (an integer|a finite number).*; got "):
            checks.check_options(**{name: value})


def test_messages_of_numeric_options_say_the_range():
    for values, message in (
        ({"grad_clip": -1}, r"grad_clip must be a finite number above 0 or None; got -1\."),
        ({"epochs": "5"}, r"epochs must be an integer of at least 1; got '5' \(a string\)\."),
        ({"train_portion": 2}, r"train_portion must be a finite number in \(0, 1.; got 2\."),
        ({"baseline_decay": 1}, r"baseline_decay must be a finite number in \[0, 1\); got 1\."),
        ({"entropy_weight": np.nan}, r"entropy_weight must be a finite number; got nan\."),
        ({"warmup_epochs": 5, "epochs": 5}, "warmup_epochs must be less than epochs.*warmup_epochs=5 with epochs=5"),
    ):
        with pytest.raises(ValueError, match=message):
            checks.check_options(**values)
    checks.check_options(warmup_epochs=4, epochs=5)
    with pytest.raises(ValueError, match="trials must be an integer of at least 1; got True"):
        checks.check_at_least(1, trials=True)


def test_a_batch_that_does_not_fit_says_which_would():
    with pytest.raises(jaxnas.DataError, match=r"13 examples; the largest that fits is batch_size=13\."):
        jaxnas.darts.search(Small, (X, Y), epochs=1, batch_size=32, progress=False)
    checks.check_batch_size(13, 13, "weights'")
