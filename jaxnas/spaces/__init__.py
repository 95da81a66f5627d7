"""Ready-made search spaces: functions that give a model with open choices."""

from jaxnas.spaces.enas_macro import EnasMacro, enas_macro
from jaxnas.spaces.enas_micro import EnasMicro, enas_micro
from jaxnas.spaces.nasbench201 import NasBench201, nasbench201

__all__ = ["EnasMacro", "EnasMicro", "NasBench201", "enas_macro", "enas_micro", "nasbench201"]
