"""Moments by class of 10 million rows of 512 float32 numbers (20 GB), on two workers.

claim   the private memory (RssAnon) of all processes together stays below 4 GB, and the shards in reverse order give the
        same moments to 1e-12 of their size
false   if a line printed below says MISSED

Shards are written to a temporary folder and deleted afterwards, also after an exception. Linux only: memory is read from /proc.
"""

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from firstcue.moments import Moments
from firstcue.shards import Features, shard_moments

LIMIT = 4e9
PART = 50_000


def write(folder: Path, rows: int, width: int, shards: int) -> None:
    """Rows with a mean and a spread of their own in every column, and labels 0 and 1; unequal shards."""
    noise = np.random.default_rng(0).standard_normal((PART, width), dtype=np.float32)
    edges = sorted({0, rows, *(int((i / shards) ** 1.1 * rows) for i in range(1, shards))})
    for i, (start, stop) in enumerate(itertools.pairwise(edges)):
        x = np.lib.format.open_memmap(folder / f"{i:04}.npy", "w+", np.float32, (stop - start, width))
        y = np.empty(stop - start, np.int8)
        for first in range(0, len(x), PART):
            fill(x[first : first + PART], y[first : first + PART], noise, start + first)
        x.flush()
        del x
        np.save(folder / f"{i:04}.y.npy", y)


def fill(x: np.ndarray, y: np.ndarray, noise: np.ndarray, seed: int) -> None:
    """The same noise with its columns moved and stretched: drawing five billion numbers would take longer than the rest."""
    generator = np.random.default_rng(seed)
    y[:] = generator.random(len(y)) < 0.3
    stretch = generator.uniform(0.5, 2, x.shape[1]).astype(np.float32)
    np.multiply(np.roll(noise[: len(x)], generator.integers(x.shape[1]), axis=1), stretch, out=x)
    x += np.linspace(-3, 3, x.shape[1], dtype=np.float32)
    x[:, 0] += 2 * y


class Memory:
    """The largest private memory of this process and its children, looked at ten times a second."""

    def __enter__(self) -> "Memory":
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.peak = max(self.peak, sum(anonymous(pid) for pid in family(os.getpid())))


def family(parent: int) -> set[int]:
    """A process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue  # ended meanwhile
        parents[int(entry.parent.name)] = int(text.rsplit(")", 1)[1].split()[1])
    found = {parent}
    while more := {pid for pid, of in parents.items() if of in found} - found:
        found |= more
    return found


def anonymous(pid: int) -> int:
    """Private memory of one process in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def difference(one: Moments, two: Moments) -> float:
    """The largest difference of means and scatters, relative to their size."""
    spread = one.scatter.diagonal(dim1=-2, dim2=-1).sqrt()
    scatter = ((one.scatter - two.scatter).abs() / (spread[..., :, None] * spread[..., None, :])).max()
    mean = ((one.mean - two.mean).abs() / (spread / one.count.sqrt()[..., None])).max()
    return float(max(scatter, mean))


def main() -> int:
    parser = argparse.ArgumentParser(description="Moments of rows that no memory holds.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--backend", default="loky")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="firstcue-benchmark-") as name:
        folder = Path(name)
        begun = time.perf_counter()
        write(folder, options.rows, options.width, options.shards)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        print(
            f"{options.rows:,} x {options.width} float32, {size:.1f} GB in {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        measure, pattern = Features(by=("y",)), f"{name}/*.npy"
        begun = time.perf_counter()
        with Memory() as memory:
            found = shard_moments(pattern, measure, store=folder / "store", backend=options.backend, workers=2)["x"]
        seconds = time.perf_counter() - begun
        held = memory.peak < LIMIT
        print(
            f"moments of {int(found.rows.sum()):,} rows in {seconds:.0f} s with 2 workers (load {os.getloadavg()[0]:.1f}): "
            f"{size / seconds:.2f} GB/s, private memory at most {memory.peak / 1e9:.2f} GB  {'held' if held else 'MISSED'}",
            flush=True,
        )
        begun = time.perf_counter()
        again = shard_moments(pattern, measure, store=folder / "store", backend="serial")["x"]
        print(f"again from the store in {time.perf_counter() - begun:.1f} s", flush=True)
        files = sorted(f for f in folder.glob("[0-9]*.npy") if ".y" not in f.name)
        reverse = shard_moments(files[::-1], measure, store=folder / "store", backend="serial")["x"]
        worst = max(difference(found, again), difference(found, reverse))
        print(f"in reverse order: differs by {worst:.1e}  {'held' if worst < 1e-12 else 'MISSED'}")
    return 0 if held and worst < 1e-12 else 1


if __name__ == "__main__":
    sys.exit(main())
