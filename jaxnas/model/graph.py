"""The dataflow among the choices of a model, found by tracing it. For pictures.

The inputs and outputs of each choice are marked with the identity primitive of `jax.ad_checkpoint.checkpoint_name`
while the model is traced; following the marks through the jaxpr tells which choices feed which.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core

from jaxnas.model import functional
from jaxnas.model.architecture import LAYER, ChoiceSpec
from jaxnas.model.cells import Cell, CellEdge, cells_of, position_left
from jaxnas.model.choices import InputChoice, LayerChoice
from jaxnas.model.jaxprs import inner_jaxprs
from jaxnas.model.lookup import choice_key
from jaxnas.model.recorder import Recorder
from jaxnas.model.restrict import whole_model
from jaxnas.model.space import Space, check_takes_arch

__all__ = ["Cell", "CellEdge", "graph_or_none", "trace_graph"]

_MARK = "jaxnas.graph"
_INPUT, _OUTPUT = "\0input", "\0output"  # stand for the ends of the model among the keys of its choices


def trace_graph(model_fn: Any, *example_inputs: Any) -> dict[str, Any]:
    """Finds which choices of a model feed which. Nothing is computed and no memory is taken.

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module.
      *example_inputs: the model's inputs before `arch`: pytrees of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A dict of what JSON has, in a fixed order:

      * `nodes`: `{"key", "kind", "uses", "inside"}` with kind `"input"` (first), `"layer"`, `"inputs"` or `"output"`
        (last), choices in the order in which they first give a result. `uses` says how often the model calls the
        choice (in a loop of known length once per turn; branches all count), `inside` names the choice that has it in
        one of its candidates. The ends are called `"input"` and `"output"`, in brackets if a choice has that key.
      * `edges`: `{"source", "target", "candidates"}` if the output of the source reaches the target through no other
        choice; `candidates` lists the candidates of an InputChoice that it reaches, else it is None (of a restricted
        choice all numbers count what is left). Masks (`return_mask`) are decisions, not data. Acyclic and in the order
        of `nodes`: calls of one key are one node, and of the ways back from a later to an earlier choice (repeated
        cells) none is kept. For the same reason a later use of a choice is linked only to the latest uses of others.
      * `cells`: of a model with a method `describe_cells` (see `Cell`), else `[]`: `{"name", "nodes", "edges"}`,
        edges with the fields of `CellEdge`.

    Raises:
      ArchitectureError: as `jaxnas.space`; also if `describe_cells` does not fit the choices.
    """
    recorder, marker = Recorder(aside=False), _Marker()
    model = functional.model_fns(model_fn)
    check_takes_arch(model, len(example_inputs))
    specs = jax.tree.map(functional.shape_of, example_inputs)

    def call(*inputs: Any) -> Any:
        with nn.intercept_methods(marker):
            return model.trace(*inputs, recorder)

    closed = jax.make_jaxpr(call)(*specs)
    space = Space(recorder.found)
    flow = _Flow(marker.calls)
    given = flow.run(closed.jaxpr, [frozenset({_Token(_INPUT, 0)})] * len(closed.jaxpr.invars))
    flow.arrive(_OUTPUT, _union(given), first=True)
    return {**_written(flow, marker.calls, space), "cells": cells_of(whole_model(model.module), space)}


def graph_or_none(model_fn: Any, *example_inputs: Any) -> dict[str, Any] | None:
    """As `trace_graph`, for a model whose space is known; None, with a warning, if no picture can be made."""
    try:
        return trace_graph(model_fn, *example_inputs)
    # A wrong description, what cannot be marked (NotImplementedError), a jaxpr that another JAX writes differently.
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as e:
        warnings.warn(f"there will be no picture of the model: {type(e).__name__}: {e}", stacklevel=2)
        return None


# ---------------------------------------------------------------------- marking


class _Call(NamedTuple):
    key: str
    inside: str | None


class _Marker:
    """Interceptor that marks the inputs and outputs of choices, with the call's number in `calls`."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._open: list[str] = []

    def __call__(self, call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        # The call of a subclass can have another form, and calls that of its base: only the latter counts.
        method = getattr(context.orig_method, "func", None)
        if method not in _METHODS:
            return call(*args, **kwargs)
        choice, number = context.module, len(self.calls)
        bound = inspect.signature(method).bind(choice, *args, **kwargs).arguments
        key = choice_key(choice, bound["arch"])
        self.calls.append(_Call(key, self._open[-1] if self._open else None))
        if isinstance(choice, InputChoice):
            tensors = choice.in_order(bound["tensors"])
            bound["tensors"] = [_mark(t, number, "candidate", i) for i, t in enumerate(tensors)]
        else:
            bound["x"] = _mark(bound["x"], number, "in")
        options = bound.pop("kwargs", {})
        del bound["self"]
        self._open.append(key)
        try:
            output = call(**bound, **options)
        finally:
            self._open.pop()
        way = "chosen" if isinstance(choice, InputChoice) else "out"
        if choice.return_mask:
            return _mark(output[0], number, way), output[1]
        return _mark(output, number, way)


_METHODS = (inspect.unwrap(LayerChoice.__call__), inspect.unwrap(InputChoice.__call__))


def _mark(tree: Any, number: int, way: str, label: int | None = None) -> Any:
    """Marks the leaves of `tree`, with their number unless a label is given.

    Only traced values: the others carry no data of the model's input, and must stay concrete.
    """
    leaves, form = jax.tree.flatten(tree)
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, jax.core.Tracer):
            leaves[i] = checkpoint_name(leaf, f"{_MARK}:{number}:{way}:{i if label is None else label}")
    return jax.tree.unflatten(form, leaves)


