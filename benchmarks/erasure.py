"""Erasing covariances and streaming moments, in CPU seconds on one thread: four claims about cost.

alf         ALF-QLEACE at d = 512, 10 classes, target 0.9, finds its directions at least 15 times faster than dense deflation
            (a d x d projection and a full eigendecomposition of every class for every direction), on Fashion-MNIST and on
            generic covariances, and the same directions to 1e-8 as long as the gaps passed exceed 1e-4.
qleace      QLEACE from 10 class covariances of d = 3,072 in float64, to a residual of 1e-6, takes at most half of the peer's
            CPU time and less than 3 GB in all. A whole run of the peer takes an hour, so it is put together: seconds of an
            iteration and of a map from two of the ten classes, times the iterations that it needs at d = 192.
streaming   Moments of 10 classes of 2 million x 1,024 float32 rows in a memory map take at most 1.3 times the CPU time of
            the symmetric product alone, and less than 1.5 GB of anonymous memory.
folding     A model with the eraser folded in has the same modules and takes the same time.
false       if a line printed below says MISSED

`qleace` needs the extra `peers`, Fashion-MNIST Debian's dataset-fashion-mnist. Where OPENBLAS_CORETYPE is set, numpy's
kernels are slowed: run with `env -u OPENBLAS_CORETYPE`. About half an hour; `--fast` shrinks everything and claims nothing.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg  # - loaded before threads are limited, or its BLAS would keep two
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from firstcue import Moments, alf_qleace, fold, leace, qleace
from firstcue._blas import eigh, product
from firstcue.erasure._deflation import Deflation, largest

PARTS = ("alf", "qleace", "streaming", "folding")


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def say(part: str, text: str, held: bool | None) -> bool:
    """Print a measurement; None for a size of which nothing is claimed."""
    print(f"{part:10} {text}  {'no claim at this size' if held is None else 'held' if held else 'MISSED'}", flush=True)
    return held is not False


@contextmanager
def memory(what: str) -> Any:
    """Largest value of a line of /proc/self/status, in GB, sampled while the block runs."""
    peak, stop = [0.0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith(what))
            peak[0] = max(peak[0], int(line.split()[1]) / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


# ALF-QLEACE


def class_covariances(kind: str, d: int, k: int) -> Tensor:
    """`(k, d, d)`: spectra of condition 1e3, turned at random or nearly alike; or those of Fashion-MNIST."""
    generator = torch.Generator().manual_seed(0)
    if kind == "Fashion-MNIST":
        return fashion_covariances(d)
    deviations = torch.logspace(0, -1.5, d, dtype=torch.float64)
    found = torch.empty(k, d, d, dtype=torch.float64)
    common = rotation(d, generator)
    for c in range(k):
        if kind == "generic":
            root = rotation(d, generator) * deviations
        else:  # nearly commuting
            skew = 0.05 * torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
            skew, eye = skew - skew.mT, torch.eye(d, dtype=torch.float64)
            turned = common @ torch.linalg.solve(eye - skew / 2, eye + skew / 2)
            root = turned * deviations * torch.exp(0.25 * torch.randn(d, generator=generator, dtype=torch.float64))
        torch.mm(root, root.mT, out=found[c])
    return found


def rotation(d: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


def fashion_covariances(d: int) -> Tensor:
    """Of the ten classes, within the `d` leading principal components of all images, after LEACE."""
    from firstcue.data import read

    data = read("builtin:fashion-mnist")
    x = data.x.reshape(len(data.x), -1).double()
    leading = torch.linalg.eigh(Moments.of(x).covariance).eigenvectors[:, -d:]
    by_class = Moments.of_groups(x @ leading, data.y)
    projection = leace(by_class).projection
    return projection @ by_class.covariance @ projection.mT


def dense_deflation(matrices: list[Tensor], target: float) -> tuple[Tensor, list[float]]:
    """Directions, and at each the relative gap to the next eigenvalue of any class."""
    start, found, gaps = max(float(m.norm()) for m in matrices), [], []
    eye = torch.eye(len(matrices[0]), dtype=torch.float64)
    while max(float(m.norm()) for m in matrices) > (1 - target) * start:
        pairs = [eigh(m) for m in matrices]
        sizes = torch.stack([values.abs() for values, _ in pairs])
        c = int(sizes.amax(dim=1).argmax())
        values, vectors = pairs[c]
        place = int(values.abs().argmax())
        inside = (values - values[place]).abs().sort().values[1]
        between = sizes[c].max() - sizes[torch.arange(len(sizes)) != c].max()
        gaps.append(float(min(inside, between) / sizes[c].max()))
        found.append(vectors[:, place])
        rest = eye - torch.outer(found[-1], found[-1])
        matrices = [product(rest, product(m, rest)) for m in matrices]
    return torch.stack(found, dim=1), gaps


def fast_deflation(matrices: list[Tensor], target: float) -> Tensor:
    state = Deflation(matrices, torch.eye(len(matrices[0]), dtype=torch.float64))
    limit = (1 - target) * state.worst
    while state.worst > limit:
        state.remove(largest(state))
    return state.directions


def agreement(slow: Tensor, fast: Tensor, gaps: list[float]) -> tuple[int, float, float]:
    """How many directions come before the first gap below 1e-4, the largest deviation among them, and that of all spans."""
    if slow.shape != fast.shape:
        return 0, float("inf"), float("inf")
    clear = next((i for i, gap in enumerate(gaps) if gap < 1e-4), len(gaps))
    one, two = slow[:, :clear], fast[:, :clear]
    apart = (one - two * (one * two).sum(dim=0)).norm(dim=0)
    return clear, float(apart.max()), float((slow - fast @ (fast.mT @ slow)).norm(dim=0).max())


def alf(fast: bool) -> bool:
    """Both kinds of covariances."""
    held = True
    for kind in ("Fashion-MNIST", "generic"):
        d, k = (64, 5) if fast and kind == "generic" else (96, 10) if fast else (512, 10)
        covariances = class_covariances(kind, d, k)
        centre = covariances.mean(dim=0)
        matrices = [s - centre for s in covariances]
        slow_time, (slow, gaps) = seconds(lambda m=matrices: dense_deflation(m, 0.9))
        fast_time, found = seconds(lambda m=matrices: fast_deflation(m, 0.9))
        clear, apart, span = agreement(slow, found, gaps)
        held &= say(
            "alf",
            f"{kind} ({k} x {d} x {d}): {found.shape[1]} directions, dense {slow_time:.2f} s, ours {fast_time:.2f} s, "
            f"{slow_time / fast_time:.1f} x faster (15 wanted); first {clear} directions within {apart:.1e}, span of all "
            f"within {span:.1e}, smallest gap {min(gaps):.1e}",
            None if fast else (slow_time >= 15 * fast_time and apart <= 1e-8),
        )
    return held


# QLEACE


def peer_iterations(kind: str, k: int, wanted: float = 1e-6, d: int = 192) -> int:
    """Updates after which the peer's barycentre has the residual wanted."""
    from concept_erasure.optimal_transport import ot_barycenter

    matrices = class_covariances(kind, d, k)
    eye = torch.eye(d, dtype=torch.float64)
    for updates in range(1, 100):
        root = torch.linalg.cholesky(ot_barycenter(matrices, max_iter=updates))
        aligned = root.mT @ matrices @ root
        values, vectors = torch.linalg.eigh(aligned)
        roots = (vectors * values.clamp(min=0).sqrt()[:, None]) @ vectors.mT
        inverse = torch.linalg.inv(root)
        if float((inverse.mT @ roots.mean(dim=0) @ inverse - eye).norm()) / d**0.5 <= wanted:
            return updates
    raise RuntimeError("the peer did not arrive")


