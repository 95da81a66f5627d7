"""Trials elsewhere: threads, processes, Dask, Ray; whatever trials and workers do."""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jax
import numpy as np
import pytest
from executor_work import OPS, deadly, rough, value

import jaxnas
from jaxnas import RunError

SEARCHES = {
    "random_search": jaxnas.random_search.search,
    "grid_search": functools.partial(jaxnas.grid_search.search, shuffle=True),
    "local_search": jaxnas.local_search.search,
    "evolution": functools.partial(jaxnas.evolution.search, population=4, sample=2),
    "reinforce": functools.partial(jaxnas.reinforce.search, learning_rate=0.01),
}
searches = pytest.mark.parametrize("name", SEARCHES)
quiet = {"progress": False}


class Shuffled(ThreadPoolExecutor):
    """Runs what it has one by one, in an order of its own."""

    def __init__(self, seed=0):
        super().__init__(4)
        self.waiting, self.random = [], np.random.RandomState(seed)
        self.most = 0
        self.bell = threading.Semaphore(0)
        threading.Thread(target=self.serve, daemon=True).start()

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        self.waiting.append((future, fn, args, kwargs))
        self.most = max(self.most, len(self.waiting))
        self.bell.release()
        return future

    def serve(self):
        while True:
            self.bell.acquire()
            future, fn, args, kwargs = self.waiting.pop(self.random.randint(len(self.waiting)))
            future.set_result(fn(*args, **kwargs))


def outcomes(found):
    return [(trial.arch, trial.score, trial.error) for trial in found.trials]


def numbers(state):
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp_key(x) else x, state)


def jnp_key(x):
    return jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


@searches
def test_several_at_once_none_twice_and_one_worker_is_the_search_alone(name):
    asked = []

    def evaluate(arch):
        asked.append(tuple(arch.values()))
        return value(arch)

    alone = SEARCHES[name](OPS, value, trials=14, seed=3, **quiet)
    with ThreadPoolExecutor(1) as pool:
        one = SEARCHES[name](OPS, value, trials=14, seed=3, executor=pool, **quiet)
    assert outcomes(one) == outcomes(alone)
    jax.tree.map(np.testing.assert_array_equal, numbers(one.state), numbers(alone.state))

    with ThreadPoolExecutor(4) as pool:
        many = SEARCHES[name](OPS, evaluate, trials=14, seed=3, executor=pool, **quiet)
    assert len(many.trials) == len(asked) == len(set(asked)) == 14
    if name in ("random_search", "grid_search"):
        assert outcomes(many) == outcomes(alone)
        jax.tree.map(np.testing.assert_array_equal, many.state, alone.state)


@pytest.mark.parametrize("name", ["random_search", "grid_search"])
def test_the_order_in_which_trials_end_changes_nothing_where_promised(name, tmp_path):
    alone = SEARCHES[name](OPS, value, trials=20, filter=lambda arch: arch["z"] != "c", **quiet)
    for seed in range(3):
        pool = Shuffled(seed)
        options = {"executor": pool, "history": tmp_path / f"{seed}.jsonl", "filter": lambda arch: arch["z"] != "c"}
        found = SEARCHES[name](OPS, value, trials=20, **options, **quiet)
        assert outcomes(found) == outcomes(alone)
        assert found.exhausted == alone.exhausted
        assert pool.most > 1


def test_local_search_at_once_follows_the_course_of_one_by_one():
    """What it finds after as many of its own steps is the same; what it evaluated in vain it has besides."""
    alone = SEARCHES["local_search"](OPS, value, trials=12, seed=1, **quiet)
    many = SEARCHES["local_search"](OPS, value, trials=27, seed=1, executor=Shuffled(), **quiet)
    assert {str(trial.arch) for trial in alone.trials} <= {str(trial.arch) for trial in many.trials}
    assert many.best.score == 3


@searches
@pytest.mark.parametrize("later", [4, 2, 7, None])
def test_interrupted_with_several_under_way_it_continues(name, later, tmp_path):
    path, calls = tmp_path / "h.jsonl", []

    def interrupted(trial):
        if len(calls) == 7:
            raise KeyboardInterrupt
        calls.append(tuple(trial.arch.values()))

    with pytest.raises(KeyboardInterrupt):
        SEARCHES[name](OPS, value, trials=16, history=path, executor=Shuffled(1), progress=interrupted)
    recorded = [json.loads(line)["arch"] for line in path.read_text().splitlines()[1:]]
    asked = []

    def rest(arch):
        asked.append(arch)
        return value(arch)

    options = {} if later is None else {"executor": Shuffled(2), "workers": later}
    found = SEARCHES[name](OPS, rest, trials=16, history=path, **options, **quiet)
    assert found.recorded == len(recorded) == 8
    assert len(asked) == 8
    assert not any(arch in recorded for arch in asked)
    assert len({str(trial.arch) for trial in found.trials}) == 16
    again = SEARCHES[name](OPS, rest, trials=16, history=path, **quiet)
    assert outcomes(again) == outcomes(found)
    assert again.recorded == 16
    jax.tree.map(np.testing.assert_array_equal, numbers(again.state), numbers(found.state))
    more = SEARCHES[name](OPS, rest, trials=18, history=path, executor=Shuffled(3), **quiet)
    assert more.recorded == 16
    fewer = SEARCHES[name](OPS, rest, trials=5, history=path, **quiet)
    assert len(fewer.trials) == 5


