"""Methods in stages: the third way to assemble one. A search, then another of what the first has left, …

Each stage is a search by a method with logits. What it keeps of the choices restricts the model of the next, which may
be deeper or wider, and begins anew or from what is carried over. P-DARTS is such a method.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from jaxnas.oneshot.engine.base import Method, Stage
from jaxnas.oneshot.engine.options import SearchOptions
from jaxnas.oneshot.parts.part import text_of
from jaxnas.signatures import check_known, options_of

_OF_ALL = ("seed", "seeds", "batching", "workdir", "resume", "select", "data_dir", "train_portion", "max_minutes")
"""Options that hold for all stages together."""


def staged(
    name: str,
    stages: Sequence[Stage],
    *,
    settings: Mapping[str, Any] | None = None,
    **defaults: Unpack[SearchOptions],
) -> Method:
    """A method that searches in stages, each with fewer candidates than the one before it.

    An option given to `jaxnas.search` holds for every stage (`epochs=10` are 10 epochs of each) and goes before a
    stage's own `options`; those go before `defaults`, and those before the defaults of the stage's method. `select`
    decides in the last stage.

    With a `workdir`, the stages before the last are run directories in it, `stage_1`, `stage_2`, …, and the last one
    is `workdir` itself. An interrupted search resumes in its stage, to the same bits. `SearchResult.stages` are the
    results of the earlier stages. Several seeds run in sequence. Each callback is copied for each stage. Where
    `max_minutes` end a search in an earlier stage, its result is that of this stage.

    Args:
      name: of the method.
      stages: at least two.
      settings: what `config.json` says of the method. Default: its stages.
      **defaults: the method's defaults of search options, for all stages.

    Returns:
      A `Method`, for `jaxnas.search`.

    Raises:
      TypeError: for what is no `Stage`, or an option that there is not.
      ValueError: for fewer than two stages, one of them with stages of its own; if a stage before the last keeps
        nothing for the next, the last keeps something, or the first begins from another; for options of a stage that
        hold for the whole search.
    """
    stages = tuple(stages)
    if len(stages) < 2:
        raise ValueError(
            f"{name}: stages are at least two searches; got {len(stages)}. One search is its method alone."
        )
    for number, stage in enumerate(stages, 1):
        _check(name, number, stage, last=number == len(stages))
    if stages[0].begin is not None:
        raise ValueError(f"{name}: stage 1 has nothing before it to begin from; got begin={text_of(stages[0].begin)}.")
    described = {"stages": [_described(stage) for stage in stages]}
    return Method(name, stages[-1].method.build, described if settings is None else settings, dict(defaults), stages)


def _check(name: str, number: int, stage: Any, *, last: bool) -> None:
    where = f"{name}: stage {number}"
    if not isinstance(stage, Stage):
        raise TypeError(f"{where} must be a jaxnas.Stage; got {stage!r}.")
    if not isinstance(stage.method, Method):
        raise TypeError(f"{where}: method must be what a method function gives; got {stage.method!r}.")
    if stage.method.stages:
        raise ValueError(f"{where}: {stage.method.name} has stages itself; list its stages.")
    if last and stage.keep is not None:
        raise ValueError(f"{where} is the last: it decides, and keeps nothing for another; got {text_of(stage.keep)}.")
    if not last and not callable(stage.keep):
        raise ValueError(f"{where} must say what it keeps for the next, such as keep=parts.strongest(5).")
    check_known(stage.options, options_of(SearchOptions), where)
    for option in stage.options:
        if option in _OF_ALL:
            raise ValueError(f"{where}: {option} is an option of all stages together; give it to the search.")


def _described(stage: Stage) -> dict[str, Any]:
    """A stage as `config.json` has it."""
    parts = {name: getattr(stage, name) for name in ("keep", "model", "begin")}
    return {
        "method": stage.method.name,
        **stage.method.settings,
        **{name: text_of(value) for name, value in parts.items() if value is not None},
        **({"options": {name: _plain(value) for name, value in stage.options.items()}} if stage.options else {}),
    }


def _plain(value: Any) -> Any:
    try:
        json.dumps(value)
    except TypeError:
        return text_of(value) if callable(value) else f"custom {type(value).__name__}"
    return value
