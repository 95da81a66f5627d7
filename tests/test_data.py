"""Data: names, files, arrays, normalisation, augmentation, batches."""

import dataclasses
import io
import random
import sys
import types
import zipfile
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas.data import STANDARD, Augment, Dataset, as_dataset, load
from jaxnas.data.batches import epoch_batches, split_indices


def images(n=10, size=8, channels=3, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (n, size, size, channels)).astype(np.uint8)


def test_digits_are_scikit_learns():
    digits = load("digits")
    assert digits.x_train.shape == (1437, 8, 8, 1)
    assert digits.x_test.shape == (360, 8, 8, 1)
    assert digits.x_train.dtype == np.uint8
    assert digits.num_classes == 10
    counts = np.bincount(np.concatenate([digits.y_train, digits.y_test]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert load("digits").x_test.tobytes() == digits.x_test.tobytes()


def test_cifar10_is_read_without_tensorflow(cifar10):
    import sys

    assert "tensorflow" not in sys.modules
    assert cifar10.x_train.shape == (50_000, 32, 32, 3)
    assert cifar10.x_test.shape == (10_000, 32, 32, 3)
    assert cifar10.x_train.dtype == np.uint8
    assert np.bincount(cifar10.y_train).tolist() == [5000] * 10
    assert np.bincount(cifar10.y_test).tolist() == [1000] * 10
    assert cifar10.augment == STANDARD
    computed = Dataset(cifar10.x_train, cifar10.y_train)
    np.testing.assert_allclose(computed.mean, cifar10.mean, atol=1e-3)
    np.testing.assert_allclose(computed.std, cifar10.std, atol=1e-3)


def test_arrays_files_and_datasets_are_the_same_to_all(tmp_path):
    x, y = images(), np.arange(10) % 3
    four = as_dataset((x[:6], y[:6], x[6:], y[6:]))
    assert as_dataset(four) is four
    assert as_dataset((x, y)).x_test is None
    four.save(tmp_path / "deep" / "data.npz")
    loaded = as_dataset(str(tmp_path / "deep" / "data.npz"))
    for field in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(loaded, field), getattr(four, field))
    assert (loaded.mean, loaded.std, loaded.num_classes) == (four.mean, four.std, four.num_classes)
    again = load(**loaded.source)
    np.testing.assert_array_equal(again.x_train, four.x_train)


def test_saved_cifar_keeps_its_augmentation(tmp_path):
    Dataset(images(), np.arange(10), name="cifar10", augment=STANDARD).save(tmp_path / "any.npz")
    assert load(tmp_path / "any.npz").augment == STANDARD


def test_uint8_is_normalised_and_floats_are_left():
    x = images(100)
    dataset = Dataset(x, np.arange(100) % 2)
    prepared = jax.jit(dataset.prepare)(jnp.asarray(x))
    assert prepared.dtype == jnp.float32
    np.testing.assert_allclose(prepared.mean((0, 1, 2)), np.zeros(3), atol=1e-4)
    np.testing.assert_allclose(prepared.std((0, 1, 2)), np.ones(3), atol=1e-4)
    given = dataclasses.replace(dataset, mean=(0.5,) * 3, std=(0.5,) * 3)
    np.testing.assert_allclose(given.prepare(jnp.asarray(x)), x / 127.5 - 1, atol=1e-6)
    floats = Dataset(x.astype(np.float64) / 7, np.arange(100) % 2)
    np.testing.assert_allclose(floats.prepare(jnp.asarray(floats.x_train)), x / 7, rtol=1e-6)
    tokens = Dataset(np.arange(20).reshape(10, 2), np.arange(10))
    assert tokens.prepare(jnp.asarray(tokens.x_train)).dtype == jnp.int32
    assert tokens.example().shape == (1, 2)


def test_crop_and_flip_show_a_window_of_the_padded_image():
    x = jnp.asarray(images(64, 6) | 1)  # no zeros, so that padding is seen
    moved = np.asarray(Augment(crop=2, flip=True).move(jax.random.key(0), x))
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    found = set()
    for i in range(64):
        windows = {
            (r, c, flip): padded[i, r : r + 6, c : c + 6][:, :: -1 if flip else 1]
            for r in range(5)
            for c in range(5)
            for flip in (False, True)
        }
        matches = [where for where, window in windows.items() if np.array_equal(window, moved[i])]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 25  # drawn per image
    assert 16 < sum(flip for *_, flip in found) < len(found) - 5


def test_cutout_sets_one_square_to_the_mean():
    x = jnp.ones((200, 8, 8, 2))
    out = np.asarray(Augment(cutout=4).erase(jax.random.key(0), x))
    holes = (out == 0).all(-1)
    assert ((out == 0).any(-1) == holes).all()
    areas = holes.sum((1, 2))
    assert areas.max() == 16
    assert areas.min() >= 4
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert hole.sum() == rows.sum() * columns.sum()
        assert rows.sum() == np.flatnonzero(rows).max() - np.flatnonzero(rows).min() + 1


def test_augmentation_acts_only_with_a_key_and_may_be_a_function():
    x = images(4)
    dataset = Dataset(x, np.arange(4), augment=Augment(crop=4, flip=True, cutout=4))
    plain = dataset.prepare(jnp.asarray(x))
    np.testing.assert_array_equal(plain, dataclasses.replace(dataset, augment=None).prepare(jnp.asarray(x)))
    first, second = (jax.jit(dataset.prepare)(jnp.asarray(x), jax.random.key(i)) for i in (0, 1))
    assert not np.array_equal(first, plain)
    assert not np.array_equal(first, second)
    custom = dataclasses.replace(dataset, augment=lambda rng, images: images + 1)
    np.testing.assert_allclose(custom.prepare(jnp.asarray(x), jax.random.key(0)), plain + 1)


def test_split_and_batches_use_every_example():
    first, second = split_indices(jax.random.key(0), 101, 0.5)
    assert sorted([*first, *second]) == list(range(101))
    assert len(first) == 50
    assert sorted(first) != list(range(50))  # not as the data lie
    batches = epoch_batches(jax.random.key(1), first, steps=10, batch_size=5)
    assert sorted(batches.ravel()) == sorted(first)
    more = epoch_batches(jax.random.key(1), first[:20], steps=10, batch_size=5)
    counts = np.bincount(more.ravel(), minlength=101)[first[:20]]
    assert set(counts.tolist()) == {2, 3}
    assert (np.bincount(more[:4].ravel(), minlength=101)[first[:20]] == 1).all()


X, Y = images(), np.arange(10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: as_dataset((X, Y[:9])), "10 images.*9 labels"),
        (lambda: as_dataset((X[:0], Y[:0])), "empty"),
        (lambda: as_dataset((X, Y, X[:, :4], Y)), r"\(8, 8, 3\).*\(4, 8, 3\)"),
        (lambda: as_dataset((X, Y, X.astype(float), Y)), "uint8.*float64"),
        (lambda: Dataset(X, Y, num_classes=5), r"label 5 in y_train \(example 5, 5 such.*0 to 4"),
        (lambda: as_dataset((X, np.minimum(Y, 4), X, Y)), "label 5 in y_test"),
        (lambda: as_dataset((X, Y - 1)), "label -1"),
        (lambda: as_dataset((X, Y, X)), "tuple of 3"),
        (lambda: Dataset(X, Y, X), "only one of x_test"),
        (lambda: as_dataset((np.arange(10), Y)), "two axes"),
        (lambda: as_dataset((np.array([["a"]]), Y)), "dtype"),
        (lambda: as_dataset(([[1], [1, 2]], [0, 1])), "not an array"),
        (lambda: as_dataset((np.full((10, 2), np.nan), Y)), "NaN.*example 0"),
        (lambda: Dataset(X[..., 0], Y, augment=STANDARD), "Augment needs images"),
        (lambda: as_dataset({"x": X}), "a dict"),
        (lambda: load("no_such_data_set"), "no data set 'no_such_data_set'"),
        (lambda: load("mnist", data_dir="/nowhere"), "'mnist' is not prepared in /nowhere"),
        (lambda: load("nowhere.npz"), "nowhere.npz: there is no such file"),
    ],
)
def test_unsound_data_are_named(make, message):
    if "_data_set" in message or "mnist" in message:
        pytest.importorskip("tensorflow_datasets")
    with pytest.raises(jaxnas.DataError, match=message):
        make()


