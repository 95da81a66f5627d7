"""Convolutions by oneDNN, the extra `cpu`: they agree with XLA's, and what is not there or not served goes to XLA."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_trees_close
from jax import lax

from jaxnas.ops import conv_general_dilated, onednn
from jaxnas.runs import entering
from jaxnas.runs.checkpoints import Position
from jaxnas.runs.directory import RunDirectory

LAYOUT = ("NHWC", "HWIO", "NHWC")
CALL = "jaxnas_onednn_convolution"
needs_onednn = pytest.mark.skipif(
    onednn.convolution_kernels() != "onednn", reason=f"needs the extra cpu: {onednn.why_not() or 'this is no CPU'}"
)

# image, kernel, strides, dilation, padding, channels, features, groups, batch, how many of the three oneDNN computes
CASES = {
    "3x3": ((9, 7), (3, 3), (1, 1), (1, 1), "SAME", 16, 16, 1, 5, 3),
    "few channels": ((9, 8), (3, 3), (1, 1), (1, 1), "SAME", 3, 6, 1, 4, 3),
    "5x5 stride 2, odd": ((11, 9), (5, 5), (2, 2), (1, 1), "SAME", 8, 24, 1, 3, 3),
    "even kernel, uneven padding": ((8, 9), (2, 4), (3, 2), (1, 1), ((2, 0), (1, 3)), 8, 8, 1, 2, None),
    "dilated, strides differ": ((12, 10), (3, 3), (2, 1), (1, 2), "VALID", 8, 8, 1, 4, None),
    "1x1": ((9, 7), (1, 1), (1, 1), (1, 1), "SAME", 16, 8, 1, 4, 1),
    "depthwise 3x3": ((9, 7), (3, 3), (1, 1), (1, 1), "SAME", 16, 16, 16, 4, 3),
    "depthwise 5x5 stride 2": ((9, 7), (5, 5), (2, 2), (1, 1), "SAME", 16, 16, 16, 4, None),
    "depthwise dilated": ((9, 8), (3, 3), (1, 1), (2, 2), "SAME", 8, 8, 8, 1, None),
}


def operands(image=(9, 7), kernel=(3, 3), channels=8, features=8, groups=1, batch=3, dtype=jnp.float32):
    x = jax.random.normal(jax.random.key(0), (batch, *image, channels), dtype)
    w = jax.random.normal(jax.random.key(1), (*kernel, channels // groups, features), dtype)
    return x, w / (w.size / features) ** 0.5  # outputs of about 1, so that their sines and cosines are as exact


def same(conv, x, w, strides=(1, 1), **options):
    return conv(x, w, strides, "SAME", dimension_numbers=LAYOUT, **options)


def calls(function, *args):
    return jax.jit(function).lower(*args).as_text().count(f"@{CALL}(")


def gradients(conv):
    return jax.value_and_grad(lambda x, w: jnp.sin(same(conv, x, w)).sum(), (0, 1))


def close(ours, plain):
    """To float32's rounding, by the largest of each array."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        scale = np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, atol=3e-6)


@needs_onednn
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_lax(name):
    image, kernel, strides, dilation, padding, channels, features, groups, batch, served = CASES[name]
    x, w = operands(image, kernel, channels, features, groups, batch)

    def run(conv):
        def each(x, w):
            options = {"rhs_dilation": dilation, "dimension_numbers": LAYOUT, "feature_group_count": groups}
            y, pull = jax.vjp(lambda x, w: conv(x, w, strides, padding, **options), x, w)
            return y, *pull(jnp.cos(y))

        return each

    count = calls(run(conv_general_dilated), x, w)
    assert count == served or (served is None and count >= 1)
    close(jax.jit(run(conv_general_dilated))(x, w), jax.jit(run(lax.conv_general_dilated))(x, w))


