"""`jaxnas.plan`: what a search will take, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import jax
from jax.sharding import Mesh

from jaxnas.model.naming import describe_model
from jaxnas.model.trees import rows_of, shapes_of
from jaxnas.oneshot.engine import seeds as many
from jaxnas.oneshot.engine import stages
from jaxnas.oneshot.engine.base import Method
from jaxnas.oneshot.engine.options import SEARCH_DEFAULTS, SearchOptions, completed
from jaxnas.oneshot.engine.plan import make_plan
from jaxnas.oneshot.engine.run import check_method, selecting
from jaxnas.programs.devices import find_mesh, shape_of
from jaxnas.programs.forecast import Forecast, device_of, forecast_steps, size_in_bytes
from jaxnas.programs.layout import Layout, make_layout, single
from jaxnas.signatures import documented


@documented(SearchOptions, defaults=SEARCH_DEFAULTS)
def plan(
    model_fn: Any,
    data: Any,
    method: Method,
    *,
    topology: str | None = None,
    compiled: bool = True,
    **options: Unpack[SearchOptions],
) -> Forecast:
    """What a search will take, by XLA's own count: operations and bytes per step, memory, time to compile.

    Everything is checked as in the search; nothing is computed and nothing is written. What is compiled is kept in
    the compilation cache, if there is one, so on a CPU the search itself need not compile its step again. Of a search
    in stages it is the first stage: what the later ones search is not known before.

        print(jaxnas.plan(Net, "cifar10", jaxnas.darts.method(), batch_size=256, topology="v5e:2x2"))

    Args:
      model_fn, data, method: see `jaxnas.search`.
      topology: a TPU to compile for instead of the device that is here, such as `"v5e:2x2"`; no TPU is needed, but
        libtpu (the extra `tpu`). It is compiled for one of its chips.
      compiled: False does not compile: it takes seconds where compiling can take minutes, but gives neither bytes nor
        memory, and the operations before XLA has simplified them.

    Returns:
      A `Forecast`.

    Raises:
      As `jaxnas.search`; ValueError too for a topology that does not exist.
    """
    check_method(method)
    complete = {**completed(method, options), "workdir": None}
    method = selecting(method, complete["select"])
    if method.stages:
        search, procedure = stages.first_stage(model_fn, data, method, {**options, "workdir": None})
        complete["batching"] = "sequence" if complete["seeds"] is not None else None
    else:
        search = make_plan(model_fn, {**complete, "data": data})
        procedure = method.build(search)
    algorithm, phases, *_ = procedure
    if topology is not None and not (complete["devices"] is None and complete["mesh"] is None):
        raise ValueError("devices and mesh are planned only for the devices that are here; leave out topology.")
    device, named = device_of(topology)
    if device is not None and not compiled:
        raise ValueError("XLA counts for a topology only what it has compiled: leave out compiled=False.")
    count, one_path = len(complete["seeds"] or [search.seed]), algorithm.one_path
    batching, mesh, layout = _where(complete, count, search.batch_size, one_path=one_path, topology=topology)
    together = 1 if batching == "sequence" else count + -count % layout.rows
    if together > 1 and device is not None:
        raise ValueError(f"batching={batching!r} is planned only for the devices that are here; leave out topology.")
    sample = (
        search.dataset.example(search.batch_size),
        shapes_of(rows_of(search.dataset.y_train, slice(search.batch_size))),
    )
    state, steps = forecast_steps(
        algorithm.step,
        search.dataset,
        init=lambda key: algorithm.init(key, sample),
        watched=algorithm.watched,
        batches=[(phase.steps, (phase.weight_batch, phase.arch_batch)) for phase in phases(search.epochs - 1)],
        rows=None if batching == "sequence" else together,
        layout=layout,
        whole=(False, algorithm.divides),
        device=device,
        compiled=compiled,
    )
    example = search.dataset.x_train, search.dataset.y_train
    seeds = "" if count == 1 else f", {count} seeds ({batching})"
    seeds += f", stage 1 of {len(method.stages)}" if method.stages else ""
    return Forecast(
        run=f"search with {method.name} of {describe_model(model_fn)}, {search.space!r}{seeds}",
        device=named if mesh is None else f"each of {shape_of(mesh)}",
        epochs=search.epochs,
        params=sum(leaf.size for leaf in jax.tree.leaves(state.params)) // together,
        state_bytes=size_in_bytes(state),
        data_bytes=size_in_bytes(example),
        steps=steps,
        times=count if batching == "sequence" else 1,
    )


def _where(
    options: Mapping[str, Any], count: int, batch_size: int, *, one_path: bool, topology: str | None
) -> tuple[str, Mesh | None, Layout]:
    """How so many searches run, on which mesh, and how their states lie there."""
    devices, mesh = options["devices"], options["mesh"]
    devices = devices if topology is None else 1  # of a topology one chip
    if options["seeds"] is None:
        mesh = find_mesh(devices, mesh, batch_size=batch_size)
        return "sequence", mesh, single(mesh)
    sizes: Any = {"one_path": one_path, "batch_size": batch_size}
    batching, mesh = many.batching_and_mesh(options["batching"], count, devices, mesh, **sizes)
    if batching == "sequence":
        return batching, mesh, single(mesh)
    return batching, mesh, make_layout(batching, count, one_path=one_path, mesh=mesh)
