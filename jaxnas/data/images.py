"""Data sets of pictures: folders of class-named images, and objects of Hugging Face's `datasets`."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.data.dataset import Dataset
from jaxnas.errors import DataError
from jaxnas.extras import how_to_install

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".tif", ".tiff")
"""Suffixes of files that are read as images."""

_TEST = ("test", "val", "valid", "validation")
"""Names of the part that is not trained on; the first that exists is used."""

_GREY, _COLOUR = ("1", "L"), ("RGB", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def read_folder(folder: Path, image_size: tuple[int, int] | None) -> Dataset:
    """Reads a folder of classes, each a folder of images; or of `train` and, if there is one, `test`, each of these.

    If there is no `test`, then `val`, `valid` or `validation` takes its place; if there is one, these are not read.

    Classes are numbered in the order of their names. Hidden files, and files at the top that are not images, are left
    out. Images are turned as their EXIF orientation says; those with a palette or transparency become RGB, and if any
    image is in colour, all do.

    Raises:
      DataError: if it is not such a folder, a file cannot be read, or images differ in size and no `image_size` is
        given.
    """
    inside = _folders(folder)
    tests = [inside[name] for name in _TEST if name in inside]
    if "train" not in inside and tests:
        raise DataError(f"{folder}: has a folder {tests[0].name}, but none named train.")
    others = sorted(set(inside) - {"train", *_TEST})
    if "train" in inside and others:
        raise DataError(f"{folder}: has the folders {others[:5]} beside train; expected train and test.")
    root = inside.get("train", folder)
    classes = sorted(_folders(root))
    if len(classes) < 2:
        raise DataError(f"{root}: holds {len(classes)} folders; expected one per class, at least 2.")
    parts = {"train": _read_classes(root, classes, image_size)}
    if tests:
        unknown = sorted(set(_folders(tests[0])) - set(classes))
        if unknown:
            raise DataError(f"{tests[0]}: has the classes {unknown[:5]}, which {root} lacks.")
        parts["test"] = _read_classes(tests[0], [c for c in classes if (tests[0] / c).is_dir()], image_size)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = {part: np.array([numbers[name] for name in names], np.int32) for part, (_, names) in parts.items()}
    pictures = _alike({part: images for part, (images, _) in parts.items()}, str(folder))
    return Dataset(
        pictures["train"],
        labels["train"],
        pictures.get("test"),
        labels.get("test"),
        num_classes=len(classes),
        name=folder.name,
    )


def _folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by name; refuses images that lie beside them."""
    found = {}
    with os.scandir(folder) as scanned:
        entries = list(scanned)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            found[entry.name] = Path(entry.path)
        elif entry.name.lower().endswith(SUFFIXES):
            raise DataError(f"{entry.path}: an image outside of the folders of classes; expected CLASS/{entry.name}.")
    return found


def _read_classes(
    root: Path, classes: list[str], image_size: tuple[int, int] | None
) -> tuple[list[tuple[str, np.ndarray]], list[str]]:
    """All (file, image) of the classes, and the class of each."""
    images: list[tuple[str, np.ndarray]] = []
    names: list[str] = []
    for name in classes:
        files = sorted(file for file in (root / name).rglob("*") if file.is_file() and not _hidden(file, root))
        if not files:
            raise DataError(f"{root / name}: is empty; expected images of the class {name!r}.")
        for file in files:
            if not file.name.lower().endswith(SUFFIXES):
                raise DataError(f"{file}: is no image ({', '.join(SUFFIXES[:4])}, …); move it elsewhere.")
            images.append((str(file), read_image(file, image_size)))
            names.append(name)
    return images, names


def _hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts) or file.name == "Thumbs.db"


