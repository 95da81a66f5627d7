"""Convolutions by oneDNN on a CPU: the optional extra `cpu`. Without it everything runs by XLA.

`onednn.cc` calls oneDNN through XLA's foreign function interface. It is compiled when jaxnas is installed, if the extra
and a compiler are there (setup.py). `convolution.py` asks `serves` when a convolution is traced.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

Kind = Literal["forward", "input", "kernel"]

SWITCH = "JAXNAS_ONEDNN"
"""Environment variable; 0 leaves all convolutions to XLA."""

_PACKAGE, _LIBRARY = "onednn-cpu-gomp", "libdnnl.so.3"
_TARGET = "jaxnas_onednn_convolution"
_KINDS: tuple[Kind, ...] = ("forward", "input", "kernel")


class _Loaded(NamedTuple):
    shim: Any  # None if it cannot be used
    why_not: str
    version: str  # of oneDNN


def convolution_kernels() -> str:
    """By what convolutions on the default device are computed where there is a choice: `"onednn"` or `"xla"`.

    Results of the two agree up to rounding, but not to the bit; runs note which they used.
    """
    return "xla" if jax.default_backend() != "cpu" or why_not() else "onednn"


def why_not() -> str:
    """Why convolutions on a CPU are left to XLA, in words; empty if oneDNN computes those that it serves."""
    if os.environ.get(SWITCH) == "0":
        return f"switched off by {SWITCH}=0"
    return _load().why_not or _why_not_these_devices()


def version() -> str:
    """The version of oneDNN that is loaded; empty if none is."""
    return _load().version


def serves(kind: Kind, geometry: Any, a: Any, b: Any) -> bool:
    """Whether oneDNN computes a convolution if it is lowered for a CPU.

    It does so for float32 of no given precision, where it has a kernel that is faster than XLA's (docs/cpu.md).

    Args:
      kind: `"forward"`, or `"input"` or `"kernel"`, the gradient with respect to that.
      geometry: all that is static (`jaxnas.ops.convolution`).
      a: the image, or the output's cotangent if `kind` is `"input"`; a traced or whole array.
      b: the kernel, or the output's cotangent if `kind` is `"kernel"`.
    """
    q = geometry
    if why_not() or not (a.dtype == b.dtype == np.float32) or q.precision is not None:
        return False
    if any(n < 0 for pair in q.padding for n in pair):
        return False
    if q.kernel == (1, 1) and kind != "kernel":  # a dot, at which XLA is as good
        return False
    name = _implementation(_fields(kind, q, a.shape, b.shape))
    if q.depthwise:  # oneDNN's kernels for groups of any size take several times as long as ours
        return "dw" in name
    return not any(slow in name for slow in ("ref", "gemm", "none"))


def run(kind: Kind, geometry: Any, fallback: Callable, a: jax.Array, b: jax.Array) -> jax.Array:
    """A convolution that `serves` has accepted.

    Args:
      kind, geometry, a, b: as for `serves`.
      fallback: (geometry, a, b) -> the same by XLA, hashable: for programs that are exported, which others run, for
        platforms other than CPU, and for `jax.vmap` over kernels.
    """
    return _convolution_p.bind(a, b, kind=kind, geometry=geometry, fallback=fallback)


@functools.cache
def _load() -> _Loaded:
    """Loads the library and the shim and makes it known to XLA, once in a process."""

    def no(why: str) -> _Loaded:
        return _Loaded(None, why, "")

    library, path = _library(), _shim()
    if library is None:
        return no("the extra cpu is not installed; docs/cpu.md says how")
    if not path.is_file():
        return no(
            "oneDNN is there, but jaxnas was installed without it or without a compiler; install jaxnas again "
            "(docs/cpu.md)"
        )
    try:
        ctypes.CDLL(str(library))  # the shim finds it by its name then, wherever it lies
        shim = ctypes.CDLL(str(path))
        jax.ffi.register_ffi_target(_TARGET, jax.ffi.pycapsule(getattr(shim, _TARGET)), platform="cpu")
        shim.jaxnas_onednn_implementation.restype = ctypes.c_char_p
        number = int(shim.jaxnas_onednn_version())
    except Exception as e:  # of the loader, or of an XLA whose interface is another
        return no(f"oneDNN cannot be loaded: {e}; install jaxnas again (docs/cpu.md)")
    return _Loaded(shim, "", f"{number // 10000}.{number // 100 % 100}.{number % 100}")


def _shim() -> Path:
    """Where installing jaxnas puts what it compiles."""
    return Path(__file__).parent / f"_onednn{sysconfig.get_config_var('EXT_SUFFIX')}"


def _library() -> Path | None:
    """oneDNN as its package has installed it, or None."""
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == _LIBRARY), None)


def _why_not_these_devices() -> str:
    """XLA would give each of several devices all images of a call that it does not know."""
    try:
        several = len(jax.devices("cpu")) > 1
    except RuntimeError:
        return "JAX has no CPU device"
    return "there are several CPU devices" if several else ""


def _fields(kind: Kind, geometry: Any, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution as `onednn.cc` has it."""
    q = geometry
    features = a[3] if kind == "input" else b[3]
    channels = a[3] if kind != "input" else features if q.depthwise else b[2]
    (top, bottom), (left, right) = q.padding
    sizes = (a[0], *q.size, channels, *q.out, features, *q.kernel)
    return (_KINDS.index(kind), int(q.depthwise), *sizes, *q.strides, *q.dilation, top, bottom, left, right)


