"""The open choices of a model: `LayerChoice` and `InputChoice`.

Both are Flax modules without parameters of their own, and pure functions of their inputs and of `arch`,
the architecture (see `jaxnas.model.architecture` for the five kinds of value it may hold). So one model definition
is used as supernet, as sampled path and as fixed model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.model.alike import MANY, fan_out, groups_alike, run_alike, weighted_sum
from jaxnas.model.architecture import INPUT, LAYER, ChoiceSpec
from jaxnas.model.lookup import choice_key, look_up, mask_of
from jaxnas.model.recorder import recorder_of
from jaxnas.model.reducing import REDUCTIONS, check_shapes, reduce_chosen, reduce_masked, reduce_weighted
from jaxnas.ops.merging import merge

NO_KEY = ""
"""In `choose_from`: a candidate that is not the output of any choice."""


class LayerChoice(nn.Module):
    """One of several layers. Follows `nni.nas.pytorch.mutables.LayerChoice`.

    With *weights* every candidate runs and the weighted outputs are reduced; with an *index* only that
    candidate runs (`lax.switch`, so a new index does not retrace; a traced one out of range is clamped); with
    *gated* indices those candidates run, and their outputs, each times its gate, are reduced; when
    *fixed* only that candidate is built, and a LayerChoice that is fixed to nothing (`()`) gives None.

    Candidates may hold parameters, batch statistics, dropout and further choices. Keyword arguments of the
    call, and `arch`, reach those candidates that take them, so some can have a `train` argument and
    others not.

    Attributes:
      candidates: list or dict (name -> layer) of modules, or functions of `x`.
      key: name of the decision; choices with the same key share it. Default: the module's path in its model.
      reduction: how several outputs become one: `"sum"`, `"mean"` (over the candidates whose weight or gate is not
        zero, as in NNI), `"concat"` (channels, the last axis) or `"none"` (a list).
      return_mask: also return what was chosen: weights `[n]` (gates at their indices, zeros elsewhere) or bool `[n]`.
        Its length is that of `candidates`, even if a restriction has left some out.
    """

    candidates: Sequence[Any] | Mapping[str, Any]
    key: str | None = dataclasses.field(default=None, kw_only=True)
    reduction: str = dataclasses.field(default="sum", kw_only=True)
    return_mask: bool = dataclasses.field(default=False, kw_only=True)
    # The names in order: Flax sorts a dict of modules when it clones them (in nn.switch, say).
    _names: tuple[str, ...] | None = dataclasses.field(default=None, kw_only=True, repr=False)

    def __post_init__(self):
        _check_fields(self)
        if not isinstance(self.candidates, (Mapping, Sequence)) or isinstance(self.candidates, str):
            raise TypeError(f"{_title(self)}: candidates must be a list or a dict; got {self.candidates!r}.")
        if not self.candidates:
            raise ValueError(f"{_title(self)}: needs at least one candidate.")
        if isinstance(self.candidates, Mapping) and not all(isinstance(k, str) for k in self.candidates):
            raise TypeError(f"{_title(self)}: candidate names must be strings; got {list(self.candidates)}.")
        if isinstance(self.candidates, Mapping) and self._names is None:
            self._names = tuple(self.candidates)
        for candidate in _layers(self):
            functional.check_candidate(candidate, _title(self))
        super().__post_init__()

    def __call__(self, x: Any, arch: Any, **kwargs: Any) -> Any:
        """Applies the choice.

        Args:
          x: input of every candidate.
          arch: the architecture.
          **kwargs: passed on to the candidates that take them. `train` (or `deterministic`) reaches each under the name
            that the candidate uses, and need not be taken by any.

        Returns:
          The reduced output; with `return_mask` a pair of the output and the mask.

        Raises:
          ArchitectureError: if `arch` has no fitting value, or candidates differ in output shape.
        """
        layers = _layers(self)
        options = {"arch": arch, **kwargs}
        unused = (
            set(kwargs) - set(functional.MODES) - set().union(*(functional.reached(layer, options) for layer in layers))
        )
        if unused:
            raise TypeError(f"{_title(self)}: no candidate takes the argument {sorted(unused)}.")

        key = choice_key(self, arch)
        kind, value, spec = look_up(arch, key, ChoiceSpec(LAYER, len(layers), self._names))
        kept = spec.original or range(len(layers))
        recorder, labels = recorder_of(arch), spec.labels

        def run(module: LayerChoice, i: int, x: Any) -> Any:
            return functional.call(_layers(module)[kept[i]], x, options)

        if recorder is not None:
            computed = {kept[i] for i in (value if kind == "fixed" else range(len(kept)))}
            others = [i for i in range(len(layers)) if i not in computed]
            recorder.look_aside(partial(functional.call, layers[i], x, options) for i in others)
        mask = mask_of(spec, kind, value)
        if kind == "fixed":
            return _with_mask(self, reduce_chosen(self.reduction, [run(self, i, x) for i in value]), mask)
        if kind == "weights":
            merged = self._merge([layers[i] for i in kept], x, value, options) if recorder is None else {}
            rest = [i for i in range(len(kept)) if not any(i in members for members in merged)]
            outputs = self._run_all(run, [layers[i] for i in kept], x, options, rest)
            scales = value if len(rest) == len(kept) else value[np.array(rest, int)]
            if merged:
                ones = jnp.ones(len(merged), value.dtype)
                outputs, scales = [*merged.values(), *outputs], jnp.concatenate([ones, scales])
                labels = (*(labels[members[0]] for members in merged), *(labels[i] for i in rest))
            return _with_mask(self, reduce_weighted(key, self.reduction, outputs, scales, labels), mask)
        if kind == "gated":
            outputs = self._run_some(run, x, value.index, key, labels)
            paths = range(len(outputs))
            return _with_mask(self, reduce_weighted(key, self.reduction, outputs, value.gate, paths), mask)
        return _with_mask(self, reduce_chosen(self.reduction, self._run_some(run, x, value, key, labels)), mask)

    def _merge(self, layers: list[Any], x: Any, weights: jax.Array, options: Any) -> dict[tuple[int, ...], Any]:
        """The weighted sums of those layers that can be run as one: convolutions, and many equal modules."""
        observed = self.is_initializing() or self.is_mutable_collection("intermediates")
        if self.reduction != "sum" or observed:
            return {}
        merged: dict[tuple[int, ...], Any] = dict(merge(layers, x, weights, self._convolution()))
        rest = [i for i in range(len(layers)) if not any(i in members for members in merged)]
        for group in groups_alike([layers[i] for i in rest]):
            members = tuple(rest[i] for i in group)
            outputs = run_alike([layers[i] for i in members], x, options)
            merged[members] = weighted_sum(weights[np.array(members)], outputs)
        return merged

    def _run_all(self, run: Callable, layers: list[Any], x: Any, options: Any, rest: Sequence[int]) -> list[Any]:
        """The outputs of the layers at the positions `rest`."""
        outputs: dict[int, Any] = {}
        if self.is_initializing() and not self.is_mutable_collection("intermediates"):
            for group in groups_alike([layers[i] for i in rest]):
                stacked = run_alike([layers[rest[i]] for i in group], x, options)
                outputs |= {rest[i]: jax.tree.map(lambda leaf, j=j: leaf[j], stacked) for j, i in enumerate(group)}
        others = [i for i in rest if i not in outputs]
        inputs = fan_out(x, len(others)) if len(others) >= MANY else [x] * len(others)
        outputs |= {i: run(self, i, own) for i, own in zip(others, inputs, strict=True)}
        return [outputs[i] for i in rest]

    def _convolution(self) -> Callable:
        """The convolution function of merged candidates; replaced inside `jaxnas.ops.fast_convolutions`."""
        return jax.lax.conv_general_dilated

    def _run_some(self, run: Callable, x: Any, indices: jax.Array, key: str, labels: Sequence) -> list[Any]:
        """The outputs of the candidates at int `[k]`."""
        if self.is_initializing():  # every candidate needs its parameters
            outputs = [run(self, i, x) for i in range(len(labels))]
            check_shapes(key, outputs, labels)
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
            return [jax.tree.map(lambda leaf, j=j: leaf[indices[j]], stacked) for j in range(len(indices))]
        return [self._run_one(run, x, indices[j], key, labels) for j in range(len(indices))]

    def _run_one(self, run: Callable, x: Any, index: jax.Array, key: str, labels: Sequence) -> Any:
        if len(labels) == 1:
            return run(self, 0, x)
        seen: list[Any] = []

        def switch(finish: Callable) -> Any:
            def branch(i: int) -> Callable:
                return lambda module, x: finish(run(module, i, x))

            return nn.switch(index, [branch(i) for i in range(len(labels))], self, x)

        def look(output: Any) -> Any:
            seen.append(output)
            return output

        try:
            return switch(look)
        except TypeError:  # the branches' outputs differ
            if len(seen) < len(labels):
                raise
            check_shapes(key, seen, labels)
            dtypes = jax.tree.map(jnp.result_type, *seen)
            return switch(lambda output: jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), output, dtypes))


class InputChoice(nn.Module):
    """Some of several tensors. Follows `nni.nas.pytorch.mutables.InputChoice`.

    With *weights* the weighted tensors are reduced; with *indices* `[n_chosen]` or a *bool mask* `[n]` the
    selected ones; with *gated* indices the selected ones, each times its gate, of any number; when *fixed* likewise.
    One tensor reduces to itself. Nothing chosen gives zeros while
    sampled, since shapes cannot depend on a traced value, and None when fixed.

    Attributes:
      n_candidates: number of tensors; or give
      choose_from: their names, usually the keys of the choices they come from, `NO_KEY` for others. Used in
        exported files if they are all different. The call can then take a dict with these names.
      n_chosen: how many are chosen; None for any number from none to all.
      key: name of the decision; choices with one key share it. Default: the module's path in its model.
      reduction: `"sum"`, `"mean"` (over the chosen, or those whose weight or gate is not zero), `"concat"`
        (channels, the last axis; a traced mask keeps all channels and zeroes those not chosen) or `"none"`.
      return_mask: also return what was chosen; see `LayerChoice`.
      ranked: the candidates are LayerChoices, `choose_from` being their keys. DARTS then has no logits for this
        choice: every input enters with weight 1, and the inputs from the strongest layers are chosen.
    """

    n_candidates: int | None = None
    choose_from: Sequence[str] | None = None
    n_chosen: int | None = None
    key: str | None = dataclasses.field(default=None, kw_only=True)
    reduction: str = dataclasses.field(default="sum", kw_only=True)
    return_mask: bool = dataclasses.field(default=False, kw_only=True)
    ranked: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self):
        _check_fields(self)
        if self.choose_from is not None:
            if isinstance(self.choose_from, str) or not all(isinstance(k, str) for k in self.choose_from):
                raise TypeError(f"{_title(self)}: choose_from must be a list of strings; got {self.choose_from!r}.")
            self.choose_from = tuple(self.choose_from)
            if self.n_candidates not in (None, len(self.choose_from)):
                raise ValueError(
                    f"{_title(self)}: n_candidates is {self.n_candidates} but choose_from has {len(self.choose_from)}."
                )
            self.n_candidates = len(self.choose_from)
        if not self.n_candidates or self.n_candidates < 1:
            raise ValueError(f"{_title(self)}: give n_candidates (at least 1) or choose_from.")
        if self.n_chosen is not None and not 1 <= self.n_chosen <= self.n_candidates:
            raise ValueError(
                f"{_title(self)}: n_chosen must be None or from 1 to {self.n_candidates}; got {self.n_chosen}."
            )
        super().__post_init__()

    def __call__(self, tensors: Sequence[Any] | Mapping[str, Any], arch: Any) -> Any:
        """Applies the choice.

        Args:
          tensors: the candidates, in order; or a dict with the names in `choose_from`. A tensor that a fixed
            architecture does not choose can be None.
          arch: the architecture.

        Returns:
          The reduced tensor (None if fixed to nothing); with `return_mask` a pair of the tensor and the mask.

        Raises:
          ArchitectureError: if `arch` has no fitting value, or tensors to be reduced differ in shape.
        """
        tensors = self.in_order(tensors)
        n = len(tensors)
        names = tuple(self.choose_from) if self.choose_from and len(set(self.choose_from)) == n else None
        key = choice_key(self, arch)
        kind, value, spec = look_up(arch, key, ChoiceSpec(INPUT, n, names, self.n_chosen, self.ranked))
        tensors = [tensors[i] for i in spec.original or range(n)]
        used = value if kind == "fixed" else range(len(tensors))
        absent = [spec.labels[i] for i in used if tensors[i] is None]
        if absent:
            raise ArchitectureError(f"{_title(self)} (key {key!r}): the chosen input {absent} is None.")

        mask = mask_of(spec, kind, value)
        if kind == "fixed":
            return _with_mask(self, reduce_chosen(self.reduction, [tensors[i] for i in value]), mask)
        if kind == "weights":
            return _with_mask(self, reduce_weighted(key, self.reduction, tensors, value, spec.labels), mask)
        if kind == "mask":
            kept = [jnp.where(value[i], t, jnp.zeros_like(t)) for i, t in enumerate(tensors)]
            return _with_mask(self, reduce_masked(key, self.reduction, kept, value, spec.labels), mask)
        check_shapes(key, tensors, spec.labels)
        index = value.index if kind == "gated" else value
        picked = [_pick(tensors, index[j]) for j in range(len(index))]
        if kind == "gated":
            return _with_mask(self, reduce_weighted(key, self.reduction, picked, value.gate, range(len(picked))), mask)
        return _with_mask(self, reduce_chosen(self.reduction, picked), mask)

    @nn.nowrap
    def in_order(self, tensors: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        """The candidates of a call in order. Raises ArchitectureError or TypeError if they do not fit."""
        if isinstance(tensors, Mapping):
            if self.choose_from is None:
                raise TypeError(f"{_title(self)}: takes a dict of tensors only if choose_from names them.")
            absent = [k for k in self.choose_from if k not in tensors]
            if absent:
                raise ArchitectureError(f"{_title(self)}: no tensor for {absent}; given are {list(tensors)}.")
            return [tensors[k] for k in self.choose_from]
        if not isinstance(tensors, (list, tuple)):
            raise TypeError(
                f"{_title(self)}: takes a list of {self.n_candidates} tensors; got {type(tensors).__name__}."
            )
        if len(tensors) != self.n_candidates:
            raise ArchitectureError(f"{_title(self)}: takes {self.n_candidates} tensors; got {len(tensors)}.")
        return list(tensors)


def _pick(tensors: Sequence[jax.Array], index: jax.Array) -> jax.Array:
    """`tensors[index]`, in their common dtype. A branch reads one tensor, where stacking would copy them all."""
    dtype = jnp.result_type(*tensors)
    return jax.lax.switch(index, [lambda *t, i=i: t[i].astype(dtype) for i in range(len(tensors))], *tensors)


def _layers(choice: LayerChoice) -> list[Any]:
    if isinstance(choice.candidates, Mapping):
        return [choice.candidates[name] for name in choice._names or ()]
    return list(choice.candidates)


def _check_fields(choice: Any) -> None:
    if choice.reduction not in REDUCTIONS:
        raise ValueError(f"{_title(choice)}: reduction must be one of {REDUCTIONS}; got {choice.reduction!r}.")
    if choice.key is not None and (not isinstance(choice.key, str) or not choice.key):
        raise TypeError(f"{_title(choice)}: key must be a non-empty string; got {choice.key!r}.")


def _title(choice: Any) -> str:
    label = choice.key or choice.name
    return f"{type(choice).__name__} {label!r}" if label else type(choice).__name__


def _with_mask(choice: Any, output: Any, mask: Any) -> Any:
    return (output, mask) if choice.return_mask else output
