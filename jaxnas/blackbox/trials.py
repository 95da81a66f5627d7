"""Black-box searches whose evaluator is any Python function, such as one that trains a model."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.blackbox.base import SampledArch, Searcher
from jaxnas.checks import check_at_least, check_seed
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.files import append_line, write_text
from jaxnas.model.serialization import parse_json
from jaxnas.model.space import Space
from jaxnas.runs.locking import Lock
from jaxnas.runs.schema import LARGEST, check_trial

FixedArch = dict[str, int | str | tuple]


class Trial(NamedTuple):
    """One architecture evaluated.

    Attributes:
      arch: its decisions.
      score: what the evaluator gave, larger is better; NaN if it failed.
      error: why it failed, or None.
      seconds: time of the evaluation.
    """

    arch: FixedArch
    score: float
    error: str | None
    seconds: float


@dataclasses.dataclass(frozen=True)
class Trials:
    """What a black-box search found.

    Attributes:
      trials: all trials in order, failed ones too; no architecture twice.
      exhausted: whether the search ended before its number of trials because no new architecture turned up.
      space: the space searched.
      state: the searcher's state at the end.
    """

    trials: list[Trial]
    exhausted: bool
    space: Space
    state: Any

    def top(self, k: int) -> list[Trial]:
        """The k best trials, best first (fewer if fewer succeeded; the earlier of equals first)."""
        check_at_least(1, k=k)
        good = [trial for trial in self.trials if trial.error is None]
        return sorted(good, key=lambda trial: -trial.score)[:k]

    @property
    def best(self) -> Trial:
        """The best trial.

        Raises:
          ValueError: if all failed; gives the first one's message.
        """
        found = self.top(1)
        if not found:
            raise ValueError(f"all {len(self.trials)} trials failed; the first: {self.trials[0].error}")
        return found[0]

    @property
    def arch(self) -> FixedArch:
        """The best architecture, for `jaxnas.export`. Raises ValueError if all trials failed."""
        return self.best.arch


def run(
    searcher: Searcher,
    evaluate: Callable[[FixedArch], float],
    *,
    name: str,
    settings: dict[str, Any],
    trials: int = 100,
    seed: int = 0,
    filter: Callable[[FixedArch], bool] | None = None,
    history: str | os.PathLike | None = None,
    patience: int = 1000,
    progress: bool | Callable[[Trial], None] = False,
) -> Trials:
    """Runs a searcher with a Python evaluator.

    An architecture is evaluated once: asked for again, it keeps its score and costs no trial. An evaluator that raises,
    or gives something else than a finite number, has failed: the trial is recorded with a message, the searcher learns
    that it is worst, and the search goes on. (Interrupts are not caught.)

    Args:
      searcher: from an `algorithm`.
      evaluate: `({key: int | str | tuple}) -> float`, larger is better.
      name, settings: of the searcher; written to the history.
      trials: architectures to evaluate, failed ones included.
      seed: of everything random.
      filter: `(arch) -> bool`; those it is false of are not evaluated (a bound on `jaxnas.cost`, for instance). A
        mutation or sample is drawn anew; local search takes such a neighbour for a bad one.
      history: a .jsonl file that gets a line per trial as it ends. If it is there already the search is continued: it
        takes the same course without evaluating again what is recorded, so it ends where it would have uninterrupted.
        Raise `trials` to continue a finished one. Beside it lies a `.lock`, held while the search runs.
      patience: times in a row that nothing new may be asked for before the search counts as exhausted.
      progress: True prints a line per trial; a function is called with each new trial.

    Returns:
      A `Trials`; at most as many as the space has.

    Raises:
      ArchitectureError: if the filter lets nothing through.
      RunError: if the history is damaged, of another search, in use by another process, or cannot be written.
      ValueError: for options out of range.
    """
    check_at_least(1, trials=trials, patience=patience)
    check_seed(seed)
    space = searcher.space
    if not space:
        raise ArchitectureError("the space is empty: there is nothing to search.")
    ask, tell, skip = jax.jit(searcher.ask), jax.jit(searcher.tell), jax.jit(searcher.skip)
    init_rng, rng = jax.random.split(jax.random.key(seed))
    state = jax.jit(searcher.init)(init_rng)

    done: list[Trial] = []
    known: dict[tuple, Trial] = {}
    refused: set[tuple] = set()
    asked = idle = 0
    with History(
        history, {"searcher": name, "settings": settings, "seed": seed, "space": _description(space)}
    ) as record:
        while len(done) < trials and len(known) + len(refused) < space.size and idle < patience:
            sampled = ask(state, jax.random.fold_in(rng, asked))
            asked += 1
            arch = _fixed(space, sampled)
            key = tuple(arch.values())
            if key not in known and (key in refused or not (filter is None or filter(dict(arch)))):
                refused.add(key)
                state, idle = skip(state, sampled), idle + 1
                continue
            idle += 1
            if key not in known:
                trial = record.next(arch) or _evaluate(evaluate, arch)
                record.write(trial)
                known[key], idle = trial, 0
                done.append(trial)
                _report(progress, trial, len(done), trials)
            state = tell(state, sampled, np.float32(known[key].score))
    if not done:
        raise ArchitectureError(
            f"the filter leaves nothing: it refused all {len(refused)} different architectures among {asked} asked for "
            f"({space!r})."
        )
    return Trials(done, len(done) < trials, space, state)


def _fixed(space: Space, sampled: SampledArch) -> FixedArch:
    return space.fixed(jax.device_get(sampled))


def _evaluate(evaluate: Callable[[FixedArch], float], arch: FixedArch) -> Trial:
    start = time.perf_counter()
    score, error = math.nan, None
    try:
        value = evaluate(dict(arch))
        score = math.nan if isinstance(value, (str, bytes)) else float(value)
        if not abs(score) <= LARGEST:
            wanted = "number of at most 3.4e38" if math.isfinite(score) else "finite number"
            score, error = math.nan, f"the evaluator gave {_text(repr, value, 'a value')}; expected a {wanted}."
    except Exception as e:  # whatever it is, the other trials are worth keeping
        name = type(e).__name__
        error = _text(lambda e: f"{name}: {e}", e, name)
    return Trial(arch, score, error, time.perf_counter() - start)


def _text(words: Callable[[Any], str], value: Any, otherwise: str, most: int = 2000) -> str:
    """What a user's object says of itself; cut if that is long, something else if it cannot be had."""
    try:
        text = words(value)
    except Exception as e:
        return f"{otherwise} (whose own text raises {type(e).__name__})"
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters)"


