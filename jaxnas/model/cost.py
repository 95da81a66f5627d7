"""What an architecture costs: FLOPs (multiply-accumulates) and parameters, counted in the traced model.

Nothing is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.model.architecture import Arch, Gated, is_array, is_concrete, is_mixture
from jaxnas.model.fixed import apply_fixed_architecture
from jaxnas.model.layouts import traced
from jaxnas.model.space import Space, space
from jaxnas.model.values import read_value


class Cost(NamedTuple):
    """What one call of a model costs.

    Attributes:
      flops: multiply-accumulates of convolutions and matrix products, and the additions of their biases: what the
        field calls FLOPs. An int; for weights a float or a float array `[]`.
      params: number of parameters (not batch statistics). As `flops`.
    """

    flops: Any
    params: Any

    def __repr__(self) -> str:
        flops, params = (f"{value:,}" if isinstance(value, int) else f"{value}" for value in self)
        return f"Cost(flops={flops} (multiply-accumulates), params={params})"


def cost(model_fn: Any, input_shape: Any, arch: Arch | None = None) -> Cost:
    """Counts FLOPs and parameters of a model in evaluation mode, by tracing it.

    FLOPs are multiply-accumulates, as in the papers of the field: half the number that counts multiplications and
    additions separately, as hardware figures do.

    Loops count once per iteration (`nn.scan`, `lax.fori_loop` of known length; a `while` of unknown length counts
    once). Of branches that no choice selects, the most expensive counts.

    For an architecture of weights the result is an expectation: each choice is assumed to be drawn by its weights,
    independently of the others. It is exact where LayerChoices, also nested ones, decide what is computed; whatever
    depends on an InputChoice counts in full, so there it is an upper bound (the loose ends of `enas_micro`). It is a
    smooth function of the weights and works inside `jax.jit` and `jax.grad`, as a term of a loss that takes the
    architecture, `loss(output, labels, arch)`. Traced decisions (an ENAS sample inside jit) count as weights of ones
    and zeros.

    `Gated` paths cost as much as the paths that run, whatever their gates. Ranked inputs can have weights along with
    them.

    A call traces the model, which takes seconds for large ones. For many architectures compile it once:
    `flops = jax.jit(lambda weights: jaxnas.cost(model, shape, weights).flops)`, then `flops(space.one_hot(arch))`.

    Args:
      model_fn: a fixed model (`apply_fixed_architecture`), any other Flax module, or a model with choices.
      input_shape: shape of the model's input with the batch, for instance `(1, 32, 32, 3)` for the cost of one image
        (float32), or an array or `jax.ShapeDtypeStruct` (for token ids); for a model of several inputs a dict or tuple
        of these, such as `{"image": (1, 32, 32, 3), "age": (1, 1)}`, nested as the model takes it.
      arch: for a model with choices: decisions, `Gated` paths among them, or weights `{key: float [n_candidates]}`.

    Raises:
      ArchitectureError: if a model with choices is given no architecture, or one that does not fit or mixes weights
        and decisions.
    """
    x = _input(input_shape)
    model = functional.model_fns(model_fn)
    if not model.takes_arch:
        if arch is not None:
            raise ArchitectureError(f"{type(model.module).__name__} has no choices; call cost without an architecture.")
        return _fixed_cost(model, x)
    if arch is None:
        raise ArchitectureError(
            f"{type(model.module).__name__} has open choices, so its cost depends on them: give decisions, or "
            "weights for an expectation (`Space.uniform()`, for instance)."
        )
    if isinstance(arch, Mapping) and not any(isinstance(value, Gated) or is_array(value) for value in arch.values()):
        return _fixed_cost(functional.model_fns(apply_fixed_architecture(model.module, arch)), x)
    found = traced(lambda x: space(model_fn, x), x, _refusal(x))
    found.validate(arch)
    if any(isinstance(value, Gated) for value in arch.values()):
        return _gated_cost(model, found, x, arch)
    if is_mixture(arch):
        return _expected_cost(model, found, x, arch)
    if all(is_concrete(value) for value in jax.tree.leaves(dict(arch))):
        return _fixed_cost(functional.model_fns(apply_fixed_architecture(model.module, found.fixed(arch))), x)
    read = {key: read_value(key, spec, arch[key]) for key, spec in found.items()}
    certain = {key: _certain(found[key].n_candidates, kind, value) for key, (kind, value) in read.items()}
    return _expected_cost(model, found, x, certain)


def _gated_cost(model: functional.ModelFns, found: Space, x: Any, arch: Arch) -> Cost:
    is_mixture({key: value for key, value in arch.items() if not found[key].ranked})  # or raises
    read = {key: read_value(key, spec, arch[key]) for key, spec in found.items()}
    paths = {key: value.index for key, (kind, value) in read.items() if kind == "gated"}
    decided = all(found[key].n_chosen in (None, len(index)) for key, index in paths.items())
    concrete = all(is_concrete(value) for value in jax.tree.leaves(dict(arch)))
    if concrete and decided and all(kind != "weights" for kind, _ in read.values()):
        ones = {key: Gated(index, jnp.ones(len(index))) for key, index in paths.items()}
        fixed = found.fixed({**arch, **ones})
        return _fixed_cost(functional.model_fns(apply_fixed_architecture(model.module, fixed)), x)
    # As an expectation in which these paths are certain.
    certain = {key: _certain(found[key].n_candidates, kind, value) for key, (kind, value) in read.items()}
    return _expected_cost(model, found, x, certain)


def _certain(n: int, kind: str, value: Any) -> jax.Array:
    """A value of any kind as weights, ones for what runs, float32 `[n]`."""
    if kind in ("weights", "mask"):
        return jnp.asarray(value, jnp.float32)
    return jnp.zeros(n).at[jnp.asarray(value.index if kind == "gated" else value, int)].set(1.0)


def _input(shape: Any) -> Any:
    """The model's input of an argument `input_shape`: a `jax.ShapeDtypeStruct`, or a pytree of them."""
    if _is_shape(shape):
        return jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    if isinstance(shape, Mapping):
        return {key: _input(part) for key, part in shape.items()}
    if isinstance(shape, tuple) and shape and not any(isinstance(part, (int, float, np.number)) for part in shape):
        return tuple(_input(part) for part in shape)
    if isinstance(shape, (tuple, list, str)) or shape is None:
        raise TypeError(
            f"input_shape must be the shape of the model's input with the batch, such as (1, 32, 32, 3), an array or a "
            f"jax.ShapeDtypeStruct, or a dict or tuple of these; got {shape!r}."
        )
    return functional.shape_of(shape)


