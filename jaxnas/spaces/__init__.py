"""Ready-made search spaces: functions that return a model with open choices."""

from jaxnas.spaces.darts import Darts, darts
from jaxnas.spaces.darts_evaluation import DartsEvaluation, darts_evaluation
from jaxnas.spaces.enas_macro import EnasMacro, enas_macro
from jaxnas.spaces.enas_micro import EnasMicro, enas_micro
from jaxnas.spaces.genotypes import DARTS_V1, DARTS_V2, Genotype, arch_of, genotype_of
from jaxnas.spaces.nasbench201 import NasBench201, nasbench201

__all__ = [
    "DARTS_V1",
    "DARTS_V2",
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
