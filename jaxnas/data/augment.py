"""The usual augmentation of small images, as pure functions for use inside jit."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random crop, horizontal flip and cutout, drawn per image.

    Attributes:
      crop: pixels of black padding on each side before a crop of the original size; 0 for none.
      flip: mirror half of the images.
      cutout: side in pixels of one square set to the mean colour (arXiv 1708.04552); 0 for none.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def move(self, rng: jax.Array, images: jax.Array) -> jax.Array:
        """Crop and flip, before normalisation. `images`: `[B, H, W, C]` of any dtype."""
        crop_rng, flip_rng = jax.random.split(rng)
        if self.crop:
            images = _random_crop(crop_rng, images, self.crop)
        if self.flip:
            mirrored = jax.random.bernoulli(flip_rng, 0.5, (len(images), 1, 1, 1))
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        return images

    def erase(self, rng: jax.Array, images: jax.Array) -> jax.Array:
        """Cutout, after normalisation. `images`: float `[B, H, W, C]`."""
        if not self.cutout:
            return images
        batch, height, width, _ = images.shape
        y_rng, x_rng = jax.random.split(rng)
        # As in the original code the square's centre lies inside the image, but its edges may lie outside.
        rows = _inside(jax.random.randint(y_rng, (batch, 1), 0, height), height, self.cutout)
        columns = _inside(jax.random.randint(x_rng, (batch, 1), 0, width), width, self.cutout)
        return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], 0, images)


STANDARD = Augment(crop=4, flip=True)
"""The augmentation that CIFAR is usually trained with."""


def _random_crop(rng: jax.Array, images: jax.Array, padding: int) -> jax.Array:
    batch, height, width, channels = images.shape
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(rng, (batch, 2), 0, 2 * padding + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def _inside(centre: jax.Array, size: int, side: int) -> jax.Array:
    positions = jnp.arange(size)[None]
    start = centre - side // 2
    return (positions >= start) & (positions < start + side)