def peer_seconds(matrices: Tensor, k: int) -> tuple[float, float]:
    """Of one iteration over `k` classes and of the `k` maps, from the two matrices given."""
    from concept_erasure.optimal_transport import ot_map, psd_sqrt, psd_sqrt_rsqrt

    mean = matrices.mean(dim=0)
    once, (root, inverse) = seconds(lambda: psd_sqrt_rsqrt(mean))
    inner_time, inner = seconds(lambda: psd_sqrt(root @ matrices @ root))
    update_time, change = seconds(lambda: torch.sum(0.5 * inverse @ inner @ inverse, dim=0))
    last, mean = seconds(lambda: change @ mean @ change.mT)
    map_time, _ = seconds(lambda: ot_map(matrices[0], mean))
    return once + last + k * (inner_time + update_time) / len(matrices), k * map_time


def qleace_large(fast: bool) -> bool:
    """Generic and nearly commuting covariances."""
    d, k, held = (256 if fast else 3072), 10, True
    for kind in ("nearly commuting", "generic"):
        count = torch.full((k,), 20_000.0, dtype=torch.float64)
        scatter = class_covariances(kind, d, k).mul_(20_000)
        by_class = Moments(count, torch.zeros(k, d, dtype=torch.float64), scatter, count.long())
        with memory("VmRSS") as peak:
            own, eraser = seconds(lambda m=by_class: qleace(m, tolerance=1e-6))
        residual, passes = eraser.residual, eraser.iterations
        pair = scatter[:2] / 20_000
        del eraser, scatter, by_class
        per_iteration, maps = peer_seconds(pair, k)
        iterations = peer_iterations(kind, k)
        peer = iterations * per_iteration + maps
        held &= say(
            "qleace",
            f"{kind} ({k} x {d} x {d}): ours {own:.0f} s, {passes} passes, residual {residual:.1e}, peak {peak[0]:.2f} GB "
            f"(limit 3); peer {iterations} iterations of {per_iteration:.0f} s and {maps:.0f} s for maps = {peer:.0f} s; ratio "
            f"{own / peer:.2f} (limit 0.5)",
            None if fast else (own <= peer / 2 and peak[0] < 3 and residual <= 1e-6),
        )
    return held


