"""Which parameters belong to which candidate of a LayerChoice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
from flax import linen as nn

from jaxnas.model import functional
from jaxnas.model.choices import LayerChoice
from jaxnas.model.restrict import whole_model
from jaxnas.model.space import Space

Path = tuple[str, ...]
Place = Callable[[Path], tuple[str, int] | None]
"""(path of a parameter) -> (its operation, how many of its leading axes are stacked); None outside candidates."""


def operations(model_fn: Any, space: Space, *example_inputs: Any) -> Place:
    """Finds to which operation each parameter belongs: a candidate of a LayerChoice, at one place of the network.

    Of nested choices it is the inner one's candidate. What several candidates share, or what is used outside of them
    too, belongs to none. A model that stacks its candidates' parameters says where they belong in a method
    `operation_of(self, path: tuple[str, ...]) -> tuple[str, int] | None`; others are traced.

    Args:
      model_fn, space: the model and its choices.
      *example_inputs: inputs of the model, arrays or `jax.ShapeDtypeStruct`s.
    """
    model = functional.model_fns(model_fn)
    own = getattr(whole_model(model.module), "operation_of", None)
    if own is not None:
        return own
    owners: dict[Path, set[str]] = {}
    frames: list[tuple[str, dict[Path, str]]] = [("", {})]  # an operation, and the candidates that would be inside

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        module = context.module
        name, candidates = frames[-1]
        inside = candidates.get(module.path, name)
        frames.append(
            (inside, _candidates(module) if isinstance(module, LayerChoice) else {} if inside else candidates)
        )
        try:
            return call(*args, **kwargs)
        finally:
            frames.pop()
            for parameter, value in dict(module.variables.get("params", {})).items():
                if not isinstance(value, dict):
                    owners.setdefault((*module.path, parameter), set()).add(inside)

    specs, weights = jax.tree.map(functional.shape_of, example_inputs), space.uniform()
    variables = jax.eval_shape(model.init, jax.random.key(0), *specs, weights)
    watched = [name for name in (*variables, "intermediates") if name != "params"]

    def run(variables: Any, key: jax.Array, *inputs: Any) -> Any:
        return model.apply(variables, *inputs, weights, train=True, rngs=key, mutable=watched)

    with nn.intercept_methods(intercept):
        jax.eval_shape(run, variables, jax.random.key(0), *specs)
    found = {path: names.pop() for path, names in owners.items() if len(names) == 1}
    return lambda path: (found[path], 0) if found.get(path) else None


def _candidates(choice: LayerChoice) -> dict[Path, str]:
    """The modules of a choice that are its candidates, or layers of a candidate in sequence, and their names."""
    named = choice.candidates
    found: dict[Path, str] = {}
    for name, layer in named.items() if hasattr(named, "items") else enumerate(named):
        for module in _modules(layer):
            operation = "/".join((*choice.path, str(name)))
            found[module.path] = operation if found.get(module.path, operation) == operation else ""  # shared
    return found


def _modules(layer: Any) -> Iterator[nn.Module]:
    if isinstance(layer, nn.Module) and layer.scope is not None:
        yield layer
        if isinstance(layer, nn.Sequential):
            for part in layer.layers:
                yield from _modules(part)
