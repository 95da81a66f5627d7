"""`jaxnas compare`: its numbers, by hand; its table and its picture."""

import io
import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from made_runs import seal, write_run, write_training
from rich.console import Console

from jaxnas import ChoiceSpec, RunError, Space
from jaxnas.cli import plotting
from jaxnas.cli.plotting import tables
from jaxnas.report import compare, figures

ROOT = Path(__file__).resolve().parents[1]
SPACE = Space(
    {"a": ChoiceSpec("layer", 3, ("x", "y", "z")), "b": ChoiceSpec("layer", 2), "c": ChoiceSpec("input", 2, None, None)}
)
ARCHS = [{"a": "x", "b": 0, "c": [0, 1]}, {"a": "x", "b": 1, "c": [0, 1]}, {"a": "y", "b": 1, "c": []}]
ACCURACIES = [[0.5, 0.7, 0.6], [0.4, 0.8, 0.8], [0.3, 0.5, 0.7]]


def scores(values):
    return lambda epoch: {
        "derived_accuracy": values[epoch],
        "supernet_accuracy": 0.9,
        "derived_loss": 1 - values[epoch],
    }


@pytest.fixture
def seeds(tmp_path):
    """Three runs of one configuration."""
    folders = []
    for seed, (arch, values) in enumerate(zip(ARCHS, ACCURACIES, strict=True)):
        folder = tmp_path / f"darts-{seed}"
        folders.append(write_run(folder, SPACE, epochs=3, seed=seed, arch=arch, scores=scores(values)))
        write_training(folder / "retrain", accuracy=0.9 + seed / 100)
    return folders


def text_of(comparison, width=80):
    console = Console(file=io.StringIO(), width=width)
    for table in tables(comparison, compare.as_json(comparison)):
        console.print(table)
    return console.file.getvalue()


def test_seeds_by_hand(seeds):
    comparison = compare.read(seeds)
    numbers = compare.as_json(comparison)
    assert numbers["metric"] == "accuracy"
    first = numbers["runs"][0]
    assert (first["name"], first["seed"], first["status"], first["epochs"], first["planned"]) == (
        *("darts-0", 0, "finished", 3, 3),
    )
    assert first["derived"] == {"last": 0.6, "best": 0.7, "epochs": [1, 2, 3], "values": [0.5, 0.7, 0.6]}
    assert first["supernet"]["last"] == 0.9
    assert first["test"] == [0.9]
    assert first["seconds"] == 4.5
    assert first["arch"] == {"a": "x", "b": 0, "c": (0, 1)}
    (group,) = numbers["groups"]
    assert (group["name"], group["runs"], group["finished"]) == ("darts", ["darts-0", "darts-1", "darts-2"], 3)
    # 0.6, 0.8, 0.7: mean 0.7, deviations -0.1, 0.1, 0: variance 0.02 / 2.
    assert group["derived_last"] == pytest.approx({"mean": 0.7, "std": 0.1})
    assert group["derived_best"] == pytest.approx({"mean": (0.7 + 0.8 + 0.7) / 3, "std": math.sqrt(0.01 / 3)})
    assert group["test"] == pytest.approx({"mean": 0.91, "std": 0.01})
    (agreed,) = numbers["agreement"]
    # The first two differ in b; the last two agree in b only; the first and the last agree in nothing.
    assert agreed["same"] == [[3, 2, 0], [2, 3, 1], [0, 1, 3]]
    assert agreed["mean"] == pytest.approx((2 + 0 + 1) / 3 / 3)
    assert (agreed["all"], agreed["choices"]) == ([], 3)
    epochs, mean, deviation = compare.mean_curve(comparison.groups["darts"])
    assert epochs == [1, 2, 3]
    assert mean == pytest.approx([0.4, 2 / 3, 0.7])
    assert deviation == pytest.approx([0.1, math.sqrt((0.7**2 + 0.8**2 + 0.5**2 - 3 * (2 / 3) ** 2) / 2), 0.1])
    json.dumps(numbers)


