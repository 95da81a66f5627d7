"""The file of a black-box search's trials: what a search continues from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxnas.blackbox.evaluator import Trial
from jaxnas.blackbox.options import FixedArch
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.files import append_line, write_text
from jaxnas.model.serialization import parse_json
from jaxnas.runs.locking import Lock
from jaxnas.runs.schema import check_trial

ADVICE = "{} of them are failures that the history records; retry_failures=True evaluates those again"


class History:
    """The file of trials: recorded trials are replayed in order, new ones are appended.

    The first line says which search it belongs to; every other line is a trial, with a checksum, in the order in which
    they ended, with how many were under way (`workers`, if several): so a search is led to the same proposals. While it
    is entered no other process can enter it. A line with `"spare": true` has a score that is used if the search reaches
    its architecture: such lines remain when earlier failures are evaluated again.

    Raises:
      RunError: on entering, if another process uses the file, or it is damaged, belongs to another search, or cannot be
        written.
    """

    def __init__(self, path: str | os.PathLike | None, search: dict[str, Any]):
        self.path = None if path is None else _absolute(path)
        self.recorded: list[Trial] = []
        self.widths: list[int] = []
        self.spare: dict[tuple, Trial] = {}
        self.position = 0
        self.search = search
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> History:
        if self.path is None:
            return self
        with contextlib.ExitStack() as stack:
            stack.enter_context(Lock(self.path.with_name(f"{self.path.name}.lock"), guarded=self.path))
            first = json.dumps(self.search)
            try:
                if self.path.exists() and self.path.stat().st_size:
                    self._read(json.loads(first))
                else:
                    write_text(self.path, first + "\n")
            except OSError as e:
                raise RunError(f"{self.path}: cannot be read and written: {e.strerror}.") from None
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def _read(self, search: dict[str, Any]) -> None:
        assert self.path is not None
        whole, _, cut = self.path.read_bytes().rpartition(b"\n")  # a line that a kill has cut off has no end
        unsure = False
        for number, line in enumerate(whole.split(b"\n"), 1):
            where = f"{self.path}, line {number}"
            try:
                values = parse_json(line, source=where)
            except ArchitectureError as e:
                raise RunError(f"{e} That is no history of trials, or a damaged one.") from None
            if number == 1:
                _check_search(self.path, values, search)
                continue
            trial = check_trial(values, where)
            unsure |= "checksum" not in trial
            if trial.pop("checksum", None) not in (None, _checksum(trial)):
                raise RunError(f"{where}: is damaged: it is not as it was written.")
            self._take(trial)
        if unsure:
            warnings.warn(
                f"{self.path}: an earlier version wrote trials without checksums: they cannot be verified.",
                RuntimeWarning,
                stacklevel=4,
            )
        if cut:
            os.truncate(self.path, self.path.stat().st_size - len(cut))

    def _take(self, values: dict[str, Any]) -> None:
        arch = {k: tuple(v) if isinstance(v, list) else v for k, v in values["arch"].items()}
        score = math.nan if values["score"] is None else float(values["score"])
        trial = Trial(arch, score, values["error"], float(values["seconds"]), values.get("metrics", {}))
        if values.get("spare"):
            self.spare[tuple(arch.values())] = trial
        else:
            self.recorded.append(trial)
            self.widths.append(values.get("workers", 1))

    def continuing(self, retry_failures: bool) -> list[str]:
        """What to report about recorded trials. With `retry_failures` the failed ones are taken out."""
        failed = [trial for trial in self.recorded if trial.error is not None]
        if not self.recorded:
            return []
        lines = [f"{len(self.recorded)} trials are taken from {self.path}"]
        if failed and retry_failures:
            lines = [f"{self.path} has {len(self.recorded)} trials; {len(failed)} that failed are evaluated again"]
            self._take_out_failures()
        elif failed:
            lines.append(f"the first: {failed[0].error}  ({ADVICE.format(len(failed))})")
        return lines

    def _take_out_failures(self) -> None:
        """Keeps the trials up to the first failure, and the scores after it as spare ones."""
        assert self.path is not None
        first = next(i for i, trial in enumerate(self.recorded) if trial.error is not None)
        for trial in self.recorded[first:]:
            if trial.error is None:
                self.spare.setdefault(tuple(trial.arch.values()), trial)
        self.recorded, self.widths = self.recorded[:first], self.widths[:first]
        lines = [json.dumps(self.search), *map(_line, self.recorded, self.widths)]
        lines += [_line(trial, spare=True) for trial in self.spare.values()]
        try:
            write_text(self.path, "".join(f"{line}\n" for line in lines))
        except OSError as e:
            raise RunError(f"{self.path}: cannot be written: {e.strerror}.") from None

    def width(self, workers: int) -> int:
        """How many trials were under way when the next recorded one ended; `workers` after the last."""
        return self.widths[self.position] if self.position < len(self.recorded) else workers

    def next(self, pending: Iterable[FixedArch]) -> Trial | None:
        """The next recorded trial, or a spare one of the first of these architectures that has one, or None.

        Raises:
          RunError: if the next one is of another architecture than these.
        """
        if self.position >= len(self.recorded):
            keys = (tuple(arch.values()) for arch in pending)
            return next((self.spare[key] for key in keys if key in self.spare), None) if self.spare else None
        trial = self.recorded[self.position]
        waiting = list(pending)
        if trial.arch not in waiting:
            raise RunError(
                f"{self.path}: its trial {self.position} is {trial.arch!r:.500}, but this search comes to "
                f"{waiting[0]!r:.500}: another filter, or another version. Continue with what it was begun with, or "
                "choose another file."
            )
        return trial

    def write(self, trial: Trial, width: int) -> None:
        """Appends a trial, unless it is already recorded; `width` as in the method of that name."""
        self.position += 1
        if self.path is None or self.position <= len(self.recorded):
            return
        try:
            append_line(self.path, _line(trial, width))
        except OSError as e:
            raise RunError(
                f"{self.path}: the trial cannot be written: {e.strerror}. The same call continues after those that are."
            ) from None


def _line(trial: Trial, width: int = 1, **more: Any) -> str:
    """The record of a trial."""
    score = None if math.isnan(trial.score) else trial.score
    values: dict[str, Any] = {"arch": trial.arch, "score": score, "error": trial.error, "seconds": trial.seconds}
    values |= {"metrics": trial.metrics} if trial.metrics else {}
    values |= {"workers": width} if width > 1 else {}
    line = json.loads(json.dumps(values | more))
    return json.dumps({**line, "checksum": _checksum(line)})


def _absolute(path: str | os.PathLike) -> Path:
    name = os.fspath(path)
    if not name or "\0" in name:
        raise RunError(f"history must be the name of a file; got {name!r}.")
    return Path(os.path.abspath(name))


def _checksum(trial: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(trial, sort_keys=True).encode()).hexdigest()[:16]


def _check_search(path: Path, found: Any, expected: dict[str, Any]) -> None:
    if not isinstance(found, dict) or "searcher" not in found:
        raise RunError(f"{path}: not a history of trials.")
    for key, value in expected.items():
        if found.get(key) != value:
            shown = "the space differs" if key == "space" else f"{key} was {found.get(key)!r:.300}, not {value!r:.300}"
            raise RunError(f"{path}: is of another search: {shown}. Choose another file, or remove this one.")
