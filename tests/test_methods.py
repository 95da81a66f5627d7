"""What every method of the registry keeps. A new one gets all of this by its line there."""

import importlib.util
import inspect
import json
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from helpers import AfterStep, Block, CutOffError, EnasPlanted, Nest, Planted, planted_data, same_bits
from typer.testing import CliRunner

import jaxnas
from jaxnas import METHODS, InputChoice, LayerChoice, runs
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS
from jaxnas.oneshot.engine.plan import make_plan
from jaxnas.programs.epoch import own_buffers

pytestmark = pytest.mark.usefixtures("quickly_compiled")

# The example of docs/add-a-method.md keeps the contract too.
_EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "add_a_method.py"
_spec = importlib.util.spec_from_file_location("add_a_method", _EXAMPLE)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)
ALL = {**METHODS, "example": example.method}

README = (_EXAMPLE.parents[1] / "README.md").read_text()
TRACES = []


class Everything(nn.Module):
    """Named, nested, unnamed and shared choices, one of n, k of n, any of n, and ranked inputs; `without` some.

    Without "layers" every layer has a name and may be skipped.
    """

    without: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        TRACES.append(train)
        x = jnp.pad(x, ((0, 0), (0, 1)))
        if "layers" in self.without:
            x = LayerChoice({"block": Block(rate=0.1), "skip": lambda x: x}, key="layer")(x, arch, train=train)
            return self._inputs(x, jnp.tanh(x), jnp.sin(x), arch)
        x = LayerChoice({"nest": Nest(), "block": Block(rate=0.1), "tanh": jnp.tanh}, key="layer")(x, arch, train=train)
        y = LayerChoice([Block(), nn.Dense(4)])(x, arch, train=train)
        z = LayerChoice([nn.Dense(4), jnp.sin], key="shared")(y, arch)
        z = LayerChoice([nn.Dense(4), jnp.cos], key="shared")(z, arch)
        return self._inputs(x, y, z, arch)

    def _inputs(self, x, y, z, arch):
        any_of = InputChoice(n_candidates=2, key="any")([y, z], arch)
        any_of = y if any_of is None else any_of  # fixed to none of them
        one = InputChoice(n_candidates=2, n_chosen=1, key="one")([any_of, x], arch)
        if "two" not in self.without:
            one = one + InputChoice(n_candidates=3, n_chosen=2, key="two")([x, y, z], arch)
        if "ranked" not in self.without:
            edges = [LayerChoice({"none": jnp.zeros_like, "id": jnp.tanh}, key=f"e{i}")(one, arch) for i in range(3)]
            names = [f"e{i}" for i in range(3)]
            one = one + InputChoice(choose_from=names, n_chosen=2, key="ranked", ranked=True)(edges, arch)
        return nn.Dense(2)(one)


def everything(name):
    """`Everything` without the kinds of choice that a method refuses to decide; the refusal names the choice."""
    for without in [(), ("two",), ("ranked",), ("two", "ranked"), ("layers",)]:
        plan = planned(Everything(without), name)
        try:
            return plan, ALL[name]().build(plan)
        except jaxnas.ArchitectureError as error:
            refusal = str(error)
        kinds = {"two": "two", "ranked": "ranked", "layer": "layers"}
        named = [kind for key, kind in kinds.items() if f"'{key}'" in refusal]
        assert set(named) - set(without), refusal
    raise AssertionError(refusal)


def planned(model, name, **options):
    x, y = planted_data(64)
    own = {**SEARCH_DEFAULTS, **ALL[name]().defaults, "data": (x[:, :3], y), "epochs": 2, "batch_size": 8}
    own["warmup_epochs"] = min(own["warmup_epochs"], 1)
    if own["train_portion"] != 1:
        own["train_portion"] = 0.5
    return make_plan(model, {**own, **options})


