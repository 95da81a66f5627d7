"""Options are written once: they reach every search, `fit`, their help, type checkers and the command line."""

import inspect
import os
import subprocess
import sys
import textwrap
import typing
from pathlib import Path

import optax
import pytest
from helpers import Planted, planted_data

import jaxnas
from jaxnas import METHODS, RunOptions, SearchOptions, parts
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS
from jaxnas.runs.options import RUN_DEFAULTS
from jaxnas.signatures import arguments_of, options_of
from jaxnas.training.retrain import FIT_DEFAULTS


def test_every_option_is_documented_and_has_a_default():
    for options, defaults in ((RunOptions, FIT_DEFAULTS), (SearchOptions, SEARCH_DEFAULTS)):
        found = options_of(options)
        assert set(found) == set(defaults)
        assert all(option.text.endswith(".") for option in found.values())
    assert set(RUN_DEFAULTS) <= set(SEARCH_DEFAULTS)


@pytest.mark.parametrize("function", [jaxnas.search, jaxnas.darts.search, jaxnas.enas.search, jaxnas.gdas.search])
def test_help_shows_every_option(function):
    parameters = inspect.signature(function).parameters
    assert set(SEARCH_DEFAULTS) <= set(parameters)
    texts = arguments_of(function)
    assert {"model_fn", "data", *SEARCH_DEFAULTS} <= set(texts)
    assert all(texts.values())
    assert "Returns:" in function.__doc__
    assert "Raises:" in function.__doc__


def test_defaults_are_those_of_the_method():
    defaults = {name: inspect.signature(METHODS[name]().build) and METHODS[name]().defaults for name in METHODS}
    assert defaults["darts"]["epochs"] == 50
    assert defaults["enas"]["train_portion"] == 0.9
    assert inspect.signature(jaxnas.enas.search).parameters["epochs"].default == 310
    assert inspect.signature(jaxnas.training.fit).parameters["batch_size"].default == 96


def test_the_one_call_and_the_method_are_the_same_search():
    options = {"epochs": 2, "batch_size": 50, "progress": False}
    one = jaxnas.darts.search(Planted, planted_data(200), order=2, **options)
    other = jaxnas.search(Planted, planted_data(200), jaxnas.darts.method(order=2), **options)
    assert {key: each.tolist() for key, each in one.alphas.items()} == {
        key: each.tolist() for key, each in other.alphas.items()
    }


def test_a_method_of_ones_own_from_parts(tmp_path):
    mine = jaxnas.differentiable(
        "mine", relax=parts.dirichlet, penalties=[parts.beta_decay(50)], perturb=parts.adversarial(0.3), epochs=2
    )
    result = jaxnas.search(Planted, planted_data(200), mine, batch_size=50, progress=False, workdir=tmp_path)
    assert len(result.history) == 2
    assert {"arch_loss", "valid_loss"} <= set(result.history[0])
    config = jaxnas.runs.read_config(tmp_path)
    assert config["algorithm"] == "mine"
    assert (config["relax"], config["penalties"], config["perturb"]) == (
        "dirichlet",
        ["beta_decay(50)"],
        "adversarial(0.3)",
    )


def test_a_search_of_one_level_has_all_the_data(capsys):
    single = jaxnas.differentiable("single", single_level=True, train_portion=1.0, epochs=1)
    result = jaxnas.search(Planted, planted_data(100), single, batch_size=20)
    assert "share all training data" in capsys.readouterr().out
    assert "5 steps per epoch" not in result.history[0]
    assert {"train_loss", "valid_loss", "derived_accuracy"} <= set(result.history[0])
    darts = jaxnas.darts.search(Planted, planted_data(100), epochs=1, batch_size=20, train_portion=1, progress=False)
    assert darts.history[0]["train_loss"] > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epoch": 1}, TypeError, "has no argument 'epoch'. Did you mean 'epochs'"),
        ({"grad_clip": -1}, ValueError, "grad_clip must be a finite number above 0 or None; got -1"),
        ({"grad_clip": float("nan")}, ValueError, "grad_clip"),
        ({"grad_clip": "5"}, ValueError, "grad_clip"),
        ({"aux_weight": -1}, ValueError, "aux_weight"),
        ({"epochs": 2, "warmup_epochs": 2}, ValueError, "no architecture is ever trained"),
        ({"seed": True}, ValueError, "seed"),
        ({"train_portion": 0}, ValueError, "train_portion"),
        ({"weight_optimizer": optax.adam}, TypeError, "call it, as in adam"),
        ({"weight_optimizer": optax.adam(1e-3), "weight_lr": 0.1}, ValueError, "not both"),
        ({"weight_lr": 0}, ValueError, "weight_lr"),
        ({"arch_lr": -1}, ValueError, "arch_lr"),
    ],
)
def test_options_out_of_range_are_refused(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        jaxnas.darts.search(Planted, planted_data(100), **{"epochs": 1, "batch_size": 20, **options})
    with pytest.raises(TypeError, match="method must be what a method function gives"):
        jaxnas.search(Planted, planted_data(100), "darts")


def test_type_checkers_know_what_a_search_gives(tmp_path):
    (tmp_path / "use.py").write_text(
        textwrap.dedent("""
        import jaxnas
        one: jaxnas.SearchResult = jaxnas.darts.search(None, "digits", order=2, epochs=3)
        many: list[jaxnas.SearchResult] = jaxnas.gdas.search(None, "digits", seeds=[0, 1], workdir="x")
        own: jaxnas.SearchResult = jaxnas.search(None, "digits", jaxnas.enas.method(), max_minutes=2.0)
        reveal_type(jaxnas.enas.search(None, "digits", controller_samples=5))
        wrong = jaxnas.darts.search(None, "digits", epoch=3)
        """)
    )
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--cache-dir", str(tmp_path / "cache"), "use.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(Path(jaxnas.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    lines = [line for line in found.stdout.splitlines() if line.startswith("use.py")]
    assert 'note: Revealed type is "jaxnas.oneshot.engine.results.SearchResult"' in lines[0]
    assert all(line.startswith("use.py:7: ") for line in lines[1:])  # and nothing else
    assert any("epoch" in line or "No overload" in line for line in lines[1:])


def test_single_options_and_search_options_differ_in_seeds():
    from jaxnas.oneshot.engine.options import SingleOptions

    hints = typing.get_type_hints(SearchOptions)
    assert set(hints) - set(typing.get_type_hints(SingleOptions)) == {"seeds"}
