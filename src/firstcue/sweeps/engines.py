"""What runs trials: processes of this machine, a dask cluster, ray, or this very process; each as one mapping."""

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pickle import PicklingError
from typing import Any

from firstcue._extras import require_extra
from firstcue.sweeps.store import Result
from firstcue.sweeps.trial import Trial

BACKENDS = ("loky", "dask", "ray", "serial")
MUST_AGREE = ("firstcue", "torch", "numpy", "joblib")
"""Packages of which a worker needs the version that the caller has."""
PATIENCE = 10
"""Seconds to wait for a scheduler, and for its first worker."""

Engine = Callable[[Callable[[Trial], Result], Sequence[Trial]], Iterator[Result]]
"""Maps a function over trials, in any order, as results arrive."""


def deaths() -> tuple[type[BaseException], ...]:
    """What an engine raises when a worker is gone."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    distributed = sys.modules.get("distributed")
    return (BrokenProcessPool, *((distributed.scheduler.KilledWorker,) if distributed else ()))


@contextmanager
def engine_of(backend: str, workers: int | None, scheduler: str | None) -> Iterator[Engine]:
    """What maps work over trials, as a context that ends its workers."""
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
        with _ray(workers):
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
def _ray(workers: int | None) -> Iterator[None]:
    """The cluster that the caller joined with `ray.init`, or one of this machine for the while."""
    ray = require_extra("ray", "ray", "the ray backend")
    registry = require_extra("ray.util.joblib", "ray", "the ray backend")
    is_own = not ray.is_initialized()
    if is_own:
        from joblib import cpu_count

        # workers find the modules that this process finds, the user's own among them
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}}
        count = workers or cpu_count()
        ray.init(num_cpus=count, include_dashboard=False, log_to_driver=False, logging_level="ERROR", runtime_env=paths)
    registry.register_ray()
    try:
        yield
    finally:
        if is_own:
            ray.shutdown()


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
        client = distributed.Client(scheduler, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        raise ValueError(
            f"no dask scheduler answers at {scheduler} ({error}); start one with: dask scheduler"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise ValueError(
                f"the dask scheduler at {scheduler} has no workers; start some with: dask worker {scheduler} --nthreads 1"
            ) from None
        require_same_versions({address: found["packages"] for address, found in _worker_versions(client).items()})
        yield


def _worker_versions(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = client.get_versions(packages=list(MUST_AGREE))["workers"]
    return found


def require_same_versions(workers: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse workers whose results would not be those of this process.

    Args:
        workers: What each has, by its address: versions by package, among them "python".

    Raises:
        ValueError: If one lacks a package or has another version; the first is named, with the way out.
    """
    own = {name: _installed(name) for name in MUST_AGREE} | {"python": platform.python_version()}
    for address, found in workers.items():
        for name, wanted in own.items():
            has = found.get(name)
            same = str(has).split(".")[:2] == wanted.split(".")[:2] if name == "python" else has == wanted
            if not same:
                raise ValueError(
                    f"the dask worker {address} has {name} {has or 'not at all'}, this process {wanted}; results could differ. "
                    f"Install the same versions there, or start the worker in this environment."
                )


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not at all"
