"""What an algorithm is, a small tuple of pure functions, and what a method is: an algorithm without its model yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
from flax import struct

from jaxnas.model.space import Space
from jaxnas.programs.metrics import Metrics
from jaxnas.runs.loop import Phase, Review

if TYPE_CHECKING:
    from jaxnas.oneshot.engine.plan import Plan


class Algorithm(NamedTuple):
    """A search algorithm as pure functions.

    Attributes:
      init: `(rng, sample_batch) -> state`, with `sample_batch = (x, y)`; only their shapes matter.
      step: `(state, train_batch, valid_batch) -> (state, metrics)`; pure, for jit, scan, vmap and shard_map. With
        `valid_batch=None` the architecture stays as it is (warm-up).
      derive: `(state) -> fixed arch {key: int | str | tuple}`; not traceable.
      watched: the metrics of a step that must stay finite: losses, rewards, norms of gradients.
      logits: `(state) -> {key: float [n]}`, the parameters of the architecture; None where there are none.
      mixture: `(logits) -> {key: float [n]}`, the weights that logits stand for; None where there are none.
      one_path: whether a step computes one candidate of each choice only.
      divides: whether a step divides its validation batch into parts, and spreads each of these over the devices
        (`jaxnas.ops.meshes.spread`); otherwise batches come to it spread.
    """

    init: Callable[[jax.Array, Any], Any]
    step: Callable[[Any, Any, Any], tuple[Any, dict[str, jax.Array]]]
    derive: Callable[[Any], dict[str, Any]]
    watched: tuple[str, ...] = ("train_loss",)
    logits: Callable[[Any], dict[str, jax.Array]] | None = None
    mixture: Callable[[Any], dict[str, jax.Array]] | None = None
    one_path: bool = False
    divides: bool = False


@struct.dataclass
class SearchState:
    """What the state of every one-shot search has: a pytree, to which algorithms add their own fields.

    Attributes:
      params: the supernet's weights, as the model has them.
      model_state: its other collections (such as `batch_stats`), `{}` if none.
      weight_opt_state: optax state of the weights.
      rng: key `[]`, from which each step's key is made.
      step: int32 `[]`, steps done.
    """

    params: Any
    model_state: Any
    weight_opt_state: optax.OptState
    rng: jax.Array
    step: jax.Array

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": …, **model_state}`, as `model.apply` takes them."""
        return {"params": self.params, **self.model_state}


class Score(Protocol):
    """Scores an architecture with the supernet's weights, on held-out data."""

    def __call__(
        self, arch: Any, *, examples: np.ndarray | None = None, recalibrate: bool = False, variables: Any = None
    ) -> dict[str, float]:
        """Gives `{"loss": float, metric: float}`.

        Args:
          arch: weights or decisions.
          examples: int `[n]`, the training examples to score on. Default: all of the architecture's.
          recalibrate: recompute the batch statistics of this architecture first.
          variables: other variables than the state's.
        """


@dataclasses.dataclass(frozen=True)
class View:
    """A search after an epoch, as a derivation sees it.

    Attributes:
      plan: the search: model, data, space, schedule.
      algorithm: its algorithm.
      state: the algorithm's state.
      epoch: the epoch that has ended, from 0.
      last: whether the search ends with it.
      rng: a key.
      score: None where the epoch is not validated.
    """

    plan: Plan
    algorithm: Algorithm
    state: Any
    epoch: int
    last: bool
    rng: jax.Array
    score: Score | None

    @property
    def space(self) -> Space:
        """The space searched."""
        return self.plan.space


Derivation = Callable[[View], Review]
"""How a search decides: called after every epoch, it gives the architecture that would be derived now."""


class Procedure(NamedTuple):
    """A method that has met its model.

    Attributes:
      algorithm: its pure functions.
      phases: `(epoch) -> ` what the epoch consists of.
      derive: the derivation.
      settings: what `config.json` says of it beside the method's settings.
      metrics: what validation measures; None for the plan's.
      about: what to say of it when the search begins, if anything.
    """

    algorithm: Algorithm
    phases: Callable[[int], Sequence[Phase]]
    derive: Derivation
    settings: Mapping[str, Any] = {}
    metrics: Metrics | None = None
    about: str | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """An algorithm that has not met its model yet: what `jaxnas.darts.method(…)` gives, for `jaxnas.search`.

    Attributes:
      name: as it stands in `config.json`.
      build: `(plan) -> Procedure`.
      settings: its own settings, JSON-able, for `config.json`.
      defaults: its defaults of `SearchOptions`.
      stages: the searches that it consists of, the last of which decides and has this `build`; `()` for one.
    """

    name: str
    build: Callable[[Plan], Procedure]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"Method({self.name!r}{', ' if settings else ''}{settings})"


Keep = Callable[[Space], Callable[[Mapping[str, Any]], dict[str, tuple]]]
"""(space) -> (probabilities) -> key of a choice and what is left of it, as `jaxnas.restrict` takes it."""


class Before(NamedTuple):
    """What a stage may begin from: the stage before it.

    Attributes:
      model_fn: its model, as the stage changed it, but restricted to what is left now.
      variables: of its supernet, for the candidates that are left.
      logits: `{key: float [n]}`, of the candidates that are left.
    """

    model_fn: Any
    variables: dict[str, Any]
    logits: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One of the searches of `jaxnas.staged`.

    Attributes:
      method: a method that learns logits by gradients, without stages itself.
      keep: what of the choices goes on to the next stage, by the probabilities at the end of this one, such as
        `parts.strongest(5)`: `(space) -> (probabilities) -> {key: candidates}`. None in the last stage only.
      model: `(module) -> module`, the model of this stage: deeper, or with more channels, its choices the same. It is
        restricted then. None leaves it as it is.
      begin: `(state, before, rng) -> state`, from the stage's first state and a `Before`: what is carried over.
        None begins anew. Not in the first stage.
      options: options of this stage's search (`epochs`, …), which go before the method's own.
    """

    method: Method
    keep: Keep | None = None
    model: Callable[[Any], Any] | None = None
    begin: Callable[[Any, Before, jax.Array], Any] | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
