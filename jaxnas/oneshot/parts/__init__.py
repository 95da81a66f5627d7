"""What one-shot methods are assembled from, for `jaxnas.differentiable` and `jaxnas.sampled`."""

from jaxnas.oneshot.parts.costs import cost_in_reward, expected_cost
from jaxnas.oneshot.parts.derivation import best_of_samples, by_probability, by_threshold, by_weight
from jaxnas.oneshot.parts.edges import auxiliary_skip, edge_normalised
from jaxnas.oneshot.parts.fairness import fair_paths
from jaxnas.oneshot.parts.freezing import gradient_matching
from jaxnas.oneshot.parts.hypergradient import exact, finite_difference, first_order
from jaxnas.oneshot.parts.keeping import limited_skips, skip_dropout, strongest
from jaxnas.oneshot.parts.optimizers import adam, cosine_sgd, exponentiated_gradient
from jaxnas.oneshot.parts.part import Part, model_part, part
from jaxnas.oneshot.parts.penalty import anchor, beta_decay, zero_one
from jaxnas.oneshot.parts.perturbation import adversarial, random_perturbation
from jaxnas.oneshot.parts.perturbing import by_perturbation
from jaxnas.oneshot.parts.relaxation import Relaxation, sigmoid, simplex, softmax, uniform_path
from jaxnas.oneshot.parts.sampling import dirichlet, gumbel, gumbel_path, reinmax, sampled_path, two_paths
from jaxnas.oneshot.parts.scoring import best_of_probable, by_evolution

__all__ = [
    "Part",
    "Relaxation",
    "adam",
    "adversarial",
    "anchor",
    "auxiliary_skip",
    "best_of_probable",
    "best_of_samples",
    "beta_decay",
    "by_evolution",
    "by_perturbation",
    "by_probability",
    "by_threshold",
    "by_weight",
    "cosine_sgd",
    "cost_in_reward",
    "dirichlet",
    "edge_normalised",
    "exact",
    "expected_cost",
    "exponentiated_gradient",
    "fair_paths",
    "finite_difference",
    "first_order",
    "gradient_matching",
    "gumbel",
    "gumbel_path",
    "limited_skips",
    "model_part",
    "part",
    "random_perturbation",
    "reinmax",
    "sampled_path",
    "sigmoid",
    "simplex",
    "skip_dropout",
    "softmax",
    "strongest",
    "two_paths",
    "uniform_path",
    "zero_one",
]
