"""What is not installed by default, and how to get it: the one place that says so."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """The command for an extra of pyproject.toml. jaxnas is on no package index, so it is that of a checkout."""
    return f'pip install -e ".[{extra}]" in the checkout of jaxnas'
