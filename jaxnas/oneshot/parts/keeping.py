"""What a stage keeps of the choices for the next one, and what a search keeps of skip connections."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import LAYER, NONE
from jaxnas.model.space import Space
from jaxnas.oneshot.parts.part import part


@part
def strongest(count: int | float) -> Callable[[Space], Callable[[Mapping[str, Any]], dict[str, tuple]]]:
    """Of every LayerChoice so many candidates of the largest probability, `none` counted like any other.

    Of equal ones the first. Where all that would be left of an edge of ranked inputs is `none`, the strongest other one
    takes its place, since such an edge must have an operation. InputChoices stay as they are.

    Args:
      count: how many; a float below 1 is a share of the candidates that the whole choice has, rounded up.

    Raises:
      ValueError: for a count that is not positive, or a float of 1 or more.
      ArchitectureError: when it meets the space, if a choice has fewer candidates, or all have as many already.
    """
    share = isinstance(count, float)
    if isinstance(count, bool) or not isinstance(count, (int, float)) or count <= 0 or (share and count >= 1):
        raise ValueError(f"what is kept must be a number of candidates, at least 1, or a share in 0..1; got {count!r}.")

    def of_space(space: Space) -> Callable[[Mapping[str, Any]], dict[str, tuple]]:
        layers = {key: spec for key, spec in space.items() if spec.kind == LAYER}
        edges = {name for spec in space.values() if spec.ranked for name in spec.names or ()}
        counts = {key: math.ceil(round(count * spec.whole.n_candidates, 9)) for key, spec in layers.items()}
        counts = counts if share else dict.fromkeys(layers, int(count))
        for key, spec in layers.items():
            if counts[key] > spec.n_candidates:
                raise ArchitectureError(
                    f"a stage is to keep {counts[key]} candidates of choice {key!r}, which then has "
                    f"{spec.n_candidates} ({spec}); keep fewer, or a share such as 0.5."
                )
        if all(counts[key] == spec.n_candidates for key, spec in layers.items()):
            what = "keeps every candidate of all LayerChoices" if layers else "finds no LayerChoice to shrink"
            raise ArchitectureError(f"a stage {what}, so the next would search the same space: {list(space)}.")

        def kept(key: str, weights: Any) -> tuple:
            order = np.argsort(-np.asarray(weights, float), kind="stable").tolist()
            chosen, labels = order[: counts[key]], space[key].labels
            if key in edges and [labels[i] for i in chosen] == [NONE]:
                chosen = order[1:2] or chosen
            return tuple(labels[i] for i in sorted(chosen))

        return lambda probabilities: {key: kept(key, probabilities[key]) for key in layers}

    return of_space
