"""The course of a black-box search: which architectures are proposed, while the scores of some are still awaited."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.blackbox.base import SampledArch, Searcher
from jaxnas.blackbox.evaluator import Trial
from jaxnas.blackbox.options import FixedArch

Key = tuple
"""The decisions of an architecture, in the order of the space."""


class Proposal(NamedTuple):
    """An architecture whose score is awaited.

    Attributes:
      arch: its decisions.
      sampled: as the searcher gave it.
    """

    arch: FixedArch
    sampled: SampledArch


class Course:
    """A searcher whose scores are told as they arrive (`Searcher.as_they_come`): asynchronous evolution.

    What is proposed next depends on the order in which earlier trials have finished, and on nothing else, so a history
    in that order leads to the same proposals. With one trial at a time it is the search of `ask` and `tell` in turn.

    Attributes:
      state: the searcher's.
      pending: what is proposed and has no score, in the order of the proposals.
      known: the trials told, by architecture.
      refused: what the filter refused.
      order: all that was proposed.
    """

    def __init__(
        self, searcher: Searcher, *, seed: int, keep: Callable[[FixedArch], bool] | None, limit: int, patience: int
    ):
        self.searcher, self._keep, self._limit, self._patience = searcher, keep, limit, patience
        self._ask, self._tell, self._skip = (jax.jit(f) for f in (searcher.ask, searcher.tell, searcher.skip))
        init_rng, self._rng = jax.random.split(jax.random.key(seed))
        self.state = jax.jit(searcher.init)(init_rng)
        self.pending: dict[Key, Proposal] = {}
        self.known: dict[Key, Trial] = {}
        self.refused: set[Key] = set()
        self.order: list[Key] = []
        self._read: dict[tuple[bytes, ...], FixedArch] = {}
        self.asked = self._idle = 0

    def propose(self) -> bool:
        """Adds the next new architecture to `pending`; False if there is none (for now, while scores are awaited)."""
        while self._room and self._idle < self._patience:
            key, proposal = self._next(self.state, self.asked)
            self.asked += 1
            self._idle += 1
            if self._refuses(key, proposal):
                self.state = self._skip(self.state, proposal.sampled)
            elif key in self.known:
                self.state = self._told(self.state, key, proposal)
            elif key not in self.pending:
                self._await(key, proposal)
                self._idle = 0
                return True
        return False

    def tell(self, key: Key, trial: Trial) -> None:
        """Takes the score of a pending architecture."""
        self.known[key] = trial
        self.state = self._told(self.state, key, self.pending.pop(key))
        self._idle = 0

    @property
    def trials(self) -> list[Trial]:
        """The finished trials in the order of the proposals."""
        return [self.known[key] for key in self.order if key in self.known]

    @property
    def _room(self) -> bool:
        return len(self.known) + len(self.pending) + len(self.refused) < self._limit

    def _next(self, state: Any, number: int) -> tuple[Key, Proposal]:
        sampled = self._ask(state, jax.random.fold_in(self._rng, number))
        values = jax.device_get(sampled)
        same = tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(values))
        arch = self._read.get(same)
        if arch is None:  # what is looked ahead at is met several times
            arch = self._read[same] = self.searcher.space.fixed(values)
        return tuple(arch.values()), Proposal(arch, sampled)

    def _refuses(self, key: Key, proposal: Proposal) -> bool:
        if key in self.known or key in self.pending or self._keep is None:
            return False
        if key not in self.refused and not self._keep(dict(proposal.arch)):
            self.refused.add(key)
        return key in self.refused

    def _told(self, state: Any, key: Key, proposal: Proposal) -> Any:
        """The state that has been told the score; one that is still awaited counts as a failure."""
        score = self.known[key].score if key in self.known else math.nan
        return self._tell(state, proposal.sampled, np.float32(score))

    def _await(self, key: Key, proposal: Proposal) -> None:
        self.pending[key] = proposal
        self.order.append(key)


class OrderedCourse(Course):
    """A searcher whose scores are told in the order of its proposals: all others.

    While scores are awaited, what is proposed is what the searcher would propose if those trials failed. Random and
    grid search do not look at scores, so that is always right: they propose what they do one at a time. Local search
    goes on to further neighbours, and has looked too far ahead when one of those before was better: such trials count,
    and keep their scores should its course come to them.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self._awaited: tuple[Key, Proposal] | None = None  # what `state` is to be told next
        self._passed: set[Key] = set()  # what it has been told
        self._ahead: tuple[Any, int, int] | None = None  # where the proposals have got to: state, asked, idle
        self._beyond: set[Key] = set()  # what lies between

    def propose(self) -> bool:
        """As `Course.propose`."""
        state, asked, idle = self._ahead or self._from_here()
        found = False
        while not found and self._room and idle < self._patience:
            key, proposal = self._next(state, asked)
            asked += 1
            if self._refuses(key, proposal):
                state, idle = self._skip(state, proposal.sampled), idle + 1
            else:
                found = key not in self.known and key not in self.pending
                if found:
                    self._await(key, proposal)
                if self._awaited is None and key in self.pending:
                    self._stand(state, asked, 0, (key, proposal))
                idle = idle + 1 if key in self._passed or key in self._beyond else 0
                (self._passed if self._awaited is None else self._beyond).add(key)
                state = self._told(state, key, proposal)
            if self._awaited is None:
                self._stand(state, asked, idle, None)
        self._ahead = (state, asked, idle)
        return found

    def tell(self, key: Key, trial: Trial) -> None:
        """As `Course.tell`. The searcher is told when the scores before are there."""
        self.known[key] = trial
        del self.pending[key]
        self._ahead = None
        if self._awaited is None:
            self._to_next()
        self._advance()

    def _stand(self, state: Any, asked: int, idle: int, awaited: tuple[Key, Proposal] | None) -> None:
        self.state, self.asked, self._idle, self._awaited = state, asked, idle, awaited

    def _from_here(self) -> tuple[Any, int, int]:
        """Where proposals begin: after what is awaited, which counts as a failure."""
        if self._awaited is None:
            self._beyond = set()
            return self.state, self.asked, self._idle
        key, proposal = self._awaited
        self._beyond = {key}
        return self._told(self.state, key, proposal), self.asked, 0

    def _advance(self) -> None:
        """Tells the searcher all scores that are known, in order, up to the first that is not."""
        while self._awaited is not None and self._awaited[0] in self.known:
            key, proposal = self._awaited
            self._stand(self._told(self.state, key, proposal), self.asked, self._idle, None)
            self._passed.add(key)
            if len(self._passed) == len(self.known):
                return
            self._to_next()

    def _to_next(self) -> None:
        """Goes on to the next architecture that has or awaits a score; stays if a new one comes first."""
        state, asked, idle = self.state, self.asked, self._idle
        while idle < self._patience:
            key, proposal = self._next(state, asked)
            asked += 1
            if key in self.refused:
                state, idle = self._skip(state, proposal.sampled), idle + 1
            elif key in self._passed:
                state, idle = self._told(state, key, proposal), idle + 1
            else:
                if key in self.known or key in self.pending:
                    self._stand(state, asked, 0, (key, proposal))
                return