# streaming


def write_rows(path: Path, n: int, d: int) -> None:
    """Rows with means and spreads that differ between columns."""
    generator = np.random.default_rng(0)
    scale = np.logspace(0, -2, d, dtype=np.float32)
    rows = np.memmap(path, np.float32, "w+", shape=(n, d))
    for start in range(0, n, 8192):
        part = rows[start : start + 8192]
        part[:] = (generator.standard_normal(part.shape, dtype=np.float32) + 3) * scale
    rows.flush()


def product_alone(rows: np.ndarray) -> np.ndarray:
    """The symmetric product of all rows, chunk by chunk, in float32."""
    out = np.zeros((rows.shape[1], rows.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), 4096):
        scipy.linalg.blas.ssyrk(1.0, rows[start : start + 4096].T, beta=1.0, c=out.T, overwrite_c=1, lower=0)
    return out


def streaming(fast: bool) -> bool:
    """Rows in a file that is deleted at the end."""
    n, d, k = (20_000 if fast else 2_000_000), 1024, 10
    z = np.random.default_rng(1).integers(0, k, n)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.f32"
        write_rows(path, n, d)
        rows = np.memmap(path, np.float32, "r", shape=(n, d))
        alone, own = [], []
        with memory("RssAnon") as peak:
            for _ in range(2):
                alone.append(seconds(lambda: product_alone(rows))[0])
                own.append(seconds(lambda: Moments.of_groups(rows, z, k))[0])
        ratio = statistics.median(own) / statistics.median(alone)
        return say(
            "streaming",
            f"({n:,}, {d}) float32, {k} classes: product alone {statistics.median(alone):.1f} s, moments "
            f"{statistics.median(own):.1f} s, {ratio:.2f} times (limit 1.3), anonymous memory {peak[0]:.2f} GB (limit 1.5)",
            None if fast else (ratio <= 1.3 and peak[0] < 1.5),
        )


# folding


def folding(fast: bool) -> bool:
    """An eraser in front of the last layer of a small network."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    x, z = torch.randn(4000, 256, generator=generator), torch.arange(4000) % 2
    with torch.no_grad():
        by_class = Moments.of_groups(model[:-1](x), z)
        eraser = alf_qleace(by_class, 0.5)
        folded = nn.Sequential(*model[:-1], fold(eraser, model[-1]))
        wanted = model[-1](eraser(model[:-1](x)))
        error = float((folded(x) - wanted).abs().max() / wanted.abs().max())
        times: dict[str, list[float]] = {"plain": [], "folded": []}
        for _ in range(5 if fast else 41):
            times["plain"].append(seconds(lambda: model(x))[0])
            times["folded"].append(seconds(lambda: folded(x))[0])
    same = [(n, type(m)) for n, m in model.named_modules()] == [(n, type(m)) for n, m in folded.named_modules()]
    ratio = statistics.median(times["folded"]) / statistics.median(times["plain"])
    return say(
        "folding",
        f"rank {eraser.rank}, same modules: {same}, time {ratio:.2f} of the plain model's, error {error:.1e}",
        same and error < 1e-4 and (fast or ratio < 1.1),
    )


def main(fast: bool = False, parts: list[str] | None = None) -> int:
    """Print one line per measurement; 1 if a claim is false."""
    runs = {"alf": alf, "qleace": qleace_large, "streaming": streaming, "folding": folding}
    with threadpool_limits(1):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            held = [runs[part](fast) for part in parts or PARTS]
        finally:
            torch.set_num_threads(threads)
    return int(not all(held))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Cost of erasing covariances and of streaming, in CPU seconds.")
    parser.add_argument("--fast", action="store_true", help="small sizes, some seconds")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"any of {', '.join(PARTS)}; all by default")
    sys.exit(main(**vars(parser.parse_args())))
