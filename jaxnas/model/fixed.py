"""From a found architecture to a plain model: applying it, and inheriting the supernet's weights."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.model.architecture import Arch, StaticArch
from jaxnas.model.serialization import load, read_values
from jaxnas.model.space import space


@dataclasses.dataclass(frozen=True)
class Unbound:
    """Holds a module as a plain value: Flax would take a module in a field for a part of its owner."""

    model: nn.Module


class FixedModel(nn.Module):
    """A model with its architecture filled in: it is called without `arch`.

    Parameters have the names they have in the supernet; those of candidates not chosen do not exist.

    Attributes:
      open: the model with open choices.
      arch: the decisions.
    """

    open: Unbound
    arch: StaticArch

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Calls the model. The first initialisation also checks the architecture against the model's space.

        A model that must be told whether it trains, and is not, is called for evaluation (to be initialised, in
        training, so that it makes all of its variables).

        Raises:
          ArchitectureError: if the architecture does not fit the model.
        """
        if self.is_initializing():
            specs = jax.tree.map(functional.shape_of, inputs)
            with ThreadPoolExecutor(1) as apart:  # or nn.tabulate would list these calls as the model's
                apart.submit(space, self.open.model, *specs).result().validate(self.arch)
        # On our own scope, so that parameters and keys have the names they have in the supernet.
        model = self.open.model.clone(parent=self.scope, name=None)
        alike = (*functional.MODES, "progress")  # so that every fixed model can be called alike
        passed: dict[str, Any] = {name: kwargs.pop(name) for name in alike if name in kwargs}
        passed = functional.accepted(model, passed)
        kwargs |= {**functional.required(model, len(inputs), train=self.is_initializing()), **passed}
        arch = StaticArch(self.arch, root=self.path)
        if functional.accepted(model, {"arch": None}):
            return model(*inputs, arch=arch, **kwargs)
        return model(*inputs, arch, **kwargs)


def apply_fixed_architecture(model_fn: Any, architecture: str | os.PathLike | Arch) -> FixedModel:
    """Fixes a model's choices.

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module.
      architecture: a JSON file (see `load` for its forms) or a dict of decisions.

    Returns:
      A plain Flax module, called without `arch`: `model.init(rng, x)`, `model.apply(variables, x)`. Only
      the chosen candidates are built.

    Raises:
      FileNotFoundError: if there is no such file.
      ArchitectureError: if it is no architecture. Whether it fits the model shows at `init`, since a Flax
        model has no choices before it has seen an input: then missing and unexpected keys, unknown names,
        indices out of range and wrong lengths raise.
    """
    if not isinstance(architecture, (Mapping, str, os.PathLike)):
        raise ArchitectureError(
            f"an architecture is a dict {{key: value}} or the path of a JSON file; got {type(architecture).__name__}."
        )
    values = read_values(architecture) if isinstance(architecture, Mapping) else load(architecture)
    return FixedModel(Unbound(functional.build(model_fn)), StaticArch(values))


def inherit(model: nn.Module, variables: Mapping[str, Any], *example_inputs: Any) -> dict[str, Any]:
    """The supernet's variables for the candidates a fixed model has.

    They have the same names and shapes in both. A model that stores its candidates in another way, such as stacked,
    says how in an optional method, `inherited(self, variables, arch) -> variables`.

    Args:
      model: what `apply_fixed_architecture` gave.
      variables: the supernet's, for instance `SearchResult.variables`.
      *example_inputs: inputs of the model (arrays or `jax.ShapeDtypeStruct`s).

    Returns:
      Variables for `model.apply`, or for `jaxnas.training.fit(model, data, variables=…)`.

    Raises:
      ArchitectureError: if the supernet lacks a variable, or has it in another shape (as after a
        LayerChoice that concatenates: its supernet has more channels than the fixed model).
    """
    specs = jax.tree.map(functional.shape_of, example_inputs)
    wanted = flatten_dict(dict(jax.eval_shape(model.init, jax.random.key(0), *specs)))
    if isinstance(model, FixedModel) and hasattr(model.open.model, "inherited"):
        variables = model.open.model.inherited(variables, model.arch)
    have = flatten_dict(dict(variables))
    for path, leaf in wanted.items():
        name = "/".join(path)
        if path not in have:
            raise ArchitectureError(f"the supernet's variables have no {name!r}; are they of this model?")
        if have[path].shape != leaf.shape:
            raise ArchitectureError(
                f"{name!r} has shape {have[path].shape} in the supernet and {leaf.shape} in the fixed model, so it "
                "cannot be inherited; train the fixed model from scratch."
            )
    return unflatten_dict({path: have[path] for path in wanted})
