"""Evaluators for other processes, which import them from here; as a program, a search that is killed."""

import os
import sys
import threading
import time

import jaxnas
from jaxnas import ChoiceSpec, Space

OPS = Space({name: ChoiceSpec("layer", 3, ("a", "b", "c")) for name in ("x", "y", "z")})


def value(arch):
    return float(sum("abc".index(v) == i for i, v in enumerate(arch.values())))


def rough(arch):
    """Raises, hangs, or kills its process, depending on the architecture."""
    if arch["x"] == "a" and arch["y"] == "a":
        os._exit(3)
    if arch["x"] == "b" and arch["y"] == "b":
        threading.Event().wait()
    if arch["x"] == "c":
        raise OSError("disk full")
    return value(arch)


def deadly(arch):
    if arch["z"] == "b":
        os._exit(3)
    return value(arch)


def noted(arch):
    """Writes down that it was called."""
    with open(os.environ["NOTES"], "a", encoding="utf-8") as file:
        file.write("".join(arch.values()) + "\n")
    if os.environ.get("HANG") == "".join(arch.values()):
        threading.Event().wait()
    return value(arch)


if __name__ == "__main__":
    from executor_work import noted as evaluate

    jaxnas.evolution.search(
        OPS, evaluate, population=4, sample=2, trials=12, history=sys.argv[1], executor=jaxnas.trials.processes(2)
    )
    time.sleep(0)
