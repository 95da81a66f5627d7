"""What happens to raw examples before a model sees them; independent of the data set, for predictions elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import DataError
from jaxnas.model.trees import count_of, is_container, map_named, named_leaves, same_names


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The form of raw examples, and how they are normalised.

    Attributes:
      shape: of one example, without the batch axis.
      dtype: name of the dtype that the data had.
      mean, std: per channel in 0..1, for uint8 images; None for what is not normalised.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, examples: jax.Array) -> jax.Array:
        """Raw examples `[N, …]` as the model sees them. For use inside jit.

        uint8 with a mean is scaled to 0..1 and normalised; floats become float32 (float64 if that is enabled); other
        integers, such as tokens, stay as they are.
        """
        if examples.dtype == jnp.uint8 and self.mean is not None:
            mean, std = (jnp.asarray(v, jnp.result_type(float)) for v in (self.mean, self.std))
            return (examples / jnp.asarray(255, mean.dtype) - mean) / std
        if jnp.issubdtype(examples.dtype, jnp.floating):
            return examples.astype(jnp.result_type(float))
        return examples

    def batch(self, examples: Any) -> np.ndarray:
        """Checks raw examples `[N, …]`; one example without the batch axis becomes a batch of one.

        Raises:
          DataError: if they have another shape, or another kind of numbers.
        """
        array = np.asarray(examples)
        array = array[None] if array.shape == self.shape else array
        expected = f"{self.dtype}[N{''.join(f', {n}' for n in self.shape)}], or one example without N"
        if array.shape[1:] != self.shape:
            lacks = self.shape[-1:] == (1,) and array.shape[-len(self.shape) + 1 :] == self.shape[:-1]
            hint = " (the channel axis is missing: x[..., None])" if lacks else ""
            raise DataError(f"got examples of shape {array.shape}; this model takes {expected}{hint}.")
        if not len(array):
            raise DataError("got no examples.")
        wanted = np.dtype(self.dtype)
        if array.dtype.kind not in "biuf" or (array.dtype.kind == "f") != (wanted.kind == "f"):
            raise DataError(
                f"got examples of {array.dtype}; this model takes {expected}, raw as the training data were."
            )
        if wanted == np.uint8 and array.dtype != np.uint8:
            if array.min() < 0 or array.max() > 255:
                raise DataError(f"got examples from {array.min()} to {array.max()}; this model takes {expected}.")
            array = array.astype(np.uint8)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(1))[0]
            raise DataError(f"example {bad} is NaN or infinite.")
        return array

    def raw(self, batch_size: int = 1) -> jax.ShapeDtypeStruct:
        """Shape and dtype of raw examples, on the device."""
        return jax.ShapeDtypeStruct((batch_size, *self.shape), jax.dtypes.canonicalize_dtype(self.dtype))

    @property
    def form(self) -> str:
        """Such as `uint8[N, 32, 32, 3]`."""
        return f"{self.dtype}[{', '.join(['N', *map(str, self.shape)])}]"

    def described(self) -> dict[str, Any]:
        """As `config.json` has it."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class TreePreprocessing:
    """The same of several inputs: a `Preprocessing` for each.

    Attributes:
      parts: a dict or tuple of `Preprocessing`s, nested as the inputs are.
    """

    parts: Any

    def __call__(self, examples: Any) -> Any:
        """As `Preprocessing`, leaf by leaf."""
        return _together(lambda _, part, leaf: part(leaf), self.parts, examples)

    def batch(self, examples: Any) -> Any:
        """Checks raw examples; one example without the batch axis becomes a batch of one.

        Raises:
          DataError: as `Preprocessing.batch`, naming the input; also if inputs are missing or have different lengths.
        """
        if not same_names(self.parts, examples):
            raise DataError(f"got {_names(examples)}; this model takes {self.form}.")

        def one(name: str, part: Preprocessing, leaf: Any) -> np.ndarray:
            try:
                return part.batch(leaf)
            except DataError as e:
                raise DataError(f"input {name!r}: {e}") from None

        found = _together(one, self.parts, examples)
        lengths = {name: len(leaf) for name, leaf in named_leaves(found)}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the inputs have different numbers of examples: {lengths}.")
        assert count_of(found)
        return found

    def raw(self, batch_size: int = 1) -> Any:
        """Shapes and dtypes of raw examples, on the device."""
        return map_named(lambda _, part: part.raw(batch_size), self.parts)

    @property
    def form(self) -> str:
        """Such as `{image: uint8[N, 32, 32, 3], age: float32[N, 1]}`."""
        return _form(self.parts)

    def described(self) -> dict[str, Any]:
        """As `config.json` has it: `{"inputs": …}`, of a dict a dict, of a tuple a list."""
        return _described(self.parts)


AnyPreprocessing = Preprocessing | TreePreprocessing


def _together(fn: Callable[[str, Preprocessing, Any], Any], parts: Any, examples: Any, name: str = "") -> Any:
    """A tree of `fn(name, part, leaf)`, in the containers of the parts."""
    if not is_container(parts):
        return fn(name, parts, examples)
    found = {
        key: _together(fn, parts[key], examples[key], f"{name}/{key}" if name else str(key))
        for key in (range(len(parts)) if isinstance(parts, tuple) else parts)
    }
    return tuple(found.values()) if isinstance(parts, tuple) else found


def _names(examples: Any) -> str:
    if not is_container(examples):
        return f"one input of shape {np.shape(examples)}"
    return f"a {type(examples).__name__} of the inputs {[name for name, _ in named_leaves(examples)]}"


def _form(parts: Any) -> str:
    if isinstance(parts, tuple):
        return f"({', '.join(map(_form, parts))}{',' * (len(parts) == 1)})"
    if isinstance(parts, dict):
        return f"{{{', '.join(f'{key}: {_form(part)}' for key, part in parts.items())}}}"
    return parts.form


def _described(parts: Any) -> dict[str, Any]:
    if isinstance(parts, tuple):
        return {"inputs": [_described(part) for part in parts]}
    if isinstance(parts, dict):
        return {"inputs": {key: _described(part) for key, part in parts.items()}}
    return parts.described()


def read_preprocessing(fields: Mapping[str, Any]) -> AnyPreprocessing:
    """The preprocessing that `described` and JSON wrote as these fields."""
    return TreePreprocessing(_read(fields)) if "inputs" in fields else _read(fields)


def _read(fields: Mapping[str, Any]) -> Any:
    inputs = fields.get("inputs")
    if isinstance(inputs, Mapping):
        return {key: _read(part) for key, part in inputs.items()}
    if inputs is not None:
        return tuple(_read(part) for part in inputs)
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return Preprocessing(**plain)
