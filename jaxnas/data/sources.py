"""Where data comes from: names, files and arrays."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.data import images
from jaxnas.data.dataset import SAVED, Dataset
from jaxnas.data.known import FILES, KNOWN
from jaxnas.errors import DataError
from jaxnas.extras import how_to_install
from jaxnas.model.trees import named_tree


def load(
    name: str | os.PathLike, *, data_dir: str | os.PathLike | None = None, image_size: tuple[int, int] | None = None
) -> Dataset:
    """Loads a data set.

    Args:
      name: `"digits"` (1,797 images 8x8 of scikit-learn, nothing to download; the last 360 of a fixed
        shuffle are the test set); an `.npz` file with x_train, y_train and, if there is one, x_test, y_test
        (several inputs as x_train/image, x_train/age, … or, for a tuple, x_train/0, x_train/1);
        a folder with a folder of images for each class, or with `train` and optionally `test`, each of this form;
        `"hf:NAME"`, an image classification set of Hugging Face; or one that is in `data_dir`. docs/data.md has
        examples.
      data_dir: a folder with `NAME.npz`, which `prepare` makes, or else that of tensorflow-datasets (default: its own,
        or `$TFDS_DATA_DIR`), read without TensorFlow; for `"hf:NAME"` the cache.
      image_size: (height, width) to resize images to, if theirs differ; not for arrays.

    Returns:
      The data set. CIFAR-10 and CIFAR-100 come with crop and flip (`augment`); others with no augmentation.

    Raises:
      DataError: if it does not exist or is not of the expected form.
    """
    text = os.fspath(name)
    source: dict[str, Any]
    if text.endswith(".npz") or text == "digits":
        _refuse_resizing(text, image_size)
    if text.endswith(".npz"):
        dataset, source = _npz(Path(text)), {"name": os.path.abspath(text)}
    elif text == "digits":
        dataset, source = _digits(), {"name": "digits"}
    elif text not in KNOWN and os.path.isdir(path := os.path.expanduser(text)):
        path = os.path.abspath(path)
        dataset, source = images.read_folder(Path(path), image_size), {"name": path, "image_size": image_size}
    else:
        _check_name(text)
        folder = None if data_dir is None else os.path.abspath(os.path.expanduser(data_dir))
        if text.startswith("hf:"):
            dataset = images.load_hugging_face(text.removeprefix("hf:"), folder, image_size)
        elif folder is not None and (file := Path(folder, f"{text}.npz")).is_file():
            _refuse_resizing(text, image_size)
            dataset = _npz(file)
            if dataset.name != text:
                raise DataError(f"{file}: holds the data set {dataset.name!r}; give the file itself as the data.")
        else:
            dataset = _tfds(text, folder, image_size)
        source = {"name": text, "data_dir": folder, "image_size": image_size}
    return dataclasses.replace(dataset, source=source)


def _refuse_resizing(text: str, image_size: tuple[int, int] | None) -> None:
    if image_size is not None:
        raise DataError(f"{text}: image_size is for pictures that are read one by one; these are arrays of one size.")


def _check_name(text: str) -> None:
    """Refuses a name that can only be a path, or is a built-in name in another spelling."""
    if text.startswith((".", "~", os.sep)) or (os.sep in text and not text.startswith("hf:")):
        raise DataError(f"{text}: there is no such file or folder (looked in {Path.cwd()}).")
    ours = {_bare(name): name for name in ("digits", *KNOWN)}
    meant = ours.get(_bare(text))
    if meant is not None and meant != text:
        raise DataError(f"no data set {text!r}: did you mean {meant!r}?")


def _bare(name: str) -> str:
    """A name without the characters that people write in different ways."""
    return re.sub(r"[\W_]", "", name).lower()


def as_dataset(data: Any, *, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Turns whatever a `data` argument can be into a `Dataset`.

    Args:
      data: a name, file or folder (see `load`), `(x_train, y_train)`, `(x_train, y_train, x_test, y_test)` of arrays or
        of dicts and tuples of arrays, a dict with these names, a `Dataset`, or a `Dataset` or `DatasetDict` of
        Hugging Face.
      data_dir: see `load`.

    Raises:
      DataError: if it is none of these, or unsound.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, (str, os.PathLike)):
        return load(data, data_dir=data_dir)
    if images.is_hugging_face(data):
        return images.from_hugging_face(data)
    if isinstance(data, Mapping):
        return _of_dict(data)
    if isinstance(data, (list, tuple)):
        _check_parts(data)
        if len(data) in (2, 4):
            return Dataset(*data)
    raise DataError(f"data must be {_EXPECTED}; got {_describe(data)}.")


_EXPECTED = (
    'a name such as "digits" or "cifar10", an .npz file, a folder of classes, (x_train, y_train), (x_train, y_train, '
    "x_test, y_test), a dict of these, or a jaxnas.data.Dataset"
)


def _of_dict(data: Mapping[str, Any]) -> Dataset:
    fields = {field.name for field in dataclasses.fields(Dataset)}
    unknown = [name for name in data if name not in fields]
    if unknown or not {"x_train", "y_train"} <= data.keys():
        raise DataError(
            f"data is a dict with {list(data)}; expected x_train, y_train and, if there are any, x_test, y_test (and "
            "other fields of jaxnas.data.Dataset). Several inputs per example are a dict in x_train, and one in x_test."
        )
    return Dataset(**data)


def _check_parts(data: Sequence[Any]) -> None:
    """Refuses what is not `(x_train, y_train, …)` but can look like it."""
    kind = type(data).__name__
    pairs = [part for part in data if isinstance(part, (list, tuple)) and len(part) == 2 and hasattr(part[0], "shape")]
    if pairs and len(pairs) == len(data):
        if len(data) == 2 and all(np.ndim(label) for _, label in pairs):
            raise DataError(
                f"data is a {kind} of pairs. If these are ((x_train, y_train), (x_test, y_test)), give (x_train, "
                "y_train, x_test, y_test). If inputs and labels are two arrays each, name them: give dicts, such as "
                '({"image": a, "age": b}, {"class": c, "price": d}).'
            )
        raise DataError(
            f"data is a {kind} of {len(data)} pairs, taken for samples (image, label): stack them, as in "
            "(np.stack([x for x, _ in samples]), np.array([y for _, y in samples]))."
        )
    shapes = [np.shape(part) for part in data] if all(hasattr(part, "shape") for part in data) else []
    if isinstance(data, list) and len(shapes) > 1 and shapes.count(shapes[0]) == len(shapes):
        raise DataError(
            f"data is a list of {len(data)} arrays of one shape, {shapes[0]}. If they are samples, stack them and give "
            "labels too; if they are images and labels, give a tuple (x_train, y_train)."
        )


def _describe(data: Any) -> str:
    sized = isinstance(data, (list, tuple))
    loader = hasattr(data, "__iter__") and not hasattr(data, "shape") and not isinstance(data, (Mapping, Sequence))
    hint = "; a loader or generator must be read into arrays first" if loader else ""
    one = f", an array {np.shape(data)} without labels" if hasattr(data, "shape") else ""
    return f"a {type(data).__name__} of {len(data)}" if sized else f"a {type(data).__name__}{one}{hint}"


def _npz(path: Path) -> Dataset:
    if "\0" in str(path) or not path.exists():
        raise DataError(f"{path}: there is no such file (looked in {path.parent.absolute()}).")
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as file:
            names = [name.removesuffix(".npy") for name in file.namelist()]
            for field in SAVED:
                below = [name for name in names if name == field or name.startswith(f"{field}/")]
                leaves = {name[len(field) + 1 :]: _member(file, f"{name}.npy") for name in below}
                if leaves:
                    found[field] = leaves if field in ("mean", "std") else named_tree(leaves)
    except Exception as e:  # zip and zlib raise many kinds of error on damaged data
        told = str(e)[:300].rstrip(".") or type(e).__name__
        raise DataError(f"{path}: not a sound .npz file: {told}.") from None
    if "x_train" not in found or "y_train" not in found:
        raise DataError(f"{path}: needs arrays x_train and y_train (or x_train/NAME, …); it has {names}.")
    try:
        for field in ("mean", "std"):
            if field in found:
                values = {name: tuple(float(v) for v in np.ravel(leaf)) for name, leaf in found[field].items()}
                found[field] = values.get("", values)
        if "num_classes" in found:
            found["num_classes"] = int(found["num_classes"])
    except (TypeError, ValueError) as e:
        raise DataError(f"{path}: mean and std are numbers, num_classes is one: {e}.") from None
    found["name"] = str(found.get("name", path.name))
    known = {k: v for k, v in KNOWN.get(found["name"], {}).items() if k not in found}
    return Dataset(**found, **known)


def _member(file: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array of an .npz file. No memory is allocated before its size is known to be right."""
    size, packed = file.getinfo(name).file_size, file.getinfo(name).compress_size
    if size > 2000 * packed + 2**16:  # deflate compresses a thousandfold at most
        raise ValueError(f"{name} claims {size:,} bytes, of which {packed:,} are there")
    with file.open(name) as opened:
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(opened)
        if version not in header:
            raise ValueError(f"{name} is of an unknown version of the .npy format, {version}")
        shape, _, dtype = header[version](opened)
        if not math.prod(shape) * dtype.itemsize <= size:
            raise ValueError(f"{name} claims to be {dtype}{list(shape)}, but has {size:,} bytes")
    with file.open(name) as opened:
        return np.lib.format.read_array(opened, allow_pickle=False)


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise DataError(f'the data set "digits" comes with scikit-learn: {how_to_install("digits")}.') from None
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(len(pixels))
    pixels = np.round(pixels[order].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = labels[order].astype(np.int32)
    return Dataset(pixels[:-360], labels[:-360], pixels[-360:], labels[-360:], num_classes=10, name="digits")


def _tfds(name: str, data_dir: str | None, image_size: tuple[int, int] | None) -> Dataset:
    try:
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as e:
        other = (
            f"make an .npz file: {_how_to_prepare(name)}" if name in FILES else 'give an .npz file, arrays, or "digits"'
        )
        raise DataError(
            f"the data set {name!r} is read by tensorflow-datasets ({e}): {how_to_install('tfds')}; or {other}."
        ) from None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as e:
        reason = (str(e).splitlines() or ["unknown name"])[0]
        known = {_bare(other): other for other in tfds.list_builders(with_community_datasets=False)}
        close = difflib.get_close_matches(_bare(name), known, n=1)
        hint = f" Did you mean {known[close[0]]!r}?" if close else ""
        raise DataError(
            f'no data set {name!r} ("digits", an .npz file, a folder or a tensorflow-datasets name): {reason}{hint}'
        ) from None
    if not Path(builder.data_dir).is_dir():
        raise DataError(
            f"the data set {name!r} is not prepared in {Path(builder.data_dir).parent}; give data_dir, or prepare it "
            f"once: {_how_to_prepare(name)}."
        )
    features = builder.info.features
    if not hasattr(features, "keys") or not {"image", "label"} <= set(features):
        raise DataError(f"the data set {name!r} has {features}; expected the features image and label.")
    split_names = list(builder.info.splits)
    if "train" not in split_names:
        raise DataError(f"the data set {name!r} has no split train; it has {split_names}.")
    test = next((s for s in ("test", "validation") if s in split_names), None)
    x_train, y_train = _read_split(builder, "train", image_size)
    x_test, y_test = _read_split(builder, test, image_size) if test else (None, None)
    return Dataset(
        x_train,
        y_train,
        x_test,
        y_test,
        num_classes=features["label"].num_classes,
        name=name,
        **KNOWN.get(name, {}),
    )


def _how_to_prepare(name: str) -> str:
    if name in FILES:
        return f"python -m jaxnas.data prepare {name} --from FILES, where FILES is {FILES[name]}"
    return f"where TensorFlow is installed, tfds.builder({name!r}, file_format='array_record').download_and_prepare()"


def _read_split(builder: Any, split: str, image_size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        source = builder.as_data_source(split=split)
    except NotImplementedError as e:
        raise DataError(
            f"{builder.name}: this copy cannot be read without TensorFlow; prepare it with "
            f"file_format='array_record' ({str(e).splitlines()[0]})."
        ) from None

    # One after the other: decoding holds the interpreter lock, so threads make it slower.
    records = []
    for i in range(len(source)):
        record = source[i]
        records.append((images.resized(record["image"], image_size), record["label"]))
    labels = np.array([label for _, label in records], np.int32)
    return images.stacked([image for image, _ in records], builder.name), labels