def test_the_table_holds_the_numbers_at_80_columns(seeds, tmp_path):
    seeds.append(write_run(tmp_path / "other", SPACE, epochs=9, done=2, config={"algorithm": "enas"}))
    slow = {"seconds": 36000.0}
    seeds.append(write_run(tmp_path / "slow", SPACE, epochs=9, done=2, status="failed", scores=lambda epoch: slow))
    text = text_of(compare.read(seeds))
    assert "…" not in text
    for words in (
        "darts-0",
        "3/3",
        "0.6000",
        "0.7000",
        "0.9000",
        "0:04",
        "±0.1000",
        "3 of 3",
        "2/9",
        "interrupted",
        "enas",
        "20:00:00",
        "failed",
    ):
        assert words in text
    assert "a: x; b: 0; c: 0, 1" in text
    assert "a: y; b: 1; c: none" in text


def test_what_differs_in_more_than_the_seed_is_no_group(seeds, tmp_path):
    other = write_run(tmp_path / "longer", SPACE, epochs=4, seed=5)
    machine = write_run(tmp_path / "darts-3", SPACE, epochs=3, seed=3, config={"versions": {"device": "another"}})
    comparison = compare.read([*seeds, other, machine])
    assert {name: [run.name for run in members] for name, members in comparison.groups.items()} == {
        "darts": ["darts-0", "darts-1", "darts-2", "darts-3"]
    }


def test_unfinished_runs_are_shown_but_do_not_count_for_the_mean(seeds, tmp_path):
    half = write_run(tmp_path / "darts-9", SPACE, epochs=3, done=1, seed=9, scores=scores([0.0]))
    none = write_run(tmp_path / "darts-8", SPACE, epochs=3, done=0, seed=8)
    failed = write_run(tmp_path / "darts-7", SPACE, epochs=3, done=1, seed=7, scores=scores([0.1]), status="failed")
    early = write_run(
        tmp_path / "darts-6", SPACE, epochs=3, done=2, seed=6, scores=scores([0.2, 0.7]), status="finished"
    )
    comparison = compare.read([*seeds, half, none, failed, early])
    numbers = compare.as_json(comparison)
    statuses = [run["status"] for run in numbers["runs"]]
    assert statuses == [*["finished"] * 3, *["interrupted"] * 2, "failed", "stopped early"]
    (group,) = numbers["groups"]
    assert (len(group["runs"]), group["finished"]) == (7, 4)
    assert group["derived_last"]["mean"] == pytest.approx((0.6 + 0.8 + 0.7 + 0.7) / 4)
    assert numbers["runs"][4]["derived"]["last"] is None
    assert [run.name for run in compare.agreements(comparison.runs)[0].runs].count("darts-8") == 0
    assert "stopped early" in text_of(comparison)
    assert compare.mean_curve(comparison.groups["darts"])[0] == [1, 2]  # where all that ended have a value


def test_metrics(seeds):
    assert compare.as_json(compare.read(seeds, "loss"))["runs"][0]["derived"]["best"] == pytest.approx(0.3)  # smallest
    with pytest.raises(RunError, match=r"no run has a derived_f1; there are \['accuracy', 'loss'\]"):
        compare.read(seeds, "f1")


