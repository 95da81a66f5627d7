"""2-D convolutions whose gradients are fast on CPU inside `lax.switch`, `cond`, `scan` and `while` bodies.

XLA:CPU brings the gradient convolutions that JAX emits into the layout of its fast kernels only in the entry
computation; in the body of a loop or a branch, where a sampled supernet has its candidates, they run in a naive loop.
Grouped convolutions never have a fast kernel. On CPU the gradients are therefore written here as forward-shaped
convolutions, dots and sums of shifted windows; with the extra `cpu`, oneDNN computes those that it serves
(`jaxnas.ops.onednn`). Other platforms run what `lax` itself would run.

With `y = convolve(x, w)`, the form `<y, g>` is linear in each of x, w and g. Its three gradients `convolve(x, w)`,
`input_grad(g, w)` and `kernel_grad(x, g)` are thus each other's gradients too, so derivatives of any order (by reverse
mode) stay within the three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec

from jaxnas.ops import onednn
from jaxnas.ops.meshes import batch_devices, on_any_mesh, spread

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_FLOATS = ("bfloat16", "float16", "float32", "float64")


class _Geometry(NamedTuple):
    """All that is static about a convolution. Tuples are (height, width)."""

    size: tuple[int, ...]  # of the input
    out: tuple[int, ...]  # of the output
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # (low, high)
    dilation: tuple[int, ...]
    depthwise: bool
    precision: Any


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **kwargs: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with gradients that are fast on CPU wherever they run.

    2-D `NHWC`/`HWIO` floating-point convolutions that are dense or depthwise (one kernel per channel) take the fast
    path; everything else, and what varies over a mesh axis in `shard_map`, is passed to `lax`. The fast path has
    reverse-mode derivatives of any order, but no forward-mode ones (`jax.jvp`), since it is a `jax.custom_vjp`.

    Args:
      lhs: input, `[N, H, W, C]` for the fast path.
      rhs: kernel, `[kh, kw, C, D]` if dense, `[kh, kw, 1, C]` if depthwise.
      window_strides: one per spatial dimension, as are the dilations.
      padding: `"SAME"`, `"SAME_LOWER"`, `"VALID"`, or a (low, high) pair per spatial dimension.
      lhs_dilation: other than 1 (a transposed convolution) is left to `lax`.
      rhs_dilation: spacing of the kernel's taps.
      dimension_numbers: as in `lax`, where None means `NCHW`/`OIHW`.
      feature_group_count: 1 if dense, C if depthwise.
      batch_group_count: other than 1 is left to `lax`.
      precision: as in `lax`.
      preferred_element_type: other than None is left to `lax`.
      **kwargs: further arguments of `lax`, and left to it if given.
    """
    transposed = lhs_dilation is not None and tuple(lhs_dilation) != (1, 1)
    plain = not (transposed or kwargs) and batch_group_count == 1 and preferred_element_type is None
    if plain and _is_fast(lhs, rhs, feature_group_count, dimension_numbers):
        depthwise = feature_group_count > 1
        geometry = _geometry(lhs, rhs, window_strides, padding, rhs_dilation or (1, 1), depthwise, precision)
        if min(geometry.out) > 0:
            return on_any_mesh(partial(_convolve, geometry), _sharded, lhs, rhs)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        **kwargs,
    )


def _sharded(lhs: PartitionSpec, rhs: PartitionSpec) -> PartitionSpec:
    """How the output of a convolution is: images as in the input, features as in the kernel."""
    return PartitionSpec(lhs[0], None, None, rhs[3] if rhs[3] != lhs[0] else None)


def _is_fast(lhs: jax.Array, rhs: jax.Array, groups: int, dimension_numbers: Any) -> bool:
    """Whether layout, types and channels are those of the fast path."""
    if lhs.ndim != 4 or rhs.ndim != 4 or lhs.dtype != rhs.dtype or lhs.dtype.name not in _FLOATS:
        return False
    if _varies(lhs) or _varies(rhs):  # a `custom_vjp` would have to sum gradients over mesh axes itself
        return False
    shapes = (lhs.shape, rhs.shape)
    if not all(isinstance(n, int) and n > 0 for shape in shapes for n in shape):  # symbolic or empty
        return False
    if lax.conv_dimension_numbers(*shapes, dimension_numbers) != lax.conv_dimension_numbers(*shapes, _LAYOUT):
        return False
    channels, (_, _, per_group, features) = lhs.shape[3], rhs.shape
    return channels == groups * per_group and (groups == 1 or groups == channels == features)


