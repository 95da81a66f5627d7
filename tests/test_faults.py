"""Commands that are killed, signalled or run out of disk go on as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import ROOT, assert_same_run

import jaxnas
from jaxnas import runs
from jaxnas.runs import checkpoints

MODEL = ("--model", "experiments.quickstart:Net", "--data", "digits")
OFTEN = ("--checkpoint-minutes", 0)  # a checkpoint after every step
DARTS = ("search", "darts", *MODEL, "--epochs", 5, *OFTEN)
FEWER = ("--controller-steps", 4, "--controller-samples", 4, "--derive-samples", 6)
ENAS = ("search", "enas", *MODEL, "--epochs", 4, *FEWER, *OFTEN)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """With a compilation cache of its own, which a killed process may damage."""
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}


def started(environment, *arguments, before=()):
    command = [*before, sys.executable, "-m", "jaxnas", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def finished(environment, *arguments, before=()):
    process = started(environment, *arguments, before=before)
    out, error = process.communicate(timeout=600)
    return process.returncode, out, error


def newest(path):
    return checkpoints.newest(path / "checkpoints")


def partial(path):
    return any(path.glob("checkpoints/*.partial"))


def wait(process, condition, seconds=600.0):
    """Until the condition holds, the process has ended, or so many seconds are over."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not condition():
        try:
            process.wait(timeout=min(0.002, seconds))
            return
        except subprocess.TimeoutExpired:
            pass


@pytest.fixture(scope="module")
def found(tmp_path_factory, environment):
    """A finished search, whose architecture is to be retrained."""
    path = tmp_path_factory.mktemp("found") / "run"
    code, _, error = finished(environment, "search", "darts", *MODEL, "--epochs", 1, "--out", path)
    assert code == 0, error
    return path


@pytest.fixture(scope="module")
def whole_darts(tmp_path_factory, environment):
    """What `DARTS` leaves when nothing happens to it."""
    path = tmp_path_factory.mktemp("whole") / "run"
    code, _, error = finished(environment, *DARTS, "--out", path)
    assert code == 0, error
    assert {"params", "batch_stats"} == set(runs.read_weights(path))
    return path


@pytest.mark.parametrize("name", ["darts", "enas", "retrain"])
def test_ten_kills_change_nothing(name, tmp_path, environment, found, whole_darts):
    commands = {"darts": DARTS, "enas": ENAS, "retrain": ("retrain", found, "--epochs", 5, *OFTEN)}
    whole, cut, command = whole_darts, tmp_path / "cut", commands[name]
    if name != "darts":
        whole = tmp_path / "whole"
        code, _, error = finished(environment, *command, "--out", whole)
        assert code == 0, error

    moments, kills = random.Random(name), 0
    while kills < 10 and runs.status(cut) is None:
        before = newest(cut)
        process = started(environment, *command, "--out", cut)
        if kills % 3 == 0:  # at any time while it starts
            wait(process, lambda: False, moments.uniform(0, 4))
        else:
            wait(process, lambda before=before: newest(cut) != before)  # it has done a step
            # in the middle of a checkpoint, or at any time in the next steps
            wait(process, (lambda: partial(cut)) if kills % 3 == 1 else lambda: False, moments.uniform(0, 0.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, error = process.communicate(timeout=60)
        assert "Traceback" not in error, error
    if runs.status(cut) is None:
        code, out, error = finished(environment, *command, "--out", cut)
        assert code == 0, error
        assert "resuming after" in out
    assert kills == 10
    assert_same_run(whole, cut)
    assert list(cut.glob("checkpoints/*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_asked_to_stop_saves_and_says_how_to_go_on(number, tmp_path, environment, whole_darts):
    cut = tmp_path / "cut"
    process = started(environment, *DARTS, "--out", cut)
    for line in process.stdout:
        if line.startswith("compiled"):
            break
    process.send_signal(number)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert f"{number.name}: finishing this step" in error
    assert f"interrupted by {number.name} after" in error
    assert "the same call resumes from there" in error
    assert "Traceback" not in error
    assert runs.resumable(cut)
    assert finished(environment, *DARTS, "--out", cut)[0] == 0
    assert_same_run(whole_darts, cut)
    code, out, _ = finished(environment, *DARTS, "--out", cut)
    assert (code, "has finished already" in out) == (0, True)


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(tmp_path, environment, whole_darts):
    """A limit on the size of files stands for a full disk: the state no longer fits, the small files do."""
    cut = tmp_path / "cut"
    assert finished(environment, *DARTS, "--out", cut, "--max-minutes", 0)[0] == 0
    kept = sorted(path.name for path in (cut / "checkpoints").iterdir())

    limited = ("bash", "-c", 'ulimit -f 20; exec "$@"', "-")  # files of at most 20 kB
    uncached = {**environment, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    code, _, error = finished(uncached, *DARTS, "--out", cut, before=limited)
    assert code == 1
    told = error.splitlines()
    assert len(told) == 1
    assert told[0].startswith("error: ")
    assert "the checkpoint cannot be written" in told[0]
    assert sorted(path.name for path in (cut / "checkpoints").iterdir() if path.suffix != ".partial") == kept
    assert finished(environment, *DARTS, "--out", cut)[0] == 0
    assert_same_run(whole_darts, cut)


def test_a_second_command_in_a_directory_is_refused(tmp_path, environment):
    endless = ("search", "darts", *MODEL, "--epochs", 100_000, "--out", tmp_path)
    first = started(environment, *endless)
    for line in first.stdout:
        if line.startswith("epoch 1/"):
            break
    code, _, error = finished(environment, *endless)
    assert code == 1
    assert f"process {first.pid} on" in error
    assert "is working in this directory" in error
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=600)
    assert first.returncode == 128 + signal.SIGTERM
    assert runs.resumable(tmp_path)


def test_a_read_only_directory_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(jaxnas.RunError, match="cannot be written"):
        runs.RunDirectory(tmp_path / "run").open({}).__enter__()
