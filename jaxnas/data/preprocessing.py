"""What happens to raw examples before a model sees them; independent of the data set, for predictions elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.errors import DataError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The form of raw examples, and how they are normalised.

    Attributes:
      shape: of one example, without the batch axis.
      dtype: name of the dtype that the data had.
      mean, std: per channel in 0..1, for uint8 images; None for others.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __call__(self, examples: jax.Array) -> jax.Array:
        """Raw examples `[N, …]` as the model sees them. For use inside jit.

        uint8 is scaled to 0..1 and normalised; floats become float32 (float64 if that is enabled); other integers,
        such as tokens, stay as they are.
        """
        if examples.dtype == jnp.uint8:
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

    def described(self) -> dict[str, Any]:
        """As `config.json` has it."""
        return dataclasses.asdict(self)


def read_preprocessing(fields: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that `Preprocessing.described` and JSON wrote as these fields."""
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return Preprocessing(**plain)
