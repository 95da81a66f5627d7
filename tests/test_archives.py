"""`jaxnas.data.prepare`: the files that authors of data sets publish."""

import gzip
import io
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from jaxnas import DataError
from jaxnas.data import STANDARD, load, prepare
from jaxnas.data.archives import PUBLISHED

ROOT = Path(__file__).resolve().parents[1]


class _Python2(pickle._Pickler):
    """Writes texts and bytes as Python 2, which made the archives of CIFAR, wrote its strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def pickled(batch):
    file = io.BytesIO()
    _Python2(file, 2).dump(batch)
    return file.getvalue().replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")


def rows(images):
    """As CIFAR has them: all of red, then green, then blue."""
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def made(name):
    """Images of few values, and labels, in the size of the real set."""
    shape = (32, 32, 3) if name.startswith("cifar") else (28, 28, 1)
    of = PUBLISHED[name]
    pattern = np.arange(np.prod(shape)).reshape(shape) % 7
    parts = []
    for count in (of.train, of.test):
        parts += [
            np.uint8(pattern + np.arange(count).reshape(-1, 1, 1, 1) % 200),
            np.arange(count, dtype=np.int32)[::-1] % of.classes,
        ]
    return parts


def python10(parts):
    x, y, x_test, y_test = parts
    batches = {f"data_batch_{i + 1}": (x[i::5], y[i::5]) for i in range(5)} | {"test_batch": (x_test, y_test)}
    return {name: pickled({b"data": rows(a), b"labels": b.tolist()}) for name, (a, b) in batches.items()}


def binary10(parts):
    x, y, x_test, y_test = parts
    batches = {f"data_batch_{i + 1}.bin": (x[i::5], y[i::5]) for i in range(5)} | {"test_batch.bin": (x_test, y_test)}
    return {name: np.concatenate([np.uint8(b)[:, None], rows(a)], 1).tobytes() for name, (a, b) in batches.items()}


def python100(parts):
    x, y, x_test, y_test = parts
    return {
        name: pickled({b"data": rows(a), b"fine_labels": b.tolist(), b"coarse_labels": (b // 5).tolist()})
        for name, (a, b) in {"train": (x, y), "test": (x_test, y_test)}.items()
    }


def binary100(parts):
    x, y, x_test, y_test = parts
    return {
        name: np.concatenate([np.uint8(b // 5)[:, None], np.uint8(b)[:, None], rows(a)], 1).tobytes()
        for name, (a, b) in {"train.bin": (x, y), "test.bin": (x_test, y_test)}.items()
    }


def idx(parts):
    files = {}
    for stem, images, labels in (("train", *parts[:2]), ("t10k", *parts[2:])):
        shape = images.shape[:3]
        files[f"{stem}-images-idx3-ubyte"] = b"\0\0\x08\x03" + np.array(shape, ">u4").tobytes() + images.tobytes()
        files[f"{stem}-labels-idx1-ubyte"] = (
            b"\0\0\x08\x01" + np.array(shape[:1], ">u4").tobytes() + labels.astype(np.uint8).tobytes()
        )
    return files


def in_folder(files, path, zipped=False):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / f"{name}.gz" if zipped else path / name).write_bytes(gzip.compress(content, 1) if zipped else content)
    return path


def in_tar(files, path, inside="some-folder"):
    with tarfile.open(
        path, "w:gz" if path.suffix == ".gz" else "w", **({"compresslevel": 1} if path.suffix == ".gz" else {})
    ) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def in_zip(files, path):
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(f"deep/{name}", content)
    return path


def same(data, parts):
    for field, values in zip(("x_train", "y_train", "x_test", "y_test"), parts, strict=True):
        found = getattr(data, field)
        assert found.dtype == (np.uint8 if field.startswith("x") else np.int32)
        np.testing.assert_array_equal(found, values)


def batched(parts):
    """The order of the five batches above."""
    x, y, x_test, y_test = parts
    order = np.concatenate([np.arange(len(x))[i::5] for i in range(5)])
    return x[order], y[order], x_test, y_test


@pytest.mark.parametrize(("write", "pack"), [(python10, in_tar), (binary10, in_folder)])
def test_both_versions_of_cifar10(write, pack, tmp_path):
    parts = made("cifar10")
    data = prepare("cifar10", pack(write(parts), tmp_path / "cifar-10.tar.gz"))
    same(data, batched(parts))
    assert (data.name, data.num_classes, data.augment, data.mean[0]) == ("cifar10", 10, STANDARD, 0.4914)


@pytest.mark.parametrize(("write", "pack"), [(python100, in_zip), (binary100, in_tar)])
def test_both_versions_of_cifar100_with_its_fine_labels(write, pack, tmp_path):
    parts = made("cifar100")
    data = prepare("cifar100", pack(write(parts), tmp_path / "cifar-100.tar"))
    same(data, parts)
    assert data.num_classes == 100


def test_mnists_four_files_in_any_packing(tmp_path):
    parts = made("mnist")
    files = idx(parts)
    same(prepare("mnist", in_folder(files, tmp_path / "a", zipped=True)), parts)
    dotted = {name.replace("-idx", ".idx"): content for name, content in files.items()}
    same(prepare("fashion_mnist", in_folder(dotted, tmp_path / "b")), parts)


def test_real_cifar10_from_its_archives(cifar10, tmp_path):
    parts = cifar10.x_train, cifar10.y_train, cifar10.x_test, cifar10.y_test
    for name, write in (("python.tar", python10), ("binary.tar", binary10)):
        same(prepare("cifar10", in_tar(write(parts), tmp_path / name)), batched(parts))


def test_the_command_writes_what_a_search_finds_by_name(tmp_path):
    parts = made("mnist")
    folder = in_folder(idx(parts), tmp_path / "files")
    command = [sys.executable, "-m", "jaxnas.data", "prepare", "mnist", "--from", folder, "--out", tmp_path / "sets"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert "60,000 training and 10,000 test examples, uint8 [28, 28, 1], 10 classes" in ran.stdout
    assert f"--data mnist --data-dir {tmp_path / 'sets'}" in ran.stdout
    data = load("mnist", data_dir=tmp_path / "sets")
    same(data, parts)
    same(load(**data.source), parts)
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert again.returncode == 1
    assert "mnist.npz: is there already" in again.stderr
    (tmp_path / "sets" / "mnist.npz").rename(tmp_path / "sets" / "kmnist.npz")
    with pytest.raises(DataError, match=r"kmnist.npz: holds the data set 'mnist'; give the file itself"):
        load("kmnist", data_dir=tmp_path / "sets")
    with pytest.raises(DataError, match="image_size is for pictures"):
        load(tmp_path / "sets" / "kmnist.npz", image_size=(8, 8))


def test_a_folder_of_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        image.new("RGB", (9, 7)).save(tmp_path / "pets" / name / "1.png")
    data = prepare("mine", tmp_path / "pets", image_size=(4, 4))
    assert (data.name, data.x_train.shape) == ("mine", (2, 4, 4, 3))
    with pytest.raises(DataError, match="all of its images have one size"):
        prepare("mnist", tmp_path / "pets", image_size=(4, 4))


class Evil:
    def __reduce__(self):
        return eval, ("print('run')",)


SPOILT = {
    "a file is missing": (
        lambda files: files.pop("data_batch_3"),
        r"lacks the file data_batch_3; it has \['data_batch_1', .*For cifar10 give the archive of its python or",
    ),
    "a pickle that runs code": (
        lambda files: files.update(data_batch_2=pickled({b"data": Evil()})),
        "data_batch_2 is no batch of CIFAR: it holds __builtin__.eval, which is no array",
    ),
    "a pickle cut off": (
        lambda files: files.update(test_batch=files["test_batch"][:1000]),
        "test_batch is no batch of CIFAR: ",
    ),
    "another dict": (
        lambda files: files.update(test_batch=pickled({b"data": np.zeros((1, 3072), np.uint8)})),
        "test_batch is no batch of CIFAR: no b'labels' in it",
    ),
    "other pixels": (
        lambda files: files.update(test_batch=pickled({b"data": np.zeros((1, 3)), b"labels": [1]})),
        r"test_batch is no batch of CIFAR: it holds float64 \(1, 3\)",
    ),
    "too few": (
        lambda files: files.update(data_batch_1=files["test_batch"], data_batch_2=files["tiny"]),
        r"has 40,010 images and 40,010 labels in its train part; cifar10 has 50,000",
    ),
    "other labels": (lambda files: files.update(test_batch=files["zeros"]), r"labels of its test part are not 0 to 9"),
}


@pytest.fixture(scope="module")
def batches():
    parts = made("cifar10")
    files = python10(parts)
    tiny = pickled({b"data": rows(parts[0][:10]), b"labels": list(range(10))})
    zeros = pickled({b"data": rows(parts[2]), b"labels": [0] * 10_000})
    return {**files, "tiny": tiny, "zeros": zeros}


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_with_cifars_files_is_named(case, batches, tmp_path):
    spoil, message = SPOILT[case]
    files = dict(batches)
    spoil(files)
    with pytest.raises(DataError, match=message):
        prepare("cifar10", in_folder(files, tmp_path / "files"))


def test_what_is_wrong_with_other_files_is_named(tmp_path):
    def refused(name, path, message):
        with pytest.raises(DataError, match=message):
            prepare(name, path)

    refused("cifar10", tmp_path / "none", "none: there is no such file or folder")
    (tmp_path / "text.txt").write_text("text")
    refused("cifar10", tmp_path / "text.txt", "is neither a folder nor a tar or zip archive. For cifar10 give")
    refused("svhn", tmp_path / "text.txt", "files of 'svhn' are not known, only those of cifar10, .* no folder of pic")
    cut = in_tar({"data_batch_1": np.random.RandomState(0).bytes(100_000)}, tmp_path / "cut.tar.gz")
    cut.write_bytes(cut.read_bytes()[:5000])
    refused("cifar10", cut, "cut.tar.gz: cannot be read: EOFError")
    refused(
        "cifar100", in_folder({"train.bin": b"123"}, tmp_path / "rows"), "train.bin has 3 bytes; expected rows of 3074"
    )
    wrong = {"train-images-idx3-ubyte": b"\0\0\x08\x01" + bytes(20)}
    refused("mnist", in_folder(wrong, tmp_path / "idx"), "train-images-idx3-ubyte is no idx file of bytes with 3 axes")
    short = {"train-images-idx3-ubyte": b"\0\0\x08\x03" + np.array([9, 28, 28], ">u4").tobytes() + bytes(20)}
    refused("mnist", in_folder(short, tmp_path / "short"), r"says \[9, 28, 28\], and has 20 bytes")
    damaged = {"train-images-idx3-ubyte": b"\x1f\x8bno gzip"}
    refused("mnist", in_folder(damaged, tmp_path / "damaged"), "train-images-idx3-ubyte is damaged: ")
    for folder in ("one", "two"):
        in_folder({"train-images-idx3-ubyte": b""}, tmp_path / "twice" / folder)
    refused("mnist", tmp_path / "twice", "holds the file train-images-idx3-ubyte more than once")
