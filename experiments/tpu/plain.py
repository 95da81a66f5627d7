"""The supernets of the comparison as one would write them in plain Flax: every candidate a layer, every cell a module.

They compute what `jaxnas.quickstart.net`, `jaxnas.spaces.nasbench201` and `jaxnas.spaces.darts` compute, on weights
`{key: [n]}` of the same keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

Weights = Mapping[str, jax.Array]
NODES = 4


def norm(train: bool, affine: bool = True) -> nn.BatchNorm:
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, use_scale=affine, use_bias=affine)


def conv(filters: int, kernel: int, stride: int = 1, dilation: int = 1, **options: Any) -> nn.Conv:
    padding = kernel // 2 * dilation
    sizes = {"strides": stride, "padding": padding, "kernel_dilation": dilation}
    return nn.Conv(filters, (kernel, kernel), use_bias=False, **sizes, **options)


def pool(x: jax.Array, kind: str, stride: int = 1) -> jax.Array:
    form = {"window_shape": (3, 3), "strides": (stride, stride), "padding": ((1, 1), (1, 1))}
    return nn.max_pool(x, **form) if kind == "max" else nn.avg_pool(x, count_include_pad=False, **form)


def mixed(outputs: Sequence[jax.Array], weights: jax.Array) -> jax.Array:
    return sum(weight * output for weight, output in zip(jnp.unstack(weights), outputs, strict=True))


class Quickstart(nn.Module):
    """The net of NNI's naive example, for images of 32×32."""

    @nn.compact
    def __call__(self, x: jax.Array, weights: Weights, train: bool) -> jax.Array:
        x = mixed([nn.Conv(6, (3, 3))(x), nn.Conv(6, (5, 5))(x)], weights["conv1"])
        x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = mixed([nn.Conv(16, (3, 3))(x), nn.Conv(16, (5, 5))(x)], weights["conv2"])
        x0 = nn.relu(x)
        x1 = nn.relu(nn.Conv(16, (1, 1))(x0)) + mixed([x0], weights["skipconnect"])
        x = nn.max_pool(norm(train)(x1), (2, 2), strides=(2, 2))
        x = nn.avg_pool(x, (x.shape[1] // 4,) * 2, strides=(x.shape[1] // 4,) * 2).reshape(len(x), -1)
        return nn.Dense(10)(nn.relu(nn.Dense(84)(nn.relu(nn.Dense(120)(x)))))


class NasBench201Cell(nn.Module):
    filters: int

    @nn.compact
    def __call__(self, x: jax.Array, weights: Weights, train: bool) -> jax.Array:
        nodes = [x]
        for node in range(1, 4):
            total = 0
            for source in range(node):
                h = nodes[source]
                outputs = [jnp.zeros_like(h), h]
                outputs += [norm(train)(conv(self.filters, kernel)(nn.relu(h))) for kernel in (1, 3)]
                outputs.append(pool(h, "avg"))
                total += mixed(outputs, weights[f"{node}<-{source}"])
            nodes.append(total)
        return nodes[-1]


class NasBench201(nn.Module):
    channels: int = 16
    cells: int = 5

    @nn.compact
    def __call__(self, x: jax.Array, weights: Weights, train: bool) -> jax.Array:
        filters = self.channels
        x = norm(train)(conv(filters, 3)(x))
        for stage in range(3):
            if stage:
                filters *= 2
                y = norm(train)(conv(filters, 3, 2)(nn.relu(x)))
                y = norm(train)(conv(filters, 3)(nn.relu(y)))
                x = y + conv(filters, 1)(nn.avg_pool(x, (2, 2), strides=(2, 2)))
            for _ in range(self.cells):
                x = NasBench201Cell(filters)(x, weights, train)
        return nn.Dense(10)(nn.relu(norm(train)(x)).mean((1, 2)))


class Reduction(nn.Module):
    """The factorised reduction."""

    filters: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(x)
        shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
        halves = [conv(self.filters // 2, 1, 2)(x), conv(self.filters // 2, 1, 2)(shifted)]
        return norm(train, affine=False)(jnp.concatenate(halves, -1))


class Separable(nn.Module):
    filters: int
    kernel: int
    stride: int
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        c = self.filters
        x = conv(c, self.kernel, self.stride, self.dilation, feature_group_count=c)(nn.relu(x))
        return norm(train, affine=False)(conv(self.filters, 1)(x))


class DartsEdge(nn.Module):
    filters: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array, train: bool) -> jax.Array:
        c, s = self.filters, self.stride

        def normalised(y: jax.Array) -> jax.Array:
            return norm(train, affine=False)(y)

        outputs = [
            jnp.zeros_like(x[:, ::s, ::s]),
            normalised(pool(x, "max", s)),
            normalised(pool(x, "avg", s)),
            x if s == 1 else Reduction(c)(x, train),
            Separable(c, 3, 1)(Separable(c, 3, s)(x, train), train),
            Separable(c, 5, 1)(Separable(c, 5, s)(x, train), train),
            Separable(c, 3, s, 2)(x, train),
            Separable(c, 5, s, 2)(x, train),
        ]
        return mixed(outputs, weights)


class DartsCell(nn.Module):
    filters: int
    kind: str
    halves: bool

    @nn.compact
    def __call__(self, first: jax.Array, second: jax.Array, weights: Weights, train: bool) -> jax.Array:
        def prepared(x: jax.Array) -> jax.Array:
            return norm(train, affine=False)(conv(self.filters, 1)(nn.relu(x)))

        nodes = [Reduction(self.filters)(first, train) if self.halves else prepared(first), prepared(second)]
        for node in range(2, 2 + NODES):
            total = 0
            for source in range(node):
                stride = 2 if self.kind == "reduce" and source < 2 else 1
                edge = DartsEdge(self.filters, stride)
                total += edge(nodes[source], weights[f"{self.kind}/{node}<-{source}"], train)
            nodes.append(total)
        return jnp.concatenate(nodes[2:], -1)


class Darts(nn.Module):
    channels: int = 16
    cells: int = 8

    @nn.compact
    def __call__(self, x: jax.Array, weights: Weights, train: bool) -> jax.Array:
        filters, halves = self.channels, False
        before, last = (norm(train)(conv(3 * filters, 3)(x)),) * 2
        for i in range(self.cells):
            kind = "reduce" if i in (self.cells // 3, 2 * self.cells // 3) else "normal"
            filters *= 2 if kind == "reduce" else 1
            before, last = last, DartsCell(filters, kind, halves)(before, last, weights, train)
            halves = kind == "reduce"
        return nn.Dense(10)(last.mean((1, 2)))


class State(NamedTuple):
    params: Any
    batch_stats: Any
    alphas: dict[str, jax.Array]
    optimizers: tuple[Any, Any]


def bilevel(model: nn.Module, choices: Mapping[str, int]) -> tuple[Callable, Callable]:
    """DARTS of first order: `init(key, sample) -> state`, `step(state, train, valid) -> (state, metrics)`.

    Args:
      model: called `model(x, weights, train)`.
      choices: number of candidates by key; one alone is a gate.
    """
    of_weights = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.add_decayed_weights(3e-4),
        optax.sgd(optax.cosine_decay_schedule(0.025, 1000, 0.04), momentum=0.9),
    )
    of_alphas = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(3e-4, b1=0.5))

    def weights_of(alphas: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {key: jax.nn.softmax(a) if len(a) > 1 else jax.nn.sigmoid(a) for key, a in alphas.items()}

    def loss(alphas: Any, params: Any, stats: Any, batch: tuple) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        variables = {"params": params, "batch_stats": stats}
        logits, new = model.apply(variables, batch[0], weights_of(alphas), True, mutable=["batch_stats"])
        value = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()
        return value, (new["batch_stats"], (logits.argmax(-1) == batch[1]).mean())

    def init(key: jax.Array, sample: tuple) -> State:
        alphas = {name: jnp.zeros(n) for name, n in choices.items()}
        x = jnp.zeros(sample[0].shape, sample[0].dtype)
        variables = model.init(key, x, weights_of(alphas), True)
        params = variables["params"]
        return State(params, variables["batch_stats"], alphas, (of_weights.init(params), of_alphas.init(alphas)))

    def step(state: State, train: tuple, valid: tuple) -> tuple[State, dict[str, jax.Array]]:
        to_alphas = jax.value_and_grad(loss, has_aux=True)
        (valid_loss, (stats, right)), slope = to_alphas(state.alphas, state.params, state.batch_stats, valid)
        updates, alpha_state = of_alphas.update(slope, state.optimizers[1], state.alphas)
        alphas = optax.apply_updates(state.alphas, updates)
        to_weights = jax.value_and_grad(loss, argnums=1, has_aux=True)
        (train_loss, (stats, _)), gradient = to_weights(alphas, state.params, stats, train)
        updates, weight_state = of_weights.update(gradient, state.optimizers[0], state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"train_loss": train_loss, "valid_loss": valid_loss, "valid_accuracy": right}
        return State(params, stats, alphas, (weight_state, alpha_state)), metrics

    return init, step
