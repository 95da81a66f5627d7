"""jaxnas: neural architecture search for JAX and Flax.

Describe a model with open choices, search, export, apply, retrain:

    result = jaxnas.darts.search(Net, "cifar10", data_dir=…)
    jaxnas.export(result.arch, "final_arch.json")
    model = jaxnas.apply_fixed_architecture(Net, "final_arch.json")
    trained = jaxnas.training.fit(model, "cifar10", data_dir=…)
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxnas import callbacks, data, training
from jaxnas.blackbox import (
    Searcher,
    Trial,
    Trials,
    evolution,
    grid_search,
    local_search,
    random_search,
    reinforce,
    rollout,
    trials,
)
from jaxnas.compilation import cache_compilations, keep_heap
from jaxnas.errors import ArchitectureError, DataError, Interrupted, NonFiniteLossError, RunError
from jaxnas.model.architecture import ChoiceSpec, Gated
from jaxnas.model.choices import NO_KEY, InputChoice, LayerChoice
from jaxnas.model.cost import Cost, cost
from jaxnas.model.fixed import apply_fixed_architecture, inherit
from jaxnas.model.latency import LatencyTable, measure_latency
from jaxnas.model.restrict import restrict
from jaxnas.model.serialization import export, load
from jaxnas.model.space import Space, space
from jaxnas.oneshot import (
    beta_darts,
    darts,
    darts_minus,
    darts_pt,
    drnas,
    enas,
    fair_darts,
    fairnas,
    fbnet,
    gaea,
    gdas,
    oles,
    p_darts,
    parts,
    pc_darts,
    proxyless,
    rsps,
    sdarts,
    setn,
    snas,
    spos,
)
from jaxnas.oneshot.differentiable import differentiable
from jaxnas.oneshot.engine.base import Algorithm, Method, Stage
from jaxnas.oneshot.engine.forecast import plan
from jaxnas.oneshot.engine.options import SearchOptions
from jaxnas.oneshot.engine.results import SearchResult
from jaxnas.oneshot.engine.run import search
from jaxnas.oneshot.registry import METHODS
from jaxnas.oneshot.sampled import sampled
from jaxnas.oneshot.stages import staged
from jaxnas.programs import losses, metrics
from jaxnas.programs.forecast import Forecast
from jaxnas.programs.predictor import Predictor
from jaxnas.programs.validation import evaluate, evaluator
from jaxnas.runs.options import RunOptions
from jaxnas.training import load_model
from jaxnas.version import __version__

if TYPE_CHECKING:
    from jaxnas import benchmarks, report, spaces
    from jaxnas.foreign import read_architecture
    from jaxnas.model import graph

Candidate = Trial
"""The earlier name of a scored architecture."""

_LATER = {"benchmarks": "jaxnas.benchmarks", "graph": "jaxnas.model.graph"}
_LATER |= {"report": "jaxnas.report", "spaces": "jaxnas.spaces"}
_LATER |= {"read_architecture": "jaxnas.foreign:read_architecture"}


def __getattr__(name: str) -> Any:
    """The parts that not every program needs, which are imported when they are first used."""
    if name not in _LATER:
        raise AttributeError(f"module 'jaxnas' has no attribute {name!r}")
    module, _, attribute = _LATER[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "METHODS",
    "NO_KEY",
    "Algorithm",
    "ArchitectureError",
    "Candidate",
    "ChoiceSpec",
    "Cost",
    "DataError",
    "Forecast",
    "Gated",
    "InputChoice",
    "Interrupted",
    "LatencyTable",
    "LayerChoice",
    "Method",
    "NonFiniteLossError",
    "Predictor",
    "RunError",
    "RunOptions",
    "SearchOptions",
    "SearchResult",
    "Searcher",
    "Space",
    "Stage",
    "Trial",
    "Trials",
    "__version__",
    "apply_fixed_architecture",
    "benchmarks",
    "beta_darts",
    "cache_compilations",
    "callbacks",
    "cost",
    "darts",
    "darts_minus",
    "darts_pt",
    "data",
    "differentiable",
    "drnas",
    "enas",
    "evaluate",
    "evaluator",
    "evolution",
    "export",
    "fair_darts",
    "fairnas",
    "fbnet",
    "gaea",
    "gdas",
    "graph",
    "grid_search",
    "inherit",
    "keep_heap",
    "load",
    "load_model",
    "local_search",
    "losses",
    "measure_latency",
    "metrics",
    "oles",
    "p_darts",
    "parts",
    "pc_darts",
    "plan",
    "proxyless",
    "random_search",
    "read_architecture",
    "reinforce",
    "report",
    "restrict",
    "rollout",
    "rsps",
    "sampled",
    "sdarts",
    "search",
    "setn",
    "snas",
    "space",
    "spaces",
    "spos",
    "staged",
    "training",
    "trials",
]
