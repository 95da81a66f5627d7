"""The command line, run as a user runs it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from jaxnas import METHODS, spaces, version

ROOT = Path(__file__).resolve().parents[1]
MODEL = "experiments.quickstart:Net"


def jaxnas(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "jaxnas", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "q"
    done = jaxnas("search", "darts", "--model", MODEL, "--data", "digits", "--epochs", 3, "--out", folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_search_leaves_a_run(run):
    folder, out = run
    assert re.match(r"jaxnas [0-9.]+ search darts: reading model and data\n", out)
    assert "epoch 3/3" in out
    assert "compiling" in out
    arch = json.loads((folder / "final_arch.json").read_text())
    assert set(arch) == {"conv1", "conv2", "skipconnect"}
    config, result = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "result"))
    assert config["data_source"] == {"name": "digits"}
    assert config["model"] == MODEL
    assert result["arch"] == arch
    assert len((folder / "history.jsonl").read_text().splitlines()) == 3


def test_a_run_is_repeated_from_its_file(run, tmp_path):
    folder, _ = run
    recipe = tomllib.loads((folder / "run.toml").read_text())
    assert recipe["command"] == "search darts"
    assert (recipe["model"], recipe["epochs"], recipe["order"]) == (MODEL, 3, 1)
    assert "out" not in recipe
    again = jaxnas("search", "darts", "--config", folder / "run.toml", "--out", tmp_path / "b")
    assert again.returncode == 0, again.stderr
    weights = [(path / "weights.msgpack").read_bytes() for path in (folder, tmp_path / "b")]
    assert weights[0] == weights[1]
    assert (tmp_path / "b" / "run.toml").read_text() == (folder / "run.toml").read_text()

    edited = tmp_path / "edited.toml"
    edited.write_text('model = "nowhere:Net"\nepochs = 1\n')
    typed = jaxnas("search", "darts", "--config", edited, "--model", MODEL, "--out", tmp_path / "c")
    assert "epoch 1/1" in typed.stdout
    for text, message in {
        'command = "search enas"': "is for jaxnas search enas, not for jaxnas search darts",
        "epoch = 1": "jaxnas search darts has no option 'epoch'; it has model, data,",
        "epochs = ": "edited.toml is not valid TOML",
    }.items():
        edited.write_text(text)
        refused = jaxnas("search", "darts", "--config", edited, "--out", tmp_path / "d")
        assert refused.returncode == 1
        assert message in refused.stderr
        assert refused.stderr.startswith("error: --config: ")
    edited.write_text('epochs = "many"')
    assert jaxnas("search", "darts", "--config", edited, "--out", tmp_path / "d").returncode == 2


def test_what_there_is_and_whether_it_works():
    listed = jaxnas("methods").stdout
    assert all(name in listed for name in METHODS)
    assert "1802.03268" in listed
    listed = jaxnas("spaces").stdout
    assert all(name in listed for name in spaces.SPACES)
    examined = jaxnas("doctor")
    assert examined.returncode == 0, examined.stderr
    for text in (
        f"jaxnas {version.__version__}",
        "devices: ",
        "a compiled gradient: right",
        "convolutions on a CPU: by",
        "everything works",
    ):
        assert text in examined.stdout
    assert "show-completion" in jaxnas("--help").stdout


def test_retrain_and_show(run):
    folder, _ = run
    for extra in ([], ["--inherit", "--augment", "none"]):
        done = jaxnas("retrain", folder, "--epochs", 8, *extra)
        assert done.returncode == 0, done.stderr
        assert "test accuracy" in done.stdout
    results = [json.loads((folder / name / "result.json").read_text()) for name in ("retrain", "retrain-2")]
    assert all(result["test_accuracy"] > 0.9 for result in results)
    shown = jaxnas("show", folder)
    assert shown.returncode == 0, shown.stderr
    for text in ("conv1", "skipconnect", "derived", "from scratch", "inherited weights", "epoch 3 of 3"):
        assert text in shown.stdout


def test_enas_searches_stops_in_time_goes_on_and_is_shown(tmp_path):
    search = (
        *("search", "enas", "--model", MODEL, "--data", "digits", "--epochs", 2, "--controller-steps", 3),
        *("--controller-samples", 4, "--derive-samples", 6, "--out", tmp_path / "e", "--max-minutes", 0),
    )
    done = jaxnas(*search)
    assert done.returncode == 0, done.stderr
    assert "stopped at the time limit after epoch 1 of 2" in done.stdout
    assert "found" not in done.stdout
    done = jaxnas(*search)
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch 1 of 2" in done.stdout
    assert "found {" in done.stdout
    result = json.loads((tmp_path / "e" / "result.json").read_text())
    assert result["arch"] == result["candidates"][0]["arch"]
    shown = jaxnas("show", tmp_path / "e")
    assert shown.returncode == 0, shown.stderr
    for text in ("conv1", "reward", "rank", "score", "epoch 2 of 2"):
        assert text in shown.stdout


def test_a_model_and_data_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from flax import linen as nn\n"
        "from jaxnas import LayerChoice\n"
        "class Net(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, x, arch):\n"
        "        return LayerChoice({'wide': nn.Dense(3), 'nil': nn.Dense(3, use_bias=False)}, key='k')(x, arch)\n"
        "made = lambda: Net()\n"
    )
    x = np.random.RandomState(0).randn(300, 4).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=x[:, :3].argmax(1))
    done = jaxnas(
        *("search", "darts", "--model", "mine:made", "--data", "mine.npz", "--epochs", 2, "--order", 2, "--out", "r"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "r" / "final_arch.json").read_text())["k"] in ("wide", "nil")
    done = jaxnas("retrain", "r", "--epochs", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no test data" in done.stdout


def test_errors_are_one_line_without_a_traceback(run, tmp_path):
    folder, _ = run
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "cut" / "final_arch.json").write_text('{"conv1": 1,')
    search = ("search", "darts", "--epochs", 1, "--out")
    cases = {
        "holds a run already": (*search, folder, "--model", MODEL),
        "has no attribute 'Nit'": (*search, tmp_path / "a", "--model", "experiments.quickstart:Nit"),
        "no module 'nowhere'": (*search, tmp_path / "a", "--model", "nowhere:Net"),
        "not of the form module:name": (*search, tmp_path / "a", "--model", "Net"),
        "cannot be built: TypeError": (*search, tmp_path / "a", "--model", "experiments.quickstart:run"),
        "there is no such file": (*search, tmp_path / "a", "--model", MODEL, "--data", "none.npz"),
        "larger than the weights' split": (*search, tmp_path / "a", "--model", MODEL, "--batch-size", 2000),
        "no choice has a candidate named": (*search, tmp_path / "b", "--model", MODEL, "--stop-on", "skips"),
        "has no config.json": ("show", tmp_path),
        "final_arch.json: not valid JSON at line 1": ("retrain", tmp_path / "cut"),
    }
    for message, arguments in cases.items():
        done = jaxnas(*arguments)
        assert done.returncode == 1, (message, done)
        assert message in done.stderr
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "a").exists()


def test_what_enas_cannot_stop_on_is_refused(tmp_path):
    done = jaxnas("search", "enas", "--model", MODEL, "--out", tmp_path / "a", "--stop-on", "eigenvalue")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the alpha-Hessian needs a method with logits" in done.stderr
    assert not (tmp_path / "a" / "history.jsonl").exists()


def test_show_copes_with_failed_and_damaged_runs(run, tmp_path):
    folder, _ = run
    copy = tmp_path / "[b]copy"
    (copy / "retrain").mkdir(parents=True)
    for name in ("config.json", "history.jsonl"):
        (copy / name).write_text((folder / name).read_text())
    (copy / "retrain" / "config.json").write_text("{}")
    (copy / "retrain" / "result.json").write_text('{"status": "failed"}')
    done = jaxnas("show", copy)
    assert done.returncode == 0, done.stderr
    assert "[b]copy" in done.stdout.replace("\n", "")
    assert "retrain: failed" in done.stdout
    (copy / "history.jsonl").write_text('{"epoch": 0}\n')
    done = jaxnas("show", copy)
    assert done.returncode == 1
    assert "does not fit its space" in done.stderr


def test_import_needs_only_the_core():
    script = (
        "import sys, jaxnas\n"
        "extra = {'typer', 'sklearn', 'tensorflow_datasets', 'PIL'} & set(sys.modules)\n"
        "assert not extra, extra\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_version_and_what_is_not_installed():
    done = jaxnas("--version")
    assert done.stdout == f"jaxnas {version.__version__}\n"
    script = "import sys; sys.modules['typer'] = None; import jaxnas.cli; jaxnas.cli.main()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == 'the command line needs typer: pip install -e ".[cli]" in the checkout of jaxnas.\n'


def test_hints_name_no_package_that_is_on_no_index():
    hint = re.compile("pip install " + r"[\"']?jaxnas")
    files = [
        *ROOT.glob("*.md"),
        *(file for part in ("jaxnas", "docs", "experiments") for file in ROOT.glob(f"{part}/**/*")),
    ]
    for file in files:
        if file.suffix in (".py", ".md", ".toml") and file.name != "running.py":
            assert not hint.search(file.read_text()), file


def test_an_editable_install_is_a_path_that_type_checkers_read():
    """setuptools installs a path, and no import hook, where the folder of the packages is given and holds them all."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"": "."}
    assert "py.typed" in settings["package-data"]["jaxnas"]
