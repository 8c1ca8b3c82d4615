"""The process of a training run: what it keeps between steps."""

import os
import platform
import subprocess
import sys

import pytest

DISPATCHES = """
import resource
from jaxgpt.training.setup import keep_memory

if {keeps}:
    keep_memory()
import jax
import jax.numpy as jnp

step = jax.jit(lambda x: jnp.outer(x, x))  # 64 MB
x, faults = jnp.ones(4096), []
for _ in range(64):  # the heap grows until a free part of it is long enough: a dozen dispatches
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(step(x))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults[32:])[16])
"""


@pytest.mark.thorough
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_a_step_frees_is_there_for_the_next():
    def faults(keeps: bool) -> int:
        command = [sys.executable, "-c", DISPATCHES.format(keeps=keeps)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    assert faults(False) > 16000  # pages of 4 kB; with fewer, this test shows nothing
    assert faults(True) < 160
