"""A model with a smaller space: `restrict`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from flax import linen as nn

from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.model.architecture import StaticArch
from jaxnas.model.naming import importable_name
from jaxnas.model.recorder import recorder_of
from jaxnas.model.restriction import RestrictedArch, Step, Steps, read_step
from jaxnas.model.space import check_takes_arch, space


@dataclasses.dataclass(frozen=True)
class Unbound:
    """Holds a module as a plain value: Flax would treat a module in a field as a part of its owner."""

    model: nn.Module
    name: str = dataclasses.field(default="", compare=False)  # under which it can be imported, or its repr


class RestrictedModel(nn.Module):
    """A model with some candidates left out. It is called like the complete model.

    Parameters have the names they have in the complete model; those of candidates left out do not exist.

    Attributes:
      open: the complete model.
      steps: what is left of its choices.
    """

    open: Unbound
    steps: Steps

    def __call__(self, *inputs: Any, arch: Any = None, **kwargs: Any) -> Any:
        """Calls the model. The first initialisation also checks the restriction against the model's space.

        Raises:
          ArchitectureError: if the restriction or the architecture does not fit the model.
        """
        # On our own scope, so that parameters and keys keep their names of the complete model.
        model = self.open.model.clone(parent=self.scope, name=None)
        passed: dict[str, Any] = {name: kwargs.pop(name) for name in (*functional.MODES, "progress") if name in kwargs}
        kwargs |= functional.accepted(model, passed)
        if arch is None:
            inputs, arch, kwargs = _without_arch(model, inputs, kwargs)
        check_takes_arch(functional.model_fns(model), len(inputs))
        kwargs = {**functional.required(model, len(inputs), train=self.is_initializing()), **kwargs}
        recorder, root = recorder_of(arch), getattr(arch, "root", ())
        if self.is_initializing() and recorder is None and not isinstance(arch, StaticArch):
            specs = jax.tree.map(functional.shape_of, inputs)
            with ThreadPoolExecutor(1) as apart:  # or nn.tabulate would list these calls as the model's
                apart.submit(space, RestrictedModel(self.open, self.steps, parent=None), *specs).result()
        own = tuple(Step(step.left, "/".join(self.path[len(root) :])) for step in self.steps)
        within = arch.steps if isinstance(arch, RestrictedArch) else ()
        arch = RestrictedArch(arch.arch if isinstance(arch, RestrictedArch) else arch, (*within, *own))
        if functional.accepted(model, {"arch": None}):
            output = model(*inputs, arch=arch, **kwargs)
        else:
            output = model(*inputs, arch, **kwargs)
        if recorder is not None:
            recorder.check(own)
        return output


def _without_arch(model: nn.Module, inputs: tuple, kwargs: dict[str, Any]) -> tuple[tuple, Any, dict[str, Any]]:
    """Inputs, architecture and keywords of a call that passes the architecture by position."""
    parameters = inspect.signature(type(model).__call__).parameters
    place = list(parameters).index("arch") - 1 if "arch" in parameters else len(inputs) - 1
    if not 0 <= place < len(inputs):
        raise ArchitectureError(
            f"{type(model).__name__} is restricted and has open choices: call it model(x, arch); got no architecture."
        )
    after = dict(zip(list(parameters)[place + 2 :], inputs[place + 1 :], strict=False))
    return inputs[:place], inputs[place], after | kwargs


def restrict(model_fn: Any, candidates: Mapping[str, Any]) -> RestrictedModel:
    """A model with a smaller space: the named choices have only some of their candidates left.

    It can be used wherever the complete model can: as a supernet, sampled, searched, and as a fixed model. Only the
    candidates left are built, and weights have one entry for each of them. Arrays of an architecture (weights, indices,
    masks, gates) count what is left; Python values, and all that `Space.fixed`, searches and `jaxnas.export` write, are
    names and indices of the complete model. So an architecture that was found here can be applied to the complete
    model, and one of the complete model that lies in the smaller space can be applied here: both give the same fixed
    model. (`jaxnas.export` cannot know which space an array belongs to: export what `Space.fixed` makes of it.)

    Parameters keep their names, so `jaxnas.inherit` carries weights from the complete to the restricted model, from
    there to one restricted further, and to a fixed one. Where outputs are concatenated, the shapes that follow differ,
    as they do in a fixed model.

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module. It can be
        restricted already: then it is restricted further.
      candidates: key of a choice -> what is left of it: indices or names, as in the complete model. A single index or
        name means the same as a list of it: the choice stays a choice, with one candidate. Choices not named stay
        complete. Of an InputChoice at least `n_chosen` inputs must be left.

    Returns:
      A Flax module called as the model is, `model(x, arch)`.

    Raises:
      ArchitectureError: if a subset is empty, or is not a subset. What depends on the choices, which a Flax model has
        only after it has seen an input, is checked in `jaxnas.space`, in searches and at `init`: an unknown key or
        candidate, an index out of range, the same candidate twice, too few inputs.
    """
    model, step = functional.build(model_fn), read_step(candidates)
    if isinstance(model, RestrictedModel):
        return RestrictedModel(model.open, (*model.steps, step))
    return RestrictedModel(Unbound(model, importable_name(model_fn)), (step,))


def whole_model(model: nn.Module) -> nn.Module:
    """The complete model of a restricted one; any other model itself."""
    return model.open.model if isinstance(model, RestrictedModel) else model
