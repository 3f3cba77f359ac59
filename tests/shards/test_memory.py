"""Rows of mapped shards are pages of files: measuring them takes the memory of the sums, not of the rows."""

import threading
from pathlib import Path

import numpy as np
import pytest

from firstcue.shards import Features, shard_moments


def private_memory() -> int:
    """Bytes of this process that are not pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most private memory beyond what there was at the start, looked at a hundred times a second."""

    def __enter__(self) -> "Peak":
        self.before, self.most, self._over = private_memory(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most = max(self.most, private_memory() - self.before)


def written(path: Path, n: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A shard of `n` rows and, beside it, their class; and the rows that it repeats."""
    noise = np.random.default_rng(0).standard_normal((20_000, d), dtype=np.float32)
    y = (np.arange(n) % 2).astype(np.int8)
    x = np.lib.format.open_memmap(path, "w+", np.float32, (n, d))
    for start in range(0, n, len(noise)):
        part = x[start : start + len(noise)]
        np.add(noise[: len(part)], start / n, out=part)
    x.flush()
    np.save(path.with_suffix(".y.npy"), y)
    return x, y, noise


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="private memory is read from /proc")


@needs_proc
@pytest.mark.science
def test_a_million_rows_in_four_shards_take_a_fifth_of_their_size(tmp_path):
    rows, d, shards = 250_000, 512, 4
    for i in range(shards):
        written(tmp_path / f"{i}.npy", rows, d)
    with Peak() as peak:
        found = shard_moments(str(tmp_path / "?.npy"), Features(by=("y",)), backend="serial")["x"]
    assert found.rows.tolist() == [rows * shards // 2] * 2
    assert peak.most < 0.2 * shards * rows * d * 4
    noise = np.random.default_rng(0).standard_normal((20_000, d), dtype=np.float32).astype(np.float64)
    repeats = [len(range(start, min(start + 20_000, rows))) for start in range(0, rows, 20_000)]
    total = sum(
        (noise[:count] + start / rows).sum(axis=0) for start, count in zip(range(0, rows, 20_000), repeats, strict=True)
    )
    pooled = found.pool().mean
    np.testing.assert_allclose(np.asarray(pooled), total / rows, atol=1e-6)


@needs_proc
@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_rows_of_hundreds_of_megabytes_are_measured_in_a_fraction_of_that(tmp_path, kind):
    n, d = 100_000, 512
    x, y, noise = written(tmp_path / "0.npy", n, d)
    if kind == "safetensors":
        from safetensors.numpy import save_file

        save_file({"x": x, "y": y}, tmp_path / "0.safetensors")
    size = x.nbytes
    del x
    np.save(tmp_path / "warm.npy", noise[:100])
    shard_moments(tmp_path / "warm.npy", backend="serial")  # libraries take memory once
    with Peak() as peak:
        found = shard_moments(str(tmp_path / f"0.{kind}"), Features(by=("y",)), backend="serial")["x"]
    assert found.rows.tolist() == [n // 2, n // 2]
    assert peak.most < 0.6 * size
