"""Which candidates of which choices are left: what a restricted model hands to its choices with the architecture."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.values import position

Label = int | str


class Step(NamedTuple):
    """One call of `jaxnas.restrict`.

    Attributes:
      left: key of a choice and the candidates left of it, by name or index in the complete choice, sorted by key.
      prefix: path of the restricted model inside the model whose architecture it gets; default keys begin with it.
    """

    left: tuple[tuple[str, tuple[Label, ...]], ...]
    prefix: str = ""

    def of(self, key: str) -> tuple[Label, ...] | None:
        """What is left of a choice, or None for all."""
        left = dict(self.left)
        return left.get(key, left.get(key.removeprefix(f"{self.prefix}/")) if self.prefix else None)


Steps = tuple[Step, ...]
"""Restrictions one after the other, each of what the previous one left. Hashable."""


def read_step(candidates: Any) -> Step:
    """The step that the argument of `jaxnas.restrict` stands for; see there.

    Raises:
      ArchitectureError: if it is not a dict of subsets.
    """
    if not isinstance(candidates, Mapping):
        raise ArchitectureError(
            f"a restriction is a dict {{key: candidates that are left}}; got {type(candidates).__name__}."
        )
    left = {key: _labels(key, value) for key, value in candidates.items()}
    return Step(tuple(sorted(left.items())))


def restricted_spec(steps: Steps, key: str, spec: ChoiceSpec) -> ChoiceSpec:
    """What the steps leave of a choice.

    Raises:
      ArchitectureError: if a candidate is unknown, already left out or given twice, or fewer are left than are chosen.
    """
    for step in steps:
        labels = step.of(key)
        if labels is None:
            continue
        found = [position(key, spec, label) for label in labels]
        twice = [label for label, i in zip(labels, found, strict=True) if found.count(i) > 1]
        if twice:
            raise _error(key, spec, f"the same candidate twice ({twice})", "each once")
        gone = [label for label, i in zip(labels, found, strict=True) if spec.original and i not in spec.original]
        if gone:
            raise _error(key, spec, f"{gone}, left out by an earlier restriction", f"some of {list(spec.labels)}")
        if spec.n_chosen is not None and len(found) < spec.n_chosen:
            raise _error(key, spec, f"{len(found)} candidates", f"at least the {spec.n_chosen} that are chosen")
        spec = spec.restricted(tuple(sorted(found)))
    return spec


def check_keys(steps: Steps, known: Iterable[str]) -> None:
    """Raises ArchitectureError if a step is about a choice that the model does not have."""
    known = list(known)
    for step in steps:
        names = {key.removeprefix(f"{step.prefix}/") if step.prefix else key for key in known} | set(known)
        for key, _ in step.left:
            if key not in names:
                close = difflib.get_close_matches(key, names, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise ArchitectureError(
                    f"the restriction names {key!r}, which is no choice of the model{hint}; its choices are {known}."
                )


@jax.tree_util.register_pytree_node_class
class RestrictedArch(Mapping):
    """An architecture together with the restriction of its model. A pytree with the leaves of the architecture.

    Its arrays count the candidates that are left; its Python values name those of the complete model.
    """

    def __init__(self, arch: Any, steps: Steps):
        self.arch = arch
        self.steps = steps

    @property
    def root(self) -> tuple[str, ...]:
        """See `StaticArch`."""
        return getattr(self.arch, "root", ())

    def __getitem__(self, key: str) -> Any:
        return self.arch[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arch if isinstance(self.arch, Mapping) else ())

    def __len__(self) -> int:
        return len(self.arch) if isinstance(self.arch, Mapping) else 0

    def __repr__(self) -> str:
        return f"RestrictedArch({self.arch!r}, {self.steps!r})"

    def tree_flatten(self) -> tuple[tuple[Any], Steps]:
        return (self.arch,), self.steps

    @classmethod
    def tree_unflatten(cls, steps: Steps, children: tuple[Any]) -> RestrictedArch:
        return cls(children[0], steps)


def _labels(key: Any, value: Any) -> tuple[Label, ...]:
    if not isinstance(key, str):
        raise ArchitectureError(f"a restriction names choices by their keys, which are strings; got {key!r}.")
    items = (value,) if isinstance(value, (str, int, np.integer)) else value
    if isinstance(items, np.ndarray):
        items = items.tolist()
    if not isinstance(items, (tuple, list, range, set, frozenset)):
        raise ArchitectureError(
            f"restriction of choice {key!r}: got {value!r}; expected its candidates that are left, indices or names."
        )
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (str, int, np.integer)):
            raise ArchitectureError(f"restriction of choice {key!r}: got {item!r}; expected an index or a name.")
    if not items:
        raise ArchitectureError(f"restriction of choice {key!r}: no candidate is left; expected at least one.")
    labels = [item if isinstance(item, str) else int(item) for item in items]
    return tuple(sorted(labels, key=lambda label: (isinstance(label, str), label)))


def _error(key: str, spec: ChoiceSpec, found: str, expected: str) -> ArchitectureError:
    return ArchitectureError(f"restriction of choice {key!r} ({spec}): got {found}; expected {expected}.")