def read_image(source: Any, image_size: tuple[int, int] | None) -> np.ndarray:
    """An image file, or a picture of Pillow, as uint8 `[H, W, 1 or 3]`.

    Raises:
      DataError: if it cannot be read, has more than 8 bits, or Pillow is not installed.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise DataError(f"images are read by Pillow: {how_to_install('tfds')}, or pip install pillow.") from None
    where = str(source) if isinstance(source, os.PathLike) else "an image"
    try:
        with contextlib.ExitStack() as stack:
            picture = stack.enter_context(Image.open(source)) if isinstance(source, os.PathLike) else source
            mode = picture.mode
            if mode not in (*_GREY, *_COLOUR, "LA", "La"):
                raise DataError(f"{where}: has pixels of the kind {mode!r}; expected 8 bits, grey or in colour.")
            picture = ImageOps.exif_transpose(picture).convert("L" if mode in (*_GREY, "LA", "La") else "RGB")
            return resized(np.asarray(picture).reshape(picture.height, picture.width, -1), image_size)
    except DataError:
        raise
    except Exception as e:  # a damaged file makes Pillow raise many kinds of error
        raise DataError(f"{where}: cannot be read as an image: {e}.") from None


def resized(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """An image `[H, W, C]`, resized to (height, width) if a size is given."""
    if size is None or image.shape[:2] == tuple(size):
        return image
    from PIL import Image

    squeeze = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if squeeze else image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(picture)[..., None] if squeeze else np.asarray(picture)


def stacked(images: list[np.ndarray], name: str) -> np.ndarray:
    """Images of one shape as an array.

    Raises:
      DataError: if their shapes differ; suggests `image_size`.
    """
    shapes = Counter(image.shape for image in images)
    if len(shapes) > 1:
        common = shapes.most_common(3)
        shown = ", ".join(f"{count} of {shape}" for shape, count in common) + (", …" if len(shapes) > 3 else "")
        raise DataError(
            f"{name}: images differ in shape ({shown}); load them in one size with jaxnas.data.load(name, "
            f"image_size={common[0][0][:2]}), or --image-size."
        )
    return np.stack(images)


def _alike(parts: Mapping[str, Iterable[tuple[str, np.ndarray]]], name: str) -> dict[str, np.ndarray]:
    """The images of all parts in one shape; grey ones become colour images if any image is in colour."""
    found = {part: [image for _, image in images] for part, images in parts.items()}
    if len({image.shape[-1] for images in found.values() for image in images}) > 1:
        found = {
            part: [image.repeat(3, axis=-1) if image.shape[-1] == 1 else image for image in images]
            for part, images in found.items()
        }
    together = stacked([image for images in found.values() for image in images], name)
    ends = np.cumsum([len(images) for images in found.values()])[:-1]
    return dict(zip(found, np.split(together, ends), strict=True))


# ---------------------------------------------------------------------- Hugging Face


def is_hugging_face(data: Any) -> bool:
    """Whether something is a `Dataset` or `DatasetDict` of Hugging Face's `datasets`, or behaves like one."""
    if isinstance(data, Mapping):
        return bool(data) and all(is_hugging_face(part) and not isinstance(part, Mapping) for part in data.values())
    return isinstance(getattr(data, "features", None), Mapping) and hasattr(data, "__iter__")


def from_hugging_face(data: Any, image_size: tuple[int, int] | None = None, *, name: str | None = None) -> Dataset:
    """Images and class labels of a Hugging Face data set, or of its splits `train` and, if there is one, `test`.

    The columns are those whose features are `Image` and `ClassLabel`, or are named image (img) and label if they have
    other features.

    Raises:
      DataError: if there is no split `train`, no such columns, or images differ in size and no `image_size` is given.
    """
    splits = dict(data) if isinstance(data, Mapping) else {"train": data}
    name = name or "Hugging Face data"
    train = splits.get("train")
    if train is None:
        raise DataError(f"{name}: has no split train; it has {list(splits)}. Give a dict with train (and test).")
    test = next((splits[key] for key in _TEST if key in splits), None)
    image, label = _column(train, "Image", ("image", "img"), name), _column(train, "ClassLabel", ("label",), name)
    parts, labels = {}, {}
    for part, split in (("train", train), ("test", test)):
        if split is None:
            continue
        if not hasattr(split, "__len__"):
            raise DataError(f"{name}: the split {part} is a stream; load it without streaming=True.")
        rows = [(_pixels(row[image], image_size), int(row[label])) for row in split]
        parts[part] = [(name, pixels) for pixels, _ in rows]
        labels[part] = np.array([number for _, number in rows], np.int32)
        if (labels[part] < 0).any():
            raise DataError(f"{name}: the split {part} has examples without a label (-1); leave it out.")
    pictures = _alike(parts, name)
    classes = getattr(train.features[label], "num_classes", None)
    return Dataset(
        pictures["train"], labels["train"], pictures.get("test"), labels.get("test"), num_classes=classes, name=name
    )


def _column(split: Any, kind: str, names: tuple[str, ...], name: str) -> str:
    features = split.features
    of_kind = [column for column, feature in features.items() if type(feature).__name__ == kind]
    found = of_kind if len(of_kind) == 1 else [column for column in names if column in (of_kind or features)]
    if len(found) != 1:
        raise DataError(
            f"{name}: has the columns {list(features)}, of which {len(of_kind)} are of the kind {kind}; expected one, "
            f"or a column {' or '.join(names)}. Keep one with select_columns."
        )
    return found[0]


def _pixels(value: Any, image_size: tuple[int, int] | None) -> np.ndarray:
    if hasattr(value, "convert") and hasattr(value, "mode"):
        return read_image(value, image_size)
    pixels = np.asarray(value)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise DataError(f"an image is {pixels.dtype} {pixels.shape}; expected uint8 [H, W, C], or a picture of Pillow.")
    return resized(pixels[..., None] if pixels.ndim == 2 else pixels, image_size)


def load_hugging_face(name: str, data_dir: str | None, image_size: tuple[int, int] | None) -> Dataset:
    """The data set that `datasets.load_dataset(name)` gives.

    Raises:
      DataError: if it cannot be loaded, or `datasets` is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError:
        raise DataError(f"'hf:{name}' is read by Hugging Face's datasets: pip install datasets.") from None
    try:
        found = datasets.load_dataset(name, cache_dir=data_dir)
    except Exception as e:  # it raises many kinds of error, from the network and its cache
        raise DataError(f"'hf:{name}': cannot be loaded: {type(e).__name__}: {e}") from None
    return from_hugging_face(found, image_size, name=f"hf:{name}")