def test_damaged_npz_files_are_named_and_never_unpickled(tmp_path):
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(jaxnas.DataError, match=r"cut\.npz"):
        load(tmp_path / "cut.npz")
    np.savez(tmp_path / "objects.npz", x_train=np.array([{}], object), y_train=Y)
    with pytest.raises(jaxnas.DataError, match=r"objects\.npz"):
        load(tmp_path / "objects.npz")
    np.savez(tmp_path / "other.npz", x=X)
    with pytest.raises(jaxnas.DataError, match=r"x_train and y_train.*\['x'\]"):
        load(tmp_path / "other.npz")


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz_files_with_flipped_bits_or_cut_off_are_named_or_the_same(tmp_path, write):
    """Behind the checksum of each array in the file, and the directory at its end."""
    path = tmp_path / "a.npz"
    write(path, x_train=X[:2], y_train=Y[:2], num_classes=10, mean=[0.5] * 3, std=[0.1] * 3, name="mine")
    whole, known, unnamed = path.read_bytes(), load(path), 0
    draw = random.Random(0)
    for _ in range(400):
        at = draw.randrange(len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :]
        for damaged in (flipped, whole[:at]):
            path.write_bytes(damaged)
            try:
                found = load(path)
            except jaxnas.DataError as e:
                unnamed += "a.npz" not in str(e)
                continue
            np.testing.assert_array_equal(found.x_train, known.x_train)
            np.testing.assert_array_equal(found.y_train, known.y_train)
    assert unnamed == 0


