"""How open choices are, from the probabilities of their candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from jaxnas.model.architecture import ChoiceSpec


def choice_entropy(spec: ChoiceSpec, weights: Sequence[float | None]) -> float | None:
    """Entropy of a choice, from 0 (decided) to 1 (all candidates equally likely).

    k of n: the entropy of the n weights (which sum to k), each divided by k; scaled so that k equal ones give 0 and n
    give 1 (k = 1: divided by log n). Any subset: the mean entropy of the n gates, divided by log 2.

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
    """The mean entropy of the choices, from 0 to 1; choices in which there is nothing to decide do not count.

    Args:
      space: the choices.
      probabilities: `{key: [n_candidates]}`.
    """
    values = [choice_entropy(spec, probabilities[key]) for key, spec in space.items()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def _entropy(shares: Sequence[float]) -> float:
    return -sum(p * math.log(p) for p in shares if p > 0)


HARDLY = 0.05
"""Up to this difference of probabilities a decision counts as hardly made."""


def margin(spec: ChoiceSpec, weights: Sequence[float | None] | None) -> tuple[float, float] | None:
    """The probability of the weakest candidate that is chosen, and of the strongest that is not.

    For any subset: that of the input whose gate is nearest to 1/2, and 1/2.

    Args:
      spec: the choice.
      weights: its n probabilities, or None.

    Returns:
      None where there is nothing to decide, or a probability is unknown.
    """
    if weights is None or spec.ranked or spec.n_chosen == spec.n_candidates or any(w is None for w in weights):
        return None
    known = [float(weight) for weight in weights if weight is not None]
    if spec.n_chosen is None:
        return min(known, key=lambda gate: abs(gate - 0.5)), 0.5
    ranked = sorted(known, reverse=True)
    return ranked[spec.n_chosen - 1], ranked[spec.n_chosen]


def sureness(spec: ChoiceSpec, weights: Sequence[float | None] | None) -> str:
    """How sure a decision is, in words: `"0.507 to 0.493, hardly decided"`; empty if nothing is known."""
    found = margin(spec, weights)
    if found is None:
        return ""
    hardly = ", hardly decided" if abs(found[0] - found[1]) <= HARDLY else ""
    return f"{found[0]:.3f} to {found[1]:.3f}{hardly}"


def hardly_decided(
    space: Mapping[str, ChoiceSpec], probabilities: Mapping[str, Sequence[float | None]]
) -> dict[str, str]:
    """The choices that are hardly decided, `{key: "0.507 to 0.493"}`."""
    found = {key: margin(spec, probabilities.get(key)) for key, spec in space.items()}
    return {
        key: f"{a:.3f} to {b:.3f}" for key, (a, b) in ((k, m) for k, m in found.items() if m) if abs(a - b) <= HARDLY
    }
