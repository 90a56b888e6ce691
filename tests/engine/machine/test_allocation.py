"""What is left of large blocks that were freed, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, sys
import numpy as np
from ldm_engine.machine import allocation
from ldm_engine.machine.memory import read_memory
getattr(allocation, sys.argv[1])()
for size in (20, 20, 8, 8, 8):  # MiB, which would raise glibc's own threshold
    block = np.ones(size << 20, np.uint8)
    del block
blocks = [np.ones(8 << 20, np.uint8) for _ in range(20)]
hold = np.ones(1000, np.uint8)
del blocks
print(read_memory(os.getpid()).anonymous >> 20)
"""


@pytest.mark.parametrize(
    ("function", "kept"), [("return_freed_memory", False), ("keep_freed_memory", True)]
)
def test_freed_blocks_are_returned_or_kept(function, kept):
    done = subprocess.run(
        [sys.executable, "-c", CODE, function], capture_output=True, text=True, check=True
    )
    assert (int(done.stdout) > 100) == kept, done.stdout
