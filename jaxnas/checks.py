"""Checks of arguments that search and training share."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnas.errors import DataError


def check_at_least(least: int, **values: Any) -> None:
    """Raises ValueError unless each of the named values is an integer of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}; got {value!r}.")


def check_positive(**values: Any) -> None:
    """Raises ValueError unless each of the named values is a finite number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a number above 0; got {value!r}.")


def check_seed(seed: int) -> None:
    """Raises ValueError unless a seed is one that JAX does not cut off."""
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer from 0 to 2^32 - 1; got {seed!r}.")


def check_batch_size(batch_size: int, n: int, split: str) -> None:
    """Raises DataError unless one batch fits into a split of n examples."""
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise DataError(f"batch_size must be a positive integer; got {batch_size!r}.")
    if batch_size > n:
        raise DataError(f"a batch of {batch_size} is larger than the {split} split, which has {n} examples.")
