"""Memory: what a step frees is kept for the next one."""

import platform
import subprocess
import sys

import pytest


def test_glibc_keeps_what_a_step_frees():
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    code = """
import resource, torch
from resnorm.training.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(2**24, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
assert keep_freed_memory()
faults()
print(before, faults())
"""
    before, after = map(int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert after < before / 10
