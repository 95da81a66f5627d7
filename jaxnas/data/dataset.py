"""A data set in memory: arrays, how to normalise them, how to augment them."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnas.data.arrays import check_alike, check_split, read_arrays
from jaxnas.data.augment import Augment
from jaxnas.data.preprocessing import AnyPreprocessing, Preprocessing, TreePreprocessing
from jaxnas.errors import DataError
from jaxnas.model.text import summary
from jaxnas.model.trees import count_of, is_container, map_named, named_leaves, rows_of


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set for search and training.

    uint8 images stay uint8, on the device too; they are scaled to 0..1 and normalised inside jit. Floats
    are passed to the model as they are, and so are other integers (tokens).

    Attributes:
      x_train: `[N, …]`; images are `[N, H, W, C]`. Or a dict or tuple of such arrays (nested ones too), which the
        model then gets as it is, for instance `{"image": uint8 [N, H, W, C], "age": float [N, 1]}`.
      y_train: `[N]` int labels, or anything of length N that the loss understands; a dict or tuple too.
      x_test, y_test: the same for testing, or None.
      num_classes: number of classes; by default the largest training label + 1.
      mean, std: per channel in 0..1, for uint8 images; by default those of `x_train`. For several inputs a dict
        `{name: …}`, with names such as `image` or `views/0`; only those of uint8 with four axes are normalised.
      augment: an `Augment`, for which exactly one input must have four axes, or a function (rng, prepared inputs) ->
        inputs, applied in training; or None.
      name: what to call it in messages.
      source: the arguments with which `jaxnas.data.load` loads it again, if it did.
    """

    x_train: Any
    y_train: Any
    x_test: Any = None
    y_test: Any = None
    num_classes: int | None = None
    mean: Any = None
    std: Any = None
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
                put(f"x_{part}", read_arrays(self.name, f"x_{part}", x))
                put(f"y_{part}", read_arrays(self.name, f"y_{part}", y))
                check_split(self.name, part, getattr(self, f"x_{part}"), getattr(self, f"y_{part}"))
        if self.x_train is None:
            raise DataError(f"{self.name}: x_train and y_train are missing.")
        if self.x_test is not None:
            check_alike(self.name, "x", self.x_train, self.x_test)
            check_alike(self.name, "y", self.y_train, self.y_test)
        if self.has_classes:
            classes = self.num_classes or int(self.y_train.max()) + 1
            put("num_classes", classes)
            self._check_labels(classes)
        for field, values in _normalisation(self).items():
            put(field, values)
        if isinstance(self.augment, Augment) and len(self.images) != 1:
            found = f"{list(self.images)} are images" if self.images else "none of the inputs is"
            found = found if is_container(self.x_train) else f"x_train is {self.x_train.shape}"
            raise DataError(f"{self.name}: Augment needs images [N, H, W, C], one array of them; {found}.")

    def __repr__(self) -> str:
        tested = "" if self.x_test is None else f" and {self.n_test:,} test"
        first = rows_of(self.y_train, 0)
        labels = f"{self.num_classes} classes" if self.has_classes else f"labels {_brief(first)}"
        each = _brief(rows_of(self.x_train, 0), np.asarray) if is_container(self.x_train) else _of_array(self.x_train)
        augment = "" if self.augment is None else f", augment={self.augment!r}"
        return f"Dataset({self.name}: {self.n_train:,} training{tested} examples, {each}, {labels}{augment})"

    @property
    def n_train(self) -> int:
        """Number of training examples."""
        return count_of(self.x_train)

    @property
    def n_test(self) -> int:
        """Number of test examples; 0 if there are none."""
        return 0 if self.x_test is None else count_of(self.x_test)

    @property
    def has_classes(self) -> bool:
        """Whether the labels are class numbers."""
        one = not is_container(self.y_train)
        return one and self.y_train.ndim == 1 and np.issubdtype(self.y_train.dtype, np.integer)

    @property
    def images(self) -> dict[str, np.ndarray]:
        """The inputs of the training data with four axes, `[N, H, W, C]`, by their names (`""` for the only input)."""
        return {name: leaf for name, leaf in named_leaves(self.x_train) if leaf.ndim == 4}

    def prepare(self, examples: Any, rng: jax.Array | None = None) -> Any:
        """A batch of raw inputs as the model sees it; augmented if a key is given. For use inside jit."""
        if rng is None or self.augment is None:
            return self.preprocessing(examples)
        if not isinstance(self.augment, Augment):
            return self.augment(rng, self.preprocessing(examples))
        augment, [image] = self.augment, self.images
        move_rng, erase_rng = jax.random.split(rng)
        moved = map_named(lambda name, leaf: augment.move(move_rng, leaf) if name == image else leaf, examples)
        ready = self.preprocessing(moved)
        return map_named(lambda name, leaf: augment.erase(erase_rng, leaf) if name == image else leaf, ready)

    @property
    def preprocessing(self) -> AnyPreprocessing:
        """How raw examples are normalised."""
        if not is_container(self.x_train):
            return Preprocessing(self.x_train.shape[1:], self.x_train.dtype.name, self.mean, self.std)
        mean, std = self.mean or {}, self.std or {}

        def one(name: str, leaf: np.ndarray) -> Preprocessing:
            return Preprocessing(leaf.shape[1:], leaf.dtype.name, mean.get(name), std.get(name))

        return TreePreprocessing(map_named(one, self.x_train))

    def describe(self) -> dict[str, Any]:
        """Where the data comes from and how it is augmented, for `config.json`."""
        augment = dataclasses.asdict(self.augment) if isinstance(self.augment, Augment) else self.augment
        custom = augment is not None and not isinstance(augment, dict)
        described = re.sub(r" at 0x[0-9a-f]+", "", repr(augment)) if custom else augment
        return {"data": self.name, "data_source": self.source, "augment": described}

    def example(self, batch_size: int = 1) -> Any:
        """Shape and dtype of what the model sees."""
        return jax.eval_shape(self.prepare, self.preprocessing.raw(batch_size))

    def save(self, path: str | os.PathLike) -> None:
        """Writes arrays and normalisation to an .npz file, which can be given as `data` anywhere.

        This is useful on machines without the original data, and to skip decoding. `augment` is not stored.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = [(k, getattr(self, k)) for k in SAVED if getattr(self, k) is not None]
        np.savez(path, **dict(leaf for k, v in fields for leaf in _leaves(k, v)))

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


SAVED = ("x_train", "y_train", "x_test", "y_test", "num_classes", "mean", "std", "name")
"""Fields that are saved. Those of several arrays are saved as `x_train/name`, for each of them."""


def _leaves(field: str, value: Any) -> list[tuple[str, Any]]:
    """A field as arrays with names, for a file. A tuple is one array in `mean` and `std`."""
    if field in ("mean", "std"):
        return [(f"{field}/{k}", v) for k, v in value.items()] if isinstance(value, Mapping) else [(field, value)]
    return list(named_leaves(value, field))


def _normalisation(dataset: Dataset) -> dict[str, Any]:
    """Mean and standard deviation: those given, and what uint8 images need besides, from the training data.

    A single array of uint8 is always taken for images. Of several arrays those with four axes are, others are numbers
    such as token ids.
    """
    x, given = dataset.x_train, {"mean": dataset.mean, "std": dataset.std}
    if not is_container(x):
        if any(isinstance(values, Mapping) for values in given.values()):
            raise DataError(f"{dataset.name}: mean and std of one input are numbers per channel, no dicts.")
        if x.dtype != np.uint8 or None not in given.values():
            return {}
        found = dict(zip(("mean", "std"), _channel_statistics(x), strict=True))
        return {field: given[field] or found[field] for field in found}
    pictures = {name: leaf for name, leaf in dataset.images.items() if leaf.dtype == np.uint8}
    for field, values in given.items():
        if values is not None and not isinstance(values, Mapping):
            if len(pictures) != 1:
                raise DataError(
                    f"{dataset.name}: {field} is for uint8 images, of which there are {list(pictures)}; give a dict "
                    "{name of the input: numbers per channel}."
                )
            given[field] = values = {next(iter(pictures)): values}
        unknown = sorted(set(values or ()) - set(pictures))
        if unknown:
            raise DataError(
                f"{dataset.name}: {field} is for the inputs {unknown}; only uint8 images [N, H, W, C] are normalised, "
                f"here {list(pictures)}."
            )
    if not pictures:
        return {}
    complete: dict[str, dict[str, Any]] = {"mean": {}, "std": {}}
    for name, leaf in pictures.items():
        known = {field: (given[field] or {}).get(name) for field in given}
        measured = _channel_statistics(leaf) if None in known.values() else (None, None)
        for field, value in zip(("mean", "std"), measured, strict=True):
            complete[field][name] = known[field] or value
    return complete


def _of_array(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape[1:])}"


def _brief(example: Any, of: Any = None) -> str:
    """One example's form: of a label what it is, of several arrays each by its name."""
    if not is_container(example):
        return summary(example) if of is None else f"{of(example).dtype} {list(np.shape(example))}"
    named = named_leaves(example)
    return f"{{{', '.join(f'{name}: {np.asarray(leaf).dtype} {list(np.shape(leaf))}' for name, leaf in named)}}}"


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
