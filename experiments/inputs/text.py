"""A language model of the Penn Treebank, searched: `python -m experiments.inputs.text ../shared/data/ptb`."""

import collections
import math
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax
import typer
from flax import linen as nn

import jaxnas

LENGTH = 24


def read(folder, words=5000, sentences=None):
    """Train and test data: each `{"tokens", "mask"}` and `{"next", "mask"}`, int32 and bool `[N, LENGTH]`."""
    lines = [(Path(folder) / f"ptb.{part}.txt").read_text().splitlines()[:sentences] for part in ("train", "test")]
    common = collections.Counter(" ".join(lines[0]).split()).most_common(words - 2)
    number = {word: i + 2 for i, (word, _) in enumerate(common)}  # 0 begins and ends a sentence, 1 is a rare word
    for part in lines:
        tokens, mask = np.zeros((len(part), LENGTH + 1), np.int32), np.zeros((len(part), LENGTH), bool)
        for row, line in enumerate(part):
            known = [number.get(word, 1) for word in line.split()[:LENGTH]]
            tokens[row, 1 : len(known) + 1], mask[row, : len(known) + 1] = known, True
        yield from ({"tokens": tokens[:, :-1], "mask": mask}, {"next": tokens[:, 1:], "mask": mask})


class Attention(nn.Module):
    """Causal self-attention."""

    @nn.compact
    def __call__(self, inputs):
        x, mask = inputs
        allowed = nn.make_causal_mask(mask, dtype=bool) & mask[:, None, None, :]
        return nn.MultiHeadDotProductAttention(4)(x, mask=allowed | jnp.eye(mask.shape[1], dtype=bool))


class Lstm(nn.Module):
    """An LSTM over the words so far."""

    @nn.compact
    def __call__(self, inputs):
        x, mask = inputs
        return nn.RNN(nn.OptimizedLSTMCell(x.shape[-1]))(x, seq_lengths=mask.sum(-1))


class Convolution(nn.Module):
    """A convolution over the last three words."""

    @nn.compact
    def __call__(self, inputs):
        x, _ = inputs
        return nn.Conv(x.shape[-1], (3,), padding="CAUSAL")(x)


class Net(nn.Module):
    """How each of two blocks looks back, and which nonlinearity follows in it."""

    words: int = 5000
    width: int = 64

    @nn.compact
    def __call__(self, x, arch, train: bool = False):
        table = nn.Embed(self.words, self.width)
        h = table(x["tokens"])
        for i in range(2):
            back = {"attention": Attention(), "lstm": Lstm(), "convolution": Convolution()}
            h += jaxnas.LayerChoice(back, key=f"back{i}")((nn.LayerNorm()(h), x["mask"]), arch)
            wide = nn.Dense(4 * self.width)(nn.LayerNorm()(h))
            h += nn.Dense(self.width)(jaxnas.LayerChoice([nn.relu, nn.gelu, nn.tanh], key=f"act{i}")(wide, arch))
        return table.attend(nn.LayerNorm()(h))


def loss_fn(logits, labels):
    """Mean cross-entropy of the words that are there."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels["next"])
    return jnp.sum(each * labels["mask"]) / jnp.sum(labels["mask"])


def metrics(logits, labels):
    """The share of words that are guessed."""
    right = (logits.argmax(-1) == labels["next"]) * labels["mask"]
    return {"accuracy": right.sum() / labels["mask"].sum()}


def main(
    folder: str,
    method: Literal["darts", "enas"] = "darts",
    sentences: int | None = None,
    words: int = 5000,
    epochs: int = 2,
):
    """Searches with darts or enas, retrains what was found, and prints its perplexity on test data."""
    net, data = Net(words), tuple(read(folder, words, sentences))
    common = {"loss_fn": loss_fn, "metrics": metrics, "epochs": epochs, "batch_size": 32}
    own = {"arch_lr": 1e-2} if method == "darts" else {}
    found = getattr(jaxnas, method).search(net, data, weight_optimizer=optax.adam(2e-3), **own, **common)
    print(found.arch)
    model = jaxnas.apply_fixed_architecture(net, found.arch)
    trained = jaxnas.training.fit(model, data, optimizer=optax.adam(2e-3), **common)
    last = trained.history[-1]
    print(f"test perplexity {math.exp(last['test_loss']):.1f}, test accuracy {last['test_accuracy']:.3f}")
    return found, trained


if __name__ == "__main__":
    typer.run(main)