@pytest.mark.parametrize("claimed", [256 * 2**30, 10**4])
def test_an_npz_header_that_claims_more_than_is_there_takes_no_memory(tmp_path, claimed):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (claimed, 1)})
    with zipfile.ZipFile(tmp_path / "large.npz", "w") as file:
        file.writestr("x_train.npy", header.getvalue() + bytes(100))
        file.writestr("y_train.npy", header.getvalue() + bytes(100))
    with pytest.raises(jaxnas.DataError, match=rf"x_train.npy claims to be uint8\[{claimed}, 1\], but has \d+ bytes"):
        load(tmp_path / "large.npz")


def test_fields_of_another_type_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, num_classes="ten")
    with pytest.raises(jaxnas.DataError, match=r"a\.npz: mean and std are numbers, num_classes is one"):
        load(tmp_path / "a.npz")


class FakeBuilder:
    """What tensorflow-datasets gives for a prepared set whose images differ in size."""

    name = "fake"

    def __init__(self, folder, sizes):
        self.data_dir, self.sizes = folder, sizes
        label = type("Label", (), {"num_classes": 2})()
        self.info = type("Info", (), {"features": {"image": None, "label": label}, "splits": ["train"]})()

    def as_data_source(self, split):
        return [{"image": np.full((h, w, 1), 9, np.uint8), "label": i % 2} for i, (h, w) in enumerate(self.sizes)]


def test_images_of_different_sizes_are_resized_on_request(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: FakeBuilder(tmp_path, [(4, 6), (5, 5)]))
    with pytest.raises(jaxnas.DataError, match=r"differ in shape.*image_size="):
        load("fake")
    dataset = load("fake", image_size=(3, 4))
    assert dataset.x_train.shape == (2, 3, 4, 1)
    assert (dataset.x_train == 9).all()
    assert dataset.source == {"name": "fake", "data_dir": None, "image_size": (3, 4)}


