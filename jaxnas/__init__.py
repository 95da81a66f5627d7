"""jaxnas: neural architecture search for JAX and Flax.

Describe a model with open choices, search, export, apply, retrain:

    result = jaxnas.darts.search(Net, "cifar10", data_dir=…)
    jaxnas.export(result.arch, "final_arch.json")
    model = jaxnas.apply_fixed_architecture(Net, "final_arch.json")
    trained = jaxnas.training.fit(model, "cifar10", data_dir=…)
"""

__version__ = "0.1.0"

from jaxnas import benchmarks, callbacks, data, report, spaces, training
from jaxnas.algorithms import darts, enas
from jaxnas.algorithms.base import Algorithm
from jaxnas.architecture import ChoiceSpec
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
)
from jaxnas.choices import NO_KEY, InputChoice, LayerChoice
from jaxnas.compilation import cache_compilations
from jaxnas.cost import Cost, cost
from jaxnas.errors import ArchitectureError, DataError, Interrupted, NonFiniteLossError, RunError
from jaxnas.fixed import apply_fixed_architecture, inherit
from jaxnas.heap import keep_heap
from jaxnas.results import Candidate, SearchResult
from jaxnas.serialization import export, load
from jaxnas.space import Space, space
from jaxnas.validation import evaluate

__all__ = [
    "NO_KEY",
    "Algorithm",
    "ArchitectureError",
    "Candidate",
    "ChoiceSpec",
    "Cost",
    "DataError",
    "InputChoice",
    "Interrupted",
    "LayerChoice",
    "NonFiniteLossError",
    "RunError",
    "SearchResult",
    "Searcher",
    "Space",
    "Trial",
    "Trials",
    "apply_fixed_architecture",
    "benchmarks",
    "cache_compilations",
    "callbacks",
    "cost",
    "darts",
    "data",
    "enas",
    "evaluate",
    "evolution",
    "export",
    "grid_search",
    "inherit",
    "keep_heap",
    "load",
    "local_search",
    "random_search",
    "reinforce",
    "report",
    "rollout",
    "space",
    "spaces",
    "training",
]
