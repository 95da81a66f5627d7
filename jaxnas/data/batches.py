"""Which examples make up which batch, from a key."""

from __future__ import annotations

import jax
import numpy as np


def split_indices(rng: jax.Array, n: int, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits 0..n-1 at random into two parts; the first has `round(n * fraction)` of them.

    They are shuffled first (NNI and the DARTS code cut the data without shuffling, which fails on sorted data).
    """
    order = np.asarray(jax.random.permutation(rng, n))
    cut = round(n * fraction)
    return order[:cut], order[cut:]


def epoch_batches(rng: jax.Array, examples: np.ndarray, *, steps: int, batch_size: int) -> np.ndarray:
    """The batches of one epoch, int32 `[steps, batch_size]`.

    Every example comes once before any comes twice; when they run out they are shuffled anew.
    """
    rounds = -(-steps * batch_size // len(examples))
    orders = [np.asarray(jax.random.permutation(jax.random.fold_in(rng, i), len(examples))) for i in range(rounds)]
    flat = examples[np.concatenate(orders)[: steps * batch_size]]
    return flat.reshape(steps, batch_size).astype(np.int32)