# ---------------------------------------------------------------------- folders of images


def picture(path, value=9, size=(6, 4), mode="RGB"):
    """Writes an image of one colour, (width, height)."""
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new(mode, size, value if mode in ("L", "I", "1") else (value,) * len(mode)).save(path)


def classes(root, names=("cat", "dog"), each=3, **options):
    for number, name in enumerate(names):
        for i in range(each):
            picture(root / name / f"{i}.png", value=10 * number + i, **options)


def test_a_folder_of_class_named_images(tmp_path):
    classes(tmp_path / "pets")
    (tmp_path / "pets" / "README.txt").write_text("about")
    (tmp_path / "pets" / "cat" / ".DS_Store").write_text("")
    for data in (as_dataset(str(tmp_path / "pets")), as_dataset(tmp_path / "pets")):
        assert data.x_train.shape == (6, 4, 6, 3)
        assert data.x_train.dtype == np.uint8
        assert data.x_train[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
        assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1]
        assert (data.num_classes, data.name, data.x_test) == (2, "pets", None)
    again = load(**data.source)
    np.testing.assert_array_equal(again.x_train, data.x_train)


def test_a_folder_with_train_and_test(tmp_path):
    classes(tmp_path / "train", names=("a", "b", "c"), mode="L")
    classes(tmp_path / "test", names=("b", "c"), each=1, mode="L")
    data = load(tmp_path)
    assert data.x_train.shape == (9, 4, 6, 1)
    assert data.y_test.tolist() == [1, 2]
    assert data.num_classes == 3
    (tmp_path / "test").rename(tmp_path / "val")
    assert load(tmp_path).y_test.tolist() == [1, 2]
    classes(tmp_path / "val", names=("d",), each=1)
    with pytest.raises(jaxnas.DataError, match=r"val: has the classes .'d'., which .*train lacks"):
        load(tmp_path)


def test_images_of_several_kinds_become_one(tmp_path):
    classes(tmp_path, names=("grey", "odd"), mode="L")
    picture(tmp_path / "colour" / "a.png")
    picture(tmp_path / "odd" / "clear.png", mode="RGBA")
    picture(tmp_path / "odd" / "palette.gif", mode="RGB")
    assert load(tmp_path).x_train.shape == (9, 4, 6, 3)


def test_images_are_turned_as_they_were_taken(tmp_path):
    image = pytest.importorskip("PIL.Image")
    classes(tmp_path, size=(4, 6))
    turned = image.new("RGB", (6, 4))
    turned.getexif()[0x0112] = 6  # the camera was held upright
    turned.save(tmp_path / "cat" / "upright.png", exif=turned.getexif())
    assert load(tmp_path).x_train.shape == (7, 6, 4, 3)


def test_sizes_that_differ_are_named_with_what_to_do(tmp_path):
    classes(tmp_path)
    picture(tmp_path / "dog" / "large.jpg", size=(9, 7))
    message = r"differ in shape .6 of .4, 6, 3., 1 of .7, 9, 3..; .*image_size=.4, 6."
    with pytest.raises(jaxnas.DataError, match=message):
        load(tmp_path)
    assert load(tmp_path, image_size=(5, 8)).x_train.shape == (7, 5, 8, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda at: picture(at / "stray.png"), r"stray.png: an image outside of the folders of classes"),
        (lambda at: (at / "cow").mkdir(), r"cow: is empty; expected images of the class 'cow'"),
        (lambda at: (at / "cat" / "x.csv").write_text("1"), r"x.csv: is no image"),
        (lambda at: (at / "cat" / "x.png").write_bytes(b"\x89PNG no more"), r"x.png: cannot be read as an image"),
        (lambda at: picture(at / "cat" / "x.tif", mode="I"), r"x.tif: has pixels of the kind 'I.*8 bits"),
        (lambda at: classes(at / "train"), r"has the folders .'cat', 'dog'. beside train"),
        (lambda at: classes(at / "test"), r"has a folder test, but none named train"),
    ],
)
def test_folders_that_do_not_fit_are_named(tmp_path, spoil, message):
    classes(tmp_path)
    spoil(tmp_path)
    with pytest.raises(jaxnas.DataError, match=message):
        load(tmp_path)


