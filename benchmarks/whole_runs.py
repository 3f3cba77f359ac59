"""Claim: the demo takes at most 90 s and 1.5 GB on 2 cores; embeddings of 50,000 x 1,024 at most 30 s and twice their size.

A full audit of 20,000 images of 28 x 28 with a small network takes at most 300 s and 2 GB, and its page 1.5 MB. Each run is a fresh process with two threads. Wall time is the claim, so the machine has to be quiet; CPU seconds are
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

IMAGES = """
import resource, sys, tempfile, time
from pathlib import Path
import torch
from torch import nn
import firstcue
from firstcue.data import read
torch.set_num_threads(2)
torch.manual_seed(0)
full, n = read("builtin:fashion-mnist"), 20_000
x, y = full.x[:n].clone(), full.y[:n]
generator = torch.Generator().manual_seed(0)
a = torch.where(torch.rand(n, generator=generator) < 0.9, y % 2, 1 - y % 2)
x[:, :, :4, :4] = a[:, None, None, None].float()
net = nn.Sequential(
    nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
    nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for rows in torch.randperm(n).split(128):
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
    optimizer.step()
del full
wall, cpu = time.perf_counter(), time.process_time()
report = firstcue.audit(net, (x, y, a), effort=sys.argv[1])
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
with tempfile.TemporaryDirectory() as folder:
    page = report.save_html(Path(folder) / "report.html").stat().st_size
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(wall, cpu, report.environment.seconds_expected, peak, page / 1e6, sep=",")
"""


def images(effort: str) -> tuple[float, ...]:
    """Wall seconds, CPU seconds, seconds foretold, peak GB and MB of the page of an audit of 20,000 images."""
    out = subprocess.run([sys.executable, "-c", IMAGES, effort], check=True, capture_output=True, text=True).stdout
    return tuple(float(part) for part in out.split(","))


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
    """Print all runs; 1 if a limit is broken."""
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
    broken = wall > 90 or memory > 1.5 or seconds > 30 or times > 2
    for effort in ("fast", "default"):
        wall, cpu, foretold, memory, page = images(effort)
        print(
            f"audit of 20,000 images, {effort}: {wall:.1f} s wall (limit 300; {foretold:.0f} foretold), {cpu:.1f} s CPU, "
            f"peak {memory:.2f} GB (limit 2), page {page:.2f} MB (limit 1.5)"
        )
        broken |= wall > 300 or memory > 2 or page > 1.5
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
