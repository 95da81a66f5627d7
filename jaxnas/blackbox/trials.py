"""Black-box searches whose evaluator is any Python function, such as one that trains a model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np

from jaxnas.blackbox.base import SampledArch, Searcher
from jaxnas.blackbox.evaluator import Trial, check_evaluator, run_trial
from jaxnas.blackbox.options import TRIAL_DEFAULTS, FixedArch, TrialOptions
from jaxnas.blackbox.progress import progress_of
from jaxnas.checks import check_at_least, check_seed
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.files import append_line, write_text
from jaxnas.model.serialization import parse_json
from jaxnas.model.space import Space
from jaxnas.runs.locking import Lock
from jaxnas.runs.progress import short_arch
from jaxnas.runs.schema import check_trial
from jaxnas.signatures import check_known, documented

_ADVICE = "{} of them are failures that the history records; retry_failures=True evaluates those again"


@dataclasses.dataclass(frozen=True, repr=False)
class Trials:
    """What a black-box search found.

    Attributes:
      trials: all trials in order, including failed ones; no architecture twice.
      exhausted: whether the search ended early because no new architecture was proposed.
      space: the space searched.
      state: the searcher's state at the end.
      recorded: how many of the trials were taken from the history.
    """

    trials: list[Trial]
    exhausted: bool
    space: Space
    state: Any
    recorded: int = 0

    def __repr__(self) -> str:
        failed = sum(trial.error is not None for trial in self.trials)
        best = (
            f"best {self.best.score:.6g} of {short_arch(self.best.arch)}" if failed < len(self.trials) else "no score"
        )
        counted = f"{len(self.trials)} trials" + (f" ({failed} failed)" if failed else "")
        return f"Trials({counted}, {best}{', exhausted' if self.exhausted else ''})"

    def top(self, k: int) -> list[Trial]:
        """The k best trials, best first (fewer if fewer succeeded; the earlier of equals first)."""
        check_at_least(1, k=k)
        good = [trial for trial in self.trials if trial.error is None]
        return sorted(good, key=lambda trial: -trial.score)[:k]

    @property
    def best(self) -> Trial:
        """The best trial.

        Raises:
          ValueError: if all failed; the message has the first error, and says if it comes from the history.
        """
        found = self.top(1)
        if not found:
            where = f" ({_ADVICE.format(self.recorded)})" if self.recorded else ""
            raise ValueError(f"all {len(self.trials)} trials failed; the first: {self.trials[0].error}{where}")
        return found[0]

    @property
    def arch(self) -> FixedArch:
        """The best architecture, for `jaxnas.export`. Raises ValueError if all trials failed."""
        return self.best.arch


@documented(TrialOptions, defaults=TRIAL_DEFAULTS)
def run(
    searcher: Searcher,
    evaluate: Callable[..., float],
    *,
    name: str,
    settings: Mapping[str, Any],
    limit: int | None = None,
    **options: Unpack[TrialOptions],
) -> Trials:
    """Runs a searcher with a Python evaluator.

    An architecture is evaluated once: proposed again, it keeps its score and costs no trial. An evaluator that raises,
    or returns anything but a finite number, has failed: the trial is recorded with a message, the searcher ranks it
    worst, and the search continues. (Interrupts are not caught.)

    Args:
      searcher: from an `algorithm`.
      evaluate: `({key: int | str | tuple}) -> float`, larger is better.
      name, settings: of the searcher; written to the history.
      limit: how many different architectures may be proposed; default: the complete space.

    Returns:
      A `Trials`, with at most as many as the space has architectures.

    Raises:
      ArchitectureError: if the filter lets nothing through.
      RunError: if the history is damaged, belongs to another search, is in use by another process, or cannot be
        written.
      TypeError: if the evaluator is not a function of an architecture.
      ValueError: for options out of range.
    """
    given = _checked(evaluate, options)
    trials, keep, space = given["trials"], given["filter"], searcher.space
    if not space:
        raise ArchitectureError("the space is empty: there is nothing to search.")
    evaluations = {"evaluations": given["evaluations"]}
    settings = {**settings, **(evaluations if given["evaluations"] > 1 else {})}
    about = {"searcher": name, "settings": settings, "seed": given["seed"], "space": _description(space)}
    progress = progress_of(given["progress"], trials)
    ask, tell, skip = jax.jit(searcher.ask), jax.jit(searcher.tell), jax.jit(searcher.skip)
    init_rng, rng = jax.random.split(jax.random.key(given["seed"]))
    state = jax.jit(searcher.init)(init_rng)

    done: list[Trial] = []
    known: dict[tuple, Trial] = {}
    refused: set[tuple] = set()
    asked = idle = taken = 0
    limit = space.size if limit is None else limit
    with History(given["history"], about) as record, contextlib.closing(progress):
        for line in record.continuing(given["retry_failures"]):
            progress.say(line)
        while len(done) < trials and len(known) + len(refused) < limit and idle < given["patience"]:
            sampled = ask(state, jax.random.fold_in(rng, asked))
            asked += 1
            arch = _fixed(space, sampled)
            key = tuple(arch.values())
            if key not in known and (key in refused or not (keep is None or keep(dict(arch)))):
                refused.add(key)
                state, idle = skip(state, sampled), idle + 1
                continue
            idle += 1
            if key not in known:
                found = record.next(arch)
                trial = found or run_trial(evaluate, arch, retries=given["retries"], **evaluations)
                record.write(trial)
                known[key], idle, taken = trial, 0, taken + (found is not None)
                done.append(trial)
                (progress.known if found else progress.told)(trial, len(done))
            state = tell(state, sampled, np.float32(known[key].score))
    if not done:
        raise ArchitectureError(
            f"the filter leaves nothing: it refused all {len(refused)} different architectures among {asked} asked for "
            f"({space!r})."
        )
    return Trials(done, len(done) < trials, space, state, taken)


def _checked(evaluate: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options, checked, and the evaluator with them."""
    check_known(options, TRIAL_DEFAULTS, "a black-box search")
    given = {**TRIAL_DEFAULTS, **options}
    check_at_least(1, trials=given["trials"], patience=given["patience"], evaluations=given["evaluations"])
    check_at_least(0, retries=given["retries"])
    check_seed(given["seed"])
    check_evaluator(evaluate)
    if given["filter"] is not None and not callable(given["filter"]):
        raise TypeError(f"filter is {given['filter']!r:.80}; expected a function (arch) -> bool, or None.")
    return given


