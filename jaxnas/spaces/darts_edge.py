"""One edge of a cell of the DARTS search network, as pure functions: the operations, mixed, sampled or alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.model.architecture import Gated
from jaxnas.ops import avg_pool_3x3, batch_norm, batch_norm_sum, conv_general_dilated, max_pool_3x3
from jaxnas.ops.normalization import EPSILON, Statistics
from jaxnas.spaces.genotypes import OPERATIONS
from jaxnas.spaces.layers import MOMENTUM

POOLS = {"max_pool_3x3": max_pool_3x3, "avg_pool_3x3": avg_pool_3x3}
SKIP = "skip_connect"
DROP = "drop"
"""Among the parameters of an edge: key and rate of the dropout after its skip connection, where there is one."""


class Separable(NamedTuple):
    """ReLU, depthwise convolution, 1×1 convolution, normalisation; `layers` times."""

    kernel: int
    dilation: int
    layers: int


SEPARABLE = {
    "sep_conv_3x3": Separable(3, 1, 2),
    "sep_conv_5x5": Separable(5, 1, 2),
    "dil_conv_3x3": Separable(3, 2, 1),
    "dil_conv_5x5": Separable(5, 2, 1),
}


class Edge(NamedTuple):
    """How an edge computes. `params` and `stats` are the edge's own: `{operation: {…}}` without the edges' axis.

    Attributes:
      stride: 1, or 2 for one that enters a reduction cell.
      train: normalise by the batch, and move the statistics.
      names: its operations, in order: all, or those that a restriction has left.
    """

    stride: int
    train: bool
    names: tuple[str, ...] = OPERATIONS

    @property
    def ways(self) -> dict[str, Callable]:
        """One function for each kind of decision: `(x, share, decision, params, stats) -> (output, stats)`."""
        return {"weights": self.mixture_alone, "index": self.sampled, "gated": self.gated}

    def computes(self, name: str, kind: str, decision: Any) -> jax.Array:
        """Whether a decision includes that operation, bool `[]`."""
        if kind == "weights":
            return jnp.asarray(True)
        return jnp.any((decision.index if kind == "gated" else decision) == self.names.index(name))

    def mixture(
        self, x: jax.Array, pooled: Any, share: jax.Array, weights: jax.Array, params: Any, stats: Any
    ) -> tuple[jax.Array, Any]:
        """All operations, weighted; all normalised sums in one. `pooled` has the pools' outputs."""
        weight = dict(zip(self.names, jnp.unstack(weights * share), strict=True))
        active = lax.optimization_barrier(jax.nn.relu(x))
        outputs, moved = {}, dict(stats)
        for name in (name for name in SEPARABLE if name in weight):
            outputs[name], moved[name] = self._separable(name, active, params[name], stats[name])
        if self.stride == 2 and SKIP in weight:
            outputs[SKIP] = halved(active, params[SKIP])
        shares = [weight[name] for name in outputs]
        if not outputs:
            total = jnp.zeros_like(x[:, :: self.stride, :: self.stride])
        elif self.train:
            total, batch = batch_norm_sum(list(outputs.values()), jnp.stack(shares))
            for name, of_batch in zip(outputs, batch, strict=True):
                moved[name] = _moved_last(moved[name], of_batch)
        else:
            parts = [_scaled(y, _last(stats[name])) * weight[name] for name, y in outputs.items()]
            total = sum(parts[1:], start=parts[0]).astype(x.dtype)
        for name, pool in pooled.items():
            total = total + (pool * weight[name]).astype(x.dtype)
        skips = self.stride == 1 and SKIP in weight
        return (total + (dropped(x, params.get(DROP)) * weight[SKIP]).astype(x.dtype) if skips else total), moved

    def mixture_alone(
        self, x: jax.Array, share: jax.Array, weights: jax.Array, params: Any, stats: Any
    ) -> tuple[jax.Array, Any]:
        """As `mixture`, the pools included."""
        rest = {name: s for name, s in stats.items() if name not in POOLS}
        pooled, pools = self.pools(x, {}, {name: s for name, s in stats.items() if name in POOLS})
        y, moved = self.mixture(x, pooled, share, weights, params, rest)
        return y, {**moved, **pools}

    def sampled(
        self, x: jax.Array, share: jax.Array, index: jax.Array, params: Any, stats: Any
    ) -> tuple[jax.Array, Any]:
        """The operation with that index."""

        def branch(name: str) -> Callable:
            def run(x: jax.Array, params: Any, stats: Any) -> tuple[jax.Array, Any]:
                y, new = self.one(name, x, params.get(self.named(name), {}), stats.get(name, {}))
                return y, {**stats, name: new} if new else stats

            return run

        branches = [branch(name) for name in self.names]
        y, stats = (
            branches[0](x, params, stats) if len(branches) == 1 else lax.switch(index, branches, x, params, stats)
        )
        return (y * share).astype(x.dtype), stats

    def gated(self, x: jax.Array, share: jax.Array, paths: Gated, params: Any, stats: Any) -> tuple[jax.Array, Any]:
        """The operations with the indices `[k]`, each times its gate."""
        outputs = []
        for index, gate in zip(jnp.unstack(paths.index), jnp.unstack(paths.gate), strict=True):
            y, stats = self.sampled(x, share * gate, index, params, stats)
            outputs.append(y)
        return sum(outputs[1:], start=outputs[0]), stats

    def named(self, name: str) -> str:
        """Under which name the parameters have those of an operation: the identity has its dropout."""
        return DROP if name == SKIP and self.stride == 1 else name

    def one(self, name: str, x: jax.Array, params: Any, stats: Any) -> tuple[jax.Array, Any]:
        """One operation, with its own parameters and statistics."""
        if name == "none" or (name == SKIP and self.stride == 1):
            none = name == "none"
            return (jnp.zeros_like(x[:, :: self.stride, :: self.stride]) if none else dropped(x, params)), {}
        if name in POOLS:
            y = POOLS[name](x, self.stride)
        elif name == SKIP:
            y = halved(jax.nn.relu(x), params)
        else:
            y, stats = self._separable(name, jax.nn.relu(x), params, stats)
        return self._normalised(y, stats)

    def pools(self, x: jax.Array, pooled: Any, stats: Any) -> tuple[Any, Any]:
        """The normalised pools of a source, in place of those of the previous source."""
        del pooled
        pools = {name: pool for name, pool in POOLS.items() if name in self.names}
        found = {name: self._normalised(pool(x, self.stride), stats[name]) for name, pool in pools.items()}
        return {name: y for name, (y, _) in found.items()}, {name: s for name, (_, s) in found.items()}

    def _separable(self, name: str, active: jax.Array, params: Any, stats: Any) -> tuple[jax.Array, Any]:
        """A separable convolution of an input after ReLU, up to its last normalisation."""
        _, dilation, layers = SEPARABLE[name]
        stride, y = self.stride, active
        for i in range(layers):
            if i:
                before = jax.tree.map(lambda leaf, i=i: leaf[i - 1 : i], stats)
                y, after = self._normalised(y, before)
                stats = jax.tree.map(lambda old, new, i=i: old.at[i - 1 : i].set(new), stats, after)
                active, stride = jax.nn.relu(y), 1
            y = pointwise(_depthwise(active, params["depthwise"][i], stride, dilation), params["pointwise"][i])
        return y, stats

    def _normalised(self, y: jax.Array, stats: Any) -> tuple[jax.Array, Any]:
        """Normalises by the batch or by the last of the running statistics `[layers, C]`."""
        if not self.train:
            return _scaled(y, _last(stats)), stats
        y, batch = batch_norm(y)
        return y, _moved_last(stats, batch)