# ---------------------------------------------------------------------- following


class _Token(NamedTuple):
    """A mark of a value: it comes from the use with that number (from 1) of a choice."""

    key: str
    use: int


Tokens = frozenset[_Token]
_NOTHING: Tokens = frozenset()


class _Flow:
    """Follows marks through a jaxpr, in the order of its equations.

    Attributes:
      uses: how often each choice is called, loops multiplied out; in the order of their first results.
      edges: `(source, target) -> ` the candidates that it reaches; None among them for a target without any.
    """

    def __init__(self, calls: Sequence[_Call]):
        self.calls = calls
        self.uses: dict[str, int] = {}
        self.edges: dict[tuple[str, str], set[int | None]] = {}
        self._given: Counter[str] = Counter()  # how many results there were so far, each turn of a loop followed once
        self._times = 1  # how many turns of loops the equations now followed stand for

    def run(self, jaxpr: Any, inputs: Sequence[Tokens]) -> list[Tokens]:
        """What the outputs of a jaxpr carry."""
        carried = dict(zip(jaxpr.invars, inputs, strict=True))

        def of(variables: Iterable[Any]) -> list[Tokens]:
            return [_NOTHING if isinstance(v, core.Literal) else carried.get(v, _NOTHING) for v in variables]

        for eqn in jaxpr.eqns:
            carried |= zip(eqn.outvars, self._equation(eqn, of(eqn.invars)), strict=True)
        return of(jaxpr.outvars)

    def arrive(self, target: str, tokens: Tokens, *, first: bool, candidate: int | None = None) -> None:
        """Notes what reaches a choice; at its later uses, only what comes from the latest uses of others."""
        for source, use in tokens:
            if source != target and (first or use == self._given[source]):
                self.edges.setdefault((source, target), set()).add(candidate)

    def _equation(self, eqn: Any, inputs: list[Tokens]) -> list[Tokens]:
        name, params = eqn.primitive.name, eqn.params
        if name == "name" and params["name"].startswith(_MARK):
            return [self._marked(params["name"], inputs[0])]
        if name == "scan":
            return self._scan(params, inputs)
        if name == "while":
            return self._while(params, inputs)
        bodies = inner_jaxprs(params)
        if name == "cond":
            given = [self.run(body, inputs[1:]) for body in bodies]
            return [_union([inputs[0], *outputs]) for outputs in zip(*given, strict=True)]
        if len(bodies) == 1:  # jit, remat, custom derivatives: called with the equation's own arguments
            (body,) = bodies
            if (len(body.invars), len(body.outvars)) == (len(inputs), len(eqn.outvars)):
                return self.run(body, inputs)
        everything = _union(inputs)
        for body in bodies:
            everything |= _union(self.run(body, [everything] * len(body.invars)))
        return [everything] * len(eqn.outvars)

    def _marked(self, mark: str, tokens: Tokens) -> Tokens:
        number, way, label = mark.removeprefix(_MARK + ":").split(":")
        key = self.calls[int(number)].key
        if way == "in":
            self.arrive(key, tokens, first=not self._given[key])
            return tokens
        if way == "candidate":
            self.arrive(key, tokens, first=not self._given[key], candidate=int(label))
            return tokens
        if int(label) == 0 or not self._given[key]:  # the first of the leaves that a call gives
            self._given[key] += 1
            self.uses[key] = self.uses.get(key, 0) + self._times
        if way == "out":
            self.arrive(key, tokens, first=self._given[key] == 1)
        return frozenset({_Token(key, self._given[key])})

    def _scan(self, params: Mapping[str, Any], inputs: list[Tokens]) -> list[Tokens]:
        fixed, carries = _scan_parts(params)
        (body,) = inner_jaxprs(params)
        outputs, stacked = self._loop(
            lambda carry: self.run(body, [*inputs[:fixed], *carry, *inputs[carries:]]),
            inputs[fixed:carries],
            params["length"],
        )
        return [*outputs, *stacked]

    def _while(self, params: Mapping[str, Any], inputs: list[Tokens]) -> list[Tokens]:
        first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        condition, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
        turned, _ = self._loop(lambda carry: self.run(body, [*inputs[first:second], *carry]), inputs[second:], None)
        carry = [_union(pair) for pair in zip(inputs[second:], turned, strict=True)]  # the loop may have no turn
        ends = _union(self.run(condition, [*inputs[:first], *carry]))
        return [tokens | ends for tokens in carry]

    def _loop(
        self, body: Callable[[list[Tokens]], list[Tokens]], carry: list[Tokens], length: int | None
    ) -> tuple[list[Tokens], list[Tokens]]:
        """Follows turns of a loop until what is carried comes from the same choices as before the turn.

        Returns what the carry holds at the end, and what all turns output. An unknown length counts once.
        """
        most = max(1, len(carry) + 2 if length is None else min(length, len(carry) + 2))
        times = self._times
        stacked: list[Tokens] = []
        self._times = times * (1 if length is None else length)
        for _ in range(most):
            given = body(carry)
            before, carry = carry, given[: len(carry)]
            put_out = given[len(carry) :]
            stacked = [_union(pair) for pair in zip(stacked, put_out, strict=True)] if stacked else put_out
            self._times = 0  # all turns are counted
            if [_keys(tokens) for tokens in before] == [_keys(tokens) for tokens in carry]:
                break
        self._times = times
        return carry, stacked


