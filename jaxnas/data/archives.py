"""Data sets from the files that their authors publish: CIFAR's two kinds of archive, MNIST's idx files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
import io
import os
import pickle
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnas.data import images
from jaxnas.data.dataset import Dataset
from jaxnas.data.known import FILES, KNOWN
from jaxnas.errors import DataError

Part = tuple[np.ndarray, np.ndarray]
"""Images uint8 `[N, H, W, C]` and labels int `[N]`."""


class Files(NamedTuple):
    """The files of an archive or a folder.

    Attributes:
      where: the archive or folder, for messages.
      readers: a file's name, without folders and `.gz`, -> what reads its content.
    """

    where: Path
    readers: Mapping[str, Callable[[], bytes]]

    def read(self, name: str) -> bytes:
        """The content of a file, unpacked.

        Raises:
          DataError: if it is not there or cannot be read.
        """
        if name not in self.readers:
            raise DataError(f"{self.where}: lacks the file {name}; it has {sorted(self.readers)[:8] or 'no files'}.")
        try:
            content = self.readers[name]()
            return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        except DataError:
            raise
        except Exception as e:  # tarfile, zipfile and gzip raise many kinds of error on damaged files
            raise DataError(f"{self.where}: the file {name} is damaged: {type(e).__name__}: {e}.") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Files]:
    """The files in a folder, a tar or a zip archive."""
    with contextlib.ExitStack() as stack:
        readers: dict[str, Callable[[], bytes]] = {}
        try:
            if path.is_dir():
                found = {str(file): file.read_bytes for file in path.rglob("*") if file.is_file()}
            elif zipfile.is_zipfile(path):
                packed = stack.enter_context(zipfile.ZipFile(path))
                found = {name: functools.partial(packed.read, name) for name in packed.namelist()}
            elif tarfile.is_tarfile(path):
                tar = stack.enter_context(tarfile.open(path))
                found = {m.name: functools.partial(_member, tar, m) for m in tar.getmembers() if m.isfile()}
            else:
                raise DataError(f"{path}: is neither a folder nor a tar or zip archive.")
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as e:
            raise DataError(f"{path}: cannot be read: {type(e).__name__}: {e}.") from None
        for name, reader in found.items():
            base = re.split(r"[/\\]", name)[-1].removesuffix(".gz")
            readers[base] = functools.partial(_refuse_twice, path, base) if base in readers else reader
        yield Files(path, readers)


def _refuse_twice(path: Path, name: str) -> bytes:
    raise DataError(f"{path}: holds the file {name} more than once; give the folder of one data set.")


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = tar.extractfile(member)
    return b"" if opened is None else opened.read()


class _Arrays(pickle.Unpickler):
    """Reads pickled arrays, numbers and texts, and refuses everything else: a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return np._core.multiarray._reconstruct  # type: ignore[attr-defined]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no array")


def _batch(files: Files, name: str, label: str) -> Part:
    """A batch of CIFAR's python version: a pickled dict of rows and labels."""
    content = files.read(name)
    try:
        batch = _Arrays(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[label.encode()])
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072) or labels.dtype.kind not in "iu":
            raise ValueError(f"it holds {pixels.dtype} {pixels.shape} and labels {labels.dtype} {labels.shape}")
    except Exception as e:  # damaged pickles raise any kind of error
        reason = f"no {e} in it" if isinstance(e, KeyError) else e
        raise DataError(f"{files.where}: {name} is no batch of CIFAR: {reason}.") from None
    return _pictures(pixels), labels


def _rows(files: Files, name: str, labels: int, label: int) -> Part:
    """A batch of CIFAR's binary version: rows of so many labels, of which one is taken, and an image."""
    content, size = files.read(name), labels + 3072
    if not content or len(content) % size:
        raise DataError(f"{files.where}: {name} has {len(content):,} bytes; expected rows of {size}.")
    rows = np.frombuffer(content, np.uint8).reshape(-1, size)
    return _pictures(rows[:, labels:]), rows[:, label]


