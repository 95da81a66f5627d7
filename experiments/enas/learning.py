"""Whether the controller finds the best architecture where the reward is known, with and without its step embedding.

The reward is the share of decisions that agree with a target, which is drawn at random for each seed.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import enas
from jaxnas.model.architecture import INPUT, LAYER, ChoiceSpec
from jaxnas.model.space import Space


def _with_skips(layers: int) -> Space:
    specs = {}
    for i in range(layers):
        specs[f"layer_{i}/op"] = ChoiceSpec(LAYER, 4)
        if i:
            specs[f"layer_{i}/skip"] = ChoiceSpec(INPUT, i, tuple(f"layer_{j}" for j in range(i)), None)
    return Space(specs)


LAYERS = Space({f"layer_{i}": ChoiceSpec(LAYER, 4) for i in range(6)})
"""4^6 architectures."""

SKIPS = _with_skips(4)
"""4^4 · 2^6 architectures."""


def learning_curves(
    space: Space, *, updates: int, seeds: int = 5, step_embedding: bool = True, key: int = 0, **options: Any
) -> dict[str, np.ndarray]:
    """Runs `enas.reinforce` (Adam 1e-3, 50 samples) on all seeds at once.

    Returns:
      Its metrics and `p_best`, the probability of the target, float `[seeds, updates]`.
    """
    policy = enas.controller(space, tanh_constant=None, step_embedding=step_embedding)
    options = {"samples": 50, "skip_weight": 0.0, "baseline_decay": 0.99, **options}
    rule = enas.reinforce(policy, optax.adam(1e-3), **options)

    def run(rng: jax.Array) -> dict[str, jax.Array]:
        init_rng, run_rng, best_rng = jax.random.split(rng, 3)
        best = space.sample(best_rng)

        def reward(arch: Any) -> jax.Array:
            return sum(jnp.mean(arch[key] == best[key]) for key in space) / len(space)

        def step(state: Any, rng: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            state, metrics = rule.update(state, rng, jax.vmap(reward))
            return state, {**metrics, "p_best": jnp.exp(policy.score(state.params, best).log_prob)}

        return jax.lax.scan(step, rule.init(init_rng), jax.random.split(run_rng, updates))[1]

    return jax.device_get(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(key), seeds)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.enas.learning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--entropy-weight", type=float, default=0.01)
    options = parser.parse_args()
    print(f"seeds out of {options.seeds} that end with over 90 % on the target, after {options.updates} updates")
    for name, space in (("layers", LAYERS), ("layers and skips", SKIPS)):
        for step_embedding in (True, False):
            curves = learning_curves(
                space,
                updates=options.updates,
                seeds=options.seeds,
                step_embedding=step_embedding,
                entropy_weight=options.entropy_weight,
                key=1,
            )
            found = int((curves["p_best"][:, -1] > 0.9).sum())
            entropy = curves["entropy"].mean(0)
            label = "with step embedding" if step_embedding else "the paper's controller"
            print(
                f"{name} ({space.size:,}), {label}: {found}; entropy {entropy[0]:.2f} -> {entropy[-1]:.2f}", flush=True
            )


if __name__ == "__main__":
    main()
