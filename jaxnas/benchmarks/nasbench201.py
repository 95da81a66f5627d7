"""The table of NAS-Bench-201: accuracies and costs of all 15,625 architectures of its cell. Loads in milliseconds.

NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search. Dong, Yang; ICLR 2020; arXiv
2001.00326. The benchmark is Copyright (c) since 2020 Xuanyi Dong, MIT licence; `nasbench201.NOTICE.txt` next to the
table has the licences and sources.

An architecture can be written in three ways, and every function here takes any of them:

* a dict of six decisions, as `jaxnas.spaces.nasbench201` has them: `{"1<-0": "nor_conv_3x3", …}`, where `j<-i` is the
  edge from node i to node j (0 is the cell's input, 3 its output);
* its official index, 0 to 15,624;
* its official string, `|nor_conv_3x3~0|+|skip_connect~0|none~1|+|avg_pool_3x3~0|none~1|nor_conv_1x1~2|`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxnas.errors import ArchitectureError
from jaxnas.model.architecture import LAYER, Arch, ChoiceSpec
from jaxnas.model.space import Space
from jaxnas.spaces.nasbench201 import EDGES, OPERATIONS

SPACE = Space({edge: ChoiceSpec(LAYER, len(OPERATIONS), OPERATIONS) for edge in EDGES})
SIZE = len(OPERATIONS) ** len(EDGES)

TABLE = Path(__file__).with_name("nasbench201.npz")


class Column(NamedTuple):
    """A column of the table.

    Attributes:
      source: its name in the CSV file that the table is made from.
      digits: digits kept after the decimal point (all that the source has).
    """

    source: str
    digits: int


COLUMNS = {
    "cifar10_valid_12": Column("cifar10_valid_ep12", 3),
    "cifar10_valid_200": Column("cifar10_valid", 4),
    "cifar10_test_200": Column("cifar10_test", 4),
    "cifar100_valid_200": Column("cifar100_valid", 4),
    "cifar100_test_200": Column("cifar100_test", 4),
    "imagenet16-120_valid_200": Column("imagenet16_valid", 4),
    "imagenet16-120_test_200": Column("imagenet16_test", 4),
    "train_seconds": Column("cifar10_train_seconds", 3),
    "flops": Column("flops_m_cifar10", 5),
    "params": Column("params_m_cifar10", 6),
    "n_seeds": Column("n_seeds", 0),
}
DATASETS = ("cifar10", "cifar100", "imagenet16-120")
METRICS = ("test_accuracy", "valid_accuracy", "train_seconds", "flops", "params", "n_seeds")


def query(arch: Arch | int | str, dataset: str = "cifar10", metric: str = "test_accuracy", epochs: int = 200) -> float:
    """A value of the table for one architecture.

    ===================  =========================================================================================
    metric               meaning
    ===================  =========================================================================================
    `"test_accuracy"`    %, on the official test images (for CIFAR-100 and ImageNet16-120: on the half of them that
                         the benchmark calls its test set), after 200 epochs. On CIFAR-10 trained on all 50,000 images.
    `"valid_accuracy"`   %, on held-out images, which a search may look at. On CIFAR-10 trained on one half of the
                         50,000 images and measured on the other, after 200 epochs or 12; on CIFAR-100 and
                         ImageNet16-120 measured on the other half of the test images, after 200.
    `"train_seconds"`    seconds of training on CIFAR-10's half, as the authors measured them on one GPU, after 200
                         epochs or (by share) 12.
    `"flops"`            millions of multiply-accumulates for one CIFAR-10 image.
    `"params"`           millions of parameters, with the classifier of CIFAR-10.
    `"n_seeds"`          runs of 200 epochs over which accuracies are means: 2 or 3.
    ===================  =========================================================================================

    Values equal those of the source to the last digit. The FLOPs of 204 architectures, and the parameters of 150, are
    not those of the cell as it is written (`jaxnas.cost` gives these), since the source averaged them with an
    isomorphic cell.

    Args:
      arch: dict, index or string.
      dataset: `"cifar10"`, `"cifar100"` or `"imagenet16-120"`.
      metric: see the table.
      epochs: 200; or 12, for which there is CIFAR-10's validation accuracy and time.

    Raises:
      ArchitectureError: if the architecture is not in the space.
      ValueError: for a data set, metric or number of epochs that the table does not have; the message lists them.
    """
    return float(table(dataset, metric, epochs)[to_index(arch)])


def table(dataset: str = "cifar10", metric: str = "test_accuracy", epochs: int = 200) -> np.ndarray:
    """A column of the table, float64 `[15625]` by official index. Arguments, units and errors as in `query`."""
    name = str(dataset).lower()
    if name not in DATASETS:
        raise ValueError(f"dataset must be one of {list(DATASETS)}; got {dataset!r}.")
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {list(METRICS)}; got {metric!r}.")
    if metric.endswith("_accuracy"):
        column = f"{name}_{metric.removesuffix('_accuracy')}_{epochs}"
        there = sorted({int(c.split("_")[-1]) for c in COLUMNS if c.rpartition("_")[0] == column.rpartition("_")[0]})
        if column not in COLUMNS:
            raise ValueError(f"epochs must be one of {there} for the {metric} on {name}; got {epochs!r}.")
        return _columns()[column]
    if name != "cifar10" and metric != "n_seeds":
        raise ValueError(f"the {metric} are known on 'cifar10' only; got dataset {dataset!r}.")
    if epochs not in (12, 200):
        raise ValueError(f"epochs must be one of [12, 200]; got {epochs!r}.")
    values = _columns()[metric]
    return values * (epochs / 200) if metric == "train_seconds" and epochs != 200 else values


def costs(arch: Arch | int | str) -> dict[str, float]:
    """`{"flops": millions, "params": millions, "train_seconds": of 200 epochs}` on CIFAR-10; see `query`."""
    return {name: query(arch, metric=name) for name in ("flops", "params", "train_seconds")}


@struct.dataclass
class DeviceTable:
    """A column of the table as a device array, to be indexed inside `jax.jit` and `jax.vmap`.

    Attributes:
      values: float32 `[5, 5, 5, 5, 5, 5]`, one axis per edge, in the order of `EDGES`.
    """

    values: jax.Array

    def __call__(self, arch: Mapping[str, jax.Array]) -> jax.Array:
        """The value of an architecture in the form that `Space.sample` returns, `{edge: int32 []}`; float32 `[]`."""
        code: Any = 0
        for edge in EDGES:
            code = code * len(OPERATIONS) + arch[edge]
        return self.values.reshape(-1)[code]


def device_table(dataset: str = "cifar10", metric: str = "test_accuracy", epochs: int = 200) -> DeviceTable:
    """A column of the table on the device, in float32. Arguments, units and errors as in `query`."""
    by_code = np.empty(SIZE, np.float32)
    by_code[_codes()] = table(dataset, metric, epochs)
    return DeviceTable(jnp.asarray(by_code.reshape([len(OPERATIONS)] * len(EDGES))))


# ---------------------------------------------------------------------- the three ways to write an architecture


def to_index(arch: Arch | int | str) -> int:
    """The official index, 0 to 15,624.

    Raises:
      ArchitectureError: if the architecture is not in the space; says why.
    """
    if isinstance(arch, (int, np.integer)) and not isinstance(arch, bool):
        if not 0 <= arch < SIZE:
            raise ArchitectureError(f"an index of NAS-Bench-201 lies in 0 to {SIZE - 1}; got {arch}.")
        return int(arch)
    decisions = SPACE.fixed(_parse(arch) if isinstance(arch, str) else arch)  # type: ignore[arg-type]
    code = 0
    for edge in EDGES:
        code = code * len(OPERATIONS) + OPERATIONS.index(str(decisions[edge]))
    return int(_index_of_code()[code])


def to_arch(arch: Arch | int | str) -> dict[str, str]:
    """The decisions `{edge: operation}`. Raises ArchitectureError as `to_index` does."""
    operations = _operations()[to_index(arch)]
    return {edge: OPERATIONS[op] for edge, op in zip(EDGES, operations, strict=True)}


def to_string(arch: Arch | int | str) -> str:
    """The official string: nodes 1, 2, 3, each with its incoming edges. Raises ArchitectureError as `to_index` does."""
    decisions = to_arch(arch)
    nodes = [[f"{decisions[f'{node}<-{source}']}~{source}" for source in range(node)] for node in (1, 2, 3)]
    return "+".join(f"|{'|'.join(node)}|" for node in nodes)


def _parse(text: str) -> dict[str, str]:
    form = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
    decisions = {}
    nodes = text.strip().split("+")
    for number, node in enumerate(nodes, 1):
        if not re.fullmatch(r"\|([^|]+\|)+", node):
            raise ArchitectureError(f"{text!r}: node {number} is {node!r}; expected the form {form}.")
        edges = [edge.partition("~") for edge in node.strip("|").split("|")]
        sources = [source for _, _, source in edges]
        if number > 3 or sources != [str(i) for i in range(number)]:
            expected = f"{list(range(number))}" if number <= 3 else "three nodes"
            raise ArchitectureError(
                f"{text!r}: node {number} takes its input from {sources}; expected {expected}, as in {form}."
            )
        for operation, _, source in edges:
            if operation not in OPERATIONS:
                raise ArchitectureError(
                    f"{text!r}: node {number} has the unknown operation {operation!r}; expected one of "
                    f"{list(OPERATIONS)}."
                )
            decisions[f"{number}<-{source}"] = operation
    if len(nodes) != 3:
        raise ArchitectureError(f"{text!r}: has {len(nodes)} node(s); expected three, as in {form}.")
    return decisions


# ---------------------------------------------------------------------- latencies


class Latencies:
    """Latencies of all architectures on a number of devices; from `load_latencies`.

    Attributes:
      devices: names of the devices. `titanx_32` is a batch of 32 on a Titan X, and so on.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        self._arrays = dict(arrays)
        self.devices = tuple(sorted(self._arrays))

    def query(self, arch: Arch | int | str, device: str) -> float:
        """Milliseconds of one forward pass. Raises ArchitectureError, or ValueError for an unknown device."""
        return float(self.table(device)[to_index(arch)])

    def table(self, device: str) -> np.ndarray:
        """Milliseconds, float32 `[15625]` by official index. Raises ValueError for an unknown device."""
        if device not in self._arrays:
            raise ValueError(f"device must be one of {list(self.devices)}; got {device!r}.")
        return self._arrays[device]


