"""A data set in memory: arrays, how to normalise them, how to augment them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.data.augment import Augment
from jaxnas.data.preprocessing import Preprocessing
from jaxnas.errors import DataError
from jaxnas.model.text import summary


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set for search and training.

    uint8 images stay uint8, on the device too; they are scaled to 0..1 and normalised inside jit. Floats
    are passed to the model as they are, and so are other integers (tokens).

    Attributes:
      x_train: `[N, …]`; images are `[N, H, W, C]`.
      y_train: `[N]` int labels, or anything of length N that the loss understands.
      x_test, y_test: the same for testing, or None.
      num_classes: number of classes; by default the largest training label + 1.
      mean, std: per channel in 0..1, for uint8 images; by default those of `x_train`.
      augment: an `Augment`, or a function (rng, normalised images) -> images, applied in training; or None.
      name: what to call it in messages.
      source: the arguments with which `jaxnas.data.load` loads it again, if it did.
    """

    x_train: Any
    y_train: Any
    x_test: Any = None
    y_test: Any = None
    num_classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: Augment | Callable[[jax.Array, jax.Array], jax.Array] | None = None
    name: str = "arrays"
    source: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        def put(field: str, value: Any) -> None:
            object.__setattr__(self, field, value)

        for part in ("train", "test"):
            x, y = (getattr(self, f"{axis}_{part}") for axis in "xy")
            if (x is None) != (y is None):
                raise DataError(f"{self.name}: only one of x_{part} and y_{part} is given.")
            if x is not None:
                put(f"x_{part}", _array(self.name, f"x_{part}", x))
                put(f"y_{part}", _array(self.name, f"y_{part}", y))
                self._check_part(part)
        if self.x_train is None:
            raise DataError(f"{self.name}: x_train and y_train are missing.")
        if self.x_test is not None and self.x_test.shape[1:] != self.x_train.shape[1:]:
            raise DataError(
                f"{self.name}: images of x_train have shape {self.x_train.shape[1:]}, those of x_test "
                f"{self.x_test.shape[1:]}."
            )
        if self.x_test is not None and self.x_test.dtype != self.x_train.dtype:
            raise DataError(f"{self.name}: x_train is {self.x_train.dtype}, x_test is {self.x_test.dtype}.")
        if self.has_classes:
            classes = self.num_classes or int(self.y_train.max()) + 1
            put("num_classes", classes)
            self._check_labels(classes)
        if self.x_train.dtype == np.uint8 and (self.mean is None or self.std is None):
            mean, std = _channel_statistics(self.x_train)
            put("mean", self.mean or mean)
            put("std", self.std or std)
        if isinstance(self.augment, Augment) and self.x_train.ndim != 4:
            raise DataError(f"{self.name}: Augment needs images [N, H, W, C]; x_train is {self.x_train.shape}.")

    def __repr__(self) -> str:
        tested = "" if self.x_test is None else f" and {len(self.x_test):,} test"
        labels = f"{self.num_classes} classes" if self.has_classes else f"labels {summary(self.y_train[0])}"
        each = f"{self.x_train.dtype} {list(self.x_train.shape[1:])}"
        augment = "" if self.augment is None else f", augment={self.augment!r}"
        return f"Dataset({self.name}: {len(self.x_train):,} training{tested} examples, {each}, {labels}{augment})"

    @property
    def has_classes(self) -> bool:
        """Whether the labels are class numbers."""
        return self.y_train.ndim == 1 and np.issubdtype(self.y_train.dtype, np.integer)

    def prepare(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """A batch of raw images as the model sees it; augmented if a key is given. For use inside jit."""
        if rng is None or self.augment is None:
            return self._normalise(images)
        if not isinstance(self.augment, Augment):
            return self.augment(rng, self._normalise(images))
        move_rng, erase_rng = jax.random.split(rng)
        return self.augment.erase(erase_rng, self._normalise(self.augment.move(move_rng, images)))

    @property
    def preprocessing(self) -> Preprocessing:
        """How raw examples are normalised."""
        return Preprocessing(self.x_train.shape[1:], self.x_train.dtype.name, self.mean, self.std)

    def _normalise(self, images: jax.Array) -> jax.Array:
        return self.preprocessing(images)

    def describe(self) -> dict[str, Any]:
        """Where the data comes from and how it is augmented, for `config.json`."""
        augment = dataclasses.asdict(self.augment) if isinstance(self.augment, Augment) else self.augment
        custom = augment is not None and not isinstance(augment, dict)
        described = re.sub(r" at 0x[0-9a-f]+", "", repr(augment)) if custom else augment
        return {"data": self.name, "data_source": self.source, "augment": described}

    def example(self, batch_size: int = 1) -> jax.ShapeDtypeStruct:
        """Shape and dtype of what the model sees."""
        dtype = jax.dtypes.canonicalize_dtype(self.x_train.dtype)
        raw = jax.ShapeDtypeStruct((batch_size, *self.x_train.shape[1:]), dtype)
        return jax.eval_shape(self.prepare, raw)

    def save(self, path: str | os.PathLike) -> None:
        """Writes arrays and normalisation to an .npz file, which can be given as `data` anywhere.

        This is useful on machines without the original data, and to skip decoding. `augment` is not stored.
        """
        fields = {k: getattr(self, k) for k in _SAVED}
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **{k: v for k, v in fields.items() if v is not None})

    def _check_part(self, part: str) -> None:
        x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
        if x.ndim < 2 <= y.ndim:
            raise DataError(
                f"{self.name}: x_{part} has shape {x.shape} and y_{part} has {y.shape}: the images come first, the "
                "labels second; these look swapped."
            )
        if x.ndim < 2:
            raise DataError(f"{self.name}: x_{part} has shape {x.shape}; expected [N, …] with at least two axes.")
        if len(x) != len(y):
            raise DataError(f"{self.name}: {len(x)} images in x_{part} but {len(y)} labels in y_{part}.")
        if not len(x):
            raise DataError(f"{self.name}: x_{part} is empty.")
        for axis, values in (("x", x), ("y", y)):
            if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
                where = np.argwhere(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0, 0]
                raise DataError(f"{self.name}: {axis}_{part} is NaN or infinite, first in example {where}.")

    def _check_labels(self, classes: int) -> None:
        for part in ("train", "test"):
            labels = getattr(self, f"y_{part}")
            if labels is None:
                continue
            bad = np.flatnonzero((labels < 0) | (labels >= classes))
            if len(bad):
                raise DataError(
                    f"{self.name}: label {labels[bad[0]]} in y_{part} (example {bad[0]}, {len(bad)} such in all) is "
                    f"beyond the classes 0 to {classes - 1}."
                )


