"""`jaxnas.search`: the one call that runs any method, from one seed or from several."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload

from jaxnas.oneshot.engine import seeds as many
from jaxnas.oneshot.engine import stages
from jaxnas.oneshot.engine.base import Derivation, Method, Procedure
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS, SearchOptions, SingleOptions, completed
from jaxnas.oneshot.engine.plan import Plan, make_plan
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.task import configuration, make_task
from jaxnas.programs.devices import described, find_mesh
from jaxnas.programs.layout import single
from jaxnas.runs.options import running_of
from jaxnas.signatures import arguments_of, documented, with_arguments

F = TypeVar("F", bound=Callable)


@overload
def search(
    model_fn: Any, data: Any, method: Method, *, seeds: Sequence[int], **options: Unpack[SingleOptions]
) -> list[SearchResult]: ...
@overload
def search(model_fn: Any, data: Any, method: Method, **options: Unpack[SingleOptions]) -> SearchResult: ...
@documented(SearchOptions, defaults=SEARCH_DEFAULTS)
def search(model_fn: Any, data: Any, method: Method, **options: Any) -> SearchResult | list[SearchResult]:
    """Searches a model's choices.

    Args:
      model_fn: anything that gives a Flax module when called without arguments, or a module; called
        `model(x, arch)`, with `train=` if it takes that.
      data: a name, an .npz file, arrays or a `jaxnas.data.Dataset`; see `jaxnas.data.as_dataset`.
      method: what `jaxnas.darts.method(…)`, `jaxnas.differentiable(…)` or `jaxnas.sampled(…)` gives. The options
        that are not given have the method's defaults, which are its paper's.

    Returns:
      A `SearchResult`, or with `seeds` a list of them. Each record of its `history` has the means of the step metrics,
      the `probabilities` of the candidates, `arch`, the architecture that would be derived then, and, where the epoch
      was validated, its scores.

    Raises:
      ArchitectureError: if the model has no choices, or they are unsound, or the method cannot decide them.
      DataError: if the data are unsound or do not fit the model or the batch size.
      Interrupted: on SIGTERM or Ctrl-C, once the work is saved in `workdir`. It is a KeyboardInterrupt.
      NonFiniteLossError: if a loss or gradient becomes NaN or infinite; it carries the last good values.
      RunError: if `workdir` holds another run, is in use, or cannot be written or read.
      TypeError, ValueError: for options that do not exist, are of another type, or are out of range.
    """
    check_method(method)
    complete = completed(method, options)
    method = selecting(method, complete["select"])
    if method.stages:
        return stages.run(model_fn, data, method, options)
    plan = make_plan(model_fn, {**complete, "data": data})
    running = running_of(complete)
    if complete["seeds"] is not None:
        return many.run(plan, method, running, seeds=complete["seeds"], batching=complete["batching"])
    procedure = method.build(plan)
    mesh = find_mesh(running.devices, running.mesh, batch_size=plan.batch_size)
    task, program = make_task([plan], procedure, single(mesh), mesh=mesh, steps_per_call=running.steps_per_call)
    config = {**configuration(plan, method, procedure), **described(mesh)}
    return many.run_to_end(task, program, plan, config, running)[0]


def check_method(method: Any) -> None:
    """Raises TypeError if it is none."""
    if not isinstance(method, Method):
        raise TypeError(
            f"method must be what a method function gives, such as jaxnas.darts.method(); got {method!r} of type "
            f"{type(method).__name__}."
        )


def selecting(method: Method, select: Derivation | None) -> Method:
    """The method with another rule of deciding; itself for None. Raises TypeError if it is no derivation."""
    if select is None:
        return method
    if not callable(select) or isinstance(select, type):
        raise TypeError(f"select must be a derivation, such as jaxnas.parts.by_evolution(200); got {select!r}.")

    def build(plan: Plan) -> Procedure:
        return method.build(plan)._replace(derive=select)

    text = getattr(select, "__qualname__", None) or repr(select)
    last = [dataclasses.replace(stage, method=selecting(stage.method, select)) for stage in method.stages[-1:]]
    before, settings = method.stages[:-1], {**method.settings, "derive": text}
    return dataclasses.replace(method, build=build, settings=settings, stages=(*before, *last))


def by_method(method: Callable[..., Method]) -> Callable[[F], F]:
    """A decorator for the `search` of a method's file: documents `model_fn`, `data`, its arguments and all options."""

    def decorate(function: F) -> F:
        defaults = {**SEARCH_DEFAULTS, **method().defaults}
        positional = {name: text for name, text in arguments_of(search).items() if name in ("model_fn", "data")}
        function.__doc__ = with_arguments(inspect.getdoc(function) or "", positional)
        documented(SearchOptions, defaults=defaults, own=method)(function)
        sections = (search.__doc__ or "").split("\n\n")
        rest = [section for section in sections if section.startswith(("Returns:", "Raises:"))]
        function.__doc__ = "\n\n".join([(function.__doc__ or "").rstrip(), *rest]) + "\n"
        return function

    return decorate


def search_by(method: Callable[..., Method], model_fn: Any, data: Any, options: Mapping[str, Any]) -> Any:
    """What the function `search` of a method's file does: the method's own arguments are taken out of the options."""
    own = {name: value for name, value in options.items() if name in own_arguments(method)}
    rest = {name: value for name, value in options.items() if name not in own}
    return search(model_fn, data, method(**own), **rest)


def own_arguments(method: Callable[..., Method]) -> Mapping[str, inspect.Parameter]:
    """The arguments of a method function."""
    return inspect.signature(method).parameters
