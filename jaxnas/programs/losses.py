"""Losses: ready ones by name, and what is asked of one's own.

A loss is a function `(output, labels) -> scalar`, a mean over the batch; or `(output, labels, arch)`, if it is to see
the architecture too (see `with_arch`). `jaxnas.losses` is this module.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

LossFn = Callable[..., jax.Array]
"""(model output for a batch, labels) or (output, labels, arch) -> scalar mean over the batch."""


class BuiltinLoss:
    """A ready loss. Called with options only, it gives the loss with these: `cross_entropy(label_smoothing=0.1)`.

    Of a model that returns `(output, auxiliary outputs, …)` it takes all: see `with_auxiliary`.
    """

    def __init__(self, compute: Callable[..., jax.Array], options: Mapping[str, Any] | None = None):
        functools.update_wrapper(self, compute)
        self.compute, self.options, self.name = compute, dict(options or {}), compute.__name__

    def __call__(self, *data: Any, **options: Any) -> Any:
        options = {**self.options, **options}
        if data:
            several = [name for name, part in zip(("output", "labels"), data, strict=False) if _is_tree(part)]
            if several:
                raise TypeError(
                    f"{self.name}: the {' and the '.join(several)} are several arrays, but this loss compares "
                    "one output with one array of labels. Give a loss_fn of your own, (output, labels) -> scalar."
                )
            return self.compute(*data, **options)
        inspect.signature(self.compute).bind(None, None, **options)  # unknown options are told here
        return BuiltinLoss(self.compute, options)

    def __repr__(self) -> str:
        return f"jaxnas.losses.{self.name}" + (f"({_listed(self.options)})" if self.options else "")


def _is_tree(value: Any) -> bool:
    return isinstance(value, (Mapping, tuple))


@BuiltinLoss
def cross_entropy(output: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Mean cross-entropy of logits.

    Args:
      output: logits, float `[…, classes]`.
      labels: class numbers, int `[…]`; or a share for each class, `[…, classes]`.
      label_smoothing: share of each label that is spread evenly over all classes (arXiv 1512.00567, section 7).

    Raises:
      ValueError: if the shapes do not fit, or the smoothing is not in [0, 1).
    """
    if not isinstance(label_smoothing, (int, float)) or not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must lie in [0, 1); got {label_smoothing!r}.")
    numbers = jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == output.shape[:-1]
    if not numbers and (labels.shape != output.shape or output.ndim < 2):
        raise ValueError(
            f"cross_entropy: the output has shape {_shape(output)} and the labels are {_form(labels)}; expected logits "
            "[…, classes] and int class numbers […], or a share for each class […, classes]."
        )
    if numbers and not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(output, labels).mean()
    shares = jax.nn.one_hot(labels, output.shape[-1], dtype=output.dtype) if numbers else labels.astype(output.dtype)
    return optax.softmax_cross_entropy(output, optax.smooth_labels(shares, label_smoothing)).mean()


