"""Run what is missing, keep what is finished: a sweep that may be killed at any moment and started again."""

import os
import secrets
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from firstcue._progress import Progress, silent
from firstcue.sweeps.engines import BACKENDS, Engine, deaths, engine_of
from firstcue.sweeps.store import Result, Store
from firstcue.sweeps.table import Table
from firstcue.sweeps.trial import Trial

Run = Callable[[Trial], Sequence[Mapping[str, Any]] | Mapping[str, Any]]
"""One trial to its rows (or its only row) of plain numbers and text."""


class OverTime(Exception):
    """A trial took longer than it was allowed to."""


def sweep(
    trials: Sequence[Trial],
    run: Run,
    store: Store | str | Path,
    backend: str = "loky",
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    time_limit: float | None = None,
    scheduler: str | None = None,
    table: str | Path | None = None,
    progress: Progress = silent,
) -> list[dict[str, Any]]:
    """Run the trials that have no result yet and return the rows of all.

    Every result is on the disk before the next trial of its worker begins, so a sweep may be killed at any moment: called
    again, it runs what is missing. A trial that raises is kept with its traceback in `Store.failures()` and left alone
    until `retry_failed`. A trial whose worker dies is run once more, alone; dying again makes it a failure.

    Args:
        trials: What to run; each once, also when named twice.
        run: Called with a trial in a worker with one thread; returns its rows. It has to be deterministic in the trial.
        store: Folder of the results, or a `Store`.
        backend: "loky" (processes on this machine), "dask", "ray", or "serial" (in this process, one after the other).
        workers: Processes of loky, or of a dask cluster made for this call; the number of cores when None.
        retry_failed: Run failed trials again.
        time_limit: Seconds a trial may take. Under loky and serial it is stopped by a timer, which cannot interrupt one
            long call into C; under dask and ray it is judged when it ends.
        scheduler: Address of a running dask scheduler.
        table: A `.csv` or `.parquet` file that is written again as results arrive, in the order of `trials`.
        progress: Told how many are done, how fast, and how long the rest will take.

    Returns:
        Rows in the order of `trials`: experiment, seed, settings, and what `run` returned.

    Raises:
        ValueError: For an unknown backend, a store or table that cannot be written, or a scheduler that does not answer,
            has no workers, or has workers with other versions.

    Example:
        >>> import tempfile
        >>> trials = [Trial("square", {"x": x}) for x in (2, 3)]
        >>> rows = sweep(trials, lambda trial: {"y": trial.settings["x"] ** 2}, tempfile.mkdtemp(), backend="serial")
        >>> [row["y"] for row in rows]
        [4, 9]
    """
    kept = store if isinstance(store, Store) else Store(store)
    trials = list(dict.fromkeys(trials))
    written = None if table is None else Table(table, trials)
    results: dict[str, Result] = {}
    for key, result in results_of(
        trials,
        run,
        kept,
        backend,
        workers=workers,
        retry_failed=retry_failed,
        time_limit=time_limit,
        scheduler=scheduler,
        progress=progress,
    ):
        results[key] = result
        if written is not None:
            written.add(key, result)
    ordered = [(trial, results[trial.key]) for trial in trials]
    kept.write_index(ordered)
    if written is not None:
        written.write()
    _warn_of_failures([result for _, result in ordered], kept)
    return [row for trial, result in ordered for row in trial.label(result.rows)]


def results_of(
    trials: Sequence[Trial],
    run: Run,
    store: Store,
    backend: str = "loky",
    *,
    workers: int | None = None,
    retry_failed: bool = False,
    time_limit: float | None = None,
    scheduler: str | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[str, Result]]:
    """Keys and results as they arrive: first those that the store has, then the others in any order; see `sweep`.

    Args:
        trials: All different.
        run: As in `sweep`, as is all that follows.
        store: Where results are kept.
        backend: What runs the trials.
        workers: Processes.
        retry_failed: Run failed trials again.
        time_limit: Seconds a trial may take.
        scheduler: Address of a running dask scheduler.
        progress: Told how many are done.
    """
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
    missing = []
    for trial in trials:
        known = store.read(trial) or (None if retry_failed else store.read(trial, failed=True))
        if known is None:
            missing.append(trial)
        else:
            yield trial.key, known
    if missing:
        with engine_of(backend, workers, scheduler) as engine:
            yield from _finished(missing, run, store, engine, time_limit, _Rate(len(trials), len(missing), progress))


