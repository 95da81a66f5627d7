"""Images and numbers about them, searched together: `python -m experiments.inputs.two_inputs`.

The label is the digit in the image, or ten less that digit where the second input says so: the image alone cannot tell.
"""

import flax.linen as nn
import numpy as np

import jaxnas


class Net(nn.Module):
    """What looks at the image, and how the two inputs meet."""

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        layers = {
            "conv": nn.Sequential([nn.Conv(16, (3, 3)), nn.relu]),
            "wide": nn.Sequential([nn.Conv(16, (5, 5)), nn.relu]),
            "dense": nn.Sequential([nn.Dense(16), nn.relu]),
        }
        h = jaxnas.LayerChoice(layers, key="look")(x["image"], arch).reshape(len(x["flags"]), -1)
        flags = x["flags"]
        ways = [nn.Dense(64)(h), nn.Dense(64)(h) + nn.Dense(64)(flags), nn.Dense(64)(h) * nn.Dense(64)(flags)]
        h = jaxnas.InputChoice(3, n_chosen=1, key="meet")(ways, arch)
        return nn.Dense(10)(nn.relu(nn.Dense(64)(nn.relu(h))))


def read():
    """A data set whose input is `{"image": uint8 [N, 8, 8, 1], "flags": float32 [N, 2]}`."""
    digits = jaxnas.data.load("digits")
    parts = [(digits.x_train, digits.y_train), (digits.x_test, digits.y_test)]
    for x, y in parts:
        turned = np.random.RandomState(len(y)).rand(len(y)) < 0.5
        flags = np.stack([turned, ~turned], -1).astype(np.float32)
        yield from ({"image": x, "flags": flags}, np.where(turned, (10 - y) % 10, y).astype(np.int32))


def main(epochs=15):
    """Searches, retrains what was found, and prints its accuracy on test data."""
    data = tuple(read())
    found = jaxnas.darts.search(Net, data, epochs=epochs, batch_size=32, arch_lr=1e-2)
    print(found.arch)
    trained = jaxnas.training.fit(jaxnas.apply_fixed_architecture(Net, found.arch), data, epochs=epochs, batch_size=32)
    print(f"test accuracy {trained.test_accuracy:.3f}")
    return found, trained


if __name__ == "__main__":
    main()