@pytest.mark.parametrize("name", ALL)
def test_a_method_is_described(name):
    method = ALL[name]()
    assert isinstance(method, jaxnas.Method)
    json.dumps(dict(method.settings), allow_nan=False)
    assert method.name in (name, "sharpening")
    assert set(method.defaults) <= set(SEARCH_DEFAULTS)
    if name in METHODS:
        module = importlib.import_module(METHODS[name].__module__)
        assert "arXiv" in module.__doc__ or name == "oles"  # of which there is none
        assert getattr(jaxnas, name) is module
        assert typing.get_overloads(module.search)
        assert f"`{name}.search`" in README
        assert {"order", "temperature", "controller_steps", *SEARCH_DEFAULTS} & set(
            module.search.__signature__.parameters
        )
        for option in SEARCH_DEFAULTS:
            assert f"\n  {option}: " in module.search.__doc__


@pytest.mark.parametrize("name", ALL)
def test_steps_on_every_kind_of_choice(name):
    plan, procedure = everything(name)
    algorithm = procedure.algorithm
    images, labels = jnp.asarray(plan.dataset.x_train), jnp.asarray(plan.dataset.y_train)
    state = own_buffers(algorithm.init(plan.key("init"), (images[:8], labels[:8])))
    form = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    steps = {}
    for phase in [phase for epoch in (0, 1) for phase in procedure.phases(epoch)]:
        batches = [None if n is None else (images[:n], labels[:n]) for n in (phase.weight_batch, phase.arch_batch)]
        if batches[1] is not None and len(batches[1][0]) < phase.arch_batch:
            batches[1] = tuple(jnp.resize(leaf, (phase.arch_batch, *leaf.shape[1:])) for leaf in batches[1])
        given = tuple(batch is None for batch in batches)
        # A function for each: jit counts what it has compiled for one function together.
        step = steps.setdefault(given, jax.jit(lambda *inputs: algorithm.step(*inputs)))
        for _ in range(2):
            TRACES.clear()
            known = step._cache_size()
            state, metrics = step(state, *batches)
            assert step._cache_size() == 1
            assert bool(TRACES) == (known == 0)  # compiled once
            assert all(jnp.shape(value) == () and np.isfinite(value) for value in metrics.values())
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == form
    plan.space.validate(algorithm.derive(state))
    fixed = jaxnas.apply_fixed_architecture(plan.model_fn, algorithm.derive(state))
    inherited = jaxnas.inherit(fixed, state.variables, plan.dataset.example())
    assert fixed.apply(inherited, images[:2]).shape == (2, 2)