def test_failures_of_a_search_at_once_are_evaluated_again_on_request(tmp_path):
    def broken(arch):
        return math.nan if arch["x"] == "a" else value(arch)

    options = {"trials": 14, "history": tmp_path / "h.jsonl", **quiet}
    first = SEARCHES["evolution"](OPS, broken, executor=Shuffled(), **options)
    assert any(trial.error for trial in first.trials)
    again = SEARCHES["evolution"](OPS, value, executor=Shuffled(), retry_failures=True, **options)
    assert all(trial.error is None for trial in again.trials)
    assert outcomes(SEARCHES["evolution"](OPS, value, executor=Shuffled(), **options)) == outcomes(again)


# ---------------------------------------------------------------------- what trials and workers do


def check_rough(found, seconds=3):
    for trial in found.trials:
        x, y = trial.arch["x"], trial.arch["y"]
        if x == y == "a":
            assert trial.error == f"its worker died: {trial.error.partition(': ')[2]}"
        elif x == y == "b":
            assert trial.error == f"took longer than trial_seconds={seconds}"
        elif x == "c":
            assert trial.error == "OSError: disk full"
        else:
            assert (trial.score, trial.error) == (value(trial.arch), None)
    assert len({str(trial.arch) for trial in found.trials}) == len(found.trials)


def corner(arch):
    """A death, a hang, an error, and others."""
    return arch["z"] == "a"


def test_trials_that_raise_hang_and_kill_their_process():
    found = jaxnas.grid_search.search(
        OPS, rough, filter=corner, executor=jaxnas.trials.processes(2), trial_seconds=3, **quiet
    )
    assert len(found.trials) == 9
    check_rough(found)
    assert "ended with exit code 3" in found.trials[0].error


def test_a_pool_of_processes_that_breaks_is_made_again_and_the_trial_is_known():
    made = []

    def pool():
        made.append(ProcessPoolExecutor(2, mp_context=get_context("spawn")))
        return made[-1]

    options = {"filter": lambda arch: arch["x"] == "b" and arch["y"] == "a", **quiet}
    found = jaxnas.grid_search.search(OPS, deadly, executor=pool, **options)
    assert [trial.error is None for trial in found.trials] == [True, False, True]
    assert found.trials[1].error.startswith("its worker died: ")
    assert len(made) > 1
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one,
        pytest.raises(RunError, match=r"executor cannot go on: its pool .* is broken.*executor=lambda: ProcessPool"),
    ):
        jaxnas.grid_search.search(OPS, deadly, executor=one, **options)


def test_a_hanging_thread_is_a_failed_trial_and_takes_its_worker_with_it():
    event = threading.Event()

    def evaluate(arch):
        if arch["z"] == "a":
            event.wait()
        return value(arch)

    try:
        with ThreadPoolExecutor(2) as pool:
            options = {"executor": pool, "trial_seconds": 0.2, **quiet}
            found = jaxnas.grid_search.search(OPS, evaluate, trials=3, **options)
            assert [trial.error for trial in found.trials] == ["took longer than trial_seconds=0.2", None, None]
            with pytest.raises(RunError, match=r"all 2 workers have trials that hang.*executor=lambda: ThreadPool"):
                jaxnas.grid_search.search(OPS, evaluate, trials=9, **options)
            event.set()
        event.clear()
        options["executor"] = functools.partial(ThreadPoolExecutor, 2)
        found = jaxnas.grid_search.search(OPS, evaluate, trials=9, retries=1, **options)
        assert [trial.error is None for trial in found.trials] == [False, True, True] * 3
    finally:
        event.set()


def test_what_a_worker_raises_that_is_no_exception_is_a_failed_trial():
    def evaluate(arch):
        if arch["z"] == "a":
            sys.exit(1)
        return 1.0

    with ThreadPoolExecutor(2) as pool:
        found = jaxnas.grid_search.search(OPS, evaluate, trials=3, executor=pool, **quiet)
    assert found.trials[0].error == "lost: SystemExit: 1"
    assert found.trials[2].error is None


