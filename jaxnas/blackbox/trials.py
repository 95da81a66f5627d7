"""Black-box searches whose evaluator is any Python function, such as one that trains a model."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.blackbox.base import SampledArch, Searcher
from jaxnas.checks import check_at_least, check_seed
from jaxnas.errors import ArchitectureError, RunError
from jaxnas.model.space import Space

FixedArch = dict[str, int | str | tuple]


class Trial(NamedTuple):
    """One architecture evaluated: by an evaluator, or by a one-shot search with the supernet's weights.

    Attributes:
      arch: its decisions.
      score: what it was ranked by, larger is better; NaN if the evaluation failed.
      error: why it failed, or None.
      seconds: time of the evaluation; 0 where none is kept (one-shot searches).
      metrics: what else was measured (one-shot searches: loss and metrics).
    """

    arch: FixedArch
    score: float
    error: str | None = None
    seconds: float = 0.0
    metrics: Mapping[str, float] = {}


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
        Raise `trials` to go on from a finished one.
      patience: times in a row that nothing new may be asked for before the search counts as exhausted.
      progress: True prints a line per trial; a function is called with each new trial.

    Returns:
      A `Trials`; at most as many as the space has.

    Raises:
      ArchitectureError: if the filter lets nothing through.
      RunError: if the history is damaged, or of another search.
      ValueError: for options out of range.
    """
    check_at_least(1, trials=trials, patience=patience)
    check_seed(seed)
    space = searcher.space
    if not space:
        raise ArchitectureError("the space is empty: there is nothing to search.")
    record = History(history, {"searcher": name, "settings": settings, "seed": seed, "space": _description(space)})
    ask, tell, skip = jax.jit(searcher.ask), jax.jit(searcher.tell), jax.jit(searcher.skip)
    init_rng, rng = jax.random.split(jax.random.key(seed))
    state = jax.jit(searcher.init)(init_rng)

    done: list[Trial] = []
    known: dict[tuple, Trial] = {}
    refused: set[tuple] = set()
    asked = idle = 0
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
        score = float(value)
        if not math.isfinite(score):
            score, error = math.nan, f"the evaluator gave {value!r}; expected a finite number."
    except Exception as e:  # whatever it is, the other trials are worth keeping
        error = f"{type(e).__name__}: {e}"
    return Trial(arch, score, error, time.perf_counter() - start)


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

    The first line says of which search it is.
    """

    def __init__(self, path: str | os.PathLike | None, search: dict[str, Any]):
        self.path = None if path is None else Path(path)
        self.recorded: list[Trial] = []
        self.position = 0
        if self.path is None:
            return
        first = json.dumps(search)
        if self.path.exists() and self.path.stat().st_size:
            self._read(json.loads(first))
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(first + "\n", encoding="utf-8")

    def _read(self, search: dict[str, Any]) -> None:
        assert self.path is not None
        lines = self.path.read_bytes().split(b"\n")
        whole, cut = lines[:-1], lines[-1]  # a line that a kill has cut off has no end
        for number, line in enumerate(whole, 1):
            try:
                values = json.loads(line)
                if number == 1:
                    _check_search(self.path, values, search)
                    continue
                arch = {k: tuple(v) if isinstance(v, list) else v for k, v in values["arch"].items()}
                score = math.nan if values["score"] is None else float(values["score"])
                self.recorded.append(Trial(arch, score, values["error"], float(values["seconds"])))
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                if isinstance(e, RunError):
                    raise
                raise RunError(f"{self.path}, line {number}: not the record of a trial ({e}).") from None
        if not whole:
            raise RunError(f"{self.path}: not a history of trials.")
        if cut:
            with open(self.path, "rb+") as file:
                file.truncate(self.path.stat().st_size - len(cut))

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
                f"{self.path}: its trial {self.position} is {trial.arch}, but this search comes to {arch}: another "
                "filter, or another version. Continue with what it was begun with, or choose another file."
            )
        return trial

    def write(self, trial: Trial) -> None:
        """Appends a trial, unless it was recorded already."""
        self.position += 1
        if self.path is None or self.position <= len(self.recorded):
            return
        score = None if math.isnan(trial.score) else trial.score
        with open(self.path, "a", encoding="utf-8") as file:
            line = {"arch": trial.arch, "score": score, "error": trial.error, "seconds": trial.seconds}
            file.write(json.dumps(line) + "\n")


def _check_search(path: Path, found: Any, expected: dict[str, Any]) -> None:
    if not isinstance(found, dict) or "searcher" not in found:
        raise RunError(f"{path}: not a history of trials.")
    for key, value in expected.items():
        if found.get(key) != value:
            shown = "the space differs" if key == "space" else f"{key} was {found.get(key)!r}, not {value!r}"
            raise RunError(f"{path}: is of another search: {shown}. Choose another file, or remove this one.")
