"""A model as pure functions: the only view of it that algorithms have.

Everything Flax-specific about calling a model is here, so another module system needs one more
function like `model_fns`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from jaxnas.ops import fast_convolutions

Variables = Mapping[str, Any]
"""`{"params": …}` and, where a model has them, other collections such as `"batch_stats"`."""


class ModelFns(NamedTuple):
    """A model as pure functions. `arch` is the last input, and left out for a fixed model.

    Attributes:
      init: `(rng, *inputs, arch) -> variables`. Inputs may be `jax.ShapeDtypeStruct`s.
      apply: `(variables, *inputs, arch, train=False, rngs=None, mutable=False, **options) -> output`, or
        `(output, updates)` if `mutable` names collections. `train` and the options reach models that take them.
      trace: `(*inputs, arch) -> output`, as in training, with fresh variables; for abstract evaluation.
      module: the Flax module behind them.
      takes_arch: whether the module has open choices, that is, an argument called `arch`.
    """

    init: Callable[..., Variables]
    apply: Callable[..., Any]
    trace: Callable[..., Any]
    module: nn.Module
    takes_arch: bool

    def accepts_arch(self, n_inputs: int) -> bool:
        """Whether the module can be called with so many inputs and an architecture."""
        signature = inspect.signature(type(self.module).__call__)
        try:
            signature.bind(self.module, *[None] * (n_inputs + (not self.takes_arch)))
        except TypeError:
            return self.takes_arch
        return True


def build(model_fn: Any) -> nn.Module:
    """The module that `model_fn` is, or gives when called without arguments.

    Raises:
      TypeError: if it is neither.
    """
    module = model_fn if isinstance(model_fn, nn.Module) else model_fn() if callable(model_fn) else None
    if not isinstance(module, nn.Module):
        raise TypeError(
            "model_fn must be a flax.linen module, or give one when called without arguments (a class, a "
            f"functools.partial, a lambda); {model_fn!r} gives {type(module).__name__}."
        )
    return module


def model_fns(model_fn: Any) -> ModelFns:
    """Wraps a Flax Linen module (or what gives one) as pure functions."""
    module = build(model_fn)
    takes_arch = "arch" in inspect.signature(type(module).__call__).parameters

    def arguments(args: tuple, options: dict) -> tuple[tuple, dict]:
        options = accepted(module, options)
        if takes_arch:
            return args[:-1], {**options, "arch": args[-1]}
        return args, options

    def init(rng: jax.Array, *args: Any) -> Variables:
        args, options = arguments(args, {})
        specs = jax.tree.map(shape_of, args)

        def fresh(rng: jax.Array) -> Variables:
            zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), specs)
            return module.init(_streams(rng), *zeros, **options)

        if isinstance(rng, jax.core.Tracer):
            return fresh(rng)
        # Compiled as a whole, only the initialisers remain. On CPU each of them takes seconds to optimise, and the
        # program runs once.
        quick: Any = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        return jax.jit(fresh).lower(rng).compile(compiler_options=quick)(rng)

    def apply(variables, *args, train=False, rngs=None, mutable=False, **options):
        args, options = arguments(args, {"train": train, **options})
        with fast_convolutions():
            return module.apply(variables, *args, rngs=rngs, mutable=mutable, **options)

    def trace(*args):
        args, options = arguments(args, {"train": True})
        with fast_convolutions():
            return module.init_with_output(_streams(jax.random.key(0)), *args, **options)[0]

    return ModelFns(init, apply, trace, module, takes_arch)


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array or anything like one."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    x = x if hasattr(x, "dtype") else jax.numpy.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype))


def call(target: Any, x: Any, options: Mapping[str, Any]) -> Any:
    """Calls a module or function on x with those of `options` that it accepts.

    The layers of a `nn.Sequential` are called one by one, so that each gets the options it accepts (Flax hands
    all to the first).
    """
    if not _is_sequential(target):
        return target(x, **accepted(target, options))
    for i, layer in enumerate(target.layers):
        if i and isinstance(x, dict):
            x = layer(**x)
        elif i and isinstance(x, tuple):
            x = layer(*x)
        else:
            x = call(layer, x, options)
    return x


def reached(target: Any, options: Mapping[str, Any]) -> set[str]:
    """The names of those options that `call` hands to something in `target`."""
    if _is_sequential(target):
        return set().union(*(reached(layer, options) for layer in target.layers))
    return set(accepted(target, options))


def _is_sequential(target: Any) -> bool:
    return isinstance(target, nn.Module) and type(target).__call__ is nn.Sequential.__call__


def accepted(target: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that calling `target` accepts.

    A `nn.Sequential` hands its keywords to its first layer, so that layer decides.
    """
    while _is_sequential(target) and target.layers:
        target = target.layers[0]
    call = type(target).__call__ if isinstance(target, nn.Module) else target
    try:
        parameters = inspect.signature(call).parameters
    except ValueError:  # some builtins have no signature
        return {}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(options)
    keyword_kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {k: v for k, v in options.items() if k in parameters and parameters[k].kind in keyword_kinds}


def _streams(rng: jax.Array) -> dict[str, jax.Array]:
    params, dropout = jax.random.split(rng)
    return {"params": params, "dropout": dropout}