def _varies(x: jax.Array) -> bool:
    """Whether x differs along a mesh axis of a surrounding `shard_map`."""
    aval = jax.typeof(x)
    axes = getattr(aval, "manual_axis_type", None)  # older versions of JAX have `vma`
    return bool(getattr(aval, "vma", ()) if axes is None else axes.varying)


def _geometry(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dilation: Sequence[int],
    depthwise: bool,
    precision: Any,
) -> _Geometry:
    size, kernel = lhs.shape[1:3], rhs.shape[:2]
    window = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(size, window, strides, padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    out = tuple(
        (n + low + high - k) // s + 1 for n, (low, high), k, s in zip(size, padding, window, strides, strict=True)
    )
    return _Geometry(size, out, kernel, tuple(strides), padding, tuple(dilation), depthwise, precision)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _convolve(geometry: _Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    """The convolution of x `[N, H, W, C]` with w `[kh, kw, C or 1, D]`."""
    cpu = _shifted_sum if geometry.depthwise else _wide_convolve
    return _run("forward", cpu, _lax_convolve, geometry, x, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_grad(geometry: _Geometry, g: jax.Array, w: jax.Array) -> jax.Array:
    """The gradient of `<convolve(x, w), g>` with respect to x."""
    cpu = _flipped_shifted_sum if geometry.depthwise else _flipped_convolve
    return _run("input", cpu, _lax_input_grad, geometry, g, w)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _kernel_grad(geometry: _Geometry, x: jax.Array, g: jax.Array) -> jax.Array:
    """The gradient of `<convolve(x, w), g>` with respect to w."""
    small = not geometry.depthwise and min(x.shape[3], g.shape[3]) < 16
    cpu = _kernel_grad_by_convolution if small else _kernel_grad_by_taps
    return _run("kernel", cpu, _lax_kernel_grad, geometry, x, g)


def _set_gradients(function: Any, first: Callable, second: Callable) -> None:
    """Each of `first` and `second` takes (geometry, first input, second input, cotangent of the output)."""

    def forward(geometry, a, b):
        # JAX (0.10) confuses arguments that are kept as they are with the number of the platform, where a scan that
        # runs `platform_dependent` is differentiated twice; behind a barrier they are values of their own.
        return function(geometry, a, b), lax.optimization_barrier((a, b))

    def backward(geometry, residuals, t):
        return first(geometry, *residuals, t), second(geometry, *residuals, t)

    function.defvjp(forward, backward)


_set_gradients(_convolve, lambda q, x, w, t: _input_grad(q, t, w), lambda q, x, w, t: _kernel_grad(q, x, t))
_set_gradients(_input_grad, lambda q, g, w, t: _convolve(q, t, w), lambda q, g, w, t: _kernel_grad(q, t, g))
_set_gradients(_kernel_grad, lambda q, x, g, t: _input_grad(q, g, t), lambda q, x, g, t: _convolve(q, x, t))


def _run(
    kind: onednn.Kind, cpu: Callable, default: Callable, geometry: _Geometry, a: jax.Array, b: jax.Array
) -> jax.Array:
    """One of the three, by oneDNN if it serves it, else by `cpu` on a CPU and by `default` elsewhere."""
    if onednn.serves(kind, geometry, a, b):
        cpu = _by_onednn(kind, cpu)
    return _run_compiled(cpu, default, geometry, a, b)


@cache  # the same function for the same choice, so that `jit` knows it again
def _by_onednn(kind: onednn.Kind, cpu: Callable) -> Callable:
    return lambda geometry, a, b: onednn.run(kind, geometry, cpu, a, b)


@partial(jax.jit, static_argnums=(0, 1, 2))  # so that calls outside `jit` do not compile anew each time
def _run_compiled(cpu: Callable, default: Callable, geometry: _Geometry, a: jax.Array, b: jax.Array) -> jax.Array:
    return lax.platform_dependent(a, b, cpu=partial(cpu, geometry), default=partial(default, geometry))


def _lax_convolve(geometry: _Geometry, x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        w,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_LAYOUT,
        feature_group_count=x.shape[3] if geometry.depthwise else 1,
        precision=geometry.precision,
    )


def _lax_input_grad(geometry: _Geometry, g: jax.Array, w: jax.Array) -> jax.Array:
    channels = w.shape[3] if geometry.depthwise else w.shape[2]
    x = jax.ShapeDtypeStruct((g.shape[0], *geometry.size, channels), g.dtype)
    return jax.linear_transpose(lambda x: _lax_convolve(geometry, x, w), x)(g)[0]


def _lax_kernel_grad(geometry: _Geometry, x: jax.Array, g: jax.Array) -> jax.Array:
    per_group = 1 if geometry.depthwise else x.shape[3]
    w = jax.ShapeDtypeStruct((*geometry.kernel, per_group, g.shape[3]), g.dtype)
    return jax.linear_transpose(lambda w: _lax_convolve(geometry, x, w), w)(g)[0]


def _adjoint(geometry: _Geometry) -> _Geometry:
    """The stride-1 convolution that gives the input's gradient, of g with `strides - 1` zeros between its values."""
    q = geometry
    dilated = tuple((n - 1) * s + 1 for n, s in zip(q.out, q.strides, strict=True))
    padding = tuple(
        (d * (k - 1) - low, size - n + low)
        for d, k, (low, _), size, n in zip(q.dilation, q.kernel, q.padding, q.size, dilated, strict=True)
    )
    return q._replace(size=dilated, out=q.size, strides=(1, 1), padding=padding)


def _flipped_convolve(geometry: _Geometry, g: jax.Array, w: jax.Array) -> jax.Array:
    """Input gradient of a dense convolution, in the layout that XLA:CPU has a fast kernel for."""
    return _wide_convolve(_adjoint(geometry), g, jnp.swapaxes(jnp.flip(w, (0, 1)), 2, 3), between=geometry.strides)


def _wide_convolve(geometry: _Geometry, x: jax.Array, w: jax.Array, between: Sequence[int] = (1, 1)) -> jax.Array:
    """A dense convolution that gives several neighbouring outputs at once where channels are few.

    XLA:CPU's kernel packs windows into the rows of a matrix; with few channels packing takes longer than the product,
    whose rows are short besides. A kernel that holds w at each of `together` shifts, with as many times the output
    channels, has longer rows and fewer of them.
    """
    together = _together(geometry, w, between)
    kh, kw, c, d = w.shape
    if together > 1:
        shifts = [jnp.pad(w, ((0, 0), (i, together - 1 - i), (0, 0), (0, 0))) for i in range(together)]
        w = jnp.stack(shifts, 3).reshape(kh, kw + together - 1, c, together * d)
    y = lax.conv_general_dilated(
        x,
        w,
        (geometry.strides[0], geometry.strides[1] * together),
        geometry.padding,
        lhs_dilation=between,
        rhs_dilation=geometry.dilation,
        dimension_numbers=_LAYOUT,
        precision=geometry.precision,
    )
    return y.reshape(x.shape[0], *geometry.out, d)


def _together(geometry: _Geometry, w: jax.Array, between: Sequence[int]) -> int:
    """How many outputs of a row `_wide_convolve` gives at once. The bounds are measured (docs/performance.md)."""
    channels, features = w.shape[2:]
    if (geometry.strides[1], geometry.dilation[1], between[1]) != (1, 1, 1):
        return 1
    if channels % 16 == 0 and features % 16 == 0:
        return 1
    most = 64 if channels <= 4 else 48
    fits = [n for n in (2, 4, 8) if n * features <= most and n * channels <= 32 and geometry.out[1] % n == 0]
    return max(fits, default=1)


def _flipped_shifted_sum(geometry: _Geometry, g: jax.Array, w: jax.Array) -> jax.Array:
    """Input gradient of a depthwise convolution."""
    return _shifted_sum(_adjoint(geometry), g, jnp.flip(w, (0, 1)), interior=[s - 1 for s in geometry.strides])


def _shifted_sum(geometry: _Geometry, x: jax.Array, w: jax.Array, interior: Sequence[int] = (0, 0)) -> jax.Array:
    """A depthwise convolution as a sum over the taps: window of x times the tap's weights `[C]`."""
    padded = _pad(x, geometry, interior)
    wide = _accumulator(x)
    total = sum(
        _window(padded, geometry, offset).astype(wide) * weights.astype(wide)
        for offset, weights in zip(_offsets(geometry), w.reshape(-1, w.shape[3]), strict=True)
    )
    # Without a barrier, each consumer would recompute the sum.
    return lax.optimization_barrier(total.astype(x.dtype))


def _kernel_grad_by_convolution(geometry: _Geometry, x: jax.Array, g: jax.Array) -> jax.Array:
    """The kernel's gradient as a convolution over the batch, in the layout that XLA:CPU has a fast kernel for."""
    q = geometry
    high = tuple(
        (k - 1) * d + (n - 1) * s + 1 - size - low
        for k, d, n, s, size, (low, _) in zip(q.kernel, q.dilation, q.out, q.strides, q.size, q.padding, strict=True)
    )
    gradient = lax.conv_general_dilated(
        jnp.transpose(x, (3, 1, 2, 0)),
        jnp.transpose(g, (1, 2, 0, 3)),
        q.dilation,
        tuple((low, after) for (low, _), after in zip(q.padding, high, strict=True)),
        rhs_dilation=q.strides,
        dimension_numbers=_LAYOUT,
        precision=q.precision,
    )
    return jnp.transpose(gradient, (1, 2, 0, 3))


def _kernel_grad_by_taps(geometry: _Geometry, x: jax.Array, g: jax.Array) -> jax.Array:
    """One small product of a window of x with g per tap, in a loop: one kernel to compile, and one window in memory.

    Of a batch that is spread over devices each device makes this of its own images, and the sums meet once.
    """
    devices = batch_devices()
    if devices > 1 and x.shape[0] % devices == 0:
        own = [spread(each.reshape(devices, -1, *each.shape[1:])) for each in (x, g)]
        return jax.vmap(partial(_kernel_grad_of_taps, geometry))(*own).sum(0)
    return _kernel_grad_of_taps(geometry, x, g)


def _kernel_grad_of_taps(geometry: _Geometry, x: jax.Array, g: jax.Array) -> jax.Array:
    padded = _pad(x, geometry)
    tap = _depthwise_tap if geometry.depthwise else _dense_tap
    offsets = _offsets(geometry)
    if len(offsets) == 1:
        taps = tap(geometry, padded, g, offsets[0])
    else:
        taps = lax.map(lambda offset: tap(geometry, padded, g, offset), jnp.asarray(offsets))
    return taps.reshape(*geometry.kernel, -1, g.shape[3]).astype(g.dtype)


def _dense_tap(geometry: _Geometry, padded: jax.Array, g: jax.Array, offset: Any) -> jax.Array:
    """A tap's weight gradient `[C, D]`, as one dot over all N·H·W positions."""
    window = _window(padded, geometry, offset)
    a, b = window.reshape(-1, window.shape[3]), g.reshape(-1, g.shape[3])
    return jnp.matmul(a.T, b, precision=geometry.precision, preferred_element_type=_accumulator(g))


def _depthwise_tap(geometry: _Geometry, padded: jax.Array, g: jax.Array, offset: Any) -> jax.Array:
    """A tap's weight gradient `[1, C]`.

    Chunks of the batch are added up elementwise, then positions by a dot with ones: XLA:CPU's own sum over leading
    dimensions takes several times as long.
    """
    wide = _accumulator(g)
    size = g.shape[0] // math.gcd(g.shape[0], 8)
    total = sum(
        _window(padded, geometry, offset, start, size).astype(wide) * g[start : start + size].astype(wide)
        for start in range(0, g.shape[0], size)
    )
    rows = lax.optimization_barrier(total).reshape(-1, g.shape[3])
    return jnp.matmul(jnp.ones((1, rows.shape[0]), wide), rows, precision=lax.Precision.HIGHEST)


def _offsets(geometry: _Geometry) -> np.ndarray:
    """Where the windows of the taps start, `[kh * kw, 2]`."""
    return np.indices(geometry.kernel, np.int32).reshape(2, -1).T * np.asarray(geometry.dilation, np.int32)


def _window(padded: jax.Array, geometry: _Geometry, offset: Any, start: int = 0, size: int | None = None) -> jax.Array:
    """What one tap meets, `[size, *out, C]`, of the images from `start` on."""
    (kept_h, kept_w), (stride_h, stride_w) = geometry.out, geometry.strides
    shape = (
        padded.shape[0] if size is None else size,
        (kept_h - 1) * stride_h + 1,
        (kept_w - 1) * stride_w + 1,
        padded.shape[3],
    )
    starts = (np.int32(start), offset[0], offset[1], np.int32(0))  # of one type, also where int is int64
    window = lax.dynamic_slice(padded, starts, shape)
    return window[:, ::stride_h, ::stride_w]


def _pad(x: jax.Array, geometry: _Geometry, interior: Sequence[int] = (0, 0)) -> jax.Array:
    """Zeros around x, and `interior` between its values; negative padding crops."""
    spatial = [(low, high, between) for (low, high), between in zip(geometry.padding, interior, strict=True)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])
    # Without a barrier, every window would recompute what produces x.
    return lax.optimization_barrier(padded)


def _accumulator(x: jax.Array) -> Any:
    """Sums over taps and positions are made in at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)
