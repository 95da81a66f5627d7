"""Ready-made search spaces: functions that give a model with open choices."""

from jaxnas.spaces.enas_macro import EnasMacro, enas_macro
from jaxnas.spaces.enas_micro import EnasMicro, enas_micro

__all__ = ["EnasMacro", "EnasMicro", "enas_macro", "enas_micro"]
