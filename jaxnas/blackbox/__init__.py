"""Black-box searchers: they propose architectures, get a score for each, and know nothing else.

Each file is one searcher, with `algorithm(space, …)`, its pure functions, and `search(space, evaluate, …)`, which runs
it with any Python function. They are available as `jaxnas.evolution` and so on.
"""

from jaxnas.blackbox import evolution, grid_search, local_search, random_search, reinforce, trials
from jaxnas.blackbox.base import Searcher, rollout
from jaxnas.blackbox.trials import Trial, Trials

__all__ = [
    "Searcher",
    "Trial",
    "Trials",
    "evolution",
    "grid_search",
    "local_search",
    "random_search",
    "reinforce",
    "rollout",
    "trials",
]
