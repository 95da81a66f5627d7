"""What is searched, how, and how the result is trained: the paper's settings, and small ones for minutes on a CPU.

Pham et al. 2018, arXiv 1802.03268, section 3.2, and the authors' scripts for CIFAR-10 (melodyguan/enas, scripts/).
README.md lists what their code does that our parts have no argument for.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import optax

from jaxnas import ChoiceSpec, enas, spaces


class Search(NamedTuple):
    """The supernet and the controller. `weight_decay` is twice the authors' `l2_reg`, which multiplies Σ w²."""

    model: Any
    controller: Callable
    epochs: int
    batch_size: int
    weight_decay: float
    controller_optimizer: optax.GradientTransformation
    controller_steps: int
    controller_samples: int
    skip_weight: float
    lr_max: float = 0.05
    lr_min: float = 0.0005
    train_portion: float = 0.9
    baseline_decay: float = 0.999


class Final(NamedTuple):
    """Settings of the final network. `weight_decay` as in `Search`."""

    model: Any
    epochs: int
    batch_size: int
    weight_decay: float
    lr_min: float
    cutout: int
    lr_max: float = 0.05


class Settings(NamedTuple):
    """Settings of an experiment; `images` limits the training images, a fifth of it the test images; None is all."""

    search: Search
    final: Final
    images: int | None
    paper_error: str


def _adam(learning_rate: float) -> optax.GradientTransformation:
    """The authors' Adam: no momentum, and a large epsilon."""
    return optax.adam(learning_rate, b1=0.0, b2=0.999, eps=1e-3)


def _for_convolutions(yes: float, no: float, spec: ChoiceSpec) -> list[float]:
    return [yes if "conv" in name else no for name in spec.names or ()]


def _learnt_bias(key: str, spec: ChoiceSpec) -> Sequence[float]:
    return _for_convolutions(10.0, 0.0, spec)


def _normal_bias(key: str, spec: ChoiceSpec) -> Sequence[float] | None:
    return _for_convolutions(0.25, -0.25, spec) if key.startswith("normal/") else None


_CONTROLLER = functools.partial(enas.controller, step_embedding=False)
# The macro script asks for op_tanh_reduce=2.5 as well, which its controller does not read.
_MACRO_CONTROLLER = functools.partial(_CONTROLLER, tanh_constant=1.5, skip_target=0.4, skip_reduction="mean")
_MICRO_CONTROLLER = functools.partial(
    _CONTROLLER,
    tanh_constant=1.1,
    op_tanh_reduce=2.5,
    cell_exit_extra_step=True,
    op_bias=_learnt_bias,
    branch_bias=_normal_bias,
)
_SMALL_CONTROLLER = functools.partial(_CONTROLLER, op_tanh_reduce=2.5)
_SMALL_OPTIMIZER = optax.adam(3.5e-3)

SETTINGS = {
    ("macro", "paper"): Settings(
        Search(
            spaces.enas_macro(layers=12, filters=36),
            _MACRO_CONTROLLER, 310, 128, 5e-4, _adam(1e-3), 50, 20, 0.8,
            baseline_decay=0.99,
        ),
        Final(spaces.enas_macro(layers=12, filters=96, dropout=0.5, double_filters=True), 310, 100, 4e-4, 1e-3, 16),
        images=None,
        paper_error="4.23 %",
    ),
    ("micro", "paper"): Settings(
        Search(
            spaces.enas_micro(cells=6, filters=20),
            _MICRO_CONTROLLER, 150, 160, 2e-4, _adam(3.5e-3), 30, 10, 0.0,
            baseline_decay=0.99,
        ),
        Final(spaces.enas_micro(cells=15, filters=36, dropout=0.2), 630, 144, 4e-4, 1e-4, 16),
        images=None,
        paper_error="2.89 %",
    ),
    ("macro", "small"): Settings(
        Search(
            spaces.enas_macro(layers=6, filters=16),
            functools.partial(_SMALL_CONTROLLER, tanh_constant=1.5), 10, 64, 1e-4, _SMALL_OPTIMIZER, 10, 20, 0.8,
            train_portion=0.75,
        ),
        Final(spaces.enas_macro(layers=6, filters=16, dropout=0.1), 10, 64, 1e-4, 1e-3, 0),
        images=8_000,
        paper_error="4.23 %",
    ),
    ("micro", "small"): Settings(
        Search(
            spaces.enas_micro(cells=3, filters=8),
            functools.partial(_SMALL_CONTROLLER, tanh_constant=1.1, cell_exit_extra_step=True),
            8, 64, 1e-4, _SMALL_OPTIMIZER, 10, 10, 0.0,
            train_portion=0.75,
        ),
        Final(spaces.enas_micro(cells=3, filters=8, dropout=0.1), 8, 64, 1e-4, 1e-3, 0),
        images=4_000,
        paper_error="2.89 %",
    ),
}  # fmt: skip
