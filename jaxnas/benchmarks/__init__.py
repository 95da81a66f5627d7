"""Tabular benchmarks: spaces whose every architecture has been trained by others."""

from jaxnas.benchmarks import nasbench201

__all__ = ["nasbench201"]