def load_latencies(path: Any) -> Latencies:
    """Reads measured latencies. The file (1.2 MB) is not in the package.

    `nb201_latency_ms.npz` of HELP (Lee et al. 2021, arXiv 2106.08630, MIT licence) has 27 devices; those of eyeriss,
    fpga, pixel3 and raspi4 are HW-NAS-Bench's (arXiv 2103.10584) for CIFAR-10. Pixel3 and raspi4 have near-zero
    entries for cells whose input does not reach the output.

    Args:
      path: an .npz file with a float array `[15625]` of milliseconds, by official index, per device.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if an array has another shape.
    """
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    for name, values in arrays.items():
        if values.shape != (SIZE,):
            raise ValueError(f"{path}: {name!r} has shape {values.shape}; expected ({SIZE},), one per architecture.")
    return Latencies(arrays)


# ---------------------------------------------------------------------- the file


@functools.cache
def _file() -> dict[str, np.ndarray]:
    with np.load(TABLE) as file:
        return {name: file[name] for name in file.files}


@functools.cache
def _columns() -> dict[str, np.ndarray]:
    """Each column as float64 `[15625]`, read-only; the file stores the four bytes of each integer separately."""
    columns = {}
    for name, column in COLUMNS.items():
        values = np.ascontiguousarray(_file()[name].T).view("<u4")[:, 0] / 10**column.digits
        values.flags.writeable = False
        columns[name] = values
    return columns


@functools.cache
def _operations() -> np.ndarray:
    """Operation per edge, int64 `[15625, 6]` by official index."""
    return _file()["ops"].T.astype(np.int64)


@functools.cache
def _codes() -> np.ndarray:
    """Each architecture's number with its operations as digits, first edge first; int64 `[15625]` by official index."""
    return _operations() @ np.array([len(OPERATIONS) ** (len(EDGES) - 1 - i) for i in range(len(EDGES))])


@functools.cache
def _index_of_code() -> np.ndarray:
    return np.argsort(_codes())