def _warn_of_failures(results: Sequence[Result], store: Store) -> None:
    failed = [result for result in results if result.error is not None]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(results)} trials failed, the first with: {failed[0].error}. Their tracebacks are in "
            f"{store.folder / 'failed'}; they are run again with retry_failed=True.",
            stacklevel=3,
        )


def _finished(
    missing: Sequence[Trial], run: Run, store: Store, engine: Engine, limit: float | None, rate: "_Rate"
) -> Iterator[tuple[str, Result]]:
    """Results as they arrive; after a worker's death the trials in flight are run again one by one to find the culprit."""
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    waiting = {trial.key: trial for trial in missing}
    unexplained = 0

    work = partial(attempt, run=run, store=store, sweep=name, limit=limit)
    try:
        while waiting:
            suspects = [waiting[key] for key in sorted(store.begun(name)) if key in waiting]
            try:
                # one suspect at a time, so that a death tells whose it was
                for result in engine(work, suspects[:1] or list(waiting.values())):
                    key = Trial(**result.trial).key
                    waiting.pop(key, None)
                    rate.advance()
                    yield key, result
            except deaths() as error:
                if suspects:
                    culprit = waiting.pop(suspects[0].key)
                    result = Result(culprit.to_dict(), [], 0.0, f"its worker died twice ({type(error).__name__})")
                    store.write(culprit, result)
                    (store.folder / "started" / f"{culprit.key}.{name}").unlink(missing_ok=True)
                    rate.advance()
                    yield culprit.key, result
                elif not store.begun(name) and (unexplained := unexplained + 1) == 3:
                    raise RuntimeError(
                        "workers die before they begin a trial; look at the memory they have, or use backend='serial'."
                    ) from error
    finally:
        store.forget(name)


def attempt(trial: Trial, run: Run, store: Store, sweep: str, limit: float | None) -> Result:
    """Run one trial and keep what became of it; this is what a worker does."""
    mark = store.begin(trial, sweep)
    begun = time.perf_counter()
    try:
        with _one_thread(), _within(limit):
            found = run(trial)
        seconds = time.perf_counter() - begun
        if limit is not None and seconds > limit:
            raise OverTime(f"took {seconds:.3g} s of at most {limit:g}")
        rows = [dict(row) for row in ([found] if isinstance(found, Mapping) else found)]
        result = Result(trial.to_dict(), rows, seconds)
    except Exception as error:  # whatever a trial raises is its result, and must not end the sweep
        said = f"{type(error).__name__}: {error}"
        result = Result(trial.to_dict(), [], time.perf_counter() - begun, said, traceback.format_exc())
    store.write(trial, result)
    mark.unlink(missing_ok=True)
    return result


@contextmanager
def _within(limit: float | None) -> Iterator[None]:
    """Raise `OverTime` when the block takes too long, where a timer can (the main thread of a process)."""
    if limit is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise OverTime(f"stopped after {limit:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Two workers on two cores are twice as fast as one only if neither uses both; BLAS is limited by the engine."""
    import sys

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    if torch and before != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch = sys.modules.get("torch")
        if torch and torch.get_num_threads() != before:
            torch.set_num_threads(before)


class _Rate:
    """How many trials are done, how fast they go, how long the rest will take."""

    def __init__(self, total: int, missing: int, progress: Progress) -> None:
        self.total, self.done, self.fresh = total, total - missing, 0
        self.progress, self.begun = progress, time.perf_counter()

    def advance(self) -> None:
        self.done, self.fresh = self.done + 1, self.fresh + 1
        rate = self.fresh / max(time.perf_counter() - self.begun, 1e-9)
        left = (self.total - self.done) / rate
        self.progress(
            f"{self.done} of {self.total} trials, {rate:.3g} a second, {left:.0f} s left", self.done / self.total
        )
