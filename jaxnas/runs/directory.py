"""Run directories: what a search or a training leaves on disk.

========================  ============================================================
file                      what
========================  ============================================================
`config.json`             what was asked for, and with which versions
`history.jsonl`           one JSON object per epoch, written as it happens
`run.lock`                held by the process that works in the directory
`checkpoints/`            the last states, until the run has ended; see `jaxnas.runs.checkpoints`
`final_arch.json`         the found architecture (searches)
`result.json`             how it ended, and checksums of the other files
`weights.msgpack`         the variables (supernet or trained model), as msgpack arrays
========================  ============================================================

All are written durably (`jaxnas.files`). During a run its last checkpoint decides: files that are damaged are written
again from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax import serialization

from jaxnas import files
from jaxnas.errors import RunEndedError, RunError
from jaxnas.runs import checkpoints, entering, schema
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.entering import NOT_COMPARED, absolute, check_ours, differences, plain, read_or_none, versions
from jaxnas.runs.locking import Lock
from jaxnas.runs.reading import (
    ARCH,
    CONFIG,
    HISTORY,
    RESULT,
    WEIGHTS,
    holds_run,
    read_config,
    read_ended,
    read_history,
    read_object,
    read_result,
    read_weights,
    seed_folder,
    tidy,
    with_checksums,
    with_decisions,
)

__all__ = [
    "NOT_COMPARED",
    "RunDirectory",
    "read_config",
    "read_history",
    "read_result",
    "read_weights",
    "seed_folder",
    "with_decisions",
]

State = TypeVar("State")


class RunDirectory:
    """Writes a run's files; every method does nothing where no directory was asked for.

    Args:
      path: the directory, or None; a relative one counts from the folder that is current now.
      checkpoints: where its checkpoints lie, if not in it (several seeds have theirs together).
      beside: names of folders in it that belong to the run (of earlier stages).

    Attributes:
      path, checkpoints, changed: these, absolute; whether a run of another configuration is continued.

    Raises:
      RunError: if `path` cannot be the name of a folder.
    """

    def __init__(self, path: str | os.PathLike | None, checkpoints: Path | None = None, beside: Sequence[str] = ()):
        self.path = None if path is None else absolute(path)
        self.checkpoints = checkpoints if checkpoints is not None or self.path is None else self.path / "checkpoints"
        self.changed, self._beside = False, tuple(beside)
        self._config: dict[str, Any] = {}
        self._history: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def open(self, config: Mapping[str, Any], *, resume: bool | str = True) -> Iterator[None]:
        """Holds the directory, to begin a run or to continue one of the same configuration that was interrupted.

        Args:
          config: what to write to `config.json`.
          resume: False refuses to continue; `"force"` continues one of another configuration too, with a warning.

        Raises:
          RunError: if the directory holds a run that has ended, is of another configuration, or may not be resumed, or
            files that are no run's; if another process works in it; if it cannot be written.
          ValueError: for another `resume`.
        """
        if not isinstance(resume, bool) and resume != "force":
            raise ValueError(f'resume must be True, False or "force"; got {resume!r}.')
        if self.path is None:
            yield
            return
        check_ours(self.path, known=bool(self._saved_run()), beside=self._beside)
        with Lock(self.path / "run.lock"):
            self._start(config, resume)
            yield

    def _start(self, config: Mapping[str, Any], resume: bool | str) -> None:
        assert self.path is not None
        if not holds_run(self.path) and not self._saved:
            self._config = {**plain(config), "versions": versions()}
            self._write_json(CONFIG, self._config)
            self._write_history()  # of a false start
            return
        ended, damage = self._ended()
        different = self._differences(config)
        other = f" of another configuration: {different}" if different else ""
        if ended is not None:
            if ended == "finished":
                checkpoints.remove(self.path / "checkpoints")  # a process was killed before it did
            error = RunEndedError if ended == "finished" and resume and not different else RunError
            raise error(
                f"{self.path} holds a run already, which has {ended}{',' if other else ''}{other}. Choose another "
                f"directory, or remove this one.{entering.why_not_extended(different)}"
            )
        if different and resume != "force":
            raise RunError(
                f"{self.path} holds a run{other}. It was interrupted; give the same to continue it, choose another "
                'directory, or continue it all the same with resume="force".'
            )
        if not resume:
            raise RunError(
                f"{self.path} holds a run already, which was interrupted; with resume=True the same call resumes it. "
                "Choose another directory to begin anew."
            )
        if not self._saved:
            raise RunError(
                f"{self.path} holds a run already, which has no checkpoint to continue from"
                f"{f', and its end is damaged: {damage}' if damage else ''}; choose another directory, or remove this "
                "one."
            )
        if damage:
            warnings.warn(f"{damage} The run continues from its last checkpoint.", RuntimeWarning, stacklevel=5)
            with contextlib.suppress(OSError):
                os.replace(self.path / RESULT, self.path / f"{RESULT}.damaged")
        entering.warn_of_other_kernels(self.path, self._config)
        self._config = entering.on_these_devices(self.path, self._config, plain(config))
        if different:
            said = f"{self.path}: the run continues with another configuration: {different}."
            warnings.warn(said, RuntimeWarning, stacklevel=5)
            self.changed = True
            changes = [*self._config.get("changes", []), different]
            self._config = {**plain(config), "versions": self._config["versions"], "changes": changes}
        self._write_json(CONFIG, self._config)

    def has_ended(self, config: Mapping[str, Any], *, resume: bool | str = True) -> bool:
        """Whether the directory holds a run of this configuration that has ended, well or not.

        Checkpoints that a finished run has left are removed.

        Raises:
          RunError: if it holds one that has ended and is of another configuration (unless `resume` is `"force"`), or
            whose files are damaged and which has no checkpoint.
        """
        if self.path is None or not os.path.lexists(self.path / RESULT):
            return False
        ended, damage = self._ended()
        if damage and not self._saved:
            raise RunError(f"{damage} There is no checkpoint to continue from; remove {self.path} to run it again.")
        if ended is None:
            return False
        if (different := self._differences(config)) and resume != "force":
            raise RunError(f"{self.path} holds a run already, of another configuration: {different}.")
        tidy(self.path)
        return True

    def _ended(self) -> tuple[str | None, str]:
        """How the run that is there has ended, and what of it is damaged."""
        assert self.path is not None
        try:
            result = read_ended(self.path, (ARCH, WEIGHTS))
        except RunError as e:
            return None, str(e)
        return (None if result is None else result["status"]), ""

    def _differences(self, config: Mapping[str, Any]) -> str:
        """In which entries the configuration of the run that is there differs, in words; empty if in none."""
        self._config = self._config_before()
        return differences(self._config, plain(config))

    def _config_before(self) -> dict[str, Any]:
        """The configuration of the run that is there: its checkpoint's, with which the file is made to agree."""
        assert self.path is not None
        found, why = None, f"{self.path / CONFIG}: is not as the checkpoint has it."
        try:
            found = read_object(self.path, CONFIG, schema.check_config)
        except RunError as e:
            why = str(e)
        saved = self._saved_run().get("config")
        if saved is None:
            if found is None:
                raise RunError(f"{self.path} holds a run already, whose configuration cannot be read: {why}")
            return found
        if found != saved and not os.path.lexists(self.path / RESULT):
            warnings.warn(f"{why} It is written again from the checkpoint.", RuntimeWarning, stacklevel=6)
            self._write_json(CONFIG, saved)
        return saved

    @property
    def _saved(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return self.checkpoints is not None and checkpoints.newest(self.checkpoints) is not None

    @property
    def _name(self) -> str:
        """What a checkpoint calls this run."""
        assert self.path is not None
        assert self.checkpoints is not None
        return os.path.relpath(self.path, self.checkpoints.parent)

    def _saved_run(self) -> dict[str, Any]:
        """Configuration and history as the last whole checkpoint has them; empty if there is none, or an older one."""
        return {} if self.checkpoints is None else checkpoints.read_runs(self.checkpoints).get(self._name, {})

    def save(self, position: Position, state: Any, *, keep: int = 2, beside: Sequence[RunDirectory] = ()) -> None:
        """Writes a checkpoint, with configuration and history of this run.

        Args:
          position, state, keep: see `jaxnas.runs.checkpoints.save`.
          beside: the directories of other runs whose state it is too.

        Raises:
          RunError: if it cannot be written. Those that are there stay.
        """
        if self.checkpoints is not None:
            runs = {each._name: each._now(position.epoch) for each in (self, *beside)}
            checkpoints.save(self.checkpoints, position, state, keep=keep, runs=runs)

    def _now(self, epochs: int) -> dict[str, Any]:
        """What a checkpoint holds of this run; of one that is not open, since it has ended, what the last one held."""
        return {"config": self._config, "history": self._history[:epochs]} if self._config else self._saved_run()

    def restore(self, state: State) -> tuple[State, Position]:
        """The state that was saved last, and where in the run it is; `(state, the beginning)` if none was.

        Raises:
          RunError: if all checkpoints are damaged, or are of another model.
        """
        found = None if self.checkpoints is None else checkpoints.restore(self.checkpoints, state)
        return (state, Position()) if found is None else (found[1], found[0])

    def rewind(self, epochs: int) -> list[dict[str, Any]]:
        """The records of the first `epochs` epochs; later ones, which were logged but not saved, are removed.

        They are the checkpoint's, with which the file is made to agree: with a warning where it is damaged.

        Raises:
          RunError: if the checkpoint is of an earlier version, without them, and the history is damaged.
        """
        if self.path is None:
            return []
        saved = self._saved_run().get("history")
        if saved is None:
            saved = read_history(self.path)
        if len(saved) < epochs:
            raise RunError(
                f"{self.path}: its checkpoint is of epoch {epochs}, its history has {len(saved)} epochs. Remove the "
                "whole run to begin again."
            )
        self._history = saved[:epochs]
        if not self._read_lines().startswith(self._lines()):
            warnings.warn(
                f"{self.path / HISTORY}: is not as the checkpoint has it. It is written again from the checkpoint.",
                RuntimeWarning,
                stacklevel=3,
            )
        self._write_history()
        return [with_decisions(record) for record in self._history]

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends an epoch to the history. Raises RunError if it cannot be written."""
        if self.path is not None:
            logged = plain(record)
            try:
                files.append_line(self.path / HISTORY, json.dumps(logged))
            except OSError as e:
                why = f"cannot be written: {e.strerror}. The same call continues from the last checkpoint."
                raise RunError(f"{self.path}: history.jsonl {why}") from None
            self._history.append(logged)

    def finish(self, result: Mapping[str, Any], variables: Any, *, keep_checkpoints: bool = False) -> None:
        """Writes how the run ended, and its weights; then checkpoints go.

        Raises:
          RunError: if they cannot be written. The checkpoints stay.
        """
        if self.path is not None:
            self._write_history()
            if self._config and plain(self._config) != read_or_none(self.path):
                self._write_json(CONFIG, self._config)
            arrays = jax.tree.map(np.asarray, jax.device_get(dict(variables)))
            data = serialization.msgpack_serialize(arrays)
            self._write(WEIGHTS, files.write_bytes, data)
            self._write_json(RESULT, with_checksums(self.path, plain(result), {WEIGHTS: data}))
            read_ended(self.path, (ARCH, WEIGHTS))
            if not keep_checkpoints:
                self.remove_checkpoints()

    def remove_checkpoints(self) -> None:
        """Removes all checkpoints: what has ended needs none."""
        if self.checkpoints is not None:
            checkpoints.remove(self.checkpoints)

    def _lines(self) -> bytes:
        return "".join(json.dumps(record) + "\n" for record in self._history).encode()

    def _read_lines(self) -> bytes:
        assert self.path is not None
        try:
            return (self.path / HISTORY).read_bytes()
        except OSError:
            return b""

    def _write_history(self) -> None:
        """Makes the file agree with the history, if it does not."""
        assert self.path is not None
        if self._read_lines() != self._lines():
            self._write(HISTORY, files.write_bytes, self._lines())

    def _write_json(self, name: str, value: Any) -> None:
        self._write(name, files.write_text, json.dumps(plain(value), indent=2))

    def _write(self, name: str, write: Callable[[Path, Any], None], content: Any) -> None:
        assert self.path is not None
        try:
            write(self.path / name, content)
        except OSError as e:
            raise RunError(f"{self.path}: {name} cannot be written: {e.strerror}.") from None