def _is_shape(shape: Any) -> bool:
    """Whether a value is a plain shape."""
    whole = isinstance(shape, (tuple, list)) and bool(shape)
    return whole and all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) and n > 0 for n in shape)


def _refusal(x: Any) -> Callable[[str, tuple[int, ...], str], Exception]:
    return lambda reason, shape, how: ValueError(
        f"input_shape {tuple(x.shape)}: the model fails on it ({reason}), but takes {shape}."
    )


def _fixed_cost(model: functional.ModelFns, x: Any) -> Cost:
    variables = traced(lambda x: jax.eval_shape(model.init, jax.random.key(0), x), x, _refusal(x))
    closed = jax.make_jaxpr(model.apply)(variables, x)
    labels = _Counter({}).label(closed.jaxpr.invars, variables, x, {})
    total = _Counter({}).count(closed.jaxpr, labels)
    return Cost(total.flops, sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {}))))


def _expected_cost(model: functional.ModelFns, found: Space, x: Any, arch: Arch) -> Cost:
    sampled = jax.eval_shape(found.sample, jax.random.key(0))
    variables = jax.eval_shape(model.init, jax.random.key(0), x, sampled)
    closed = jax.make_jaxpr(model.apply)(variables, x, sampled)
    concrete = all(is_concrete(value) for value in arch.values())
    weights = {key: read_value(key, spec, arch[key])[1] for key, spec in found.items()}
    if concrete:
        weights = {key: np.asarray(value, np.float64) for key, value in weights.items()}
    counter = _Counter(weights)
    labels = counter.label(closed.jaxpr.invars, variables, x, sampled)
    total = counter.count(closed.jaxpr, labels)
    # A parameter that no path uses (an auxiliary head's) belongs to all.
    shares = [total.uses.get(i, 1) for i, _ in enumerate(jax.tree.leaves(variables.get("params", {})))]
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {}))]
    params = sum(size * share for size, share in zip(sizes, shares, strict=True))
    if concrete:
        return Cost(float(total.flops), float(params))
    return Cost(jnp.asarray(total.flops, jnp.float32), jnp.asarray(params, jnp.float32))


class _Label(NamedTuple):
    """What a variable is known to be: a parameter, the index of a choice or of a platform, a contraction's result."""

    kind: str
    name: Any = None


class _Total(NamedTuple):
    flops: Any
    uses: dict[int, Any]  # parameter -> probability that it is used
    outputs: list[_Label | None]


# Through these an index stays an index, and a bias stays a bias.
_FORM = {"reshape", "squeeze", "slice", "broadcast_in_dim", "convert_element_type", "clamp", "copy", "dynamic_slice"}