def dropped(x: jax.Array, drop: Any) -> jax.Array:
    """Dropout with `{"key", "rate"}`; x itself without these."""
    if not drop:
        return x
    kept = jax.random.bernoulli(drop["key"], 1 - drop["rate"], x.shape)
    return jnp.where(kept, x / (1 - drop["rate"]), 0).astype(x.dtype)


def normalised(y: jax.Array, stats: Any, train: bool) -> tuple[jax.Array, Any]:
    """Normalisation without scale and offset; `stats` is `{"mean", "var"}`, float32 `[1, C]`."""
    return Edge(1, train)._normalised(y, stats)


def _last(stats: Any) -> Statistics:
    return Statistics(stats["mean"][-1], stats["var"][-1])


def _moved_last(stats: Any, batch: Statistics) -> Any:
    new = {name: MOMENTUM * stats[name][-1] + (1 - MOMENTUM) * getattr(batch, name) for name in ("mean", "var")}
    return {name: stats[name].at[-1].set(new[name]) for name in new}


def _scaled(y: jax.Array, stats: Statistics) -> jax.Array:
    return ((y - stats.mean) * lax.rsqrt(stats.var + EPSILON)).astype(y.dtype)


def halved(active: jax.Array, params: Any) -> jax.Array:
    """The factorised reduction: two 1×1 convolutions of stride 2, one of them shifted by a pixel."""
    shifted = jnp.pad(active, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
    parts = [pointwise(a[:, ::2, ::2], params[name]) for name, a in (("even", active), ("odd", shifted))]
    return jnp.concatenate(parts, axis=-1)


def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    half = kernel.shape[0] // 2 * dilation
    return conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(half, half)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1×1 convolution as one dot."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def shapes(name: str, channels: int) -> tuple[Mapping[str, tuple[int, ...]], int]:
    """The parameters of an operation on one edge, and how many normalisations it has. (Skips: at stride 2.)"""
    if name in SEPARABLE:
        kernel, _, layers = SEPARABLE[name]
        depthwise, pointwise = (layers, kernel, kernel, 1, channels), (layers, channels, channels)
        return {"depthwise": depthwise, "pointwise": pointwise}, layers
    if name == SKIP:
        return dict.fromkeys(("even", "odd"), (channels, channels // 2)), 1
    return {}, int(name in POOLS)
