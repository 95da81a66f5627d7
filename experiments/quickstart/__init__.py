"""The quickstart of the package, by the name of an experiment."""

from jaxnas.quickstart import Net, run

__all__ = ["Net", "run"]