def _scan_parts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Where the constants end and where the carry ends among the arguments of a scan."""
    if "num_consts" in params:  # JAX 0.10
        return params["num_consts"], params["num_consts"] + params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()
    return len(constants), len(constants) + len(carry)


def _union(tokens: Iterable[Tokens]) -> Tokens:
    return _NOTHING.union(*tokens)


def _keys(tokens: Tokens) -> set[str]:
    return {token.key for token in tokens}


# ---------------------------------------------------------------------- writing


def _written(flow: _Flow, calls: Sequence[_Call], space: Space) -> dict[str, Any]:
    inside = {call.key: call.inside for call in reversed(calls)}
    order = [_INPUT, *flow.uses, *(key for key in space if key not in flow.uses), _OUTPUT]
    names = {end: name if name not in space else f"({name})" for end, name in ((_INPUT, "input"), (_OUTPUT, "output"))}
    kinds = {_INPUT: "input", _OUTPUT: "output"} | {
        k: "layer" if s.kind == LAYER else "inputs" for k, s in space.items()
    }
    place = {key: i for i, key in enumerate(order)}
    edges = {edge: _reached(found, space.get(edge[1])) for edge, found in flow.edges.items()}
    forward = sorted(
        (edge for edge, found in edges.items() if found and place[edge[0]] < place[edge[1]]),
        key=lambda edge: (place[edge[1]], place[edge[0]]),
    )
    return {
        "nodes": [
            {"key": names.get(key, key), "kind": kinds[key], "uses": flow.uses.get(key, 1), "inside": inside.get(key)}
            for key in order
        ],
        "edges": [
            {
                "source": names.get(source, source),
                "target": names.get(target, target),
                "candidates": sorted(c for c in edges[source, target] if c is not None) or None,
            }
            for source, target in forward
        ],
    }


def _reached(candidates: set[int | None], spec: ChoiceSpec | None) -> set[int | None]:
    """The candidates of a choice that something reaches, counting only those left."""
    found = {i if i is None or spec is None else position_left(spec, i) for i in candidates}
    return found if None in candidates else found - {None}
