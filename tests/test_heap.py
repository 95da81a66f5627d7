"""Keeping freed memory."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import jaxnas.compilation

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

took = jaxnas.compilation.keep_heap() if sys.argv[1] == "keep" else True
buffer = bytearray(2**26)
del buffer
before = faults()
buffer = bytearray(2**26)
print(took, faults() - before)
"""


def run(argument):
    took, faults = subprocess.run(
        [sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, check=True
    ).stdout.split()
    return took == "True", int(faults)


def test_memory_that_was_freed_is_not_faulted_in_again():
    took, faults = run("keep")
    if not took:
        pytest.skip("this allocator has no such settings")
    assert faults < run("default")[1] / 4
