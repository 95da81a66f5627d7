"""What is searched and how the result is trained: the paper's settings, and small ones for minutes on a CPU.

Liu, Simonyan, Yang 2019, arXiv 1806.09055, section 3 and appendix A, and the authors' code (github.com/quark0/darts).
Everything else is a default of `jaxnas.darts.search` or `jaxnas.training.fit`, which are the paper's.
"""

from typing import NamedTuple


class Search(NamedTuple):
    """Settings of the network that is searched (`spaces.darts`)."""

    channels: int
    cells: int
    epochs: int
    batch_size: int


class Final(NamedTuple):
    """Settings of the network in which the result is trained (`spaces.darts_evaluation`)."""

    channels: int
    cells: int
    epochs: int
    batch_size: int
    drop_path: float = 0.2
    aux_weight: float = 0.4
    grad_clip: float = 5.0
    cutout: int = 16
    lr: float = 0.025
    weight_decay: float = 3e-4
    test_every: int = 10


class Settings(NamedTuple):
    """Settings of an experiment; `images` limits the training images, a fifth of it the test images; None is all."""

    search: Search
    final: Final
    images: int | None


PAPER = Settings(Search(16, 8, 50, 64), Final(36, 20, 600, 96), images=None)

SMALL = Settings(Search(4, 4, 3, 64), Final(8, 5, 10, 64), images=2_000)

PAPER_ERRORS = {1: "3.00 ± 0.14 %", 2: "2.76 ± 0.09 %"}
"""Test error on CIFAR-10 by order of the search, table 1 of the paper (mean and deviation of the final training)."""
