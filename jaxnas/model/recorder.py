"""A stand-in for an architecture while a model is traced to find its choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import ChoiceSpec
from jaxnas.model.restriction import RestrictedArch, Steps, check_keys
from jaxnas.model.values import positions


@jax.tree_util.register_static
class Recorder:
    """Stands in for an architecture while a model is traced, and notes what the model asks for.

    A pytree without leaves, so it passes through `nn.scan`, `nn.remat` and `nn.vmap` unharmed.

    Attributes:
      found: the choices that are reached, in order.
      unreached: those met only inside candidates that are not computed: restricted away, or not among the decisions.
      untraced: whether one of these candidates could not be traced, so that `unreached` may lack some.
    """

    def __init__(self, decisions: Mapping[str, Any] | None = None, *, aside: bool = True) -> None:
        """Makes a recorder.

        Args:
          decisions: compute only what these choose, instead of everything.
          aside: whether candidates that are not computed are traced too.
        """
        self.found: dict[str, ChoiceSpec] = {}
        self.unreached: dict[str, ChoiceSpec] = {}
        self.untraced = False
        self._decisions = decisions
        self._aside = aside
        self._depth = 0

    def record(self, key: str, spec: ChoiceSpec) -> tuple[str, Any]:
        """Notes a choice; answers with weights, so that all of its candidates are traced, or with the decision.

        A decision that is missing or does not fit is answered with another; it is checked when the space is known.
        """
        known = self.found.get(key, spec) if self._depth == 0 else self.found.get(key, self.unreached.get(key, spec))
        if known != spec:
            raise ArchitectureError(
                f"two choices share the key {key!r}, so they are one decision, but differ: one is {known}, "
                f"the other {spec}. Give them different keys, or the same candidates."
            )
        if self._depth:
            if key not in self.found:
                self.unreached[key] = spec
        else:
            self.unreached.pop(key, None)
            self.found[key] = spec
        if self._decisions is None:
            return "weights", jnp.ones(spec.n_candidates)
        try:
            return "fixed", positions(key, spec, self._decisions[key])
        except (ArchitectureError, KeyError):
            return "fixed", tuple(range(spec.n_candidates if spec.n_chosen is None else spec.n_chosen))

    def look_aside(self, calls: Iterable[Callable[[], Any]]) -> None:
        """Traces candidates that are not computed, for the choices in them. They may fail: their input is another's."""
        if not self._aside:
            return
        self._depth += 1
        try:
            for call in calls:
                try:
                    call()
                except Exception:  # whatever it is, it is not computed
                    self.untraced = True
        finally:
            self._depth -= 1

    def check(self, steps: Steps) -> None:
        """Raises ArchitectureError if a restriction names choices that a model, now traced, does not have."""
        if self._aside and not self.untraced:
            check_keys(steps, {**self.found, **self.unreached})


def recorder_of(arch: Any) -> Recorder | None:
    """The recorder that stands in for an architecture, if one does."""
    arch = arch.arch if isinstance(arch, RestrictedArch) else arch
    return arch if isinstance(arch, Recorder) else None