@functools.lru_cache(maxsize=4096)
def _implementation(fields: tuple[int, ...]) -> str:
    """The name of oneDNN's kernel, or `"none"`."""
    array = (ctypes.c_int64 * len(fields))(*fields)
    return _load().shim.jaxnas_onednn_implementation(array).decode() or "none"


def _out_shape(kind: Kind, geometry: Any, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    q = geometry
    if kind == "forward":
        return a[0], *q.out, b[3]
    if kind == "input":
        return a[0], *q.size, a[3] if q.depthwise else b[2]
    return *q.kernel, 1 if q.depthwise else a[3], b[3]


_convolution_p = Primitive("jaxnas_onednn")


@_convolution_p.def_impl
def _eagerly(a: Any, b: Any, *, kind: Kind, geometry: Any, fallback: Callable) -> Any:
    return _call(a, b, kind=kind, geometry=geometry)


@_convolution_p.def_abstract_eval
def _abstract(a: Any, b: Any, *, kind: Kind, geometry: Any, fallback: Callable) -> Any:
    return a.update(shape=_out_shape(kind, geometry, a.shape, b.shape), weak_type=False)


def _call(a: Any, b: Any, *, kind: Kind, geometry: Any) -> Any:
    out = jax.ShapeDtypeStruct(_out_shape(kind, geometry, a.shape, b.shape), a.dtype)
    fields = np.asarray(_fields(kind, geometry, a.shape, b.shape), np.int64)
    return jax.ffi.ffi_call(_TARGET, out)(a, b, fields=fields)


def _lower_for_cpu(ctx: Any, a: Any, b: Any, *, kind: Kind, geometry: Any, fallback: Callable) -> Any:
    if ctx.module_context.lowering_parameters.for_export:  # whoever runs it may have no shim
        return _lower_by_xla(ctx, a, b, kind=kind, geometry=geometry, fallback=fallback)
    lower = mlir.lower_fun(functools.partial(_call, kind=kind, geometry=geometry), multiple_results=False)
    return lower(ctx, a, b)


def _lower_by_xla(ctx: Any, a: Any, b: Any, *, kind: Kind, geometry: Any, fallback: Callable) -> Any:
    return mlir.lower_fun(functools.partial(fallback, geometry), multiple_results=False)(ctx, a, b)


mlir.register_lowering(_convolution_p, _lower_by_xla)
mlir.register_lowering(_convolution_p, _lower_for_cpu, platform="cpu")


def _batched(args: Any, dims: Any, *, kind: Kind, geometry: Any, fallback: Callable) -> Any:
    """Under `jax.vmap`: batches of images are one larger batch; batches of kernels are left to XLA."""
    a, b = args
    if kind == "kernel" or dims[1] is not None:
        return jax.vmap(functools.partial(fallback, geometry), dims)(a, b), 0
    a = jax.numpy.moveaxis(a, dims[0], 0)
    together = a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])
    out = _convolution_p.bind(together, b, kind=kind, geometry=geometry, fallback=fallback)
    return out.reshape(*a.shape[:2], *out.shape[1:]), 0


batching.primitive_batchers[_convolution_p] = _batched
