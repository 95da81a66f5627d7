"""The methods of the one-shot comparison, their settings in both forms, and what others published."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from jaxnas import enas, spaces
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.registry import METHODS as ALL


class Settings(NamedTuple):
    """What is the same for all methods.

    Attributes:
      channels, cells: of the supernet; cells per stage.
      images: training images, None for all.
      side: of the images, a divisor of 32; smaller ones are averaged down.
      epochs: of every search; None for each method's own.
      faster: the rate of the logits over the authors' rate.
      controller_steps: of ENAS, per epoch.
      sampled: architectures that methods without logits score after each epoch.
      scored: and after the last.
    """

    channels: int
    cells: int
    images: int | None
    side: int
    epochs: int | None
    faster: float
    controller_steps: int
    sampled: int
    scored: int


PAPER = Settings(16, 5, None, 32, None, 1.0, 50, 10, 100)
SMALL = Settings(8, 1, 5_000, 16, 25, 40.0, 10, 4, 100)
"""25 epochs of 39 steps, each 40 times as far: as far as the 39,000 steps of the authors' 100 epochs."""


class Entry(NamedTuple):
    """A method in this comparison.

    Attributes:
      method: `(settings) -> Method`.
      epochs: of its authors' searches on NAS-Bench-201; 100 where there are none.
      rate: the authors' rate of the logits; None where there are no logits.
      published: mean and deviation of the test accuracy on the three data sets, %; an empty tuple where there are none.
      source: of these.
      batch: examples per step, of the weights and of the architecture.
      weights: of the weights' SGD: first and last rate, and weight decay.
      partial: the share of the channels that the candidates see is 1 / partial.
    """

    method: Callable[[Settings], Method]
    epochs: int = 100
    rate: float | None = 3e-4
    published: tuple[tuple[float, float], ...] = ()
    source: str = ""
    batch: int = 64
    weights: tuple[float, float, float] = (0.025, 0.001, 5e-4)
    partial: int = 1


def _plain(name: str, **arguments: Any) -> Callable[[Settings], Method]:
    return lambda settings: ALL[name](**arguments)


def _sampling(name: str) -> Callable[[Settings], Method]:
    return lambda settings: ALL[name](derive_samples=settings.scored, validate_samples=settings.sampled)


def _evolving(name: str) -> Callable[[Settings], Method]:
    return lambda settings: ALL[name](derive_samples=settings.scored, population=min(50, settings.scored))


def _enas(settings: Settings) -> Method:
    return ALL["enas"](
        controller=functools.partial(enas.controller, step_embedding=False),  # the paper's
        controller_optimizer=optax.adam(1e-3, b1=0.0, b2=0.999),
        controller_steps=settings.controller_steps,
        baseline_decay=0.99,
        derive_samples=settings.scored,
        validate_samples=settings.sampled,
    )


_NB201 = "NAS-Bench-201's table (arXiv 2001.00326)"
_UCLA = "run by DrNAS's authors (arXiv 2006.10355)"
_DARTS = ((54.30, 0.0), (15.61, 0.0), (16.32, 0.0))
_BEST = ((94.36, 0.0), (73.51, 0.0), (46.34, 0.0))

METHODS: Mapping[str, Entry] = {
    "darts": Entry(_plain("darts"), 50, published=_DARTS, source=_NB201),
    "darts-2": Entry(_plain("darts", order=2), 50, published=_DARTS, source=_NB201),
    "pc_darts": Entry(
        _plain("pc_darts"), published=((93.41, 0.30), (67.48, 0.89), (41.31, 0.22)), source=_UCLA, partial=4
    ),
    "gdas": Entry(_plain("gdas"), 250, published=((93.61, 0.09), (70.70, 0.30), (41.71, 0.98)), source=_NB201),
    "snas": Entry(
        _plain("snas"),
        published=((92.77, 0.83), (69.34, 1.98), (43.16, 2.64)),
        source=_UCLA,
    ),
    "drnas": Entry(_plain("drnas"), published=_BEST, source="arXiv 2006.10355"),
    "gaea": Entry(
        _plain("gaea", single_level=True),
        25,
        0.1,
        published=((94.10, 0.29), (73.43, 0.13), (46.36, 0.0)),
        source="arXiv 2004.07802, single level, without `none`",
    ),
    "darts_minus": Entry(
        _plain("darts_minus"), published=((93.80, 0.40), (71.53, 1.51), (45.12, 0.82)), source="arXiv 2009.01027"
    ),
    "beta_darts": Entry(_plain("beta_darts"), published=_BEST, source="arXiv 2203.01665"),
    "darts_pt": Entry(
        _plain("darts_pt"), 125, published=((88.11, 0.0),) + 2 * ((float("nan"), 0.0),), source="the authors' reply"
    ),
    "oles": Entry(_plain("oles"), 50),
    "p_darts": Entry(_plain("p_darts"), 25, 6e-4),
    "sdarts": Entry(_plain("sdarts")),
    "fair_darts": Entry(_plain("fair_darts")),
    "fbnet": Entry(_plain("fbnet")),
    "proxyless": Entry(_plain("proxyless")),
    "setn": Entry(_plain("setn"), 250, published=((87.64, 0.0), (59.05, 0.24), (32.52, 0.21)), source=_NB201),
    "enas": Entry(
        _enas,
        250,
        None,
        published=((53.89, 0.58), (13.96, 2.33), (14.84, 2.10)),
        source=_NB201,
        batch=128,
        weights=(0.05, 0.0005, 2.5e-4),
    ),
    "rsps": Entry(_sampling("rsps"), 250, None, published=((84.07, 3.61), (52.31, 5.77), (26.28, 3.09)), source=_NB201),
    "spos": Entry(_evolving("spos"), 250, None),
    "fairnas": Entry(
        _evolving("fairnas"),
        250,
        None,
        published=((93.23, 0.18), (71.00, 1.46), (42.19, 0.31)),
        source="run by RMI-NAS's authors",
    ),
}


def supernet(settings: Settings, entry: Entry = METHODS["darts"]) -> Any:
    """The space's model, normalised as in the authors' searches."""
    partial = {} if entry.partial == 1 else {"partial": entry.partial}
    return spaces.nasbench201(channels=settings.channels, cells=settings.cells, search_norm=True, **partial)
