"""Data of several arrays: which values are containers, what their leaves are called, and their shapes.

Dicts and tuples are containers, nested as one likes; anything else is a leaf, lists too, which stand for arrays. A leaf
is named by its path, such as `x_train/tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jaxnas.model.functional import shape_of


def is_container(value: Any) -> bool:
    """Whether a value holds arrays, and is none itself."""
    return isinstance(value, (Mapping, tuple))


def named_leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree with their names, in the order in which JAX has them.

    Args:
      tree: containers and leaves.
      name: of the tree itself, which begins the names of its leaves.
    """
    if not is_container(tree):
        yield name, tree
        return
    pairs = enumerate(tree) if isinstance(tree, tuple) else ((key, tree[key]) for key in sorted(tree, key=str))
    for key, part in pairs:
        yield from named_leaves(part, f"{name}/{key}" if name else str(key))


def map_named(fn: Callable[[str, Any], Any], tree: Any, name: str = "") -> Any:
    """A tree of the same form, of plain dicts and tuples, with `fn(name, leaf)` for each leaf."""
    if not is_container(tree):
        return fn(name, tree)
    if isinstance(tree, tuple):
        return tuple(map_named(fn, part, f"{name}/{i}" if name else str(i)) for i, part in enumerate(tree))
    keys = sorted(tree, key=str)
    return {key: map_named(fn, tree[key], f"{name}/{key}" if name else str(key)) for key in keys}


def same_names(a: Any, b: Any) -> bool:
    """Whether two trees have the same form: containers of one kind, with leaves of the same names."""
    if is_container(a) != is_container(b) or isinstance(a, tuple) != isinstance(b, tuple):
        return False
    if not is_container(a):
        return True
    if len(a) != len(b) or (isinstance(a, Mapping) and set(a) != set(b)):
        return False
    keys = range(len(a)) if isinstance(a, tuple) else list(a)
    return all(same_names(a[key], b[key]) for key in keys)


def named_tree(leaves: Mapping[str, Any]) -> Any:
    """The tree whose leaves have these names: `{"": a}` is the leaf a, `{"0": a, "1": b}` is `(a, b)`.

    Raises:
      ValueError: if a name is of a leaf and of a container too, or positions of a tuple are missing.
    """
    if list(leaves) == [""]:
        return leaves[""]
    parts: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves.items():
        first, _, rest = name.partition("/")
        parts.setdefault(first, {})[rest] = leaf
    if "" in parts or any("" in inner and len(inner) > 1 for inner in parts.values()):
        raise ValueError(f"{sorted(leaves)}: a name is of an array and of arrays below it")
    if any(key.isdigit() for key in parts):
        order = [str(i) for i in range(len(parts))]
        if set(parts) != set(order):
            raise ValueError(f"{sorted(leaves)}: the numbers of a tuple go from 0 to {len(parts) - 1}")
        return tuple(named_tree(parts[key]) for key in order)
    return {key: named_tree(inner) for key, inner in parts.items()}


def shapes_of(tree: Any) -> Any:
    """A pytree of arrays as one of `jax.ShapeDtypeStruct`s."""
    return jax.tree.map(shape_of, tree, is_leaf=lambda part: isinstance(part, list))


def form(tree: Any) -> str:
    """Dtypes and shapes of a tree, for messages: `float32[2, 3]`, `{'a': int32[2], 'b': float32[2, 3]}`."""
    return _joined(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", tree))


def _joined(texts: Any) -> str:
    if isinstance(texts, list):
        return f"[{', '.join(map(_joined, texts))}]"
    if isinstance(texts, tuple):
        return f"({', '.join(map(_joined, texts))}{',' * (len(texts) == 1)})"
    if isinstance(texts, dict):
        return f"{{{', '.join(f'{key!r}: {_joined(part)}' for key, part in texts.items())}}}"
    return str(texts)


def rows_of(tree: Any, chosen: Any) -> Any:
    """The chosen examples of a pytree of arrays with a leading axis."""
    return jax.tree.map(lambda leaf: leaf[chosen], tree)


def count_of(tree: Any) -> int:
    """How many examples a pytree of arrays has: the length of its first leaf."""
    return len(jax.tree.leaves(tree)[0])
