"""The dominant eigenvalue of the alpha-Hessian (Zela et al., arXiv 1909.09656)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jaxnas.checks import check_batch_size
from jaxnas.data.batches import epoch_batches
from jaxnas.model import functional
from jaxnas.model.trees import rows_of
from jaxnas.programs.losses import as_loss

if TYPE_CHECKING:
    from jaxnas.runs.callback import Run

_DENSE = 40
"""Up to this number of alphas the complete Hessian is computed; above it, Lanczos uses products with it."""


def alpha_hessian(run: Run, *, batch_size: int | None = None) -> Callable[[Any, int], float]:
    """Builds a function that gives the largest eigenvalue of ∇²α L_val(w, α) on one batch.

    The second derivative is exact: reverse over reverse, through everything that the validation loss goes through in
    an architecture step (training mode, augmentation).

    Args:
      run: a search with a method that has logits.
      batch_size: examples in the batch. Default: the search's.

    Returns:
      `(state, epoch) -> float`; the batch and dropout depend on the run's seed and on the epoch.

    Raises:
      DataError: if the batch is larger than the architecture's part of the data.
      ValueError: for a run that is not a search, or has no logits.
    """
    examples, logits, mixture = run.arch_examples, run.logits, run.mixture
    if examples is None:
        raise ValueError("the alpha-Hessian is for searches; this is a training.")
    if logits is None or mixture is None:
        raise ValueError("the alpha-Hessian needs a method with logits, such as DARTS.")
    size = batch_size if batch_size is not None else run.batch_size
    check_batch_size(size, len(examples), "architecture's")
    model = functional.model_fns(run.model_fn)
    dataset, loss_fn = run.dataset, as_loss(run.loss_fn)

    def product(alphas: Any, variables: Any, images: Any, labels: Any, rng: jax.Array, v: jax.Array) -> Any:
        flat, unravel = ravel_pytree(alphas)
        x = dataset.prepare(images, jax.random.fold_in(rng, 0))

        def loss(flat: jax.Array) -> jax.Array:
            mutable = [name for name in variables if name != "params"]
            arch = mixture(unravel(flat))
            output, _ = model.apply(variables, x, arch, train=True, rngs=jax.random.fold_in(rng, 1), mutable=mutable)
            return loss_fn(output, labels, arch)

        return jax.grad(lambda flat: jnp.vdot(jax.grad(loss)(flat), v))(flat)

    product = jax.jit(product)

    def eigenvalue(state: Any, epoch: int) -> float:
        alphas = logits(state)
        batch_rng, rng = jax.random.split(jax.random.fold_in(jax.random.key(run.seed), epoch))
        chosen = epoch_batches(batch_rng, examples, steps=1, batch_size=size)[0]
        data = rows_of((dataset.x_train, dataset.y_train), chosen)
        images, labels = jax.tree.map(jnp.asarray, data)

        def times(v: np.ndarray) -> np.ndarray:
            vector = jnp.asarray(v, jnp.float32).reshape(-1)
            return np.asarray(product(alphas, state.variables, images, labels, rng, vector), float)

        return largest_eigenvalue(times, sum(leaf.size for leaf in jax.tree.leaves(alphas)))

    return eigenvalue


def largest_eigenvalue(times: Callable[[np.ndarray], np.ndarray], n: int) -> float:
    """The largest eigenvalue of a symmetric n×n matrix, of which only the product with a vector is known."""
    if n > _DENSE:
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        operator = LinearOperator((n, n), matvec=times, dtype=float)
        start = np.cos(np.arange(n))  # any vector that is not an eigenvector; fixed, so that results repeat
        try:
            return float(eigsh(operator, k=1, which="LA", v0=start, tol=1e-4, return_eigenvectors=False)[0])
        except ArpackNoConvergence:
            pass
    matrix = np.stack([times(row) for row in np.eye(n)])
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