class _Counter:
    """Counts in a jaxpr, with the probabilities of the candidates of each choice."""

    def __init__(self, weights: Mapping[str, Any]):
        self.weights = weights

    def label(self, invars: list, variables: Any, x: Any, sampled: Any) -> dict[Any, _Label]:
        """Labels of the arguments of `apply(variables, x, sampled)`."""
        number = itertools.count()
        labels: list[_Label | None] = []
        for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]:
            labels.append(_Label("param", next(number)) if path[0].key == "params" else None)
        labels += [None] * len(jax.tree.leaves(x))
        labels += [_Label("choice", path[0].key) for path, _ in jax.tree_util.tree_flatten_with_path(sampled)[0]]
        return _known(invars, labels)

    def count(self, jaxpr: Any, labels: dict[Any, _Label]) -> _Total:
        flops: Any = 0
        uses: dict[int, Any] = {}
        for eqn in jaxpr.eqns:
            inputs = [None if isinstance(v, core.Literal) else labels.get(v) for v in eqn.invars]
            part = self._equation(eqn, inputs)
            flops = flops + part.flops
            uses = _merge(uses, part.uses, jnp.maximum if self._traced() else max)
            labels |= _known(eqn.outvars, part.outputs)
        outputs = [None if isinstance(v, core.Literal) else labels.get(v) for v in jaxpr.outvars]
        return _Total(flops, uses, outputs)

    def _traced(self) -> bool:
        return any(isinstance(value, jax.core.Tracer) for value in self.weights.values())

    def _equation(self, eqn: Any, inputs: list[_Label | None]) -> _Total:
        name = eqn.primitive.name
        nothing: list[_Label | None] = [None] * len(eqn.outvars)
        if name == "cond":
            return self._branches(eqn, inputs)
        if name == "while":
            split = (eqn.params["cond_nconsts"], eqn.params["body_nconsts"])
            body = eqn.params["body_jaxpr"].jaxpr
            total = self.count(body, _known(body.invars, inputs[split[0] :]))
            return total._replace(outputs=nothing)
        if name == "platform_index":
            return _Total(0, {}, [_Label("platform")])
        inner = _inner(eqn)
        if inner is not None:
            total = self.count(inner, _known(inner.invars, inputs))
            if name == "scan":
                return _Total(total.flops * eqn.params["length"], total.uses, nothing)
            return total
        uses = {label.name: 1 for label in inputs if label is not None and label.kind == "param"}
        flops = _flops(eqn, inputs)
        if name in ("conv_general_dilated", "dot_general"):
            return _Total(flops, uses, [_Label("product")])
        kept: list[_Label | None] = [label for label in inputs if label is not None]
        outputs = kept * len(eqn.outvars) if name in _FORM and len(kept) == 1 else nothing
        return _Total(flops, uses, outputs)

    def _branches(self, eqn: Any, inputs: list[_Label | None]) -> _Total:
        branches = [branch.jaxpr for branch in eqn.params["branches"]]
        totals = [self.count(branch, _known(branch.invars, inputs[1:])) for branch in branches]
        chosen = inputs[0]
        nothing: list[_Label | None] = [None] * len(eqn.outvars)
        if chosen is not None and chosen.kind == "platform":
            return totals[-1]  # the default: other platforms may compute the same in another way, by more products
        if chosen is None or chosen.kind != "choice" or len(self.weights[chosen.name]) != len(branches):
            dearest = jnp.maximum if self._traced() else max
            flops, uses = totals[0].flops, totals[0].uses
            for total in totals[1:]:
                flops, uses = dearest(flops, total.flops), _merge(uses, total.uses, dearest)
            outputs = totals[0].outputs if all(t.outputs == totals[0].outputs for t in totals) else nothing
            return _Total(flops, uses, outputs)
        flops, uses = 0, {}
        for weight, total in zip(self.weights[chosen.name], totals, strict=True):
            flops = flops + weight * total.flops
            uses = _merge(uses, {k: weight * share for k, share in total.uses.items()}, lambda a, b: a + b)
        return _Total(flops, uses, nothing)


def _flops(eqn: Any, inputs: list[_Label | None]) -> int:
    size = math.prod(eqn.outvars[0].aval.shape)
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        return size * math.prod(kernel) // kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return size * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    is_bias = eqn.primitive.name == "add" and {label.kind for label in inputs if label} == {"product", "param"}
    return size if is_bias else 0


def _inner(eqn: Any) -> Any:
    """The jaxpr of an equation that calls one with its own arguments: jit, scan, remat, custom derivatives."""
    for value in eqn.params.values():
        jaxpr = getattr(value, "jaxpr", value)
        if hasattr(jaxpr, "eqns") and len(jaxpr.invars) == len(eqn.invars):
            return jaxpr
    return None


def _known(variables: list, labels: list[_Label | None]) -> dict[Any, _Label]:
    return {v: label for v, label in zip(variables, labels, strict=True) if label is not None}


def _merge(a: dict[int, Any], b: dict[int, Any], combine: Any) -> dict[int, Any]:
    return {**a, **b, **{key: combine(a[key], b[key]) for key in a.keys() & b.keys()}}