def _fixed(space: Space, sampled: SampledArch) -> FixedArch:
    return space.fixed(jax.device_get(sampled))


def _description(space: Space) -> dict[str, Any]:
    return {key: dataclasses.asdict(spec) for key, spec in space.items()}


class History:
    """The file of trials: recorded trials are replayed in order, new ones are appended.

    The first line says which search it belongs to; every other line is a trial, with a checksum. While it is entered no
    other process can enter it. A line with `"spare": true` has a score that is used if the search reaches its
    architecture: such lines remain when earlier failures are evaluated again.

    Raises:
      RunError: on entering, if another process uses the file, or it is damaged, belongs to another search, or cannot be
        written.
    """

    def __init__(self, path: str | os.PathLike | None, search: dict[str, Any]):
        self.path = None if path is None else _absolute(path)
        self.recorded: list[Trial] = []
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
            lines.append(f"the first: {failed[0].error}  ({_ADVICE.format(len(failed))})")
        return lines

    def _take_out_failures(self) -> None:
        """Keeps the trials up to the first failure, and the scores after it as spare ones."""
        assert self.path is not None
        first = next(i for i, trial in enumerate(self.recorded) if trial.error is not None)
        for trial in self.recorded[first:]:
            if trial.error is None:
                self.spare.setdefault(tuple(trial.arch.values()), trial)
        self.recorded = self.recorded[:first]
        lines = [json.dumps(self.search), *map(_line, self.recorded)]
        lines += [_line(trial, spare=True) for trial in self.spare.values()]
        try:
            write_text(self.path, "".join(f"{line}\n" for line in lines))
        except OSError as e:
            raise RunError(f"{self.path}: cannot be written: {e.strerror}.") from None

    def next(self, arch: FixedArch) -> Trial | None:
        """The next recorded trial, or a spare one of this architecture, or None.

        Raises:
          RunError: if the next one is of another architecture.
        """
        if self.position >= len(self.recorded):
            return self.spare.get(tuple(arch.values()))
        trial = self.recorded[self.position]
        if trial.arch != arch:
            raise RunError(
                f"{self.path}: its trial {self.position} is {trial.arch!r:.500}, but this search comes to "
                f"{arch!r:.500}: another filter, or another version. Continue with what it was begun with, or choose "
                "another file."
            )
        return trial

    def write(self, trial: Trial) -> None:
        """Appends a trial, unless it is already recorded."""
        self.position += 1
        if self.path is None or self.position <= len(self.recorded):
            return
        try:
            append_line(self.path, _line(trial))
        except OSError as e:
            raise RunError(
                f"{self.path}: the trial cannot be written: {e.strerror}. The same call continues after those that are."
            ) from None


def _line(trial: Trial, **more: Any) -> str:
    """The record of a trial."""
    score = None if math.isnan(trial.score) else trial.score
    values = {"arch": trial.arch, "score": score, "error": trial.error, "seconds": trial.seconds}
    line = json.loads(json.dumps(values | ({"metrics": trial.metrics} if trial.metrics else {}) | more))
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