def test_a_task_without_accuracy_is_compared_by_loss(tmp_path):
    lossy = write_run(tmp_path / "r", SPACE, epochs=2, scores=lambda epoch: {"derived_accuracy": None})
    records = [json.loads(line) for line in (lossy / "history.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in record.items() if k != "derived_accuracy"} for record in records]
    (lossy / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    seal(lossy)
    comparison = compare.read([lossy])
    assert comparison.metric == "loss"
    assert comparison.runs[0].derived.values == [1.0, 1.0]


def test_missing_values_are_left_out(tmp_path):
    values = [0.5, None, 0.7, None]
    run = write_run(tmp_path / "r", SPACE, epochs=4, scores=lambda epoch: {"derived_accuracy": values[epoch]})
    (found,) = compare.read([run]).runs
    assert found.derived == ([1, 3], [0.5, 0.7])


def test_large_architectures_in_short(tmp_path):
    space = Space(
        {f"op_{i}": ChoiceSpec("layer", 2, ("conv", "pool")) for i in range(9)}
        | {"in": ChoiceSpec("input", 3, None, None), "one": ChoiceSpec("input", 2)}
    )
    arch = {f"op_{i}": "conv" if i < 6 else "pool" for i in range(9)} | {"in": [0, 2], "one": 1}
    (run,) = compare.read([write_run(tmp_path / "r", space, arch=arch)]).runs
    assert compare.in_short(run) == "6 × conv, 3 × pool, 3 inputs at 2 choices"


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["darts-0", "darts-1"], "darts"),
        (["run10", "run11"], "run"),
        (["darts2-0", "darts2-1"], "darts2"),
        (["a", "b"], "a, b"),
    ],
)
def test_names_of_groups(tmp_path, names, common):
    paths = [write_run(tmp_path / name, SPACE, seed=seed) for seed, name in enumerate(names)]
    assert list(compare.read(paths).groups) == [common]


def test_folders_of_one_name_are_told_apart_and_none_is_given_twice(tmp_path):
    paths = [write_run(tmp_path / folder / "run", SPACE, seed=seed) for seed, folder in enumerate("uv")]
    assert [run.name for run in compare.read(paths).runs] == [str(path) for path in paths]
    with pytest.raises(RunError, match="given twice"):
        compare.read([paths[0], paths[0]])


def test_the_picture_has_a_line_per_run_and_a_band_for_seeds(seeds, tmp_path):
    other = write_run(tmp_path / "_ot$h$er", SPACE, epochs=9, done=2)
    figure = compare.draw(compare.read([*seeds, other]))
    (axis,) = figure.axes
    assert [list(line.get_ydata()) for line in axis.lines[:3]] == ACCURACIES
    assert list(axis.lines[3].get_ydata()) == pytest.approx([0.4, 2 / 3, 0.7])  # their mean
    assert list(axis.lines[4].get_ydata()) == [0.5, 0.5]
    (band,) = axis.collections
    corners = band.get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == pytest.approx((0.3, 0.8194), abs=1e-3)
    file = figures.save(figure, tmp_path / "c.svg")[0]
    text = [t.strip() for t in ElementTree.parse(file).getroot().itertext() if t.strip()]
    for words in ("derived accuracy", "epoch", "darts: mean of 3 seeds", "_ot$h$er"):
        assert words in text


def test_without_a_name_no_earlier_picture_is_replaced(seeds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("compare.png").write_text("mine")
    for _ in range(2):
        plotting.compare(seeds)
    assert Path("compare.png").read_text() == "mine"
    assert "picture in compare-2.png" in capsys.readouterr().out
    assert Path("compare-2.png").read_bytes() == Path("compare-3.png").read_bytes()
    plotting.compare(seeds, out=Path("compare-3.png"))  # a name that is given is meant
    assert not Path("compare-4.png").exists()


def test_on_the_command_line(seeds, tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "jaxnas", "compare", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    done = call(*seeds, "--out", tmp_path / "p" / "c.pdf", "--json", tmp_path / "n" / "c.json")
    assert done.returncode == 0, done.stderr
    assert "darts-1" in done.stdout
    assert f"picture in {tmp_path / 'p' / 'c.pdf'}" in done.stdout
    assert (tmp_path / "p" / "c.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((tmp_path / "n" / "c.json").read_text())["groups"][0]["name"] == "darts"

    nothing = call(write_run(tmp_path / "new", SPACE, done=0), "--out", tmp_path / "no.png")
    assert nothing.returncode == 0, nothing.stderr
    assert "there is no picture" in nothing.stdout
    assert not (tmp_path / "no.png").exists()

    for arguments, message in (
        ((tmp_path / "missing",), "has no config.json"),
        ((seeds[0] / "retrain",), "describes no search space"),
        ((seeds[0], "--out", tmp_path / "c.gif"), "pictures are .pdf, .svg or .png; got '.gif'"),
    ):
        done = call(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
