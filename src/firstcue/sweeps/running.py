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
from pickle import PicklingError
from typing import Any

from firstcue._extras import require_extra
from firstcue._progress import Progress, silent
from firstcue.sweeps.store import Result, Store
from firstcue.sweeps.trial import Trial

Run = Callable[[Trial], Sequence[Mapping[str, Any]] | Mapping[str, Any]]
"""One trial to its rows (or its only row) of plain numbers and text."""

BACKENDS = ("loky", "dask", "ray", "serial")


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
        progress: Told how many are done, how fast, and how long the rest will take.

    Returns:
        Rows in the order of `trials`: experiment, seed, settings, and what `run` returned.

    Raises:
        ValueError: For an unknown backend, a store that cannot be written, or a scheduler that does not answer.

    Example:
        >>> import tempfile
        >>> trials = [Trial("square", {"x": x}) for x in (2, 3)]
        >>> rows = sweep(trials, lambda trial: {"y": trial.settings["x"] ** 2}, tempfile.mkdtemp(), backend="serial")
        >>> [row["y"] for row in rows]
        [4, 9]
    """
    if backend not in BACKENDS:
        raise ValueError(f"there is no backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
    kept = store if isinstance(store, Store) else Store(store)
    trials = list(dict.fromkeys(trials))
    results = _known(trials, kept, retry_failed)
    missing = [trial for trial in trials if trial.key not in results]
    if missing:
        with _engine(backend, workers, scheduler) as engine:
            for result in _finished(missing, run, kept, engine, time_limit, _Rate(len(trials), len(missing), progress)):
                results[Trial(**result.trial).key] = result
    ordered = [results[trial.key] for trial in trials]
    kept.write_index(ordered)
    failed = [result for result in ordered if result.error is not None]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(trials)} trials failed, the first with: {failed[0].error}. Their tracebacks are in "
            f"{kept.folder / 'failed'}; they are run again with retry_failed=True.",
            stacklevel=2,
        )
    return [row for result in ordered for row in result.labelled()]


def _known(trials: Sequence[Trial], store: Store, retry_failed: bool) -> dict[str, Result]:
    found = {}
    for trial in trials:
        result = store.read(trial)
        if result is None and not retry_failed:
            result = store.read(trial, failed=True)
        if result is not None:
            found[trial.key] = result
    return found


Engine = Callable[[Callable[[Trial], Result], Sequence[Trial]], Iterator[Result]]
"""Maps a function over trials, in any order, as results arrive."""


def _finished(
    missing: Sequence[Trial], run: Run, store: Store, engine: Engine, limit: float | None, rate: "_Rate"
) -> Iterator[Result]:
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
                    waiting.pop(Trial(**result.trial).key, None)
                    rate.advance()
                    yield result
            except _deaths() as error:
                if suspects:
                    culprit = waiting.pop(suspects[0].key)
                    result = Result(culprit.to_dict(), [], 0.0, f"its worker died twice ({type(error).__name__})")
                    store.write(culprit, result)
                    (store.folder / "started" / f"{culprit.key}.{name}").unlink(missing_ok=True)
                    rate.advance()
                    yield result
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


def _deaths() -> tuple[type[BaseException], ...]:
    """What an engine raises when a worker is gone."""
    import sys

    from joblib.externals.loky.process_executor import BrokenProcessPool

    distributed = sys.modules.get("distributed")
    return (BrokenProcessPool, *((distributed.scheduler.KilledWorker,) if distributed else ()))


@contextmanager
def _engine(backend: str, workers: int | None, scheduler: str | None) -> Iterator[Engine]:
    if scheduler is not None and backend != "dask":
        raise ValueError(f"a scheduler's address belongs to the dask backend, not to {backend}.")
    if backend == "serial":
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            yield lambda work, trials: map(work, trials)
    elif backend == "dask":
        with _dask(workers, scheduler):
            yield _parallel("dask", workers, "generator_unordered")
    elif backend == "ray":
        require_extra("ray", "ray", "the ray backend").util.joblib.register_ray()
        yield _parallel("ray", workers, "list")
    else:
        yield _parallel("loky", workers, "generator_unordered")


def _parallel(backend: str, workers: int | None, return_as: str) -> Engine:
    from joblib import Parallel, cpu_count, delayed, parallel_config

    count = workers or cpu_count()
    threads = {"inner_max_num_threads": 1} if backend == "loky" else {}

    def engine(work: Callable[[Trial], Result], trials: Sequence[Trial]) -> Iterator[Result]:
        _require_sendable(work)
        with parallel_config(backend=backend, n_jobs=count, **threads):
            yield from Parallel(return_as=return_as, pre_dispatch="4*n_jobs")(delayed(work)(t) for t in trials)

    return engine


def _require_sendable(work: Any) -> None:
    """Refuse at once what a worker could never receive; some engines would wait for ever."""
    from joblib.externals.loky.backend.reduction import dumps

    try:
        dumps(work)
    except (TypeError, AttributeError, PicklingError) as error:
        raise ValueError(
            f"`run` cannot be sent to another process ({error}); make it a function of a module that holds no open file, "
            f"lock or generator, or use backend='serial'."
        ) from None


@contextmanager
def _dask(workers: int | None, scheduler: str | None) -> Iterator[None]:
    distributed = require_extra("distributed", "dask", "the dask backend")
    if scheduler is None:
        from joblib import cpu_count

        cluster = distributed.LocalCluster(
            n_workers=workers or cpu_count(), threads_per_worker=1, dashboard_address=None
        )
        with cluster, distributed.Client(cluster):
            yield
        return
    try:
        client = distributed.Client(scheduler, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(
            f"no dask scheduler answers at {scheduler} ({error}); start one with: dask scheduler"
        ) from None
    with client:
        client.get_versions(check=True)
        yield


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
