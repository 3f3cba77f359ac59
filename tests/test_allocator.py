"""Memory that is freed stays with the process, which spares page faults."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from firstcue._allocator import keep_freed
torch.set_num_threads(1)
keep_freed()

def step():
    held = [torch.ones(2**20) for _ in range(12)]  # 48 MiB in blocks of 4

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(4):
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is the allocator of glibc that gives memory back")
def test_pages_that_a_step_frees_are_there_for_the_next(attempt):
    # without `keep_freed` there are 120,000 faults in most processes, none in some: it hangs on where memory happened to lie
    fresh = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))}
    found = subprocess.run([sys.executable, "-c", FAULTS], env=fresh, capture_output=True, text=True, check=True)
    assert int(found.stdout) < 1000
