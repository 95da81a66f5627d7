"""The NAS-Bench-201 table: the same numbers as its source, and the three ways to write an architecture."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import ArchitectureError
from jaxnas.benchmarks import nasbench201 as nb

SOURCE_OF = {
    ("cifar10", "test_accuracy", 200): "cifar10_test",
    ("cifar10", "valid_accuracy", 200): "cifar10_valid",
    ("cifar10", "valid_accuracy", 12): "cifar10_valid_ep12",
    ("cifar100", "test_accuracy", 200): "cifar100_test",
    ("cifar100", "valid_accuracy", 200): "cifar100_valid",
    ("imagenet16-120", "test_accuracy", 200): "imagenet16_test",
    ("imagenet16-120", "valid_accuracy", 200): "imagenet16_valid",
    ("cifar10", "train_seconds", 200): "cifar10_train_seconds",
    ("cifar10", "flops", 200): "flops_m_cifar10",
    ("cifar10", "params", 200): "params_m_cifar10",
    ("cifar10", "n_seeds", 200): "n_seeds",
}
BEST = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
SKIPS = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"


@pytest.fixture(scope="module")
def source(shared_data):
    with open(shared_data / "nb201.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("asked", SOURCE_OF, ids=lambda asked: "-".join(map(str, asked)))
def test_every_row_agrees_with_the_source(source, asked):
    expected = [float(row[SOURCE_OF[asked]]) for row in source]
    assert nb.table(*asked).tolist() == expected
    assert [nb.query(i, *asked) for i in range(0, nb.SIZE, 500)] == expected[::500]


def test_the_edges_are_those_of_the_source(source):
    digits = {name: str(i) for i, name in enumerate(nb.OPERATIONS)}
    assert ["".join(digits[op] for op in nb.to_arch(i).values()) for i in range(nb.SIZE)] == [r["ops"] for r in source]


def test_index_string_and_dict_round_trip_for_all():
    strings = [nb.to_string(i) for i in range(nb.SIZE)]
    assert len(set(strings)) == nb.SIZE
    assert [nb.to_index(s) for s in strings] == list(range(nb.SIZE))
    dicts = [nb.to_arch(s) for s in strings]
    assert [nb.to_index(arch) for arch in dicts] == list(range(nb.SIZE))
    assert [nb.to_string(arch) for arch in dicts] == strings


def test_known_architectures():
    best = int(nb.table("cifar10", "test_accuracy").argmax())
    assert best == 6111
    assert nb.to_string(best) == BEST
    assert nb.query(BEST) == 94.3733
    assert nb.query(SKIPS) == 54.2967  # what DARTS collapses to
    assert nb.to_index(SKIPS) == 1835
    assert (
        nb.query("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+" + "|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|")
        == 93.76
    )
    assert nb.table("cifar100").max() == 73.5133
    assert nb.table("ImageNet16-120").max() == 47.3111


def test_a_sampled_architecture_and_indices_are_understood():
    arch = {edge: jnp.asarray(i % 5) for i, edge in enumerate(nb.EDGES)}
    fixed = {edge: nb.OPERATIONS[i % 5] for i, edge in enumerate(nb.EDGES)}
    assert nb.to_arch(arch) == fixed
    assert nb.query(arch) == nb.query(fixed) == nb.query({edge: i % 5 for i, edge in enumerate(nb.EDGES)})


def test_the_device_table_inside_jit_and_vmap_gives_what_query_gives():
    table = nb.device_table("cifar100", "valid_accuracy")
    archs = jax.vmap(nb.SPACE.sample)(jax.random.split(jax.random.key(0), 64))
    values = jax.jit(lambda table, archs: jax.vmap(table)(archs))(table, archs)
    queried = [nb.query({k: v[i] for k, v in archs.items()}, "cifar100", "valid_accuracy") for i in range(64)]
    np.testing.assert_array_equal(values, np.float32(queried))
    every = jnp.stack(jnp.meshgrid(*[jnp.arange(5)] * 6, indexing="ij")).reshape(6, -1)
    all_values = jax.vmap(table)(dict(zip(nb.EDGES, every, strict=True)))
    np.testing.assert_array_equal(np.sort(all_values), np.sort(np.float32(nb.table("cifar100", "valid_accuracy"))))


def test_costs_and_time_by_epochs():
    assert nb.costs(SKIPS) == {"flops": 7.78305, "params": 0.073306, "train_seconds": 574.059}
    assert nb.query(SKIPS, metric="train_seconds", epochs=12) == pytest.approx(574.059 * 12 / 200)


def test_the_package_has_a_small_table_and_its_licences():
    assert nb.TABLE.stat().st_size < 600_000
    notice = nb.TABLE.with_name("nasbench201.NOTICE.txt").read_text(encoding="utf-8")
    assert "MIT License" in notice
    assert "Xuanyi Dong" in notice
    with pytest.raises(ValueError, match="read-only"):
        nb.table()[0] = 0


def test_the_table_is_made_of_its_source(shared_data, tmp_path):
    from experiments.nasbench201.make_table import make

    make(shared_data / "nb201.csv", tmp_path / "table.npz")
    with np.load(tmp_path / "table.npz") as made, np.load(nb.TABLE) as kept:
        assert made.files == kept.files
        assert all(np.array_equal(made[name], kept[name]) for name in made.files)


def test_latencies(shared_data, tmp_path):
    path = shared_data / "nb201_latency_ms.npz"
    latencies = nb.load_latencies(path)
    with np.load(path) as file:
        assert latencies.devices == tuple(sorted(file.files))
        assert latencies.query(BEST, "pixel2") == float(file["pixel2"][6111])
    with pytest.raises(ValueError, match=r"one of \['1080ti_1', .*'titanxp_32'\]; got 'abacus'"):
        latencies.query(BEST, "abacus")
    np.savez(tmp_path / "bad.npz", pixel2=np.zeros(3))
    with pytest.raises(ValueError, match=r"'pixel2' has shape \(3,\); expected \(15625,\)"):
        nb.load_latencies(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (15625, "0 to 15624; got 15625"),
        (-1, "0 to 15624; got -1"),
        ("|conv_7x7~0|+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 has the unknown operation 'conv_7x7'"),
        ("|none~1|+|none~0|none~1|+|none~0|none~1|none~2|", r"node 1 takes its input from \['1'\]; expected \[0\]"),
        ("|none~0|+|none~0|none~1|none~2|+|none~0|none~1|none~2|", r"node 2 takes its input from \['0', '1', '2'\]"),
        ("|none~0|+|none~0|none~1|", r"has 2 node\(s\); expected three"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|+|none~0|none~1|none~2|none~3|", "expected three nodes"),
        ("none", "node 1 is 'none'; expected the form"),
        ({"1<-0": "none"}, "missing keys"),
        ({**dict.fromkeys(nb.EDGES, "none"), "3<-2": "skip"}, "unknown name 'skip'"),
        (True, "dict"),
    ],
)
def test_what_is_no_architecture_is_refused(arch, message):
    with pytest.raises(ArchitectureError, match=message):
        nb.query(arch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "svhn"}, r"one of \['cifar10', 'cifar100', 'imagenet16-120'\]; got 'svhn'"),
        ({"metric": "loss"}, r"one of \['test_accuracy', .*\]; got 'loss'"),
        ({"epochs": 12}, r"one of \[200\] for the test_accuracy on cifar10; got 12"),
        ({"metric": "valid_accuracy", "epochs": 50}, r"one of \[12, 200\] for the valid_accuracy on cifar10; got 50"),
        ({"dataset": "cifar100", "metric": "flops"}, "on 'cifar10' only; got dataset 'cifar100'"),
        ({"metric": "train_seconds", "epochs": 1}, r"one of \[12, 200\]; got 1"),
    ],
)
def test_what_the_table_does_not_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        nb.query(0, **options)
