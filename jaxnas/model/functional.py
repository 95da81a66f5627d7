"""A model as pure functions: the only view of it that algorithms have.

Everything Flax-specific about calling a model is here, so another module system needs one more
function like `model_fns`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from jaxnas.ops import fast_convolutions

MODES = ("train", "deterministic", "use_running_average")
"""Names that Flax modules use for the training flag; the last two mean the opposite."""

_FOREIGN = {
    "flax.nnx": ("Flax NNX", ("Module", "Pytree", "Object")),
    "torch": ("PyTorch", ("Module",)),
    "equinox": ("Equinox", ("Module",)),
    "haiku": (
        "Haiku",
        ("Module", "Transformed", "TransformedWithState", "MultiTransformed", "MultiTransformedWithState"),
    ),
    "keras": ("Keras", ("Layer",)),
    "tf_keras": ("Keras", ("Layer",)),
    "tensorflow": ("TensorFlow", ("Module",)),
}
"""Other module systems: the package, its name, and its base classes. None of them is imported."""

Variables = Mapping[str, Any]
"""`{"params": …}` and, where a model has them, other collections such as `"batch_stats"`."""


class ModelFns(NamedTuple):
    """A model as pure functions. `arch` is the last input, and is left out for a fixed model.

    Attributes:
      init: `(rng, *inputs, arch) -> variables`. Inputs may be `jax.ShapeDtypeStruct`s. A model that needs a
        training flag is initialised in training mode, so that it makes all of its variables.
      apply: `(variables, *inputs, arch, train=False, rngs=None, mutable=False, **options) -> output`, or
        `(output, updates)` if `mutable` names collections. `train` and the options reach models that take them;
        `train` also as `deterministic` or `use_running_average` (see `accepted`).
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
        """Whether the module can be called with that many inputs and an architecture."""
        if self.takes_arch:
            return True
        count = 1 + n_inputs  # the architecture comes last
        try:
            inspect.signature(type(self.module).__call__).bind(
                self.module, *[None] * count, **required(self.module, count, train=True)
            )
        except TypeError:
            return False
        names = list(_parameters(self.module))
        return count >= len(names) or names[count] not in MODES


def build(model_fn: Any) -> nn.Module:
    """The module that `model_fn` is, or returns when called without arguments.

    Raises:
      TypeError: if it is neither, or holds objects of another module system.
    """
    _check_ours(model_fn, "model_fn")
    module = model_fn if isinstance(model_fn, nn.Module) else model_fn() if callable(model_fn) else None
    _check_ours(module, "what model_fn gives")
    if not isinstance(module, nn.Module):
        is_what = f"gives {type(module).__name__}" if callable(model_fn) else f"is a {type(model_fn).__name__}"
        raise TypeError(
            "model_fn must be a flax.linen module, or give one when called without arguments (a class, a "
            f"functools.partial, a lambda); {_brief(model_fn)} {is_what}."
        )
    for name, value in vars(module).items():
        if name not in ("parent", "scope", "_state"):
            _check_ours(value, f"{type(module).__name__}.{name}")
    return module


def check_candidate(candidate: Any, where: str) -> None:
    """Raises TypeError, beginning with `where`, unless a candidate is a Flax Linen module or a function."""
    _check_ours(candidate, f"{where}: a candidate")
    for cell in getattr(candidate, "__closure__", None) or ():
        try:
            _check_ours(cell.cell_contents, f"{where}: a candidate")
        except ValueError:  # an empty cell: what it will hold is not known yet
            continue
    if isinstance(candidate, type) and issubclass(candidate, nn.Module):
        name = candidate.__name__
        raise TypeError(f"{where}: candidate {name} is a class; call it, for instance {name}(…).")
    if not callable(candidate):
        raise TypeError(f"{where}: {_brief(candidate)} is neither a module nor a function.")


def _check_ours(value: Any, where: str) -> None:
    """Raises TypeError if a value is an object or a class of another module system, or holds one.

    Their layers are callable, so they would be taken for functions, and their parameters never trained.
    """
    for part in _held(value):
        system = _foreign(part)
        if system is not None:
            what = part.__name__ if isinstance(part, type) else type(part).__name__
            raise TypeError(
                f"{where} is or holds {what} of {system}. Supported are flax.linen modules, and functions without "
                "parameters: those of other layers would not be trained."
            )


