"""The search space of a model: which choices it has, found by abstract evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import ArchitectureError
from jaxnas.model import functional
from jaxnas.model.architecture import INPUT, LAYER, Arch, ChoiceSpec, Gated, fixed_value, is_array
from jaxnas.model.recorder import Recorder
from jaxnas.model.sampling import as_sampled, below, decide, mutate, sample, width
from jaxnas.model.values import positions, read_value


def space(model_fn: Any, *example_inputs: Any) -> Space:
    """Finds every choice of a model. Nothing is computed and no memory is taken.

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module.
      *example_inputs: the model's inputs before `arch`: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The choices in the order in which the model meets them.

    Raises:
      ArchitectureError: if two choices share a key but not their candidates, or if candidates
        that are to be summed give different shapes.
    """
    return trace(model_fn, *example_inputs)[0]


def trace(model_fn: Any, *example_inputs: Any) -> tuple[Space, Any]:
    """As `space`; also gives the shapes of the model's output."""
    recorder = Recorder()
    output = _record(model_fn, example_inputs, recorder)
    return Space(recorder.found, unreached=recorder.unreached), output


def check_fixed(model_fn: Any, arch: Arch, *example_inputs: Any) -> None:
    """Checks decisions against a model, which is traced with what they choose: other candidates may have other shapes.

    Choices inside candidates that are not chosen are not reached: they may be decided or not.

    Raises:
      ArchitectureError: as `Space.validate`.
    """
    recorder, failure = Recorder(arch), None
    try:
        _record(model_fn, example_inputs, recorder)
    except Exception as e:  # a missing or unfitting value causes what fails after its choice
        failure = e
    unreached: dict[str, ChoiceSpec | None] = dict(recorder.unreached)
    stopped = failure is not None and recorder.found.keys() <= arch.keys()
    if recorder.untraced or stopped:  # which other choices exist is unknown
        unreached |= dict.fromkeys(arch.keys() - recorder.found.keys() - unreached.keys())
    Space(recorder.found, unreached=unreached).validate(arch)
    if failure is not None:
        raise failure


def _record(model_fn: Any, example_inputs: tuple, recorder: Recorder) -> Any:
    model = functional.model_fns(model_fn)
    check_takes_arch(model, len(example_inputs))
    specs = jax.tree.map(functional.shape_of, example_inputs)
    return jax.eval_shape(lambda *inputs: model.trace(*inputs, recorder), *specs)


def check_takes_arch(model: functional.ModelFns, n_inputs: int) -> None:
    """Raises ArchitectureError unless the model can be called with that many inputs and an architecture."""
    if not model.accepts_arch(n_inputs):
        raise ArchitectureError(
            f"{type(model.module).__name__} takes no `arch` after its {n_inputs} input(s), so it has no "
            "choices; a model with choices is called model(x, arch)."
        )


