"""The experiment of DARTS: from a search that has ended to the training of its genotype, in pieces."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_runs import write_run

import jaxnas
from experiments.darts.__main__ import main
from experiments.darts.settings import PAPER, SMALL, Final
from experiments.darts.steps import final_optimizer, read_genotype, run
from jaxnas import data, runs
from jaxnas.spaces import DARTS_V1, DARTS_V2, Genotype, arch_of
from jaxnas.spaces.genotypes import CHOICES

EDGES = [("skip_connect", 0), ("avg_pool_3x3", 1)] * 4
FOUND = Genotype(EDGES, range(2, 6), EDGES, range(2, 6))
TINY = SMALL._replace(final=Final(2, 3, 2, 64, test_every=1), images=200)


def test_what_a_search_found_is_trained_in_pieces(tmp_path, capsys):
    out = write_run(tmp_path / "run", CHOICES, epochs=1, arch=arch_of(FOUND))
    jaxnas.export(arch_of(FOUND), out / "final_arch.json")
    options = {"order": 1, "genotype": None, "out": out, "seed": 0}
    assert run(TINY, data.load("digits"), steps="search", minutes=10, **options) is None
    assert read_genotype(str(out / "genotype.txt")) == FOUND
    assert f"{FOUND}\n" in capsys.readouterr().out

    accuracy = None
    for _ in range(4):
        accuracy = run(TINY, data.load("digits"), steps="both", minutes=0.01, **options)
        if accuracy is not None:
            break
    assert "stopped at the time limit after epoch 1 of 2" in capsys.readouterr().out
    assert 0 <= accuracy <= 1
    assert runs.read_result(out / "final")["status"] == "finished"
    assert jaxnas.load(out / "final" / "arch.json") == arch_of(FOUND)
    assert run(TINY, data.load("digits"), steps="both", minutes=1, **options) == accuracy  # nothing is left to do
    with pytest.raises(jaxnas.RunError, match="another genotype"):
        run(TINY, data.load("digits"), steps="evaluate", minutes=1, **{**options, "genotype": DARTS_V1})


def test_genotypes_are_read_by_name_and_from_both_kinds_of_file(tmp_path):
    assert read_genotype("DARTS_V2") == DARTS_V2
    (tmp_path / "found.txt").write_text(f"genotype = {DARTS_V2}\n")
    assert read_genotype(str(tmp_path / "found.txt")) == DARTS_V2
    jaxnas.export(arch_of(FOUND), tmp_path / "found.json")
    assert read_genotype(str(tmp_path / "found.json")) == FOUND


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--genotype", "no-such-file.txt"], "there is no such genotype"),
        (["evaluate", "--out", "no-such-run"], "run `search` first"),
        (["evaluate", "--genotype", __file__], "expected one text Genotype"),
        (["search", "--genotype", "DARTS_V2"], "--genotype is for `evaluate`"),
    ],
)
def test_what_cannot_be_evaluated_is_said_at_once(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["darts", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_the_learning_rate_falls_once_per_epoch():
    """0.025 · (1 + cos(π · epoch / 600)) / 2, as in the authors' code; here with weights of zero, so without decay."""
    optimizer = final_optimizer(PAPER.final, steps_per_epoch=520)
    start = optimizer.init(jnp.zeros(()))

    def rate(step):
        state = jax.tree.map(lambda leaf: jnp.asarray(step) if leaf.dtype == jnp.int32 else leaf, start)
        return -float(optimizer.update(jnp.ones(()), state, jnp.zeros(()))[0])

    np.testing.assert_allclose([rate(0), rate(519)], 0.025, rtol=1e-6)
    np.testing.assert_allclose(rate(520 * 300), 0.0125, rtol=1e-5)
    np.testing.assert_allclose(rate(520 * 599), 0.025 * (1 + np.cos(np.pi * 599 / 600)) / 2, rtol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "order", "form", "folder"),
    [
        ([], 2, "exact", "darts-order2-small-0"),
        (["--hypergradient", "finite_difference"], 2, "finite_difference", "darts-order2-estimated-small-0"),
        (["--order", "1"], 1, "exact", "darts-order1-small-0"),
    ],
)
def test_both_forms_of_the_second_order_are_offered(arguments, order, form, folder, monkeypatch, tmp_path):
    asked = {}

    def search(model, data, **options):
        asked.update(options)
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jaxnas.darts, "search", search)
    monkeypatch.setattr(sys, "argv", ["darts", "search", "--small", *arguments])
    with pytest.raises(KeyboardInterrupt):
        main()
    assert (asked["order"], asked["hypergradient"], str(asked["workdir"])) == (order, form, f"runs/{folder}")