class Small(nn.Module):
    """With batch statistics, dropout and both kinds of choice."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {"block": Block(4, rate=0.2), "dense": nn.Dense(4), "skip": lambda x: x[:, :4]}
        x = LayerChoice(layers, key="op")(x, arch, train=train)
        x = InputChoice(n_candidates=2, n_chosen=1, key="skip")([x, jnp.tanh(x)], arch)
        return nn.Dense(2)(x)


QUICK = {"controller_steps": 2, "controller_samples": 3, "derive_samples": 4, "derive_examples": 16}
"""Arguments that make a method quick."""


def own(name, **values):
    """Those of the arguments that a method has."""
    return {k: v for k, v in {**QUICK, **values}.items() if k in inspect.signature(ALL[name]).parameters}


def kind(name):
    """What a method learns of architectures: "logits", a "policy", or "nothing"."""
    arguments = inspect.signature(ALL[name]).parameters
    if "controller_steps" in arguments:
        return "policy"
    return "nothing" if "derive_examples" in arguments and "arch_optimizer" not in arguments else "logits"


def few_epochs(name, epochs):
    """Options of a search with fewer epochs than the method's own warm-up may have."""
    return {"epochs": epochs, "warmup_epochs": min(ALL[name]().defaults.get("warmup_epochs", 0), epochs // 2)}


def small(name, **options):
    x, y = planted_data(96)
    portion = {"train_portion": 0.5} if ALL[name]().defaults.get("train_portion", 0.5) != 1 else {}
    fixed = {**few_epochs(name, 2), "batch_size": 8, "progress": False, **portion}
    return jaxnas.search(Small, (x, y), ALL[name](**own(name)), **{**fixed, **options})


@pytest.mark.parametrize("name", ALL)
def test_cut_off_and_resumed_is_uninterrupted_bit_for_bit(name, tmp_path):
    def cut():
        raise CutOffError

    whole = small(name)
    for epoch, step in ((0, 3), (1, -1)):
        with pytest.raises(CutOffError):
            small(name, workdir=tmp_path, checkpoint_minutes=0, callbacks=[AfterStep(epoch, step, cut)])
    resumed = small(name, workdir=tmp_path)
    same_bits(whole, resumed)
    assert whole.arch == resumed.arch
    assert {key: each.tolist() for key, each in whole.alphas.items()} == {
        key: each.tolist() for key, each in resumed.alphas.items()
    }
    assert runs.read_config(tmp_path)["algorithm"] == ALL[name]().name


@pytest.mark.parametrize("name", ALL)
def test_seeds_by_sequence_and_vmap_find_what_single_searches_find(name):
    single = small(name, seed=3)
    same_bits(single, small(name, seeds=[1, 3], batching="sequence")[1])
    if ALL[name]().stages:  # from the second on each seed has a model of its own
        with pytest.raises(ValueError, match="batching='vmap'"):
            small(name, seeds=[1, 3], batching="vmap")
        return
    as_one = small(name, seeds=[1, 3], batching="vmap")[1]
    for a, b in zip(jax.tree.leaves(single.variables), jax.tree.leaves(as_one.variables), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_finds_a_planted_architecture(name):
    """Of 32 architectures (or 8): the two decisions that matter are found by at least two seeds of three.

    The weights and the architecture learn faster than by the papers' defaults.
    """
    found, learns = 0, kind(name)
    enough = {"controller_steps": 20, "controller_samples": 5, "derive_examples": 240, "zero_one_weight": 0.3}
    # Where all paths are trained alike each operation needs a layer of its own to be told from the others.
    apart = learns == "nothing" or "train_on" in ALL[name]().settings
    net, answer = (EnasPlanted, {"op": "square", "input": 1}) if apart else (Planted, {"op": "square", "one": 1})
    if learns == "nothing":
        enough["derive_samples"] = 16
    for seed in range(3):
        result = jaxnas.search(
            net,
            planted_data(600, seed=seed),
            ALL[name](**own(name, **enough)),
            **few_epochs(name, 12 if learns == "policy" else 30),
            batch_size=30,
            seed=seed,
            weight_optimizer=optax.sgd(0.05, momentum=0.9),
            arch_lr=5e-3 if learns == "policy" else 5e-2,
            progress=False,
            validate_every=100,
        )
        found += {key: result.arch[key] for key in answer} == answer
    assert found >= 2


@pytest.mark.parametrize("name", METHODS)
def test_command_line_and_report(name, tmp_path, monkeypatch):
    from jaxnas.cli import app

    x, y = planted_data(96)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    fast = [word for key, value in own(name).items() for word in (f"--{key.replace('_', '-')}", str(value))]
    search = ["search", name, "--model", "helpers:Planted", "--data", str(tmp_path / "data.npz")]
    fast += [word for key, value in few_epochs(name, 2).items() for word in (f"--{key.replace('_', '-')}", str(value))]
    found = CliRunner().invoke(app, [*search, "--batch-size", "8", "--out", str(tmp_path / "run"), *fast])
    assert found.exit_code == 0, found.output
    assert "found {" in found.output
    assert CliRunner().invoke(app, ["show", str(tmp_path / "run")]).exit_code == 0
    reported = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert reported.exit_code == 0, reported.output
    assert (tmp_path / "run" / "report.html").exists()
