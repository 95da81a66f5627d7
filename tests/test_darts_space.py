"""The search network of the DARTS space."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.oneshot.parts.relaxation import decide, init_alphas, relax
from jaxnas.spaces import DARTS_V2, arch_of, darts, genotype_of
from jaxnas.spaces.darts import rows
from jaxnas.spaces.genotypes import CHOICES, OPERATIONS

pytestmark = pytest.mark.usefixtures("quickly_compiled")

X = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
SMALL = darts(channels=4, cells=3, num_classes=3)  # a normal cell and two reductions
PARTIAL = darts(channels=8, cells=3, num_classes=3, partial=4)
DEEP = darts(channels=4, cells=10, num_classes=3)  # up to three normal cells in a row


@pytest.fixture(scope="module")
def variables():
    return started(SMALL)


def started(network):
    """Variables with running statistics that differ from layer to layer."""
    fresh = functional.model_fns(network).init(jax.random.key(0), X, CHOICES.uniform())
    leaves, tree = jax.tree.flatten(fresh["batch_stats"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [leaf + 0.3 * jax.random.uniform(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return {**fresh, "batch_stats": jax.tree.unflatten(tree, leaves)}


def run(variables, arch, train=False, network=SMALL):
    mutable = ["batch_stats"] if train else False
    return jax.jit(lambda v, arch: network.apply(v, X, arch, train=train, mutable=mutable))(variables, arch)


def test_the_space_and_the_size_of_the_authors_network():
    network, image = darts(), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert jaxnas.space(network, image) == CHOICES
    shapes = jax.eval_shape(lambda: functional.model_fns(network).init(jax.random.key(0), image, CHOICES.uniform()))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == 1_930_618


def test_reductions_are_where_the_authors_have_them():
    assert rows(8) == [("normal", 2), ("reduce", 1), ("normal", 2), ("reduce", 1), ("normal", 2)]
    assert rows(4) == [("normal", 1), ("reduce", 1), ("reduce", 1), ("normal", 1)]
    assert rows(20)[0] == ("normal", 6)


@pytest.mark.parametrize(("network", "train"), [(DEEP, False), (SMALL, True), (PARTIAL, True)])
def test_one_architecture_computes_the_same_in_every_form(network, train):
    drawn, variables = CHOICES.sample(jax.random.key(5)), started(network)
    decided = CHOICES.fixed(drawn)
    fixed = jaxnas.apply_fixed_architecture(network, decided)
    own = jaxnas.inherit(fixed, variables, X)
    mutable = ["batch_stats"] if train else False
    expected = fixed.apply(own, X, train=train, mutable=mutable)
    sampled, mixed = (run(variables, arch, train, network) for arch in (drawn, CHOICES.one_hot(decided)))
    if train:
        (expected, own_stats), (sampled, sampled_stats), (mixed, _) = expected, sampled, mixed
        moved = jaxnas.inherit(fixed, {**variables, **sampled_stats}, X)["batch_stats"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved, dict(own_stats["batch_stats"]))
    np.testing.assert_allclose(sampled, expected, atol=2e-4)
    np.testing.assert_allclose(mixed, expected, atol=2e-4)


def test_a_mixture_is_the_weighted_sum_of_its_operations_on_every_edge(variables):
    """By a reduction cell alone (`cells=1`), whose output is linear in the weights of the edges to the last node."""
    network = darts(channels=4, cells=1, num_classes=3)
    own = functional.model_fns(network).init(jax.random.key(0), X, CHOICES.uniform())
    arch = relax(CHOICES, init_alphas(jax.random.key(3), CHOICES, scale=1.0))
    mixed = network.apply(own, X, arch)

    def only(operation: int) -> jax.Array:
        return network.apply(own, X, arch | {"reduce/5<-4": jax.nn.one_hot(operation, 8)})

    without = only(0)  # none
    parts = sum(arch["reduce/5<-4"][i] * (only(i) - without) for i in range(1, 8))
    np.testing.assert_allclose(mixed, without + parts, atol=1e-4)
    assert float(jnp.abs(parts).max()) > 1e-3


def test_gradients_are_those_of_differences():
    """Of a loss in training mode, along random directions of the alphas and of the weights, in double precision."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3), jnp.float64)
        network = darts(channels=4, cells=1, num_classes=3, dtype=jnp.float64)
        fresh = functional.model_fns(network).init(jax.random.key(0), x, CHOICES.uniform())
        alphas = init_alphas(jax.random.key(4), CHOICES, scale=1.0)
        point = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (alphas, fresh["params"]))

        def loss(alphas, params):
            variables = {**fresh, "params": params}
            output, _ = network.apply(variables, x, relax(CHOICES, alphas), train=True, mutable=["batch_stats"])
            return jnp.square(output.astype(jnp.float64)).sum()

        compiled, gradients = jax.jit(loss), jax.jit(jax.grad(loss, (0, 1)))(*point)
        for i in (0, 1):
            ahead = jax.tree.map(lambda a: jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), point[i])
            slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, ahead, gradients[i])))
            beside = [list(point), list(point)]
            for side, sign in zip(beside, (1, -1), strict=True):
                side[i] = jax.tree.map(lambda a, d, s=sign: a + s * 1e-5 * d, point[i], ahead)
            numerical = (compiled(*beside[0]) - compiled(*beside[1])) / 2e-5
            np.testing.assert_allclose(slope, numerical, rtol=0.03)


