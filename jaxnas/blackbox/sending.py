"""An evaluator on its way to another process: written there and read here, or a message that says why not."""

from __future__ import annotations

import functools
import os
import pickle
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxnas.blackbox.evaluator import Trial, run_trial
from jaxnas.blackbox.options import FixedArch
from jaxnas.errors import RunError

_LARGE = 10_000_000


class NotLoaded(NamedTuple):
    """A worker's answer if it cannot read the evaluator.

    Attributes:
      error: what was raised.
      where: process and machine.
      path: where it looks for modules.
    """

    error: str
    where: str
    path: list[str]


def written(evaluate: Callable[..., float]) -> bytes:
    """An evaluator as bytes that `trial_elsewhere` reads: by pickle, or by cloudpickle where that is needed and there.

    Raises:
      TypeError: naming the function, or what it holds, that cannot be pickled.
    """
    try:
        import cloudpickle
    except ImportError:
        cloudpickle = None
    by_name = getattr(evaluate, "__module__", None) != "__main__"  # which is another module in another process
    try:
        data = pickle.dumps(evaluate) if by_name or cloudpickle is None else cloudpickle.dumps(evaluate)
    except Exception as e:
        try:
            if cloudpickle is None or not by_name:
                raise
            data = cloudpickle.dumps(evaluate)
        except Exception:
            raise TypeError(_why_not(evaluate, e, cloudpickle)) from None
    if len(data) > _LARGE:
        warnings.warn(
            f"evaluate holds {len(data) / 1e6:.0f} MB, which are sent with each trial: load data inside it, once in "
            "each process (functools.cache on the function that loads them).",
            RuntimeWarning,
            stacklevel=5,
        )
    return data


def _why_not(evaluate: Any, error: Exception, cloudpickle: Any) -> str:
    dumps = pickle.dumps if cloudpickle is None else cloudpickle.dumps
    name, culprit = _culprit("evaluate", evaluate, dumps)
    what = (
        f"{name}, {_called(culprit)},"
        if name == "evaluate"
        else f"evaluate cannot be pickled: {name}, {_called(culprit)},"
    )
    advice = "define it at the top level of a module, or use threads (ThreadPoolExecutor)"
    if cloudpickle is None:
        advice += ", or install cloudpickle, which sends functions inside others and lambdas too"
    if name != "evaluate":
        advice = "make it inside the function, once in each process, or use threads (ThreadPoolExecutor)"
    return f"{what} cannot be sent to another process ({type(error).__name__}: {error!s:.200}); {advice}."


def _culprit(name: str, value: Any, dumps: Callable[[Any], bytes], depth: int = 8) -> tuple[str, Any]:
    """The innermost part of a value that cannot be pickled, and where it is."""
    for part_name, part in _parts(name, value) if depth else ():
        try:
            dumps(part)
        except Exception:
            return _culprit(part_name, part, dumps, depth - 1)
    return name, value


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        yield f"{name}.func", value.func
        yield from ((f"{name}.args[{i}]", arg) for i, arg in enumerate(value.args))
        yield from ((f"{name}.keywords[{key!r}]", arg) for key, arg in value.keywords.items())
    elif (owner := getattr(value, "__self__", None)) is not None and callable(value):
        yield f"{name}.__self__", owner
    elif (code := getattr(value, "__code__", None)) is not None:
        for variable, cell in zip(code.co_freevars, value.__closure__ or (), strict=False):
            yield f"its variable {variable!r}", cell.cell_contents
        used = {key: value.__globals__[key] for key in code.co_names if key in value.__globals__}
        yield from ((f"its global variable {key!r}", held) for key, held in used.items() if not callable(held))
    elif isinstance(value, dict):
        yield from ((f"{name}[{key!r}]", held) for key, held in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"{name}[{i}]", held) for i, held in enumerate(value))
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        yield from ((f"{name}.{key}", held) for key, held in vars(value).items())


def _called(value: Any) -> str:
    if hasattr(value, "__qualname__"):
        return f"the function {value.__qualname__} of module {value.__module__}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


def trial_elsewhere(data: bytes, arch: FixedArch, evaluations: int, retries: int) -> Trial | NotLoaded:
    """What a worker does: `run_trial` with an evaluator that `written` wrote."""
    try:
        evaluate = _read(data)
    except Exception as e:  # whatever a module raises that is imported
        where = f"process {os.getpid()} on {socket.gethostname()}"
        return NotLoaded(f"{type(e).__name__}: {e}", where, list(sys.path))
    return run_trial(evaluate, arch, evaluations=evaluations, retries=retries)


@functools.lru_cache(maxsize=2)
def _read(data: bytes) -> Callable[..., float]:
    """Read once in a process, so that what it compiles or loads is kept."""
    return pickle.loads(data)


def cannot_import(answer: NotLoaded | BaseException) -> RunError:
    """The error for a worker that cannot import what the evaluator needs."""
    if isinstance(answer, NotLoaded):
        error, where, path = answer.error, f"the worker, {answer.where},", f" It looks in {answer.path}."
    else:
        error, where, path = f"{type(answer).__name__}: {answer}", "a worker", ""
    return RunError(
        f"{where} cannot read the evaluator: {error}.{path} The evaluator, the model and jaxnas must be importable "
        "there: install them, or start the workers where the modules are, with PYTHONPATH set (Ray: "
        "on_ray(runtime_env={'working_dir': '.'}); Dask: client.upload_file; MPI: mpiexec -x PYTHONPATH)."
    )
