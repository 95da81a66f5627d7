"""What is known of some data sets by their names."""

from collections.abc import Mapping
from typing import Any

from jaxnas.data.augment import STANDARD

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616), "augment": STANDARD},
    "cifar100": {"mean": (0.5071, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2762), "augment": STANDARD},
}
"""Name -> fields of its `Dataset`. Mean and deviation of the training images are those that the field uses."""

_CIFAR = "the archive of its python or binary version, or the folder that was unpacked from it"
_IDX = "the folder of its four files, train-images-idx3-ubyte.gz and so on"

FILES: Mapping[str, str] = {
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "mnist": _IDX,
    "fashion_mnist": _IDX,
    "kmnist": _IDX,
}
"""Name -> the files that its authors publish, which `prepare` reads."""
