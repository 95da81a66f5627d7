"""Run directories: what is written, what is refused, what damage does."""

import functools
import json
import os

import numpy as np
import pytest
from helpers import Planted, planted_data

import jaxnas
from jaxnas import runs
from jaxnas.errors import RunEndedError
from jaxnas.runs import checkpoints
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.directory import RunDirectory


def finished(path):
    directory = RunDirectory(path)
    with directory.open({"algorithm": "darts"}):
        directory.log({"epoch": 0, "loss": np.float32(1.5), "nan": float("nan"), "arch": {"two": (0, 1)}})
        directory.log({"epoch": 1, "loss": 0.5})
        directory.finish({"status": "finished"}, {"params": {"w": np.arange(3.0)}})
    return path


def start(path, config, **options):
    with RunDirectory(path).open(config, **options):
        pass


def test_what_is_written_is_read(tmp_path):
    path = finished(tmp_path / "run")
    assert runs.read_config(path)["algorithm"] == "darts"
    assert set(runs.read_config(path)["versions"]) == {"jaxnas", "jax", "flax", "optax", "device", "convolutions"}
    first, second = runs.read_history(path)
    assert first == {"epoch": 0, "loss": 1.5, "nan": None, "arch": {"two": [0, 1]}}
    assert second["loss"] == 0.5
    assert runs.read_result(path) == {"status": "finished"}
    np.testing.assert_array_equal(runs.read_weights(path)["params"]["w"], np.arange(3.0))


def test_a_run_is_not_overwritten_but_a_false_start_is(tmp_path):
    path = finished(tmp_path / "run")
    with pytest.raises(jaxnas.RunError, match=r"which has finished, of another.*was 'darts', is now"):
        start(path, {})
    with pytest.raises(RunEndedError, match=r"holds a run already, which has finished\. Choose another"):
        start(path, {"algorithm": "darts"})
    with pytest.raises(jaxnas.RunError) as refused:
        start(path, {"algorithm": "darts"}, resume=False)
    assert refused.type is jaxnas.RunError
    assert runs.free(path) == tmp_path / "run-2"
    start(tmp_path / "false", {"a": 1})
    start(tmp_path / "false", {"a": 2})
    assert runs.read_config(tmp_path / "false")["a"] == 2
    assert runs.free(tmp_path / "false") == tmp_path / "false"


def test_a_second_run_in_a_directory_is_refused_while_the_first_works(tmp_path):
    with RunDirectory(tmp_path).open({"a": 1}):
        assert runs.working(tmp_path)
        assert runs.free(tmp_path) == tmp_path.with_name(f"{tmp_path.name}-2")
        with pytest.raises(jaxnas.RunError, match=rf"process {os.getpid()} on .* is working in this directory"):
            start(tmp_path, {"a": 1})
    assert not runs.working(tmp_path)
    start(tmp_path, {"a": 1})


def test_no_directory_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished(None)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_named(tmp_path):
    path = finished(tmp_path / "run")
    history = path / "history.jsonl"
    whole = history.read_text()
    history.write_text(whole[:-5])  # cut off while it was written
    assert len(runs.read_history(path)) == 1
    history.write_text("{]\n" + whole)
    with pytest.raises(jaxnas.RunError, match=r"history\.jsonl, line 1"):
        runs.read_history(path)
    history.write_text("null\n" + whole)
    with pytest.raises(jaxnas.RunError, match=r"history\.jsonl, line 1: got None; expected an object"):
        runs.read_history(path)
    weights = path / "weights.msgpack"
    for damage in (weights.read_bytes()[:-3], b"", b"\x80\x04\x95", b"\x01"):
        weights.write_bytes(damage)
        with pytest.raises(jaxnas.RunError, match=r"weights\.msgpack: is damaged"):
            runs.read_weights(path)
    (path / "result.json").write_text("[]")
    with pytest.raises(jaxnas.RunError, match=r"result\.json.*object"):
        runs.read_result(path)
    (path / "config.json").write_text(json.dumps({"space": {"k": {"kind": "layer"}}}))
    with pytest.raises(jaxnas.RunError, match="space/k/n_candidates is missing"):
        runs.read_space(path)
    with pytest.raises(jaxnas.RunError, match=r"has no config\.json"):
        runs.read_config(tmp_path)


