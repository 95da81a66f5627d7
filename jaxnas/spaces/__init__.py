"""Ready-made search spaces: functions that return a model with open choices."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jaxnas.spaces.darts import Darts, darts
from jaxnas.spaces.darts_evaluation import DartsEvaluation, darts_evaluation
from jaxnas.spaces.enas_macro import EnasMacro, enas_macro
from jaxnas.spaces.enas_micro import EnasMicro, enas_micro
from jaxnas.spaces.genotypes import DARTS_V1, DARTS_V2, Genotype, arch_of, genotype_of
from jaxnas.spaces.nasbench201 import NasBench201, nasbench201

SPACES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"darts": darts, "enas_macro": enas_macro, "enas_micro": enas_micro, "nasbench201": nasbench201}
)
"""Name -> the function that makes the space's model."""

__all__ = [
    "DARTS_V1",
    "DARTS_V2",
    "SPACES",
    "Darts",
    "DartsEvaluation",
    "EnasMacro",
    "EnasMicro",
    "Genotype",
    "NasBench201",
    "arch_of",
    "darts",
    "darts_evaluation",
    "enas_macro",
    "enas_micro",
    "genotype_of",
    "nasbench201",
]
