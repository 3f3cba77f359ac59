"""Sweeps and merging at size: what a sweep adds to its trials, how it resumes, how workers and engines compare.

claim   overhead (wall x workers / trials - 1 ms) below 5 ms per trial for 2,000 trials of 1 ms (loky, warm workers, median of 5);
        a store of 100,000 finished trials, checksums read, resumed in under 10 s; two workers at least 1.8 times one on
        CPU-bound trials; a Dask LocalCluster within 1.5 times loky for trials of 1 s; 1,000 Moments of d = 1,024, k = 10,
        streamed, added up in place in at most 45 s
false   if a line printed below says MISSED

Wall times depend on who else uses the machine: the load is printed beside them, CPU seconds where they can be had, and the
last line says by how much two bare processes, without any sweep, beat one at that moment.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from firstcue.moments import Moments
from firstcue.shards import Accumulator
from firstcue.sweeps import Result, Store, Trial, sweep


def spin(trial: Trial) -> dict[str, int]:
    """CPU-bound work of so many seconds on the processor, not on the clock."""
    end, turns = time.process_time() + trial.settings["seconds"], 0
    while time.process_time() < end:
        turns += 1
    return {"done": int(turns > 0)}


def nap(trial: Trial) -> dict[str, int]:
    """A trial of so many seconds that leaves the processors alone."""
    time.sleep(trial.settings["seconds"])
    return {"done": 1}


def trials(count: int, seconds: float, tag: str) -> list[Trial]:
    return [Trial("scale", {"i": i, "seconds": seconds, "tag": tag}) for i in range(count)]


def timed(plan: list[Trial], run, folder: Path, backend: str, workers: int) -> tuple[float, float]:
    """Wall and CPU seconds (of this process alone) of a sweep on an empty store."""
    wall, cpu = time.perf_counter(), time.process_time()
    sweep(plan, run, folder, backend, workers=workers)
    return time.perf_counter() - wall, time.process_time() - cpu


def say(text: str, held: bool) -> bool:
    verdict = "" if "--fast" in sys.argv else "held" if held else "MISSED"
    print(f"{text}  (load {os.getloadavg()[0]:.1f})  {verdict}", flush=True)
    return held


def overhead(folder: Path, count: int, repeats: int = 5) -> bool:
    workers, found, own = 2, [], []
    timed(trials(20, 0.001, "warm"), nap, folder / "warm", "loky", workers)
    for i in range(repeats):
        wall, cpu = timed(trials(count, 0.001, f"overhead {i}"), nap, folder / f"o{i}", "loky", workers)
        found.append(1000 * (wall * workers / count - 0.001))
        own.append(1000 * cpu / count)
    told = f"overhead {statistics.median(found):.2f} ms per trial ({min(found):.2f} to {max(found):.2f}; {statistics.median(own):.2f} ms CPU of the caller)"
    return say(f"{count} trials of 1 ms, 2 workers: {told}", statistics.median(found) < 5)


def resume(folder: Path, count: int, repeats: int = 3) -> bool:
    store, plan = Store(folder / "resume"), trials(count, 0.0, "resume")
    for trial in plan:
        result = Result(trial.to_dict(), [{"accuracy": 0.5, "loss": 1.25, "step": 100}], 0.1)
        path = store.path(trial.key)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(store.text(result))
    found = []
    for _ in range(repeats):
        wall, cpu = timed(trials(count, 0.0, "resume"), refuse, folder / "resume", "serial", 1)
        found.append((wall, cpu))
    wall, cpu = (statistics.median(times) for times in zip(*found, strict=True))
    return say(f"{count:,} finished trials resumed in {wall:.1f} s ({cpu:.1f} s CPU)", wall < 10 * count / 100_000)


def refuse(trial: Trial) -> dict[str, int]:
    raise AssertionError("a finished trial was run again")


def two_workers(folder: Path, count: int, repeats: int = 3) -> bool:
    ratios, bare = [], []
    for i in range(repeats):
        for workers in (1, 2):
            timed(trials(2 * workers, 0.01, f"warm {i} {workers}"), spin, folder / f"w{i}{workers}", "loky", workers)
            seconds = timed(
                trials(count, 0.25, f"two {i} {workers}"), spin, folder / f"t{i}{workers}", "loky", workers
            )[0]
            ratios.append(seconds)
        bare.append(bare_ratio())
    pairs = [one / two for one, two in zip(ratios[::2], ratios[1::2], strict=True)]
    told = f"two workers are {statistics.median(pairs):.2f} times one; two bare processes {statistics.median(bare):.2f} times one"
    return say(told, statistics.median(pairs) >= 1.8)


def bare_ratio(seconds: float = 2.0) -> float:
    """How much faster two processes do the work of one, without any sweep: what this machine can give now."""
    begun = time.perf_counter()
    burn(seconds)
    one = time.perf_counter() - begun
    others = [multiprocessing.get_context("fork").Process(target=burn, args=(seconds / 2,)) for _ in range(2)]
    begun = time.perf_counter()
    for process in others:
        process.start()
    for process in others:
        process.join()
    return one / (time.perf_counter() - begun)


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def engines(folder: Path, count: int) -> bool:
    """Both with two warm workers, the cluster reached by its address as one on other machines would be."""
    from distributed import LocalCluster

    begun = time.perf_counter()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        started, times = time.perf_counter() - begun, {}
        for backend, address in (("loky", None), ("dask", cluster.scheduler_address)):
            for name, plan in (("warm", trials(4, 0.01, f"warm {backend}")), ("timed", trials(count, 1.0, backend))):
                begun = time.perf_counter()
                sweep(plan, nap, folder / f"{name}-{backend}", backend, workers=2, scheduler=address)
                times[backend] = time.perf_counter() - begun
    told = f"{count} trials of 1 s: loky {times['loky']:.1f} s, a dask cluster {times['dask']:.1f} s (its start {started:.1f} s)"
    return say(told, times["dask"] < 1.5 * times["loky"])


def workers_scaling(folder: Path, count: int) -> bool:
    """1 to 8 workers whose trials sleep: simulated workers, since this machine has fewer processors."""
    times = {}
    for workers in (1, 2, 4, 8):
        timed(trials(2 * workers, 0.01, f"warm {workers}"), nap, folder / f"ws{workers}", "loky", workers)
        times[workers] = timed(trials(count, 0.25, f"many {workers}"), nap, folder / f"m{workers}", "loky", workers)[0]
    told = ", ".join(f"{n} workers {times[1] / t:.2f}" for n, t in times.items())
    return say(f"{count} sleeping trials of 0.25 s, times one worker: {told}", times[1] / times[8] > 4)


def stream(count: int, d: int, k: int) -> Iterator[Moments]:
    """Moments as they would come from files: a few different ones, none of which the processor still remembers."""
    generator = torch.Generator().manual_seed(0)
    kept = []
    for _ in range(2):
        scatter = torch.randn(k, d, d, dtype=torch.float64, generator=generator)
        scatter += scatter.mT.clone()
        mean = torch.randn(k, d, dtype=torch.float64, generator=generator)
        kept.append(Moments(torch.full((k,), 1000.0, dtype=torch.float64), mean, scatter, torch.full((k,), 1000)))
    for i in range(count):
        yield kept[i % 2]


def merging(count: int, d: int = 1024, k: int = 10) -> bool:
    source = stream(count, d, k)
    first = next(source)
    wall, cpu = time.perf_counter(), time.process_time()
    total = Accumulator()
    total.add(first)
    for part in source:
        total.add(part)
    rows = int(total.moments().rows.sum())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    size = 8 * k * d * d / 1e6
    told = f"{count} Moments of d = {d}, k = {k} ({size:.0f} MB each) added up in {wall:.1f} s ({cpu:.1f} s CPU; {rows:,} rows; process at most {peak:.0f} MB)"
    return say(told, wall <= 45 * count / 1000)


def main() -> int:
    parser = argparse.ArgumentParser(description="Sweeps and merging at size.")
    parser.add_argument("--fast", action="store_true", help="a hundredth of the size, at which no claim is made")
    parser.add_argument("--only", nargs="*", default=[], help="overhead resume two engines workers merging")
    options = parser.parse_args()
    small = 100 if options.fast else 1
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory(prefix="firstcue-scale-") as name:
        folder = Path(name)
        parts = {
            "merging": lambda: merging(max(3, 1000 // small)),
            "overhead": lambda: overhead(folder, max(40, 2000 // small)),
            "resume": lambda: resume(folder, 100_000 // small),
            "two": lambda: two_workers(folder, max(4, 32 // small)),
            "engines": lambda: engines(folder, max(2, 20 // small)),
            "workers": lambda: workers_scaling(folder, max(8, 64 // small)),
        }
        held = [part() for name, part in parts.items() if not options.only or name in options.only]
    return 0 if options.fast or all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