def interrupted(path, *, epochs=2, config=None):
    """A run that was cut off after some epochs, with a checkpoint of the last."""
    directory = RunDirectory(path)
    with directory.open(config or {"algorithm": "darts", "lr": 0.1}):
        directory.rewind(0)
        for epoch in range(epochs):
            directory.log({"epoch": epoch, "loss": 1 / (epoch + 3)})
        directory.save(Position(epochs), {"w": np.arange(3, dtype=np.float32)})
        directory.log({"epoch": epochs, "loss": 9.0})  # not saved
    return path


def resumed(path, config=None, **options):
    """Continues it, and gives its history."""
    directory = RunDirectory(path)
    with directory.open(config or {"algorithm": "darts", "lr": 0.1}, **options):
        state, position = directory.restore({"w": np.zeros(3, np.float32)})
        history = directory.rewind(position.epoch)
        np.testing.assert_array_equal(state["w"], np.arange(3.0))
        directory.finish({"status": "finished", "epochs": len(history)}, state)
    return history


BROKEN = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "a bit flipped": lambda whole: whole[:25] + bytes([whole[25] ^ 1]) + whole[26:],
    "another type": lambda whole: b"[1, 2]",
    "no text": lambda whole: b"\xff\xfe" + whole,
    "nested": lambda whole: b"[" * 100_000,
}


def spoil(file, how):
    """Damages a file in one of the ways of `BROKEN`, or removes it, or puts a folder in its place."""
    whole = file.read_bytes()
    file.unlink()
    if how == "a folder":
        file.mkdir()
    elif how != "removed":
        file.write_bytes(BROKEN[how](whole))