@BuiltinLoss
def mse(output: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean squared error. Shapes: see `same_shape`."""
    output, labels = same_shape("mse", output, labels)
    return jnp.square(output - labels).mean()


@BuiltinLoss
def mae(output: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean absolute error. Shapes: see `same_shape`."""
    output, labels = same_shape("mae", output, labels)
    return jnp.abs(output - labels).mean()


@BuiltinLoss
def bce(output: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean binary cross-entropy of logits and labels in 0..1, for two classes or several labels per example.

    Shapes: see `same_shape`. (Logits, not probabilities: the model ends without a sigmoid.)
    """
    output, labels = same_shape("bce", output, labels)
    return optax.sigmoid_binary_cross_entropy(output, labels.astype(output.dtype)).mean()


LOSSES = {"cross_entropy": cross_entropy, "mse": mse, "mae": mae, "bce": bce}
"""By the names that `loss_fn` takes."""


def same_shape(name: str, output: Any, labels: Any) -> tuple[Any, Any]:
    """Both in one shape. The rule: a last axis of length 1 that only one of them has is dropped; nothing broadcasts.

    So a model's `[B, 1]` fits labels `[B]`.

    Raises:
      ValueError: if the shapes differ otherwise; `name` says in what.
    """
    if output.shape == (*labels.shape, 1):
        output = output[..., 0]
    elif labels.shape == (*output.shape, 1):
        labels = labels[..., 0]
    if output.shape != labels.shape:
        raise ValueError(
            f"{name}: the output has shape {_shape(output)} and the labels {_shape(labels)}; expected one shape (but "
            "for a last axis of 1)."
        )
    return output, labels


def main_output(output: Any) -> Any:
    """The logits of a model that returns `(logits, auxiliary logits, …)`, or its output itself."""
    return output[0] if isinstance(output, tuple) else output


def with_auxiliary(loss_fn: LossFn, weight: float = 0.4) -> LossFn:
    """A loss that adds `weight` times that of each auxiliary head, where the model's output is a tuple of heads.

    A model gives `(logits, auxiliary logits)` in training and plain logits otherwise (GoogLeNet, arXiv 1409.4842).
    """

    def loss(output: Any, labels: jax.Array) -> jax.Array:
        main, *heads = output if isinstance(output, tuple) else (output,)
        return loss_fn(main, labels) + weight * sum(loss_fn(head, labels) for head in heads)

    return loss


def full_precision(tree: Any) -> Any:
    """A pytree with bfloat16 and float16 leaves as float32: what losses and metrics are computed of."""

    def widened(leaf: Any) -> Any:
        dtype = getattr(leaf, "dtype", None)
        small = dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
        return leaf.astype(jnp.float32) if small else leaf

    return jax.tree.map(widened, tree)


def takes_arch(fn: Callable) -> bool:
    """Whether a function of (output, labels) asks for the architecture too: see `with_arch`."""
    return _arch_argument(fn) is not None


def with_arch(fn: Callable, name: str) -> Callable:
    """A function `(output, labels, arch=None)` of one of (output, labels), or of (output, labels, arch).

    It takes the architecture if it has an argument called `arch`, or a third one by position without a default. What
    it sees is what the model sees: in a search weights or traced indices, in an evaluation what was given, of a fixed
    model its decisions.

    Args:
      fn: a loss, a metric or a reward.
      name: what to call it in messages.

    Raises:
      TypeError: from the function returned, if `fn` takes an architecture and there is none.
    """
    argument = _arch_argument(fn)

    def call(output: Any, labels: Any, arch: Any = None) -> Any:
        if argument is None:
            return fn(output, labels)
        if arch is None:
            raise TypeError(f"{name} takes an architecture, but the model has none here.")
        return fn(output, labels, **{argument: arch}) if argument else fn(output, labels, arch)

    return call


def _arch_argument(fn: Callable) -> str | None:
    """The keyword by which a function takes an architecture, "" if by position, None if it does not."""
    try:
        parameters = inspect.signature(fn).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    if "arch" in parameters and parameters["arch"].kind is not inspect.Parameter.POSITIONAL_ONLY:
        return "arch"
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters.values() if p.kind in by_position and p.default is p.empty]
    return "" if len(needed) >= 3 else None


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss as everything calls it: `(output, labels, arch=None) -> float []`, in float32 or more.

    Attributes:
      fn: of full precision `(output, labels, arch)`.
      source: the function or ready loss that it stands for.
    """

    fn: Callable[[Any, Any, Any], Any]
    source: Any

    def __call__(self, output: Any, labels: Any, arch: Any = None) -> jax.Array:
        """The loss of a batch.

        Raises:
          TypeError, ValueError: if it is no float scalar.
        """
        return _called("loss_fn", self.fn, output, labels, arch)

    def bound(self, arch: Any) -> Loss:
        """The loss with this architecture, for a fixed model."""

        def fn(output: Any, labels: Any, _: Any) -> Any:
            return self.fn(output, labels, arch)

        return Loss(fn, (lambda output, labels: fn(output, labels, None)) if takes_arch(self.source) else self.source)


def as_loss(loss_fn: Any, *, aux_weight: float = 0.4) -> Loss:
    """The loss that an argument `loss_fn` stands for.

    Args:
      loss_fn: a name in `LOSSES`, one of these losses, or a function; or a `Loss`, which stays as it is.
      aux_weight: of auxiliary heads, in ready losses.

    Raises:
      TypeError, ValueError: if it is none of these.
    """
    if isinstance(loss_fn, Loss):
        return loss_fn
    if isinstance(loss_fn, str):
        if loss_fn not in LOSSES:
            raise ValueError(f"loss_fn must be a function (output, labels) or one of {list(LOSSES)}; got {loss_fn!r}.")
        loss_fn = LOSSES[loss_fn]
    if not callable(loss_fn):
        raise TypeError(
            "loss_fn must be a function (output, labels) -> scalar, or one of the names "
            f"{list(LOSSES)}; got {loss_fn!r}."
        )
    if isinstance(loss_fn, BuiltinLoss):
        return Loss(with_arch(with_auxiliary(loss_fn, aux_weight), "loss_fn"), loss_fn)
    return Loss(with_arch(loss_fn, "loss_fn"), loss_fn)


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward as everything calls it: `(output, labels, arch=None) -> float []`, larger is better.

    Attributes:
      fn: of full precision `(output, labels, arch)`.
    """

    fn: Callable[[Any, Any, Any], Any]

    def __call__(self, output: Any, labels: Any, arch: Any = None) -> jax.Array:
        """The reward of a batch. Raises TypeError or ValueError if it is no float scalar."""
        return _called("reward_fn", self.fn, output, labels, arch)


def as_reward(reward_fn: Any) -> Reward:
    """The reward that a function (output, labels) or (output, labels, arch) stands for."""
    if isinstance(reward_fn, Reward):
        return reward_fn
    if not callable(reward_fn):
        raise TypeError(f"reward_fn must be a function (output, labels) -> scalar; got {reward_fn!r}.")
    return Reward(with_arch(reward_fn, "reward_fn"))


def reward_of(loss_fn: Loss) -> Reward:
    """Minus the loss, as a reward."""
    return Reward(lambda output, labels, arch: -loss_fn(output, labels, arch))


def _called(name: str, fn: Callable, output: Any, labels: Any, arch: Any) -> jax.Array:
    """What a loss or reward gives of full precision, checked to be a float scalar, in float32 or more."""
    value = fn(*full_precision((output, labels)), arch)
    expected = "expected a float array [], the mean over the batch"
    if not isinstance(value, jax.Array):
        number = isinstance(value, (int, float, np.number, np.ndarray))
        why = ", a constant that does not depend on the model" if number else ""
        raise TypeError(f"{name} returned {_brief(value)}{why}; {expected}.")
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        of = f" for labels of shape {_shape(labels)}" if hasattr(labels, "shape") else ""
        hint = f" ({name} may end with .mean())" if len(value.shape) == 1 else ""
        raise ValueError(f"{name} returned {_form(value)}{of}; {expected}{hint}.")
    return full_precision(value)


def _brief(value: Any) -> str:
    return f"the number {value!r}" if isinstance(value, (int, float)) else f"a {type(value).__name__}"


def _form(array: Any) -> str:
    return f"{array.dtype}{_shape(array)}"


def _shape(array: Any) -> str:
    return str(list(array.shape))


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in options.items())