def _held(value: Any) -> Iterator[Any]:
    """A value, and what is in it if it is a partial, a bound method or a collection."""
    yield value
    inner: Iterable[Any] = ()
    if isinstance(value, functools.partial):
        inner = [value.func, *value.args, *value.keywords.values()]
    elif inspect.ismethod(value):
        inner = [value.__self__]
    elif isinstance(value, (list, tuple)):
        inner = value
    elif isinstance(value, Mapping):
        inner = value.values()
    for part in inner:
        yield from _held(part)


def _foreign(value: Any) -> str | None:
    """The module system of an object or a class, if it is not Flax Linen and is known."""
    family = value.__mro__ if isinstance(value, type) else type(value).__mro__
    if nn.Module in family:
        return None
    for base in family:
        for package, (system, names) in _FOREIGN.items():
            if base.__name__ in names and f"{base.__module__}.".startswith(f"{package}."):
                return system
    return None


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 and "\n" not in text else f"a {type(value).__name__}"


def model_fns(model_fn: Any) -> ModelFns:
    """Wraps a Flax Linen module (or a function that returns one) as pure functions."""
    module = build(model_fn)
    takes_arch = "arch" in inspect.signature(type(module).__call__).parameters

    def arguments(args: tuple, options: dict) -> tuple[tuple, dict]:
        options = accepted(module, options)
        if takes_arch:
            return args[:-1], {**options, "arch": args[-1]}
        return args, options

    def init(rng: jax.Array, *args: Any) -> Variables:
        args, options = arguments(args, {})
        options = {**required(module, len(args), train=True), **options}
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
    """Shape and dtype of an array or anything similar. Raises TypeError for several arrays: see `trees.shapes_of`."""
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    if isinstance(x, Mapping) or (isinstance(x, (list, tuple)) and any(hasattr(part, "shape") for part in x)):
        raise TypeError(
            f"expected one array; got a {type(x).__name__} of {len(x)}. Several inputs are a dict or a tuple of arrays."
        )
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

    If the options have a training flag under one name of `MODES`, a target that uses another name gets the flag under
    that name, unless its constructor has fixed it. A `nn.Sequential` hands its keywords to its first layer, so
    that layer decides.
    """
    while _is_sequential(target) and target.layers:
        target = target.layers[0]
    parameters = _parameters(target)
    keyword_kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {k for k, p in parameters.items() if p.kind in keyword_kinds}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    taken = dict(options) if takes_all else {k: v for k, v in options.items() if k in named}
    told = next((name for name in MODES if options.get(name) is not None), None)
    if told is None:
        return taken
    for name in MODES:
        fixed = isinstance(target, nn.Module) and getattr(target, name, None) is not None
        if name in named and name not in options and not fixed:
            same = (name == "train") == (told == "train")
            taken[name] = options[told] if same else _negated(options[told])
    return taken


def required(target: Any, n_inputs: int, *, train: bool) -> dict[str, bool]:
    """The training flag for a module that needs one, if it is called with that many inputs and nothing else."""
    needed = {}
    for i, (name, parameter) in enumerate(_parameters(target).items()):
        positional = parameter.kind is not parameter.KEYWORD_ONLY and i <= n_inputs  # the first is `self`
        if name in MODES and parameter.default is parameter.empty and not positional:
            needed[name] = train if name == "train" else not train
    return needed


def modes(module: nn.Module) -> set[str]:
    """Which of `MODES` a module's call takes by name; all, if it takes any keyword."""
    parameters = _parameters(module)
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set(MODES)
    return set(MODES) & set(parameters)


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    """Of calling a function, or a module (then with `self`)."""
    try:
        return inspect.signature(type(target).__call__ if isinstance(target, nn.Module) else target).parameters
    except ValueError:  # some builtins have no signature
        return {}


def _negated(value: Any) -> Any:
    return not value if isinstance(value, (bool, np.bool_)) else jax.numpy.logical_not(value)


def _streams(rng: jax.Array) -> dict[str, jax.Array]:
    params, dropout = jax.random.split(rng)
    return {"params": params, "dropout": dropout}