_SAVED = ("x_train", "y_train", "x_test", "y_test", "num_classes", "mean", "std", "name")


def _array(name: str, field: str, value: Any) -> np.ndarray:
    if isinstance(value, Mapping):
        raise DataError(f"{name}: {field} is a dict with {list(value)}; {_ONE_ARRAY}.")
    arrays = isinstance(value, (list, tuple)) and len(value) > 0 and all(np.ndim(part) for part in value)
    if arrays and (isinstance(value, tuple) or len({np.shape(part)[0] for part in value if _is_array(part)}) > 1):
        shapes = ", ".join(map(str, sorted({np.shape(part) for part in value})[:3]))
        raise DataError(
            f"{name}: {field} is a {type(value).__name__} of {len(value)} arrays of shapes {shapes}; {_ONE_ARRAY}."
        )
    try:
        array = np.asarray(value)
    except ValueError as e:
        raise DataError(f"{name}: {field} is not an array: {e}.") from None
    kind = array.dtype
    if kind.kind == "c":
        raise DataError(
            f"{name}: {field} is {kind}; expected real numbers. Real and imaginary parts may be two channels: "
            "np.stack([x.real, x.imag], -1)."
        )
    if kind.kind not in "OUS" and jnp.issubdtype(kind, jnp.floating) and not np.issubdtype(kind, np.floating):
        raise DataError(
            f"{name}: {field} is {kind}; expected uint8, float16, float32 or float64. x.astype(np.float32) has the "
            "same values; a model computes in bfloat16 if its layers say dtype=jnp.bfloat16."
        )
    if kind.kind not in "biuf":
        raise DataError(f"{name}: {field} has dtype {kind}; expected numbers, all examples of one shape.")
    return array


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


_ONE_ARRAY = "expected one array, with a row for each example (several inputs per example are not supported)"


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Exact mean and standard deviation per channel of uint8 images, in 0..1, from their histograms."""
    channels = images.reshape(-1, images.shape[-1]).T if images.ndim == 4 else [images]
    mean, std = [], []
    for channel in channels:
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        level = np.arange(256) / 255
        mean.append(float(share @ level))
        std.append(max(float(np.sqrt(share @ (level - mean[-1]) ** 2)), 1e-3))
    return tuple(mean), tuple(std)