def test_a_driver_that_is_killed_continues_and_leaves_no_process(tmp_path):
    path, notes = tmp_path / "h.jsonl", tmp_path / "notes"
    alone = SEARCHES["evolution"](OPS, value, trials=3, **quiet)  # the first ones are random: they will be asked for
    hang = "".join(alone.trials[2].arch.values())
    tests = Path(__file__).parent
    env = {**os.environ, "NOTES": str(notes), "HANG": hang}
    env["PYTHONPATH"] = os.pathsep.join([str(tests.parent), str(tests)])
    driver = subprocess.Popen(
        [sys.executable, str(tests / "executor_work.py"), str(path)], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in driver.stdout:  # one of its two workers hangs, so the other evaluates the rest but one
            if line.startswith("trial 11/12"):
                break
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.communicate()  # the workers have its output open: they have ended when this returns
    assert len(path.read_text().splitlines()) == 12
    before = notes.read_text().split()
    del env["HANG"]
    subprocess.run([sys.executable, str(tests / "executor_work.py"), str(path)], env=env, check=True)
    assert sorted([*before, hang]) == sorted(notes.read_text().split())
    assert len(set(before)) == len(before) == 12
    assert len(path.read_text().splitlines()) == 13


@pytest.mark.filterwarnings("ignore")
def test_a_local_ray():
    """As with processes: deaths, hangs and errors cost their own trials only."""
    pytest.importorskip("ray", reason="needs the extra ray")
    path = os.pathsep.join(
        [str(Path(__file__).parents[1]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    workers = jaxnas.trials.on_ray(2, num_cpus=0, runtime_env={"env_vars": {"PYTHONPATH": path}})
    found = jaxnas.grid_search.search(OPS, rough, filter=corner, executor=workers, trial_seconds=10, **quiet)
    assert len(found.trials) == 9
    check_rough(found, seconds=10)


# ---------------------------------------------------------------------- what is refused


class Lab:
    """An evaluator that holds what cannot be sent."""

    def __init__(self):
        self.settings = {"lock": threading.Lock()}

    def score(self, arch):
        return 1.0


def test_what_cannot_be_pickled_is_named(monkeypatch):
    lock = threading.Lock()
    pool = functools.partial(Unused)
    for evaluate, where in (
        (Lab().score, r"evaluate.__self__.settings\['lock'\], a _thread.lock, cannot"),
        (functools.partial(lambda lock, arch: 1.0, lock), r"evaluate.args\[0\], a _thread.lock, cannot"),
        (lambda arch: lock and 1.0, r"its variable 'lock', a _thread.lock, cannot"),
    ):
        with pytest.raises(TypeError, match=rf"evaluate cannot be pickled: {where} be sent to another process"):
            jaxnas.random_search.search(OPS, evaluate, executor=pool, **quiet)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TypeError, match=r"evaluate, the function .*<lambda> of module test_exec.* cannot .*top level"):
        jaxnas.random_search.search(OPS, lambda arch: 1.0, executor=pool, **quiet)


class Unused(Executor):
    """An executor that is refused before it is used."""

    workers = 1

    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("used")


def test_a_worker_that_cannot_import_the_model_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def evaluate(arch):\n    return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    class Elsewhere(Executor):
        workers = 1

        def submit(self, fn, /, *args, **kwargs):
            sys.modules.pop("only_here", None)
            with monkeypatch.context() as patched:
                patched.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path)])
                future = Future()
                future.set_result(fn(*args, **kwargs))
            return future

    with pytest.raises(RunError, match=r"process \d+ on .* cannot read the evaluator: .*only_here.*PYTHONPATH"):
        jaxnas.random_search.search(OPS, only_here.evaluate, executor=Elsewhere(), **quiet)


def test_workers_that_cannot_start_are_an_error(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import jaxnas\nfrom executor_work import OPS, value\n"
        "jaxnas.random_search.search(OPS, value, executor=jaxnas.trials.processes(1), trials=2)\n"
    )
    tests = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert "RunError: a worker process cannot start: process" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_options_that_do_not_fit_are_refused():
    search = functools.partial(jaxnas.random_search.search, OPS, value, **quiet)
    with pytest.raises(ValueError, match="trial_seconds needs an executor: nothing in this process can end"):
        search(trial_seconds=3)
    with pytest.raises(ValueError, match="workers needs an executor"):
        search(workers=3)
    with pytest.raises(TypeError, match=r"executor is 4; expected a concurrent.futures.Executor.*processes\(4\)"):
        search(executor=4)
    with pytest.raises(TypeError, match=r"executor\(\) gave 4; expected a concurrent.futures.Executor"):
        search(executor=lambda: 4)
    with pytest.raises(ValueError, match="trial_seconds must be a finite number above 0 or None; got 0"):
        search(executor=Unused(), trial_seconds=0)
    with pytest.raises(ValueError, match="workers must be an integer of at least 1"):
        search(executor=Unused(), workers=0)
    with pytest.raises(ValueError, match="workers must be given: a Executor does not say how many"):
        search(executor=Executor())
    with pytest.raises(ValueError, match="workers must be an integer"):
        jaxnas.trials.processes(0)