def _pictures(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _joined(parts: list[Part]) -> Part:
    return np.concatenate([pixels for pixels, _ in parts]), np.concatenate([labels for _, labels in parts])


def _cifar10(files: Files) -> dict[str, Part]:
    binary = any(name.endswith(".bin") for name in files.readers)
    suffix, read = (".bin", functools.partial(_rows, labels=1, label=0)) if binary else ("", _ten)
    train = [read(files, f"data_batch_{number}{suffix}") for number in range(1, 6)]
    return {"train": _joined(train), "test": read(files, f"test_batch{suffix}")}


def _ten(files: Files, name: str) -> Part:
    return _batch(files, name, "labels")


def _cifar100(files: Files) -> dict[str, Part]:
    if any(name.endswith(".bin") for name in files.readers):
        return {part: _rows(files, f"{part}.bin", labels=2, label=1) for part in ("train", "test")}
    return {part: _batch(files, part, "fine_labels") for part in ("train", "test")}


def _idx(files: Files, name: str, axes: int) -> np.ndarray:
    """An array of bytes in MNIST's format: two zeros, the type, the number of axes, each axis' length, the values."""
    content = files.read(name)
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise DataError(f"{files.where}: {name} is no idx file of bytes with {axes} axes.")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    if len(content) - start != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{files.where}: {name} says {list(shape)}, and has {len(content) - start:,} bytes.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _mnist(files: Files) -> dict[str, Part]:
    dashed = Files(files.where, {name.replace(".idx", "-idx"): reader for name, reader in files.readers.items()})
    parts = {}
    for part, stem in (("train", "train"), ("test", "t10k")):
        pixels, labels = _idx(dashed, f"{stem}-images-idx3-ubyte", 3), _idx(dashed, f"{stem}-labels-idx1-ubyte", 1)
        parts[part] = (pixels[..., None], labels)
    return parts


class Published(NamedTuple):
    """A data set as its authors publish it.

    Attributes:
      read: its files -> its parts.
      train, test: numbers of examples.
      classes: number of classes.
    """

    read: Callable[[Files], dict[str, Part]]
    train: int
    test: int
    classes: int


PUBLISHED: Mapping[str, Published] = {
    "cifar10": Published(_cifar10, 50_000, 10_000, 10),
    "cifar100": Published(_cifar100, 50_000, 10_000, 100),
    "mnist": Published(_mnist, 60_000, 10_000, 10),
    "fashion_mnist": Published(_mnist, 60_000, 10_000, 10),
    "kmnist": Published(_mnist, 60_000, 10_000, 10),
}
"""The data sets whose files are known."""


def prepare(name: str, source: str | os.PathLike, *, image_size: tuple[int, int] | None = None) -> Dataset:
    """Reads a data set from the files that its authors publish. `Dataset.save` writes it to an .npz file.

    Args:
      name: one of `PUBLISHED` (of `"cifar100"` the 100 fine classes), or any other name, for a folder of pictures.
      source: an archive (tar or zip, packed or not), or the folder it was unpacked into; or a folder of pictures as
        `load` takes it.
      image_size: (height, width) to resize the images of a folder of pictures to.

    Returns:
      The data set, in the order of its files: uint8 images `[N, H, W, C]`, int32 labels.

    Raises:
      DataError: if the files are missing, damaged, not those of this data set, or not all of it.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder (looked in {Path.cwd()}).")
    if name not in PUBLISHED:
        if not path.is_dir():
            raise DataError(
                f"the files of {name!r} are not known, only those of {', '.join(PUBLISHED)}; and {path} is no folder "
                "of pictures."
            )
        return dataclasses.replace(images.read_folder(path, image_size), name=name)
    if image_size is not None:
        raise DataError(f"{name}: all of its images have one size; image_size is for folders of pictures.")
    published = PUBLISHED[name]
    try:
        with _opened(path) as files:
            parts = published.read(files)
    except DataError as e:
        raise DataError(f"{e} For {name} give {FILES[name]}.") from None
    for part, expected in (("train", published.train), ("test", published.test)):
        pixels, labels = parts[part]
        if len(pixels) != expected or len(labels) != expected:
            raise DataError(
                f"{path}: has {len(pixels):,} images and {len(labels):,} labels in its {part} part; {name} has "
                f"{expected:,}. It is not complete, or another data set."
            )
        missing = sorted(set(range(published.classes)) ^ {int(label) for label in np.unique(labels)})
        if missing:
            raise DataError(
                f"{path}: the labels of its {part} part are not 0 to {published.classes - 1} as those of {name} are "
                f"(label {missing[0]}). It is damaged, or another data set."
            )
    (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
    x_train, x_test = np.ascontiguousarray(x_train), np.ascontiguousarray(x_test)
    y_train, y_test = y_train.astype(np.int32), y_test.astype(np.int32)
    classes = published.classes
    return Dataset(x_train, y_train, x_test, y_test, num_classes=classes, name=name, **KNOWN.get(name, {}))
