"""The rows of the table: what is measured on each side, and which part of it is shown."""

import dataclasses
from typing import NamedTuple

from experiments.speed.workload import Workload


class Row(NamedTuple):
    """One line.

    Attributes:
      name: for `--rows`.
      what: for the table.
      ours, theirs: what runs; None for a side that has no such thing.
      value: field of the processes' reports; a list of times stands for its median.
      unit: of the value.
      form: `plain`; `growth`, how many times the value of `base` it is; `feeding`, the share of an epoch's time
        that would be saved with batches already in memory (`base`).
      base: a workload per side.
      fresh: an empty compilation cache in every round.
      warm_cache: a cache that an earlier process has filled, in every round.
      rounds: how often each side runs, in turn.
      target: of the ratio theirs/ours, or of our value where `theirs` is None or `form` is not plain; "" for none.
      compiled: whether `torch.compile` is tried too, once.
    """

    name: str
    what: str
    ours: Workload
    theirs: Workload | None
    value: str = "seconds"
    unit: str = "s"
    form: str = "plain"
    base: tuple[Workload, Workload | None] | None = None
    fresh: bool = False
    warm_cache: bool = False
    rounds: int = 2
    target: str = ""
    compiled: bool = False


def rows(*, small: bool, dtype: str, threads: int, on_gpu: bool) -> list[Row]:
    """All rows; with `small` the same on nets and batches that only show that everything runs."""

    def work(kind: str, net: str, **options) -> Workload:
        made = Workload(kind, net, threads=threads, dtype=dtype, **options)
        if kind == "step" and on_gpu:
            made = dataclasses.replace(made, block=10)
        if not small:
            return made
        little = {"nasbench201": {"channels": 4, "cells": 1}, "darts": {"channels": 4, "cells": 3}}
        little |= {"enas_macro": {"layers": 6, "filters": 8}}
        options = little.get(net, made.options)
        return dataclasses.replace(made, options=options, batch=8, warm=1, timed=1, steps_per_epoch=5)

    def both(workload: Workload) -> dict[str, Workload]:
        return {"ours": workload, "theirs": workload}

    quick = work("search", "quickstart", warm=1, timed=3)
    example = dataclasses.replace(quick, workers=4, ready=False)
    fixed = dataclasses.replace(work("step", "quickstart", timed=1, warm=1), block=5 if small else 100)
    paper = work("step", "darts", options={"channels": 16, "cells": 8})
    little = work("step", "darts", options={"channels": 8, "cells": 4})
    second = dataclasses.replace(little, order=2, timed=2)
    nb201 = work("step", "nasbench201")
    nb201_small = work("step", "nasbench201", options={"channels": 16, "cells": 1}, timed=5)
    child = work("step", "enas_macro", options={"layers": 12, "filters": 36}, algorithm="enas", timed=8)
    start = dataclasses.replace(paper, kind="start", steps_per_epoch=4, timed=1, warm=0)
    cells = [work("compile", "darts", options={"channels": 16, "cells": n}) for n in (8, 20)]
    seeds = [dataclasses.replace(quick, seeds=n, timed=2) for n in (1, 8)]
    of_candidates = [work("step", "candidates", options={"n": n}, timed=5) for n in (2, 8)]

    return [
        Row("quickstart", "quickstart net, 100 bilevel steps with feeding; NNI with ready tensors",
            quick, quick, rounds=3, target="≥ 2.0"),
        Row("quickstart-example", "the same; NNI with its example's images and 4 workers",
            quick, example, rounds=3, target="≥ 2.0"),
        Row("quickstart-step", "quickstart net, one bilevel step, nothing fed", **both(fixed)),
        Row("feeding", "share of the quickstart's epoch due to feeding; NNI with ready tensors",
            quick, quick, form="feeding", base=(fixed, fixed), unit="%"),
        Row("feeding-example", "the same; NNI with its example's images and 4 workers",
            quick, example, form="feeding", base=(fixed, fixed), unit="%"),
        Row("nb201", "NAS-Bench-201 supernet, bilevel step", **both(nb201), target="≥ 1.3"),
        Row("nb201-small", "NAS-Bench-201 supernet, one cell per stage, bilevel step",
            **both(nb201_small), target="≥ 1.3", compiled=True),
        Row("darts-small", "DARTS, first order, 8 channels, 4 cells", **both(little), target="≥ 1.5", compiled=True),
        Row("darts-second", "DARTS, second order, 8 channels, 4 cells: exact against finite difference",
            **both(second), target="≥ 1.5"),
        Row("darts-paper", "DARTS, first order, 16 channels, 8 cells", **both(paper), target="≥ 1.5", compiled=on_gpu),
        Row("memory-paper", "the same, peak resident memory",
            **both(paper), value="peak_rss_bytes", unit="GB", target="≥ 1"),
        Row("enas", "ENAS macro, 12 layers of 36 filters: step of a sampled child", **both(child)),
        Row("start-cold", "DARTS at paper size: start to first finished step, empty cache",
            start, paper, value="first_step_seconds", fresh=True, rounds=1, target="≤ 60 s"),
        Row("start-warm", "the same, second start", start, paper, value="first_step_seconds",
            warm_cache=True, target="≤ 15 s"),
        Row("cells", "DARTS, 16 channels: compile time of 20 cells as a multiple of that of 8",
            cells[1], None, value="compile_seconds", unit="×", form="growth", base=(cells[0], None), fresh=True,
            rounds=1, target="< 1.6"),
        Row("candidates", "step of a net of 8 convolutions in one choice, as a multiple of that of 2",
            of_candidates[1], of_candidates[1], unit="×", form="growth", base=(of_candidates[0], of_candidates[0])),
        Row("seeds", "quickstart net, 8 seeds at once, as a multiple of one",
            seeds[1], None, unit="×", form="growth", base=(seeds[0], None), target="≤ 2.5 on a GPU"),
    ]  # fmt: skip
