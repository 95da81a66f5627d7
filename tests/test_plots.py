"""`jaxnas plot`: what the pictures of a run show."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from flax import linen as nn
from made_runs import seal, write_model_run, write_run

import jaxnas
from jaxnas import ChoiceSpec, RunError, Space
from jaxnas.report import figures, payload, plots
from jaxnas.report.derived import architecture

ROOT = Path(__file__).resolve().parents[1]
IMAGE = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)


def texts(file):
    """The lines of text in an SVG file."""
    return [text.strip() for text in ElementTree.parse(file).getroot().itertext() if text.strip()]


def svg(figure, folder):
    return texts(figures.save(figure, folder / "picture.svg")[0])


class Net(nn.Module):
    """A choice of layers, and a skip."""

    @nn.compact
    def __call__(self, x, arch):
        x = jaxnas.LayerChoice({"dense": nn.Dense(4), "tanh": jnp.tanh, "x$y$": jnp.sin}, key="first")(x, arch)
        y = jaxnas.LayerChoice([nn.Dense(4), jnp.tanh], key="second")(x, arch)
        return jaxnas.InputChoice(choose_from=["first", "second", "x"], key="skips")([x, y, x * 2], arch)


X = jax.ShapeDtypeStruct((2, 4), jnp.float32)


def test_all_pictures_in_all_formats_and_the_same_bytes_again(tmp_path):
    run = write_model_run(tmp_path / "run", Net, X)
    files = plots.plot(run)
    names = [f"{name}.{kind}" for name in ("curves", "choices", "architecture") for kind in ("pdf", "svg", "png")]
    assert [file.relative_to(run / "plots").as_posix() for file in files] == names
    starts = {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}
    again = plots.plot(run, tmp_path / "again")
    for file, other in zip(files, again, strict=True):
        assert file.read_bytes().startswith(starts[file.suffix])
        assert file.read_bytes() == other.read_bytes()
    pdf = (run / "plots" / "choices.pdf").read_bytes()
    assert b"/FontFile2" in pdf  # TrueType fonts, in the file
    assert b"/Type3" not in pdf
    assert [file.name for file in plots.plot(run, tmp_path / "some", ["png", "png"])] == [
        *("curves.png", "choices.png", "architecture.png")
    ]


def test_curves_by_their_values(tmp_path):
    space = Space({"a": ChoiceSpec("layer", 2)})
    accuracy = [0.1, None, 0.3, None]
    run = write_run(
        tmp_path / "run",
        space,
        epochs=4,
        scores=lambda e: {
            "derived_accuracy": accuracy[e],
            "supernet_accuracy": 0.2 * e,
            "reward": 0.5,
            "baseline": 0.4,
        },
    )
    figure = plots.curves(payload(run))
    by_title = {axis.get_title(): axis for axis in figure.axes}
    assert list(by_title) == ["Loss", "Accuracy", "Reward", "Entropy of the choices"]
    lines = {
        text.get_text(): line
        for text, line in zip(by_title["Accuracy"].get_legend().get_texts(), by_title["Accuracy"].lines, strict=True)
    }
    assert list(lines["derived"].get_xdata()) == [1, 3]
    assert list(lines["derived"].get_ydata()) == [0.1, 0.3]
    assert lines["derived"].get_marker() == "o"  # not every epoch has a value
    assert list(lines["supernet"].get_ydata()) == pytest.approx([0, 0.2, 0.4, 0.6])
    assert by_title["Loss"].get_xlim() == (1, 4)
    assert figure.get_figwidth() == 6.75
    words = svg(figure, tmp_path)
    for expected in ("train", "derived", "supernet", "baseline", "epoch"):
        assert expected in words


def test_no_legend_lies_over_a_curve_or_leaves_the_picture(tmp_path):
    space = Space({"a": ChoiceSpec("layer", 2)})
    numbers = {"reward": 0.5, "baseline": 0.4, "train_accuracy": 0.2, "supernet_accuracy": 0.4, "sampled_accuracy": 0.3}
    run = write_run(tmp_path / "run", space, epochs=6, scores=lambda e: numbers)
    figure = plots.curves(payload(run))
    with figures.style():
        figure.draw_without_rendering()
        for axis in figure.axes:
            legend = axis.get_legend().get_window_extent()
            assert legend.y1 < axis.xaxis.label.get_window_extent().y0
            assert legend.y0 >= 0
            assert all(not legend.overlaps(other.get_window_extent()) for other in figure.axes)


def test_choices_by_their_values(tmp_path):
    run = write_model_run(tmp_path / "run", Net, X)
    data = payload(run)
    (figure,) = plots.choices(data)
    for axis, choice in zip(figure.axes, data["choices"], strict=True):
        assert axis.get_title().startswith(choice["key"])
        drawn = np.array([line.get_ydata() for line in axis.lines]).T
        np.testing.assert_array_equal(drawn, choice["probabilities"])
    words = svg(figure, tmp_path)
    for expected in ("first", "second", "skips", "dense", "tanh", "x$y$", "probability", "epoch"):
        assert expected in words
    assert f"→ {data['choices'][1]['labels'][data['choices'][1]['chosen'][-1][0]]}" in words


def test_many_choices_fill_pages(tmp_path):
    space = Space({f"c{i}": ChoiceSpec("layer", 3, ("_a", "b", "c")) for i in range(50)})
    run = write_run(tmp_path / "run", space, epochs=2)
    files = plots.plot(run, tmp_path / "out", ["svg"])
    assert [file.stem for file in files] == ["curves", "choices", "choices-2", "choices-3", "architecture"]
    assert [sum(f"c{i}" in texts(file) for i in range(50)) for file in files[1:4]] == [24, 24, 2]
    assert "_a" in texts(files[1])  # in the legend, though matplotlib hides such names
    assert sum(f"c{i}" in texts(files[4]) for i in range(50)) == 50  # no graph is known: all in a list


def test_one_epoch_is_drawn_as_points(tmp_path):
    run = write_model_run(tmp_path / "run", Net, X, epochs=4, done=1)  # and is not finished
    data = payload(run)
    assert all(line.get_marker() == "o" for axis in plots.curves(data).axes for line in axis.lines)
    assert all(line.get_marker() == "o" for axis in plots.choices(data)[0].axes for line in axis.lines)
    assert len(plots.plot(run, formats=["png"])) == 3


def test_a_cell_is_drawn_with_the_operations_that_were_chosen(tmp_path):
    arch = {"1<-0": "skip_connect", "2<-0": "none", "2<-1": "nor_conv_3x3"}
    arch |= {"3<-0": "nor_conv_1x1", "3<-1": "avg_pool_3x3", "3<-2": "skip_connect"}
    run = write_model_run(tmp_path / "run", jaxnas.spaces.nasbench201(channels=2, cells=1), IMAGE, arch=arch)
    data, graph = payload(run), jaxnas.runs.read_config(run)["graph"]
    words = svg(architecture(graph, data["choices"]), tmp_path)
    assert {"cell", "0", "1", "2", "3"} <= set(words)
    shown = sorted(word for word in words if "  " in word)
    expected = []
    for choice in data["choices"]:
        chosen = choice["labels"].index(arch[choice["key"]])
        expected.append(f"{arch[choice['key']]}  {choice['probabilities'][-1][chosen]:.2f}")
    assert shown == sorted(expected)


def test_of_a_cell_with_switches_only_what_is_taken_is_drawn(tmp_path):
    model = jaxnas.spaces.enas_micro(cells=3, nodes=2, filters=2)
    arch = {}
    for kind in ("normal", "reduce"):
        last = f"{kind}/last"
        arch |= {f"{kind}/node_{i}/{side}_input": last for i in range(2) for side in "xy"}
        arch |= {f"{kind}/node_{i}/{side}_op": "identity" for i in range(2) for side in "xy"}
    arch["normal/node_1/y_input"] = "normal/node_0"
    run = write_model_run(tmp_path / "run", model, IMAGE, arch=arch)
    figure = architecture(jaxnas.runs.read_config(run)["graph"], payload(run)["choices"])
    words = svg(figure, tmp_path)
    assert sum(word.startswith("identity") for word in words) == 8
    # Loose ends: normal 1 and c_{k-2}; reduce 0, 1 and c_{k-2}. Each operation has an arrow in and one out.
    assert len([patch for patch in figure.axes[0].patches if "Arrow" in type(patch).__name__]) == 2 * 8 + 2 + 3
    assert words.count("c_{k-2}") == 2


def test_the_graph_leaves_out_what_is_not_taken(tmp_path):
    def drawn(skips):
        arch = {"first": "x$y$", "second": 1, "skips": skips}
        run = write_model_run(tmp_path / str(len(skips)), Net, X, arch=arch)
        figure = architecture(jaxnas.runs.read_config(run)["graph"], payload(run)["choices"])
        arrows = [patch for patch in figure.axes[0].patches if "Arrow" in type(patch).__name__]
        return svg(figure, tmp_path), len(arrows)

    words, arrows = drawn(["second"])
    assert {"input", "first", "second", "skips", "output"} <= set(words)
    assert any(word.startswith("x$y$  0.") for word in words)
    assert arrows == 4  # input, first, second, skips, output
    words, arrows = drawn(["first", "second", "x"])
    assert arrows == 5  # and from first to skips
    words, arrows = drawn([])
    assert "skips" not in words
    assert arrows == 2


def test_other_settings_of_matplotlib_change_nothing(tmp_path):
    run = write_model_run(tmp_path / "run", Net, X)
    files = plots.plot(run, tmp_path / "a", ["svg"])
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "svg.fonttype": "path", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        others = plots.plot(run, tmp_path / "b", ["svg"])
        assert dict(matplotlib.rcParams) == before
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in others]


def test_errors(tmp_path):
    with pytest.raises(RunError, match="no epoch has ended yet"):
        plots.plot(write_run(tmp_path / "new", Space({"a": ChoiceSpec("layer", 2)}), done=0))
    with pytest.raises(RunError, match=r"no config\.json"):
        plots.plot(tmp_path / "nothing")
    run = write_model_run(tmp_path / "run", Net, X)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        plots.plot(run, tmp_path / "file" / "plots")
    damaged = write_run(tmp_path / "damaged", Space({"a": ChoiceSpec("layer", 2)}))
    config = json.loads((damaged / "config.json").read_text())
    config["graph"] = {"nodes": [], "edges": [{"source": "a", "target": "b", "candidates": None}]}
    (damaged / "config.json").write_text(json.dumps(config))
    seal(damaged)
    with pytest.raises(RunError, match="its graph does not fit"):
        plots.plot(damaged)


def test_names_that_cannot_be_seen_are_spelled_out(tmp_path):
    space = Space(
        {
            "   ": ChoiceSpec("layer", 2, ("\u200b", " ")),
            "\u200d": ChoiceSpec("layer", 2, ("\u0301", "\u2800")),
        }
    )
    names = {"   ": "'   '", "\u200b\u200b": r"'\u200b\u200b'", "": "''", " a ": "a"}
    assert [figures.plain(name) for name in names] == list(names.values())
    assert len(plots.plot(write_run(tmp_path / "run", space), formats=["svg"])) == 3
    assert r"\u200b" in (tmp_path / "run" / "plots" / "choices.svg").read_text()


def test_a_real_search_on_the_command_line(tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "jaxnas", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)

    options = ("--model", "experiments.quickstart:Net", "--data", "digits", "--epochs", 2, "--batch-size", 128)
    done = call("search", "darts", *options, "--out", tmp_path / "q")
    assert done.returncode == 0, done.stderr
    done = call("plot", tmp_path / "q", "--out", tmp_path / "pictures", "--format", "svg")
    assert done.returncode == 0, done.stderr
    files = [tmp_path / "pictures" / f"{name}.svg" for name in ("curves", "choices", "architecture")]
    assert done.stdout.split() == [str(file) for file in files]
    assert {"Loss", "Accuracy", "derived", "supernet"} <= set(texts(files[0]))
    assert {"conv1", "conv2", "skipconnect"} <= set(texts(files[1]))
    assert {"input", "conv1", "conv2", "output"} <= set(texts(files[2]))
    done = call("plot", tmp_path / "nothing")
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