def test_a_folder_without_classes_and_paths_that_are_not_there(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    with pytest.raises(jaxnas.DataError, match="holds 1 folders; expected one per class, at least 2"):
        load(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in ("data/pets", "./pets", "~/no such folder", "/nowhere/pets"):
        with pytest.raises(jaxnas.DataError, match="there is no such file or folder"):
            load(path)


@pytest.mark.parametrize("name", ["CIFAR10", "cifar-10", "Cifar_10"])
def test_a_name_in_another_writing(name):
    with pytest.raises(jaxnas.DataError, match="did you mean 'cifar10'"):
        load(name)


def test_names_of_tensorflow_datasets_are_proposed():
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(jaxnas.DataError, match="Did you mean 'fashion_mnist'"):
        load("fashion-mnst")


# ---------------------------------------------------------------------- like Hugging Face's


class Image:
    """Stands for the feature of that name."""


class ClassLabel:
    """Stands for the feature of that name."""

    num_classes = 3


class Split(list):
    """What a `datasets.Dataset` is like: rows, and features by column."""

    features: ClassVar = {"img": Image(), "fine": ClassLabel(), "id": "int64"}


def rows(labels, size=(6, 4)):
    image = pytest.importorskip("PIL.Image")
    return Split({"img": image.new("RGB", size, (n, n, n)), "fine": n, "id": 7} for n in labels)


def test_a_dataset_of_hugging_face_and_one_of_several_splits():
    one = as_dataset(rows([0, 1, 2, 1]))
    assert one.x_train.shape == (4, 4, 6, 3)
    assert one.x_train[:, 0, 0, 0].tolist() == one.y_train.tolist() == [0, 1, 2, 1]
    assert (one.num_classes, one.x_test) == (3, None)
    both = as_dataset({"train": rows([0, 1]), "validation": rows([2]), "test": rows([1, 0])})
    assert both.y_test.tolist() == [1, 0]


def test_what_hugging_faces_data_lack_is_named():
    with pytest.raises(jaxnas.DataError, match=r"has no split train; it has .'test'"):
        as_dataset({"test": rows([0])})
    with pytest.raises(jaxnas.DataError, match=r"the split test has examples without a label .-1"):
        as_dataset({"train": rows([0, 1]), "test": rows([-1])})
    with pytest.raises(jaxnas.DataError, match=r"images differ in shape"):
        as_dataset({"train": rows([0, 1]), "test": rows([0], size=(5, 5))})
    text = Split({"text": "a", "fine": 1} for _ in range(2))
    text.features = {"text": "string", "fine": ClassLabel()}
    with pytest.raises(jaxnas.DataError, match=r"has the columns .'text', 'fine'., of which 0 are of the kind Image"):
        as_dataset(text)


def test_a_name_of_hugging_face(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(jaxnas.DataError, match="is read by Hugging Face's datasets: pip install datasets"):
        load("hf:owner/pets")
    asked = []

    def load_dataset(name, cache_dir):
        asked.append((name, cache_dir))
        if name == "gone":
            raise ConnectionError("no network")
        return {"train": rows([0, 1])}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    data = load("hf:owner/pets", data_dir=tmp_path, image_size=(3, 3))
    assert asked == [("owner/pets", str(tmp_path))]
    assert data.x_train.shape == (2, 3, 3, 3)
    assert data.source == {"name": "hf:owner/pets", "data_dir": str(tmp_path), "image_size": (3, 3)}
    with pytest.raises(jaxnas.DataError, match="'hf:gone': cannot be loaded: ConnectionError: no network"):
        load("hf:gone")
