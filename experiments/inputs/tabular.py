"""A regression on a table, searched: `python -m experiments.inputs.tabular`.

How a year of diabetes progresses, from ten measurements of 442 patients (Efron et al. 2004; comes with scikit-learn).
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from sklearn.datasets import load_diabetes

import jaxnas


class Net(nn.Module):
    """The form of each of two layers, and whether the measurements enter again behind them."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        h = nn.Dense(32)(x)
        for i in range(2):
            layers = {
                "skip": lambda h: h,
                "relu": nn.Sequential([nn.Dense(32), nn.relu]),
                "tanh": nn.Sequential([nn.Dense(32), nn.tanh]),
                "gated": nn.Sequential([nn.Dense(64), nn.glu]),
            }
            h = jaxnas.LayerChoice(layers, key=f"layer{i}")(h, arch)
        h = jaxnas.InputChoice(2, n_chosen=1, key="behind")([h, h + nn.Dense(32)(x)], arch)
        return nn.Dense(1)(h)[:, 0]


def r_squared(output, labels):
    """1 less the squared error; labels are standardised, so its unit is the variance of the training labels."""
    return {"r_squared": 1 - jnp.mean((output - labels) ** 2)}


def read():
    """`(x, y, x_test, y_test)`, float32: standardised measurements `[N, 10]` and progression `[N]`."""
    x, y = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.RandomState(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order].astype(np.float32)
    train, test = slice(0, 342), slice(342, None)
    x, y = (x - x[train].mean(0)) / x[train].std(0), (y - y[train].mean()) / y[train].std()
    return x[train], y[train], x[test], y[test]


def main(epochs=30):
    """Searches, retrains what was found, and prints its error on test data."""
    data = read()
    common = {"loss_fn": "mse", "metrics": r_squared, "batch_size": 32}
    found = jaxnas.darts.search(Net, data, epochs=epochs, arch_lr=1e-2, **common)
    print(found.arch)
    model = jaxnas.apply_fixed_architecture(Net, found.arch)
    trained = jaxnas.training.fit(model, data, epochs=epochs // 2, **common)
    print(f"test R² {trained.history[-1]['test_r_squared']:.3f}")
    return found, trained


if __name__ == "__main__":
    main()