@pytest.mark.parametrize("how", [*BROKEN, "removed", "a folder"])
@pytest.mark.parametrize("name", ["history.jsonl", "config.json"])
def test_the_checkpoint_decides_over_history_and_config(tmp_path, name, how):
    whole = resumed(interrupted(tmp_path / "whole"))
    path = interrupted(tmp_path / "run")
    spoil(path / name, how)
    with pytest.raises(jaxnas.RunError, match=name):
        runs.read_ended(path)
    if how == "a folder":
        with pytest.warns(RuntimeWarning), pytest.raises(jaxnas.RunError, match=f"{name} cannot be written"):
            resumed(path)
        (path / name).rmdir()
    with pytest.warns(RuntimeWarning, match=rf"{name}.* written again from the checkpoint"):
        assert resumed(path) == whole
    assert (path / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert runs.read_ended(path)["epochs"] == 2


def test_a_history_that_only_lacks_what_was_not_saved_needs_no_warning(tmp_path):
    path = interrupted(tmp_path / "run")
    whole = (path / "history.jsonl").read_bytes()
    (path / "history.jsonl").write_bytes(whole[:-3])
    assert [record["loss"] for record in resumed(path)] == [1 / 3, 1 / 4]


@pytest.mark.parametrize("how", [*BROKEN, "removed", "a folder"])
@pytest.mark.parametrize("name", ["result.json", "weights.msgpack", "final_arch.json"])
def test_a_run_has_finished_only_if_its_files_are_whole(tmp_path, name, how, monkeypatch):
    path = interrupted(tmp_path / "run")
    (path / "final_arch.json").write_text('{"op": "a", "other": "bbbbbbbbbbbbb"}')
    monkeypatch.setattr(RunDirectory, "remove_checkpoints", lambda self: None)  # a kill just before
    resumed(path)
    assert runs.status(path) == "finished"
    spoil(path / name, how)
    assert runs.status(path) is None
    if (name, how) == ("result.json", "removed"):
        assert resumed(path)
        return
    assert runs.resumable(path)
    if name == "weights.msgpack":
        with pytest.raises(jaxnas.RunError, match=r"weights\.msgpack: (is|there is)"):
            runs.read_weights(path)
    elif how != "removed" or name == "result.json":
        with pytest.raises(jaxnas.RunError, match=name):
            runs.read_ended(path)
    (path / "kept").mkdir()
    (path / "checkpoints").rename(path / "kept" / "checkpoints")
    with pytest.raises(jaxnas.RunError, match=rf"no checkpoint to continue from, and its end is damaged: .*{name}"):
        start(path, {"algorithm": "darts", "lr": 0.1})
    with pytest.raises(jaxnas.RunError, match=rf"{name}.*There is no checkpoint to continue from"):
        RunDirectory(path).has_ended({"algorithm": "darts", "lr": 0.1})
    (path / "kept" / "checkpoints").rename(path / "checkpoints")
    if how == "a folder" and name != "result.json":
        with pytest.warns(RuntimeWarning), pytest.raises(jaxnas.RunError, match=name):
            resumed(path)
        (path / name).rmdir()
        (path / "result.json.damaged").rename(path / "result.json")
    with pytest.warns(RuntimeWarning, match=rf"{name}.*continues from its last checkpoint"):
        resumed(path)
    assert runs.status(path) == "finished"


def test_a_finished_run_with_another_history_is_not_read_as_one(tmp_path):
    path = interrupted(tmp_path / "run")
    resumed(path)
    (path / "history.jsonl").write_bytes(b"")
    with pytest.raises(jaxnas.RunError, match=r"history\.jsonl: is damaged"):
        runs.read_ended(path)
    result = json.loads((path / "result.json").read_text())
    del result["checksums"]
    (path / "result.json").write_text(json.dumps(result))
    with (
        pytest.warns(RuntimeWarning, match="earlier version wrote its result.json, without checksums"),
        pytest.raises(jaxnas.RunError, match=r"history\.jsonl: holds 0 epochs, but the run ended after 2"),
    ):
        runs.read_ended(path)


def test_runs_of_earlier_versions_are_read_with_a_warning(tmp_path):
    path = finished(tmp_path / "run")
    result = json.loads((path / "result.json").read_text())
    del result["checksums"]
    (path / "result.json").write_text(json.dumps(result))
    with pytest.warns(RuntimeWarning, match="cannot be verified"):
        np.testing.assert_array_equal(runs.read_weights(path)["params"]["w"], np.arange(3.0))
    with pytest.warns(RuntimeWarning, match="cannot be verified"):
        assert runs.read_ended(path) == {"status": "finished"}
    with pytest.warns(RuntimeWarning, match="cannot be verified"), pytest.raises(RunEndedError):
        start(path, {"algorithm": "darts"})


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": "{}"},
        {"config.json": '{"versions": {"theirs": "1"}}'},
        {"config.json": "{"},
        {"final_arch.json": '{"theirs": 1}'},
        {"weights.msgpack": "theirs"},
        {"history.jsonl": "theirs"},
        {"notes.txt": "theirs"},
    ],
)
def test_a_directory_with_files_of_others_is_left_alone(tmp_path, files):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(jaxnas.RunError, match="Nothing is written"):
        start(tmp_path, {"a": 1})
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == files


def test_names_that_are_no_directories_are_refused():
    for name in ("", "a\0b"):
        with pytest.raises(jaxnas.RunError, match="no name of a directory"):
            RunDirectory(name)


def test_a_directory_stays_where_it_is_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory("run")
    (tmp_path / "elsewhere").mkdir()
    with directory.open({"a": 1}):
        monkeypatch.chdir(tmp_path / "elsewhere")
        directory.log({"epoch": 0})
        directory.finish({"status": "finished"}, {})
    assert runs.status(tmp_path / "run") == "finished"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["a[1]", "[red]b[/red]", "a*b?", "back\\slash", "{x} %20 'q\"", "ü\n"])
def test_a_run_continues_in_a_directory_of_any_name(tmp_path, name):
    path = interrupted(tmp_path / name)
    assert sorted(file.name for file in path.iterdir()) == ["checkpoints", "config.json", "history.jsonl", "run.lock"]
    assert len(resumed(path)) == 2
    assert [file.name for file in tmp_path.iterdir()] == [name.partition("/")[0]]


