"""What one-shot methods are assembled from, for `jaxnas.differentiable` and `jaxnas.sampled`."""

from jaxnas.oneshot.parts.derivation import best_of_samples, by_weight
from jaxnas.oneshot.parts.hypergradient import exact, finite_difference, first_order
from jaxnas.oneshot.parts.optimizers import cosine_sgd
from jaxnas.oneshot.parts.part import Part, part
from jaxnas.oneshot.parts.penalty import beta_decay
from jaxnas.oneshot.parts.perturbation import adversarial, random_perturbation
from jaxnas.oneshot.parts.relaxation import Relaxation, softmax
from jaxnas.oneshot.parts.sampling import dirichlet, gumbel, gumbel_path

__all__ = [
    "Part",
    "Relaxation",
    "adversarial",
    "best_of_samples",
    "beta_decay",
    "by_weight",
    "cosine_sgd",
    "dirichlet",
    "exact",
    "finite_difference",
    "first_order",
    "gumbel",
    "gumbel_path",
    "part",
    "random_perturbation",
    "softmax",
]
