"""From a found architecture to a plain model: applying it, and inheriting the supernet's weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.model.architecture import Arch, StaticArch, decision_text, is_array
from jaxnas.model.naming import importable_name
from jaxnas.model.restrict import RestrictedModel, Unbound, whole_model
from jaxnas.model.restriction import RestrictedArch
from jaxnas.model.serialization import load, read_values
from jaxnas.model.space import check_fixed, space


class FixedModel(nn.Module):
    """A model with its architecture filled in: it is called without `arch`.

    Parameters have the names they have in the supernet; those of candidates not chosen do not exist.

    Attributes:
      open: the model with open choices.
      arch: the decisions.
    """

    open: Unbound
    arch: StaticArch

    def __repr__(self) -> str:
        decisions = ", ".join(f"{key}: {decision_text(value)}" for key, value in self.arch.items())
        decisions = decisions if len(decisions) <= 200 else f"{decisions[:199]}…"
        return f"FixedModel({type(self.open.model).__name__}; {decisions})"

    def __call__(self, *inputs: Any, **kwargs: Any) -> Any:
        """Calls the model. The first initialisation also checks the architecture against the model's space.

        A model that needs a training flag and gets none is called for evaluation (for initialisation, in training mode,
        so that it makes all of its variables).

        Raises:
          ArchitectureError: if the architecture does not fit the model.
        """
        if self.is_initializing():
            specs = jax.tree.map(functional.shape_of, inputs)
            with ThreadPoolExecutor(1) as apart:  # or nn.tabulate would list these calls as the model's
                apart.submit(check_fixed, self.open.model, self.arch, *specs).result()
        # On our own scope, so that parameters and keys have the names they have in the supernet.
        model = self.open.model.clone(parent=self.scope, name=None)
        alike = (*functional.MODES, "progress")  # so that every fixed model can be called in the same way
        passed: dict[str, Any] = {name: kwargs.pop(name) for name in alike if name in kwargs}
        passed = functional.accepted(model, passed)
        kwargs |= {**functional.required(model, len(inputs), train=self.is_initializing()), **passed}
        arch = StaticArch(self.arch, root=self.path)
        if functional.accepted(model, {"arch": None}):
            return model(*inputs, arch=arch, **kwargs)
        return model(*inputs, arch, **kwargs)


def apply_fixed_architecture(model_fn: Any, architecture: str | os.PathLike | Arch) -> FixedModel:
    """Fixes a model's choices.

    Candidates may differ in the shapes of their outputs, and choices inside candidates that are not chosen need no
    decision: only what is chosen is built. (A supernet needs both.)

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module. A restricted one
        takes the architectures of the complete model that lie in its space.
      architecture: a JSON file (see `load` for its forms) or a dict of decisions.

    Returns:
      A plain Flax module, called without `arch`: `model.init(rng, x)`, `model.apply(variables, x)`. Only
      the chosen candidates are built.

    Raises:
      FileNotFoundError: if there is no such file.
      ArchitectureError: if it is no architecture, or does not fit the model: missing and unexpected keys, unknown
        names, indices out of range, wrong lengths. Of a model whose space does not depend on its input, and that says
        so in a method `known_space() -> Space` (those of DARTS and NAS-Bench-201), this shows here; of others at
        `init`, since a Flax model has no choices before it has seen an input.
    """
    if not isinstance(architecture, (Mapping, str, os.PathLike)):
        raise ArchitectureError(
            f"an architecture is a dict {{key: value}} or the path of a JSON file; got {type(architecture).__name__}."
        )
    values = read_values(architecture) if isinstance(architecture, Mapping) else load(architecture)
    model = functional.build(model_fn)
    if isinstance(model, RestrictedModel) and isinstance(architecture, Mapping):
        restricted = {key for step in model.steps for key, _ in step.left}
        arrays = sorted(key for key in restricted & architecture.keys() if is_array(architecture[key]))
        if arrays:
            raise ArchitectureError(
                f"the model is restricted, so the arrays given for {arrays} count what is left; `Space.fixed` of its "
                "space makes decisions of them, which are names and indices of the whole model."
            )
    if hasattr(model, "known_space"):
        model.known_space().validate(values)
    name = model.open.name if isinstance(model, RestrictedModel) else importable_name(model_fn)
    return FixedModel(Unbound(model, name), StaticArch(values))


def inherit(model: nn.Module, variables: Mapping[str, Any], *example_inputs: Any) -> dict[str, Any]:
    """The supernet's variables for the candidates that a fixed or restricted model has.

    They have the same names and shapes in both. A model that stores its candidates in another way, such as stacked,
    picks them in an optional method, `inherited(self, variables, arch) -> variables`.

    Args:
      model: from `apply_fixed_architecture` or `restrict`.
      variables: the supernet's, for instance `SearchResult.variables`, or those of a restricted model that has all that
        `model` has.
      *example_inputs: inputs of the model (arrays or `jax.ShapeDtypeStruct`s).

    Returns:
      Variables for `model.apply`, or for `jaxnas.training.fit(model, data, variables=…)`.

    Raises:
      ArchitectureError: if the supernet lacks a variable, or has it in another shape (as after a
        LayerChoice that concatenates: its supernet has more channels than the fixed model).
    """
    specs = jax.tree.map(functional.shape_of, example_inputs)
    arch: Any = model.arch if isinstance(model, FixedModel) else None
    open_model = model.open.model if isinstance(model, FixedModel) else model
    if isinstance(model, RestrictedModel):
        arch = space(model, *specs).uniform()
        specs = (*specs, arch)
    wanted = flatten_dict(dict(jax.eval_shape(model.init, jax.random.key(0), *specs)))
    if arch is not None and hasattr(whole_model(open_model), "inherited"):
        steps = open_model.steps if isinstance(open_model, RestrictedModel) else ()
        variables = whole_model(open_model).inherited(variables, RestrictedArch(arch, steps) if steps else arch)
    have = flatten_dict(dict(variables))
    for path, leaf in wanted.items():
        name = "/".join(path)
        if path not in have:
            raise ArchitectureError(f"the supernet's variables have no {name!r}; are they of this model?")
        if have[path].shape != leaf.shape:
            raise ArchitectureError(
                f"{name!r} has shape {have[path].shape} in the supernet and {leaf.shape} in the model, so it "
                "cannot be inherited; train the model from scratch."
            )
    return unflatten_dict({path: have[path] for path in wanted})
