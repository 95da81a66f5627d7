"""Reading run directories: everything is checked against `schema`, and of a run that has ended against checksums.

`result.json` holds, as `checksums`, the SHA-256 of the run's other files when it ended, and of what it says itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import serialization

from jaxnas.errors import ArchitectureError, RunError
from jaxnas.model.architecture import read_spec
from jaxnas.model.serialization import parse_json, read_json
from jaxnas.model.space import Space
from jaxnas.runs import checkpoints, schema
from jaxnas.runs.locking import held

CONFIG, HISTORY, ARCH, WEIGHTS = "config.json", "history.jsonl", "final_arch.json", "weights.msgpack"
RESULT = "result.json"

_MOST_BYTES = 2**28
_DEEPEST = 100


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Reads `config.json` of a run.

    Raises:
      RunError: if `path` is not a run directory, or one of several seeds, or the file is damaged.
    """
    config = read_object(path, CONFIG, schema.check_config)
    if "seeds" in config:
        raise RunError(
            f"{path} holds a run for each of several seeds; name one, such as {seed_folder(path, config['seeds'][0])}."
        )
    return config


def read_space(path: str | os.PathLike) -> Space:
    """The space that a search searched, from its `config.json`. Raises RunError if it has none."""
    found = read_config(path).get("space")
    if found is None:
        raise RunError(f"{path}: its config.json describes no search space; is it a search?")
    specs = {}
    for key, spec in found.items():
        try:
            specs[key] = read_spec(spec)
        except (TypeError, ValueError, KeyError) as e:
            raise RunError(f"{Path(path) / CONFIG}: space/{key[:80]} is no choice: {str(e)[:200]}") from None
    return Space(specs)


def read_history(path: str | os.PathLike) -> list[dict[str, Any]]:
    """Reads `history.jsonl` of a run; a last line that was cut off is left out.

    Raises:
      RunError: if the file is damaged; names line and field.
    """
    file = Path(path) / HISTORY
    try:
        whole, _, cut = file.read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    except OSError as e:
        raise RunError(f"{file}: cannot be read: {e.strerror}.") from None
    records = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        where = f"{file}, line {number}"
        try:
            records.append(schema.check_record(parse_json(line, source=where, deepest=_DEEPEST), where))
        except ArchitectureError as e:
            raise RunError(str(e)) from None
    with contextlib.suppress(ArchitectureError, RunError):  # a line without its end may be whole
        records.append(schema.check_record(parse_json(cut, source="", deepest=_DEEPEST), ""))
    return records


def read_result(path: str | os.PathLike) -> dict[str, Any]:
    """Reads `result.json` of a run. Raises RunError if the run has not ended, or the file is damaged."""
    return _read_result(path)[0]


def read_ended(
    path: str | os.PathLike, files: Sequence[str] = (CONFIG, HISTORY, ARCH), *, warn: bool = True
) -> dict[str, Any] | None:
    """Reads `result.json`, and makes sure that other files are as they were when the run ended.

    Of a run that has not, configuration and history must be as its last checkpoint has them, if it has one.

    Args:
      path: run directory.
      files: which of `config.json`, `history.jsonl`, `final_arch.json` and `weights.msgpack` are to be sure.
      warn: whether to warn of a run without checksums, of an earlier version, which cannot be verified.

    Returns:
      As `read_result`; None if the run has not ended.

    Raises:
      RunError: if a file is damaged; names it.
    """
    path = Path(path)
    if not os.path.lexists(path / RESULT):
        _check_saved(path, files)
        return None
    result, sums = _read_result(path)
    if sums is not None:
        for name in files:
            found = _sum_of(path / name)
            if name in sums and found != sums[name]:
                what = (
                    "is not there any more" if found is None else "is damaged: it is not as it was when the run ended"
                )
                raise RunError(f"{path / name}: {what}.")
        return result
    if warn:
        warnings.warn(
            f"{path}: an earlier version wrote its result.json, without checksums: its files cannot be verified.",
            RuntimeWarning,
            stacklevel=2,
        )
    if HISTORY in files and result["status"] == "finished" and "epochs" in result:
        epochs = len(read_history(path))
        if epochs != result["epochs"]:
            raise RunError(f"{path / HISTORY}: holds {epochs} epochs, but the run ended after {result['epochs']}.")
    return result


def read_weights(path: str | os.PathLike) -> dict[str, Any]:
    """Reads the variables of a run that has ended.

    Raises:
      RunError: if they are not there, or they or the architecture that they belong to are damaged.
    """
    file = Path(path) / WEIGHTS
    if not file.exists() or read_ended(path, (ARCH, WEIGHTS)) is None:
        raise RunError(f"{file if not file.exists() else path}: there is no such file; the run has not ended.")
    try:
        variables = serialization.msgpack_restore(file.read_bytes())
        if not isinstance(variables, dict):
            raise ValueError(f"it holds a {type(variables).__name__}")
        return variables
    except Exception as e:  # msgpack raises many kinds on damaged data
        raise RunError(f"{file}: damaged ({type(e).__name__}: {str(e)[:200]}).") from None


