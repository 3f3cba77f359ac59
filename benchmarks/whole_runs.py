"""Claim: the demo takes at most 90 s and 1.5 GB on 2 cores; embeddings of 50,000 x 1,024 at most 30 s and twice their size.

Each run is a fresh process with two threads. Wall time is the claim, so the machine has to be quiet; CPU seconds are
printed beside it. The memory of the second run counts from after the imports, its own rows included.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time

EMBEDDINGS = """
import resource, time, torch
import sklearn.decomposition, sklearn.ensemble, sklearn.linear_model, sklearn.model_selection
import firstcue
from firstcue.auditing import embeddings
torch.set_num_threads(2)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, generator = peak(), torch.Generator().manual_seed(0)
y = torch.randint(10, (50_000,), generator=generator)
a = torch.where(torch.rand(len(y), generator=generator) < 0.3, y % 2, torch.randint(2, (len(y),), generator=generator))
x = torch.empty(len(y), 1024)
for part in x.split(1000):
    part.normal_(generator=generator)
x[:, :10] += 1.5 * torch.nn.functional.one_hot(y, 10)
began = time.perf_counter()
verdict = firstcue.audit_embeddings(x.numpy(), y.numpy(), a.numpy()).verdict
print(time.perf_counter() - began, (peak() - before) / (x.numel() * 4 / 2**20), verdict, sep=",")
"""


def demo() -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak GB of `firstcue demo`."""
    with tempfile.TemporaryDirectory() as folder:
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "firstcue", "demo", "--out", folder, "--quiet"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu, after.ru_maxrss / 2**20


def main() -> int:
    """Print both runs; 1 if a limit is broken."""
    os.environ["OMP_NUM_THREADS"] = "2"
    wall, cpu, memory = demo()
    print(f"demo: {wall:.1f} s wall (limit 90), {cpu:.1f} s CPU, peak {memory:.2f} GB (limit 1.5)")
    out = subprocess.run([sys.executable, "-c", EMBEDDINGS], check=True, capture_output=True, text=True).stdout.split(
        ","
    )
    seconds, times = float(out[0]), float(out[1])
    print(
        f"audit_embeddings 50,000 x 1,024: {seconds:.1f} s wall (limit 30), peak {times:.2f} times the input (limit 2)"
    )
    return int(wall > 90 or memory > 1.5 or seconds > 30 or times > 2)


if __name__ == "__main__":
    sys.exit(main())
