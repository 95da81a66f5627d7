"""How open choices are, from the probabilities of their candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaxnas.model.architecture import ChoiceSpec


def choice_entropy(spec: ChoiceSpec, weights: Sequence[float | None]) -> float | None:
    """Entropy of a choice, from 0 (decided) to 1 (all candidates equally likely).

    k of n: the entropy of the n weights, which sum to k, each over k; scaled so that k equal ones give 0 and n give 1
    (k = 1: over log n). Any subset: the mean entropy of the n gates, over log 2.

    Args:
      spec: the choice.
      weights: its n probabilities.

    Returns:
      None where there is nothing to decide, or a probability is unknown.
    """
    n, k = spec.n_candidates, spec.n_chosen
    if spec.ranked or k == n or any(weight is None for weight in weights):  # ranked inputs have no weights
        return None
    if k is None:
        gates = [min(max(weight, 0.0), 1.0) for weight in weights if weight is not None]
        return sum(_entropy([gate, 1 - gate]) for gate in gates) / n / math.log(2)
    entropy = _entropy([weight / k for weight in weights if weight is not None])
    return min(max((entropy - math.log(k)) / (math.log(n) - math.log(k)), 0.0), 1.0)


def arch_entropy(space: Mapping[str, ChoiceSpec], probabilities: Mapping[str, Sequence[float | None]]) -> float:
    """Mean over the choices of their entropy, from 0 to 1; those in which nothing is to be decided do not count.

    Args:
      space: the choices.
      probabilities: `{key: [n_candidates]}`.
    """
    values = [choice_entropy(spec, probabilities[key]) for key, spec in space.items()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def _entropy(shares: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in shares if p > 0)