def _report(progress: bool | Callable[[Trial], None], trial: Trial, number: int, total: int) -> None:
    if callable(progress):
        progress(trial)
    elif progress:
        outcome = f"score {trial.score:.4f}" if trial.error is None else f"failed: {trial.error}"
        print(f"trial {number}/{total}  {outcome}  ({trial.seconds:.1f} s)", flush=True)


def _description(space: Space) -> dict[str, Any]:
    return {key: dataclasses.asdict(spec) for key, spec in space.items()}


class History:
    """The file of trials: what a former run recorded is given back in order, what is new is appended.

    The first line says of which search it is; each other line is a trial, with a checksum. While it is entered no
    other process can enter it.

    Raises:
      RunError: on entering, if another process works with the file, it is damaged or of another search, or cannot be
        written.
    """

    def __init__(self, path: str | os.PathLike | None, search: dict[str, Any]):
        self.path = None if path is None else _absolute(path)
        self.recorded: list[Trial] = []
        self.position = 0
        self._search = search
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> History:
        if self.path is None:
            return self
        with contextlib.ExitStack() as stack:
            stack.enter_context(Lock(self.path.with_name(f"{self.path.name}.lock"), guarded=self.path))
            first = json.dumps(self._search)
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
            arch = {k: tuple(v) if isinstance(v, list) else v for k, v in trial["arch"].items()}
            score = math.nan if trial["score"] is None else float(trial["score"])
            self.recorded.append(Trial(arch, score, trial["error"], float(trial["seconds"])))
        if unsure:
            warnings.warn(
                f"{self.path}: an earlier version wrote trials without checksums: they cannot be verified.",
                RuntimeWarning,
                stacklevel=4,
            )
        if cut:
            os.truncate(self.path, self.path.stat().st_size - len(cut))

    def next(self, arch: FixedArch) -> Trial | None:
        """The recorded trial that comes next, or None if there are no more.

        Raises:
          RunError: if it is of another architecture.
        """
        if self.position >= len(self.recorded):
            return None
        trial = self.recorded[self.position]
        if trial.arch != arch:
            raise RunError(
                f"{self.path}: its trial {self.position} is {trial.arch!r:.500}, but this search comes to "
                f"{arch!r:.500}: another filter, or another version. Continue with what it was begun with, or choose "
                "another file."
            )
        return trial

    def write(self, trial: Trial) -> None:
        """Appends a trial, unless it was recorded already."""
        self.position += 1
        if self.path is None or self.position <= len(self.recorded):
            return
        score = None if math.isnan(trial.score) else trial.score
        line = json.loads(json.dumps({**trial._asdict(), "score": score}))
        try:
            append_line(self.path, json.dumps({**line, "checksum": _checksum(line)}))
        except OSError as e:
            raise RunError(
                f"{self.path}: the trial cannot be written: {e.strerror}. The same call continues after those that are."
            ) from None


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