@needs_onednn
def test_second_order_is_that_of_lax_and_bits_are_the_same_each_time():
    args = operands()

    def second(conv):
        return jax.jit(jax.grad(lambda x, w: sum((g**2).sum() for g in gradients(conv)(x, w)[1]), (0, 1)))

    ours = second(conv_general_dilated)
    assert calls(ours, *args) >= 3
    close(ours(*args), second(lax.conv_general_dilated)(*args))
    for a, b in zip(ours(*args), ours(*args), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_onednn
def test_inside_scan_switch_and_checkpoint():
    x, w = operands()

    def run(conv):
        def step(x, index):
            branches = [lambda x: x, jax.checkpoint(lambda x: jnp.tanh(same(conv, x, w)))]
            return lax.switch(index, branches, x), None

        return jax.grad(lambda x: jnp.sin(lax.scan(step, x, jnp.array([1, 0, 1]))[0]).sum())

    assert calls(run(conv_general_dilated), x)
    assert_trees_close(jax.jit(run(conv_general_dilated))(x), jax.jit(run(lax.conv_general_dilated))(x), atol=1e-5)


@needs_onednn
def test_vmap_over_images_is_one_larger_batch_and_over_kernels_is_left_to_xla():
    x, w = operands()
    for axes, both, served in (((1, None), (jnp.stack([x, 2 * x], 1), w), 2), ((None, 0), (x, jnp.stack([w, -w])), 0)):
        ours, plain = (jax.vmap(gradients(conv), axes) for conv in (conv_general_dilated, lax.conv_general_dilated))
        assert calls(ours, *both) == served  # the gradient of a kernel for each batch of images is left to XLA
        close(jax.jit(ours)(*both), jax.jit(plain)(*both))


@needs_onednn
def test_many_at_once_do_not_wait_for_each_other():
    x, w = operands((16, 16), batch=8)
    scales = [1.0 + i for i in range(24)]

    def independent(x, w):
        return [same(conv_general_dilated, x, scale * w) for scale in scales]

    assert calls(independent, x, w)
    for scale, y in zip(scales, jax.jit(independent)(x, w), strict=True):
        close(y / scale, same(lax.conv_general_dilated, x, w))


@needs_onednn
def test_what_is_not_served_goes_to_xla(monkeypatch):
    def count(dtype=jnp.float32, conv=same, **options):
        return calls(lambda x, w: conv(conv_general_dilated, x, w, **options), *operands(dtype=dtype))

    def cropped(conv, x, w):
        return conv(x, w, (1, 1), ((-1, 2), (0, 0)), dimension_numbers=LAYOUT)

    assert count() == 1
    assert count(jnp.bfloat16) == count(precision="highest") == count(conv=cropped) == 0
    monkeypatch.setenv(onednn.SWITCH, "0")
    assert count() == 0


@needs_onednn
def test_exported_and_other_platforms_programs_have_no_call():
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in operands()]
    convolve = jax.jit(lambda x, w: same(conv_general_dilated, x, w))
    assert CALL not in jax.export.export(convolve)(*shapes).mlir_module()
    assert CALL not in convolve.trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()


def test_it_is_switched_off_by_the_environment(monkeypatch):
    monkeypatch.setenv(onednn.SWITCH, "0")
    assert onednn.why_not() == "switched off by JAXNAS_ONEDNN=0"
    assert onednn.convolution_kernels() == "xla"
    x, w = operands()
    close(jax.jit(gradients(conv_general_dilated))(x, w), jax.jit(gradients(lax.conv_general_dilated))(x, w))


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    load = onednn._load.__wrapped__
    monkeypatch.setattr(onednn, "_library", lambda: None)
    assert load().why_not.startswith("the extra cpu is not installed")
    monkeypatch.setattr(onednn, "_library", lambda: tmp_path / "libdnnl.so.3")
    monkeypatch.setattr(onednn, "__file__", str(tmp_path / "onednn.py"))
    assert load().why_not.startswith("oneDNN is there, but jaxnas was installed without it")
    (tmp_path / onednn._shim().name).write_bytes(b"no library")
    (tmp_path / "libdnnl.so.3").write_bytes(b"no library")
    assert load().why_not.startswith("oneDNN cannot be loaded: ")


def test_several_devices_are_left_to_xla(monkeypatch):
    monkeypatch.setattr(onednn, "_load", lambda: onednn._Loaded(None, "", "3.2.0"))
    assert not onednn.why_not()
    monkeypatch.setattr(jax, "devices", lambda *platform: [None, None])
    assert onednn.why_not() == "there are several CPU devices"


def test_a_run_notes_its_kernels_and_warns_where_it_continues_with_others(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path / "run")
    with directory.open({"a": 1}):
        directory.save(Position(epoch=0, step=1), {"w": jnp.zeros(2)})
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    used = written["versions"]["convolutions"]
    assert used == onednn.convolution_kernels()
    with RunDirectory(tmp_path / "run").open({"a": 1}):
        pass  # without a warning
    other = {"xla": "onednn", "onednn": "xla"}[used]
    monkeypatch.setattr(entering, "convolution_kernels", lambda: other)
    with (
        pytest.warns(RuntimeWarning, match=f"began with convolutions by {used} and continues with those by {other}"),
        RunDirectory(tmp_path / "run").open({"a": 1}),
    ):
        pass