def read_object(
    path: str | os.PathLike, name: str, check: Callable[[Any, str], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Reads a JSON file of a run directory. Raises RunError."""
    file = Path(path) / name
    try:
        value = read_json(file, most_bytes=_MOST_BYTES, deepest=_DEEPEST)
    except FileNotFoundError:
        raise RunError(
            f"{path}: has no {name}; expected a run directory, as `jaxnas search … --out` makes it."
        ) from None
    except ArchitectureError as e:
        raise RunError(str(e)) from None
    return (check or schema.check_object)(value, str(file))


def with_checksums(path: Path, result: Mapping[str, Any], known: Mapping[str, bytes]) -> dict[str, Any]:
    """What `result.json` is to hold: the result, and checksums of the files that are there.

    Args:
      path: run directory.
      result: as JSON has it.
      known: what some of the files hold.

    Raises:
      RunError: if something else than a file has the name of one.
    """
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in known.items()}
    for name in (CONFIG, HISTORY, ARCH, WEIGHTS):
        if name not in sums and os.path.lexists(path / name):
            if not (path / name).is_file():
                raise RunError(f"{path / name}: is no file.")
            sums[name] = str(_sum_of(path / name))
    return {**result, "checksums": {**sums, RESULT: _own_sum(result, sums)}}


# ---------------------------------------------------------------------- where a run stands


def holds_run(path: str | os.PathLike) -> bool:
    """Whether a directory holds work that must not be overwritten: a result, a checkpoint, or more than one epoch."""
    path = Path(path)
    if os.path.lexists(path / RESULT) or _has_checkpoint(path):
        return True
    try:
        return (path / HISTORY).read_bytes().count(b"\n") > 1
    except FileNotFoundError:
        return False
    except OSError:  # a folder, say
        return True


def resumable(path: str | os.PathLike) -> bool:
    """Whether a directory holds a run that was interrupted, or whose result is damaged, and can continue."""
    return _has_checkpoint(path) and status(path) is None


def status(path: str | os.PathLike) -> str | None:
    """`"finished"` or `"failed"`, as `result.json` says; None for a run that has not ended, or that is damaged."""
    try:
        result = read_ended(path, (ARCH, WEIGHTS), warn=False)
    except RunError:
        return None
    return None if result is None else result["status"]


def working(path: str | os.PathLike) -> bool:
    """Whether a process is working in a run directory."""
    return held(Path(path) / "run.lock")


def free(path: str | os.PathLike) -> Path:
    """The first of `path`, `path-2`, `path-3`, … that holds no run, or one that was interrupted, to continue it."""
    path, number = Path(path), 1
    candidate = path
    while working(candidate) or (holds_run(candidate) and not resumable(candidate)):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def tidy(path: str | os.PathLike) -> None:
    """Removes the checkpoints of a run that has finished: a process was killed before it did."""
    left = _has_checkpoint(path) or os.path.lexists(Path(path) / "checkpoints.partial")
    if left and status(path) == "finished" and not working(path):
        checkpoints.remove(Path(path) / "checkpoints")


def trainings(path: str | os.PathLike) -> list[Path]:
    """The run directories of trainings in that of a search: `retrain`, `retrain-2`, …"""
    try:
        names = [name for name in os.listdir(path) if name.startswith("retrain")]
    except OSError:
        return []
    found = [Path(path) / name for name in sorted(names, key=lambda name: (len(name), name))]
    return [folder for folder in found if folder.is_dir()]


def seed_folder(path: str | os.PathLike, seed: int) -> Path:
    """Where in the directory of several seeds the run of one is."""
    return Path(path) / f"seed_{seed}"


def stage_folder(path: str | os.PathLike, number: int) -> Path:
    """Where in the directory of a search in stages the stage before the last with that number is, from 1."""
    return Path(path) / f"stage_{number}"


def with_decisions(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record read from JSON, the decisions of its architecture as tuples again where JSON has lists."""
    arch = record.get("arch")
    if not isinstance(arch, Mapping):
        return dict(record)
    return {**record, "arch": {key: tuple(v) if isinstance(v, list) else v for key, v in arch.items()}}


def _has_checkpoint(path: str | os.PathLike) -> bool:
    return checkpoints.newest(Path(path) / "checkpoints") is not None


def _read_result(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, str] | None]:
    """The result, and the checksums that stand in it."""
    result = read_object(path, RESULT, schema.check_result)
    sums = result.pop("checksums", None)
    if sums is not None and sums.pop(RESULT, None) != _own_sum(result, sums):
        raise RunError(f"{Path(path) / RESULT}: is damaged: it is not as it was written.")
    return result, sums


def _check_saved(path: Path, names: Sequence[str]) -> None:
    """Raises RunError if a file of a run that has not ended is not as its last checkpoint has it."""
    places = {".": path / "checkpoints", path.name: path.parent / "checkpoints"}
    known = ((checkpoints.read_runs(folder), name) for name, folder in places.items())
    saved = next((found[name] for found, name in known if name in found), {})
    if os.path.lexists(path / WEIGHTS) and not any(map(checkpoints.newest, places.values())) and not working(path):
        raise RunError(
            f"{path / RESULT}: is not there, though {WEIGHTS} is: it was removed, or a kill came just before."
        )
    again = "damaged: it is not as the run's last checkpoint has it. Where the run continues it is written again."
    if HISTORY in names and saved.get("history") and read_history(path)[: len(saved["history"])] != saved["history"]:
        raise RunError(f"{path / HISTORY}: is {again}")
    if CONFIG in names and saved.get("config") and read_object(path, CONFIG) != saved["config"]:
        raise RunError(f"{path / CONFIG}: is {again}")


def _own_sum(result: Mapping[str, Any], sums: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([result, sums], sort_keys=True).encode()).hexdigest()


def _sum_of(file: Path) -> str | None:
    """The checksum of a file; None if there is none."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as e:
        return str(e.strerror)
