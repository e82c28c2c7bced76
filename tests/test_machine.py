"""What worker processes ask of the machine."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from hmrkit.data.machine import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def sample():  # a decoded image, and two made from it
    return [np.ones(6_000_000 + i, np.uint8) for i in range(3)]
for _ in range(5):
    sample()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    sample()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives memory back")
def test_the_memory_of_freed_images_is_used_again():
    faults = {}
    for how in ("kept", "given back"):
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["kept"] < 100
    assert faults["given back"] > 10 * faults["kept"] + 1000