def test_force_continues_with_another_configuration_and_notes_it(tmp_path):
    path = interrupted(tmp_path / "run")
    other = {"algorithm": "darts", "lr": 0.2}
    with pytest.raises(jaxnas.RunError, match=r'lr was 0\.1, is now 0\.2.*resume="force"'):
        resumed(path, other)
    with pytest.raises(ValueError, match="True, False or \"force\"; got 'yes'"):
        resumed(path, other, resume="yes")
    with pytest.warns(RuntimeWarning, match=r"continues with another configuration: lr was 0\.1, is now 0\.2"):
        assert len(resumed(path, other, resume="force")) == 2
    config = runs.read_config(path)
    assert (config["lr"], config["changes"]) == (0.2, ["lr was 0.1, is now 0.2"])
    with pytest.raises(jaxnas.RunError, match=r"has finished, of another configuration: lr was 0\.2, is now 0\.1"):
        start(path, {"algorithm": "darts", "lr": 0.1}, resume="force")
    assert RunDirectory(path).has_ended(other)
    assert RunDirectory(path).has_ended({"lr": 3}, resume="force")


def test_several_runs_share_a_checkpoint(tmp_path):
    top = RunDirectory(tmp_path)
    lanes = [RunDirectory(tmp_path / f"seed_{seed}", top.checkpoints) for seed in (0, 1)]
    with top.open({"seeds": [0, 1]}), lanes[0].open({"seed": 0}), lanes[1].open({"seed": 1}):
        for seed, lane in enumerate(lanes):
            lane.log({"epoch": 0, "loss": float(seed)})
        top.save(Position(1), {"w": np.zeros(3)}, beside=lanes)
    (tmp_path / "seed_1" / "history.jsonl").write_bytes(b"")
    (tmp_path / "seed_0" / "config.json").write_bytes(b"{")
    again = [RunDirectory(tmp_path / f"seed_{seed}", top.checkpoints) for seed in (0, 1)]
    with pytest.warns(RuntimeWarning, match=r"seed_0/config\.json.*from the checkpoint"), again[0].open({"seed": 0}):
        assert again[0].rewind(1) == [{"epoch": 0, "loss": 0.0}]
    with again[1].open({"seed": 1}), pytest.warns(RuntimeWarning, match=r"seed_1/history\.jsonl"):
        assert again[1].rewind(1) == [{"epoch": 0, "loss": 1.0}]


@pytest.mark.parametrize("look", ["open", "has_ended", "tidy"])
def test_checkpoints_that_a_kill_has_left_are_removed_at_the_next_look(tmp_path, monkeypatch, look):
    path = interrupted(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "remove_checkpoints", lambda self: None)
        resumed(path)
    assert checkpoints.newest(path / "checkpoints") is not None
    config = {"algorithm": "darts", "lr": 0.1}
    if look == "open":
        with pytest.raises(RunEndedError):
            start(path, config)
    elif look == "has_ended":
        assert RunDirectory(path).has_ended(config)
    else:
        runs.tidy(path)
    assert not list(path.glob("checkpoints*"))
    (path / "checkpoints.partial").mkdir()  # killed while they were removed
    runs.tidy(path)
    assert not list(path.glob("checkpoints*"))


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jaxnas.RunError, match=r"file.run: cannot be written"):
        start(tmp_path / "file" / "run", {})


def test_why_a_run_that_has_ended_gets_no_more_epochs(tmp_path):
    search = functools.partial(
        jaxnas.darts.search, Planted, planted_data(100), batch_size=20, progress=False, workdir=tmp_path
    )
    search(epochs=1)
    with pytest.raises(jaxnas.RunError, match=r"epochs was 1, is now 2.*More epochs cannot be added"):
        search(epochs=2)
    with pytest.raises(jaxnas.RunError) as other:
        search(epochs=2, grad_clip=1.0)
    assert "More epochs" not in str(other.value)
