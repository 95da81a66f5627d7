"""A model and its data, traced together before anything runs: whether they fit, and what is said if not."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax
import jax
from flax import linen as nn

from jaxnas.checks import check_variables
from jaxnas.data import Dataset
from jaxnas.errors import DataError
from jaxnas.model import functional
from jaxnas.model.fixed import FixedModel
from jaxnas.model.layouts import traced
from jaxnas.model.space import Space, trace
from jaxnas.model.trees import is_container


def check_searchable(model_fn: Any, dataset: Dataset, *, trains: bool = True) -> tuple[Space, Any]:
    """The space of a model with open choices on these data, and the shapes of its output for a batch of one.

    Args:
      model_fn: the model.
      dataset: the data.
      trains: whether it is going to be trained; then a model that cannot be told so, but should, is warned of.

    Raises:
      ArchitectureError: if the model has no choices, or they do not fit together.
      DataError: if the model fails on images of this shape and takes those of another layout.
      TypeError: for a fixed model, or what is none.
    """
    if isinstance(model_fn, FixedModel):
        raise TypeError(
            "model_fn is a model whose architecture is fixed already; give the model with open choices, from which "
            f"apply_fixed_architecture made it ({type(model_fn.open.model).__name__})."
        )
    functions = functional.model_fns(model_fn)
    found, output = _traced(lambda x: trace(functions.module, x), dataset)
    if trains:
        arch = jax.eval_shape(found.sample, jax.random.key(0))
        _warn_of_silent_modes(functions, dataset, functions.module, arch)
    return found, output


def check_trainable(model: Any, dataset: Dataset) -> Any:
    """The shapes of a plain or fixed model's output, in training, for a batch of one of these data.

    Raises:
      DataError: if the model fails on images of this shape and takes those of another layout.
      TypeError: for a model with open choices, or what is none.
    """
    functions = functional.model_fns(model)
    if functions.takes_arch:
        raise TypeError(
            f"{type(functions.module).__name__} takes an architecture; fix it first: jaxnas.apply_fixed_architecture."
        )
    output = _traced(lambda x: jax.eval_shape(functions.trace, x), dataset)
    inner = model.open.model if isinstance(model, FixedModel) else functions.module
    _warn_of_silent_modes(functions, dataset, inner)
    return output


def check_fit(functions: functional.ModelFns, variables: Any, *inputs: Any) -> None:
    """Raises TypeError or ValueError unless variables are of this model.

    Args:
      functions: the model.
      variables: what is to be checked.
      *inputs: shapes of the model's inputs, the architecture among them if it takes one.
    """
    expected = jax.eval_shape(functions.init, jax.random.key(0), *inputs)
    parameters = set(expected.get("params", {}))
    if isinstance(variables, Mapping) and "params" not in variables and parameters & set(variables):
        raise ValueError(
            f"variables holds {sorted(parameters & set(variables))}, which are parameters: give the whole dict, "
            "{'params': …}, not its part variables['params']."
        )
    check_variables(variables)
    wanted, given = _shapes(expected), _shapes(variables)
    for name in sorted(wanted.keys() | given.keys()):
        stray = name not in wanted and not name.startswith("params")
        if wanted.get(name) != given.get(name) and not stray:
            raise ValueError(
                f"variables do not fit the model: {name} has shape {given.get(name, 'none: it is missing')}, the model "
                f"has {wanted.get(name, 'no such variable')}."
            )


def _shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path({name: dict(part) for name, part in tree.items()})
    return {"/".join(str(getattr(k, "key", k)) for k in path): jax.numpy.shape(leaf) for path, leaf in leaves}


def _traced(run: Callable[[Any], Any], dataset: Dataset) -> Any:
    """Traces on an example; warns of images that look as if their channels came first."""
    example = dataset.example()

    def refusal(reason: str, shape: tuple[int, ...], how: str) -> DataError:
        return DataError(
            f"{dataset.name}: x_train has shape {list(dataset.x_train.shape)}, on which the model fails ({reason}). It "
            f"takes images [N, {', '.join(map(str, shape[1:]))}]: give {how}, for x_test too."
        )

    result = traced(run, example, refusal)
    if is_container(dataset.x_train):
        return result
    _, *image = example.shape
    if len(image) == 2 and not _keeps_batch(run, example) and _keeps_batch(run, _with_axis(example)):
        # Flax takes [height, width, channels] for one image without a batch axis.
        raise refusal("it takes the examples for channels of one image", _with_axis(example).shape, "x[..., None]")
    if len(image) == 3 and image[0] in (1, 3) and image[1] == image[2] > 4:
        warnings.warn(
            f"{dataset.name}: x_train has shape {list(dataset.x_train.shape)}, which looks as if channels came first; "
            f"images are taken as [N, height, width, channels], so these have {image[2]} channels. If that is not "
            "meant, give x.transpose(0, 2, 3, 1).",
            stacklevel=3,
        )
    return result


def _with_axis(example: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*example.shape, 1), example.dtype)


def _keeps_batch(run: Callable[[jax.ShapeDtypeStruct], Any], example: jax.ShapeDtypeStruct) -> bool:
    """Whether the output of a batch has as many rows as the batch; False if the model fails on it."""
    rows = 11  # unlike any number of channels that a model would choose
    batch = jax.ShapeDtypeStruct((rows, *example.shape[1:]), example.dtype)
    try:
        output = run(batch)
    except Exception:  # whatever the model raises on another shape
        return False
    return all(leaf.shape[:1] == (rows,) for leaf in jax.tree.leaves(output))


def _warn_of_silent_modes(functions: functional.ModelFns, dataset: Dataset, module: nn.Module, *arch: Any) -> None:
    """Warns of dropout and batch statistics in a model that cannot be told whether it trains."""
    if functional.modes(module):
        return
    dropped = []

    def look(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if isinstance(context.module, nn.Dropout) and context.module.rate:
            dropped.append(context.module.path)
        return call(*args, **kwargs)

    x = dataset.example()
    with nn.intercept_methods(look):
        variables = jax.eval_shape(functions.init, jax.random.key(0), x, *arch)
    if not dropped:
        try:
            jax.eval_shape(lambda v, *inputs: functions.apply(v, *inputs, mutable=True), variables, x, *arch)
        except flax.errors.InvalidRngError:
            dropped.append(())
    found = ["dropout (it draws from the random stream 'dropout')"] * bool(dropped)
    found += ["batch statistics (the collection 'batch_stats')"] * ("batch_stats" in variables)
    if found:
        warnings.warn(
            f"{type(module).__name__} has {' and '.join(found)}, but its call takes neither `train` nor "
            "`deterministic` nor `use_running_average`, so it cannot tell training from evaluation. Give it one of "
            "these arguments, and hand it on.",
            stacklevel=4,
        )
