"""Many candidates at once: equal ones run as one, and their outputs are summed as one product.

A compiler's time grows with the square of the number of terms in a sum: XLA computes the whole sum again in everything
that uses it. So from `MANY` terms on they are stacked and multiplied by the vector of weights, and equal modules become
one, vmapped over their stacked variables. Fewer are left as they are, to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxnas.model import functional

MANY = 16
"""From how many terms, or equal modules, this is done."""


def groups_alike(layers: Sequence[Any]) -> list[list[int]]:
    """Groups of at least `MANY` positions whose layers differ only in their variables.

    They are plain modules with equal fields, none of which is a module: `nn.Dense(4)`, say, or a block with its layers
    inside. None takes an architecture.
    """
    groups: list[list[int]] = []
    for i, layer in enumerate(layers):
        if not isinstance(layer, nn.Module) or layer.scope is None or functional.reached(layer, {"arch": None}):
            continue
        if any(isinstance(leaf, nn.Module) for leaf in jax.tree.leaves(_fields(layer), is_leaf=_is_module)):
            continue
        home = next((group for group in groups if _alike(layers[group[0]], layer)), None)
        if home is None:
            groups.append([i])
        elif not any(layers[j] is layer for j in home):
            home.append(i)
    return [group for group in groups if len(group) >= MANY]


def run_alike(layers: Sequence[nn.Module], x: Any, options: Mapping[str, Any]) -> Any:
    """The outputs of equal bound modules, stacked `[n, …]`. Initialises and updates their variables.

    Random numbers (of fresh parameters, of dropout) differ from those of the modules one by one.
    """
    scopes = [layer.scope for layer in layers]
    one, _ = layers[0].unbind()
    options, mutable = functional.accepted(one, options), scopes[0].mutable  # type: ignore[union-attr]
    keys = {name: jax.random.split(layers[0].make_rng(name), len(layers)) for name in scopes[0].rngs}  # type: ignore[union-attr]

    def run(variables: Any, keys: Any) -> Any:
        output = one.apply(variables, x, rngs=keys, mutable=mutable, **options)
        return (output, {}) if mutable is False else output

    if layers[0].is_initializing():  # in a loop, which XLA does not compute again for each of the parts taken from it
        outputs, changed = jax.lax.map(lambda keys: one.init_with_output(keys, x, **options), keys)
    else:
        variables = [dict(layer.variables) for layer in layers]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
        outputs, changed = jax.vmap(run, axis_size=len(layers))(stacked, keys)
    for i, scope in enumerate(scopes):
        for collection, values in changed.items():
            for name, value in values.items():
                scope.put_variable(collection, name, jax.tree.map(lambda leaf, i=i: leaf[i], value))  # type: ignore[union-attr]
    return outputs


def fan_out(x: Any, n: int) -> list[Any]:
    """x n times, for n uses whose gradients are then added as one sum of a stack."""
    copies = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))), x)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], copies) for i in range(n)]


def weighted_sum(weights: jax.Array, stacked: Any) -> Any:
    """`Σ wᵢ yᵢ` of float outputs stacked `[n, …]`, in their dtype, added up in float32 or better."""

    def product(leaf: jax.Array) -> jax.Array:
        wide = jnp.promote_types(leaf.dtype, jnp.float32)
        total = jnp.tensordot(weights.astype(leaf.dtype), leaf, 1, precision="highest", preferred_element_type=wide)
        return total.astype(leaf.dtype)

    return jax.tree.map(product, stacked)


def can_be_stacked(outputs: Sequence[Any]) -> bool:
    """Whether there are many outputs, floats that agree in structure, shapes and dtypes."""
    forms = {str(jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), output)) for output in outputs}
    floats = all(jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in jax.tree.leaves(outputs))
    return len(outputs) >= MANY and len(forms) == 1 and floats


def _alike(a: nn.Module, b: nn.Module) -> bool:
    fields_a, fields_b = _fields(a), _fields(b)
    return type(a) is type(b) and all(_equal(fields_a[name], fields_b[name]) for name in fields_a)


def _fields(layer: nn.Module) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(layer) if field.name not in ("parent", "name")]
    return {name: getattr(layer, name) for name in names}


def _equal(a: Any, b: Any) -> bool:
    try:
        return a is b or (type(a) is type(b) and bool(a == b))
    except (TypeError, ValueError):  # arrays, or values that cannot be compared
        return False


def _is_module(value: Any) -> bool:
    return isinstance(value, nn.Module)