def test_keeping_inner_results_changes_nothing(variables):
    keeping = darts(channels=4, cells=3, num_classes=3, remat=False)
    arch = CHOICES.uniform()

    def gradient(network):
        def loss(params):
            output, _ = network.apply({**variables, "params": params}, X, arch, train=True, mutable=["batch_stats"])
            return jnp.square(output).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    close = functools.partial(np.testing.assert_allclose, rtol=1e-2, atol=2e-3)
    jax.tree.map(close, gradient(keeping), gradient(SMALL))


def test_accelerators_compute_the_same_without_branches(monkeypatch):
    """Also of the statistics of edges that are not taken."""
    network = darts(channels=4, cells=1, num_classes=3)
    own, arch = started(network), CHOICES.sample(jax.random.key(6))
    with_branches = run(own, arch, True, network)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    without = run(own, arch, True, network)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), without, with_branches)


def test_an_edge_without_a_decision_raises_its_name(variables):
    arch = CHOICES.uniform()
    del arch["normal/3<-1"]
    with pytest.raises(ArchitectureError, match="normal/3<-1"):
        SMALL.apply(variables, X, arch)


def test_half_precision_computes_about_the_same(variables):
    half = darts(channels=4, cells=3, num_classes=3, dtype=jnp.bfloat16)
    exact, rough = run(variables, CHOICES.uniform()), half.apply(variables, X, CHOICES.uniform())
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.1 * float(jnp.abs(exact).max()))


def test_two_edges_are_kept_by_their_strongest_operation_but_none():
    """Section 2.4 of the paper, by hand: `none` is strongest everywhere and counts nowhere."""
    alphas = {key: jnp.zeros(8).at[0].set(9.0) for key in CHOICES if "<-" in key}
    alphas["normal/4<-1"] = jnp.zeros(8).at[5].set(3.0)
    alphas["normal/4<-3"] = jnp.zeros(8).at[2].set(2.0)
    alphas["normal/4<-0"] = jnp.zeros(8).at[7].set(1.0)
    arch = decide(CHOICES, relax(CHOICES, alphas))
    assert arch["normal/4"] == ("normal/4<-1", "normal/4<-3")
    assert (arch["normal/4<-1"], arch["normal/4<-3"]) == (OPERATIONS[5], OPERATIONS[2])
    assert arch["normal/4<-0"] == () == arch["normal/4<-2"]
    assert genotype_of(arch).normal[4:6] == [(OPERATIONS[5], 1), (OPERATIONS[2], 3)]
    assert CHOICES.fixed(arch) == arch


def test_a_search_of_second_order_ends_in_an_architecture_that_trains(tmp_path):
    """Search, export, apply, retrain."""
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(16, 8, 8, 3)).astype(np.float32), rng.integers(0, 3, 16).astype(np.int32))
    network = darts(channels=4, cells=1, num_classes=3)  # a reduction
    result = jaxnas.darts.search(
        network, data, epochs=1, batch_size=4, order=2, progress=False, workdir=tmp_path / "run"
    )
    assert set(result.alphas) == {key for key in CHOICES if key.startswith("reduce") and "<-" in key}
    shown = {choice["key"]: choice for choice in jaxnas.report.payload(tmp_path / "run")["choices"]}
    assert shown["reduce/5"]["alphas"] is None
    assert shown["reduce/5"]["entropy"] == [None]
    jaxnas.export(result.arch, tmp_path / "found.json")
    assert jaxnas.load(tmp_path / "found.json") == result.arch
    fixed = jaxnas.apply_fixed_architecture(network, tmp_path / "found.json")
    trained = jaxnas.training.fit(
        fixed, data, epochs=1, batch_size=4, variables=jaxnas.inherit(fixed, result.variables, X), progress=False
    )
    assert np.isfinite(trained.history[-1]["train_loss"])


def test_only_what_a_genotype_has_is_built():
    fixed = jaxnas.apply_fixed_architecture(darts(channels=4, cells=4), arch_of(DARTS_V2))
    params = jax.eval_shape(fixed.init, jax.random.key(0), X)["params"]
    assert not any(name.startswith("sep_conv_5x5") for cell in params.values() for name in cell)
    assert params["row_0_normal"]["sep_conv_3x3_depthwise"].shape == (1, 5, 2, 3, 3, 1, 4)
