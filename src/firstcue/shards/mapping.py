"""Moments of rows that no memory holds: a worker for each shard, results kept as they come, one sum in the end."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import Any

from firstcue._progress import Progress, silent
from firstcue.erasure.storage import load, save
from firstcue.moments import Moments
from firstcue.shards.accumulator import Accumulator
from firstcue.shards.measures import Features, Measure
from firstcue.shards.reading import Shard, Shards, find_shards, read_parts
from firstcue.sweeps import Result, Store, Trial
from firstcue.sweeps.running import results_of

VERSION = 1


def shard_moments(
    shards: Shards,
    measure: Measure = Features(),  # noqa: B008 - frozen
    *,
    store: str | Path | None = None,
    backend: str = "loky",
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> dict[str, Moments]:
    """Moments over all rows of all shards, the same for any order, any split and any engine, up to rounding.

    Every shard is a trial of a sweep: killed at any moment and called again with the same store, it continues with the
    shards that are missing. A shard that was written again is measured again. Memory is that of two sums and one part,
    however many shards there are.

    Args:
        shards: A pattern such as "shards/*.npy", or a list of `.npy`, `.npz`, `.parquet` or `.safetensors` files; see
            `find_shards` for how each holds x and columns.
        measure: `Features(...)` (of x, by columns, joint with outputs) or `Layers(...)` (of a model's layers).
        store: Folder of what was measured; on a cluster one that all machines see. A temporary one when None.
        backend: "loky", "dask", "ray" or "serial", as in `sweep`, as are the next two.
        workers: Processes.
        scheduler: Address of a running dask scheduler.
        progress: Told how many shards are done.

    Returns:
        Moments by name: "x" or "joint" of `Features`, or one for each layer.

    Raises:
        ValueError: If there are no shards, one cannot be read or measured (it is named), or the store cannot be written.

    Source:
        Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, The American Statistician 37.

    Example:
        >>> import numpy as np
        >>> folder = Path(tempfile.mkdtemp())
        >>> for i in range(3):
        ...     np.save(folder / f"{i}.npy", np.full((2, 4), float(i)))
        >>> found = shard_moments(str(folder / "*.npy"), backend="serial")["x"]
        >>> found.mean.tolist(), int(found.rows)
        ([1.0, 1.0, 1.0, 1.0], 6)
    """
    found = find_shards(shards)
    if store is not None:
        return _measured(found, measure, Path(store), backend, workers, scheduler, progress)
    with tempfile.TemporaryDirectory(prefix="firstcue-shards-") as folder:
        return _measured(found, measure, Path(folder), backend, workers, scheduler, progress)


def _measured(
    shards: Sequence[Shard],
    measure: Measure,
    folder: Path,
    backend: str,
    workers: int | None,
    scheduler: str | None,
    progress: Progress,
) -> dict[str, Moments]:
    store = Store(folder)
    trials = [_trial(shard, measure) for shard in shards]
    for trial in trials:
        known = store.read(trial)
        if known is not None and not all(_intact(row, folder) for row in known.rows):
            store.path(trial.key).unlink()
    run = partial(measure_shard, measure=measure, folder=folder)
    by_key = dict(
        results_of(
            trials, run, store, backend, workers=workers, scheduler=scheduler, retry_failed=True, progress=progress
        )
    )
    ordered = [by_key[trial.key] for trial in trials]
    for shard, result in zip(shards, ordered, strict=True):
        if result.error is not None:
            raise ValueError(f"{shard.path} could not be measured: {result.error.removeprefix('ValueError: ')}")
    return {name: _sum(name, ordered, folder) for name in dict.fromkeys(r["name"] for a in ordered for r in a.rows)}


def _trial(shard: Shard, measure: Measure) -> Trial:
    return Trial("shard-moments", {**shard.fingerprint(), "measure": measure.settings()}, version=VERSION)


def measure_shard(trial: Trial, measure: Measure, folder: Path) -> list[dict[str, Any]]:
    """Measure one shard and keep its moments beside the store; the rows say where and with which checksum."""
    path = Path(trial.settings["shard"])
    files = tuple(path.with_name(name) for name, *_ in trial.settings["files"][1:])
    totals: dict[str, Accumulator] = {}
    for part in read_parts(Shard(path, files), measure.columns()):
        for name, moments in measure(part):
            totals.setdefault(name, Accumulator()).add(moments)
    (folder / "moments").mkdir(exist_ok=True)
    rows = []
    for i, (name, total) in enumerate(totals.items()):
        file = save(total.moments(), folder / "moments" / f"{trial.key}-{i}.safetensors")
        rows.append({"name": name, "file": file.name, "sha256": _digest(file)})
    return rows


def _intact(row: dict[str, Any], folder: Path) -> bool:
    file = folder / "moments" / row["file"]
    return file.is_file() and _digest(file) == row["sha256"]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def _sum(name: str, results: Sequence[Result], folder: Path) -> Moments:
    total = Accumulator()
    for moments in _stored(name, results, folder):
        total.add(moments)
    return total.moments()


def _stored(name: str, results: Sequence[Result], folder: Path) -> Iterator[Moments]:
    for result in results:
        for row in result.rows:
            if row["name"] == name:
                yield load(folder / "moments" / row["file"])
