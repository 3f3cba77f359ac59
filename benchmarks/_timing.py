"""CPU seconds of what is compared, in alternating runs, so that a busy machine slows all alike."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def quartiles(runs: dict[str, Callable[[], Any]], repeats: int, *, warm: int = 3) -> dict[str, float]:
    """Lower quartile of the CPU seconds of each, over alternating runs after `warm` for warming up."""
    for run in warm * list(runs.values()):
        run()
    gc.collect()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: statistics.quantiles(values)[0] for name, values in times.items()}
