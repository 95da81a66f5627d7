"""Layouts of images: if a model fails on one, which other one it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from jaxnas.model.trees import form


def traced(
    run: Callable[[Any], Any],
    x: Any,
    refusal: Callable[[str, tuple[int, ...], str], Exception],
) -> Any:
    """Traces a model on an input. If that fails and another layout of the same image works, the error says so.

    Args:
      run: traces.
      x: the input, with a batch axis: a `jax.ShapeDtypeStruct`, or a pytree of them, taken as it is.
      refusal: `(why it failed, the shape that works, how to bring an array x there) -> exception`.
    """
    try:
        return run(x)
    except Exception as e:
        for shape, how in _layouts(x.shape) if isinstance(x, jax.ShapeDtypeStruct) else ():
            if _works(run, jax.ShapeDtypeStruct(shape, x.dtype)):
                reason = (str(e).splitlines() or [""])[0]
                raise refusal(f"{type(e).__name__}: {reason}", shape, how) from None
        e.add_note(f"The model was traced on an input {form(x)}.")
        raise


def _layouts(shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    """Shapes that may have been meant for images of this shape, and how to convert to them."""
    n, *image = shape
    if len(image) == 2:
        yield (n, *image, 1), "x[..., None]"
    if len(image) == 3:
        yield (n, image[1], image[2], image[0]), "x.transpose(0, 2, 3, 1)"
    if len(image) == 1 and math.isqrt(image[0]) ** 2 == image[0] > 1:
        side = math.isqrt(image[0])
        yield (n, side, side, 1), f"x.reshape(-1, {side}, {side}, 1)"


def _works(run: Callable[[jax.ShapeDtypeStruct], Any], x: jax.ShapeDtypeStruct) -> bool:
    try:
        run(x)
    except Exception:
        return False
    return True