@jax.tree_util.register_static
class Space(Mapping[str, ChoiceSpec]):
    """An ordered, immutable mapping from choice key to `ChoiceSpec`.

    Architectures go in and out as dicts `{key: value}`; see `jaxnas.model.architecture` for the five kinds
    of value. All methods that draw take a key; those marked as traceable work under `jax.jit` and
    `jax.vmap`.
    """

    def __init__(self, specs: Mapping[str, ChoiceSpec], *, unreached: Mapping[str, ChoiceSpec | None] | None = None):
        """Makes a space from choices.

        Args:
          specs: the choices.
          unreached: choices for which architectures may have values without meaning: those inside candidates that a
            restriction has left out. None for an unknown spec.
        """
        self._specs = dict(specs)
        self._unreached = dict(unreached or {})
        layers = {key for key, spec in {**self._unreached, **self._specs}.items() if spec and spec.kind == LAYER}
        for key, spec in self._specs.items():
            unknown = [name for name in spec.names or () if spec.ranked and name not in layers]
            if unknown:
                raise ArchitectureError(f"choice {key!r} ranks the layers behind it, but {unknown} are no LayerChoice.")

    def __getitem__(self, key: str) -> ChoiceSpec:
        return self._specs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self.items()))

    @property
    def size(self) -> int:
        """Number of architectures: an exact integer, however large."""
        return math.prod(spec.size for spec in self.values())

    # ------------------------------------------------------------------ drawing

    def sample(self, rng: jax.Array) -> dict[str, jax.Array]:
        """Draws one architecture uniformly. Traceable; `jax.vmap(space.sample)(keys)` draws a batch.

        Returns:
          Per key int32 `[]` (one of n), int32 `[n_chosen]` ascending, or bool `[n]` (any subset, each
          input with probability 1/2).
        """
        return self.decode(jax.random.uniform(rng, (self.n_uniforms,), jnp.float32))

    @property
    def n_uniforms(self) -> int:
        """How many uniform numbers `decode` makes an architecture from."""
        return sum(width(spec) for spec in self.values())

    def decode(self, uniform: jax.Array) -> dict[str, jax.Array]:
        """The architecture that independent uniform numbers in [0, 1), float32 `[n_uniforms]`, stand for. Traceable.

        `sample` applies this to numbers that it draws; elsewhere one draw can be used for several purposes.
        """
        arch, start = {}, 0
        for key, spec in self.items():
            arch[key] = sample(uniform[start : start + width(spec)], spec)
            start += width(spec)
        return arch

    def mutate(self, rng: jax.Array, fixed: Arch) -> dict[str, Any]:
        """Changes one decision, drawn uniformly among those that have an alternative.

        One of n moves to another candidate; k of n exchange one; any-subset flips one input.

        Args:
          rng: a key.
          fixed: an architecture, either fixed or in the form `sample` gives.

        Returns:
          The changed architecture in the form given. Traceable for the form `sample` gives.

        Raises:
          ArchitectureError: if the architecture does not fit, or no choice has an alternative.
        """
        self.validate(fixed)
        as_sampled = all(is_array(fixed[key]) for key in self)
        uniform = jax.random.uniform(rng, (self.n_mutation_uniforms,), jnp.float32)
        arch = self.mutation(uniform, self.sampled(fixed))
        return arch if as_sampled else self.fixed(arch)

    @property
    def n_mutation_uniforms(self) -> int:
        """How many uniform numbers `mutation` takes."""
        return 1 + max((width(spec) for spec in self.values()), default=0)

    def mutation(self, uniform: jax.Array, arch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """As `mutate`, of an architecture in the form `sample` gives and uniform numbers in [0, 1). Traceable.

        Args:
          uniform: float32 `[n_mutation_uniforms]`, independent.
          arch: not checked.

        Raises:
          ArchitectureError: if no choice has an alternative.
        """
        open_keys = [key for key, spec in self.items() if spec.size > 1]
        if not open_keys:
            raise ArchitectureError("nothing to mutate: no choice of this space has an alternative.")
        picked = below(uniform[0], len(open_keys))
        changed = dict(arch)
        for i, key in enumerate(open_keys):  # one of them is kept, so they may share their numbers
            changed[key] = jnp.where(picked == i, mutate(uniform[1:], self[key], arch[key]), arch[key])
        return changed

    def pack(self, arch: Mapping[str, jax.Array]) -> jax.Array:
        """An architecture in the form `sample` gives as one row of numbers, int32 `[width]`. Traceable."""
        rows = [jnp.ravel(jnp.asarray(arch[key], jnp.int32)) for key in self]
        return jnp.concatenate([*rows, jnp.zeros(0, jnp.int32)])

    def unpack(self, row: jax.Array) -> dict[str, jax.Array]:
        """The architecture that `pack` turned into this row. Traceable."""
        arch, start = {}, 0
        for key, spec in self.items():
            count = spec.n_candidates if spec.n_chosen is None else spec.n_chosen
            part = row[start : start + count]
            arch[key] = part[0] if spec.n_chosen == 1 else part.astype(bool) if spec.n_chosen is None else part
            start += count
        return arch

    def to_bits(self, arch: Mapping[str, jax.Array]) -> jax.Array:
        """An architecture in the form `sample` gives in as few numbers as hold its bits, int32 `[words]`. Traceable.

        For storing many architectures: with one or two numbers each, operations on batches are fast.
        """
        words = [jnp.zeros((), jnp.int32)]
        for number, (word, shift, _) in zip(jnp.unstack(self.pack(arch)), self._fields, strict=True):
            if word == len(words):
                words.append(jnp.zeros((), jnp.int32))
            words[word] |= number << shift
        return jnp.stack(words)

    def from_bits(self, words: jax.Array) -> dict[str, jax.Array]:
        """The architecture that `to_bits` turned into these numbers. Traceable."""
        row = [(words[word] >> shift) & mask for word, shift, mask in self._fields]
        return self.unpack(jnp.stack(row) if row else jnp.zeros(0, jnp.int32))

    @property
    def _fields(self) -> list[tuple[int, int, int]]:
        """Word, shift and mask of each number of a row; no field lies in two words, and none uses a sign."""
        fields, word, shift = [], 0, 0
        for spec in self.values():
            largest = 1 if spec.n_chosen is None else spec.n_candidates - 1
            width = largest.bit_length()
            for _ in range(spec.n_candidates if spec.n_chosen is None else spec.n_chosen):
                if shift + width > 31:
                    word, shift = word + 1, 0
                fields.append((word, shift, 2**width - 1))
                shift += width
        return fields

    # ------------------------------------------------------------------ the other forms

    def uniform(self) -> dict[str, jax.Array]:
        """Equal weights, float32 `[n]`: the mean of `sample` (1/n, k/n, or 1/2 for any subset)."""
        return {
            key: jnp.full(spec.n_candidates, 0.5 if spec.n_chosen is None else spec.n_chosen / spec.n_candidates)
            for key, spec in self.items()
        }

    def one_hot(self, fixed: Arch) -> dict[str, jax.Array]:
        """The weights, float32 `[n]` of ones and zeros, that compute what a fixed architecture computes."""
        chosen = self._chosen(fixed)
        return {
            key: jnp.asarray(np.isin(np.arange(spec.n_candidates), chosen[key]), jnp.float32)
            for key, spec in self.items()
        }

    def sampled(self, fixed: Arch) -> dict[str, jax.Array]:
        """A fixed architecture as arrays, in the form `sample` gives: one compilation runs them all.

        Gated paths become the decision they stand for; see `fixed`.
        """
        self.validate(fixed)
        return {key: as_sampled(key, spec, fixed[key]) for key, spec in self.items()}

    def fixed(self, arch: Arch) -> dict[str, int | str | tuple]:
        """The decisions of an architecture, in their one canonical form.

        Weights are decided by their size: the largest, the `n_chosen` largest, or those above 1/2 for
        any-subset. Gated paths likewise: the `n_chosen` with the largest gates (all, if there are no more), or for
        any-subset those whose gate is not zero. Everything else is already a decision, and is checked and rewritten:
        names if candidates are named, else indices (in the complete choice, if it is restricted); a scalar where one
        is chosen, else an ascending tuple.

        Raises:
          ArchitectureError: if the architecture does not fit this space, or has fewer gated paths than are chosen.
        """
        chosen = self._chosen(arch)
        return {key: fixed_value(spec, chosen[key]) for key, spec in self.items()}

    def validate(self, arch: Arch) -> None:
        """Checks an architecture of any kind, traced or not.

        Raises:
          ArchitectureError: for a missing or unexpected key, an unknown name, an index out of range, a
            wrong length or number chosen, or a value that is none of the five kinds.
        """
        if not isinstance(arch, Mapping):
            raise ArchitectureError(f"an architecture is a dict {{key: value}}; got {type(arch).__name__}.")
        missing = [key for key in self if key not in arch]
        unexpected = sorted(str(key) for key in arch if key not in self and key not in self._unreached)
        if missing or unexpected:
            found = [f"missing keys: {missing}"] * bool(missing) + [f"unexpected keys: {unexpected}"] * bool(unexpected)
            raise ArchitectureError(f"{'; '.join(found)}; an architecture of this space has exactly {list(self)}.")
        chosen = {}
        for key, spec in self.items():
            kind, value = read_value(key, spec, arch[key])
            chosen[key] = value if kind == "fixed" else None
        for key, unreached in self._unreached.items():
            if unreached is not None and key in arch and not isinstance(arch[key], Gated) and not is_array(arch[key]):
                positions(key, unreached.whole, arch[key])
        for key, spec in self.items():
            if spec.kind == LAYER and chosen[key] == () and not self._left_out(key, chosen):
                raise ArchitectureError(
                    f"choice {key!r} ({spec}): got none chosen; expected 1. (None is possible only for a layer "
                    "that an InputChoice names in `choose_from` and does not choose.)"
                )

    def _left_out(self, layer: str, chosen: Mapping[str, tuple[int, ...] | None]) -> bool:
        """Whether InputChoices draw from this layer and none of them takes it, or can take it."""
        users = [(k, s) for k, s in self.items() if s.kind == INPUT and layer in (s.whole.names or ())]
        taken = [layer in {s.names[i] for i in chosen[k] or ()} for k, s in users if s.names]
        return bool(users) and not any(taken)

    def _chosen(self, arch: Arch) -> dict[str, tuple[int, ...]]:
        self.validate(arch)
        return {key: decide(key, spec, arch[key]) for key, spec in self.items()}

    # ------------------------------------------------------------------ printing

    def __repr__(self) -> str:
        return f"Space({len(self)} choices, {_count(self.size)} architectures)"

    def __str__(self) -> str:
        rows = [("key", "kind", "choose", "candidates")]
        for key, spec in self.items():
            kind = "LayerChoice" if spec.kind == LAYER else "InputChoice"
            number = "any" if spec.n_chosen is None else spec.n_chosen
            rows.append((key, kind, f"{number} of {spec.n_candidates}", ", ".join(map(str, spec.names or spec.labels))))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
        return "\n".join([*lines, f"{len(self)} choices, {_count(self.size)} architectures"])


def _count(size: int) -> str:
    return f"{size:,}" if size < 10**12 else f"about 10^{math.log10(size):.1f}"
