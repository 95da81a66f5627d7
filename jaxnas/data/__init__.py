"""Data: names, files, arrays; normalisation and augmentation inside jit."""

from jaxnas.data.archives import prepare
from jaxnas.data.augment import STANDARD, Augment
from jaxnas.data.dataset import Dataset
from jaxnas.data.sources import as_dataset, load

__all__ = ["STANDARD", "Augment", "Dataset", "as_dataset", "load", "prepare"]
