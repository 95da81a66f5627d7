"""Run directories: what is written, what is refused, what damage does."""

import json
import os

import numpy as np
import pytest

import jaxnas
from jaxnas import runs
from jaxnas.errors import RunEndedError
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
    assert set(runs.read_config(path)["versions"]) == {"jaxnas", "jax", "flax", "optax", "device"}
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
    with pytest.raises(jaxnas.RunError, match="not the record of an epoch"):
        runs.read_history(path)
    weights = path / "weights.msgpack"
    for damage in (weights.read_bytes()[:-3], b"", b"\x80\x04\x95", b"\x01"):
        weights.write_bytes(damage)
        with pytest.raises(jaxnas.RunError, match=r"weights\.msgpack: damaged"):
            runs.read_weights(path)
    (path / "result.json").write_text("[]")
    with pytest.raises(jaxnas.RunError, match=r"result\.json.*object"):
        runs.read_result(path)
    (path / "config.json").write_text(json.dumps({"space": {"k": {"kind": "layer"}}}))
    with pytest.raises(jaxnas.RunError, match="search space"):
        runs.read_space(path)
    with pytest.raises(jaxnas.RunError, match=r"has no config\.json"):
        runs.read_config(tmp_path)


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(jaxnas.RunError, match=r"file.run: cannot be written"):
        start(tmp_path / "file" / "run", {})
