"""QLEACE, fit and apply: firstcue beside concept-erasure 0.2.4, in one process, on one thread, in CPU seconds.

claim   (50k, 768, 2): at least 2 times faster than the peer without shrinkage. (20k, 512, 10), with the tolerance set to the
        residual that the peer reaches on the same rows: at least 1.5 times faster on class covariances that nearly commute,
        and no slower on generic ones. What is left of the gap between class covariances: at most a tenth of the peer's.
false   if a line printed below says MISSED

The generator: class covariances have log-spaced spectra of condition 1e3. Nearly commuting ones share their eigenvectors
up to a small rotation, and each eigenvalue varies by a log-normal factor; generic ones are turned at random. Rows are
Gaussian with these covariances, so that those of the sample add their own noise. Last, the passes and seconds that the
barycentre alone takes to a residual of 1e-8.

Needs the extra `peers`. Where OPENBLAS_CORETYPE is set, numpy's kernels are slowed: run with `env -u OPENBLAS_CORETYPE`.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import scipy.linalg  # noqa: F401 - loaded before threads are limited, or its BLAS would keep two
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from firstcue import Moments, qleace
from firstcue.bures import barycenter
from firstcue.linalg import sqrt_psd

SIZES = [
    ("generic", 50_000, 768, 2, 2.0),
    ("nearly commuting", 20_000, 512, 10, 1.5),
    ("generic", 20_000, 512, 10, 1.0),
]
FAST_SIZES = [("generic", 5_000, 96, 2, 2.0), ("nearly commuting", 4_000, 64, 10, 1.5), ("generic", 4_000, 64, 10, 1.0)]


def rotation(d: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


def covariance_roots(kind: str, d: int, k: int, generator: torch.Generator) -> Tensor:
    """`(k, d, d)` roots of class covariances of condition 1e3."""
    deviations = torch.logspace(0, -1.5, d, dtype=torch.float64)
    if kind == "generic":
        return torch.stack([rotation(d, generator) * deviations for _ in range(k)])
    common, roots = rotation(d, generator), []
    for _ in range(k):
        skew = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
        factor = torch.exp(0.25 * torch.randn(d, generator=generator, dtype=torch.float64))
        roots.append(common @ torch.linalg.matrix_exp(0.05 * (skew - skew.mT)) * (deviations * factor))
    return torch.stack(roots)


def data(kind: str, n: int, d: int, k: int) -> tuple[Tensor, Tensor]:
    """float32 rows of unequally large classes, whose means differ by about a standard deviation."""
    generator = torch.Generator().manual_seed(0)
    z = torch.multinomial(torch.linspace(1, 1.5, k), n, replacement=True, generator=generator)
    x = torch.empty(n, d)
    for c, root in enumerate(covariance_roots(kind, d, k, generator)):
        mine = z == c
        noise = torch.randn(int(mine.sum()), d, generator=generator, dtype=torch.float64)
        x[mine] = (noise @ root.mT + 0.3 * torch.randn(d, generator=generator, dtype=torch.float64)).float()
    return x, z


def theirs(x: Tensor, z: Tensor) -> Tensor:
    """The peer, told to erase what the rows hold."""
    from concept_erasure.quadratic import QuadraticFitter

    return QuadraticFitter.fit(x, z, shrinkage=False).eraser(x, z)


def ours(x: Tensor, z: Tensor, tolerance: float) -> Tensor:
    return qleace(Moments.of_groups(x, z), tolerance=tolerance)(x, z)


def peer_residual(x: Tensor, z: Tensor) -> float:
    """Of the barycentre the peer arrives at, for the covariances it computed, in float64."""
    from concept_erasure.optimal_transport import ot_barycenter
    from concept_erasure.quadratic import QuadraticFitter

    fitter = QuadraticFitter.fit(x, z, shrinkage=False)
    matrices, shares = fitter.sigma_xx.double(), fitter.n.double() / fitter.n.sum()
    root = sqrt_psd(ot_barycenter(fitter.sigma_xx, fitter.n).double())
    inverse = torch.linalg.inv(root)
    mean = inverse @ sum(p * sqrt_psd(root @ m @ root) for p, m in zip(shares, matrices, strict=True)) @ inverse
    return float((mean - torch.eye(len(root), dtype=root.dtype)).norm() / len(root) ** 0.5)


def covariance_gap(x: Tensor, z: Tensor) -> float:
    """Largest distance of a class covariance from their mean, over the norm of that mean, in float64."""
    covariances = torch.stack([torch.cov(x[z == c].double().mT, correction=0) for c in z.unique()])
    centre = covariances.mean(dim=0)
    return float((covariances - centre).norm(dim=(1, 2)).max() / centre.norm())


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def compare(kind: str, n: int, d: int, k: int, wanted: float, repeats: int) -> dict[str, Any]:
    """Median CPU seconds over interleaved runs, so that a busy machine slows both alike."""
    x, z = data(kind, n, d, k)
    tolerance = 1e-8 if k == 2 else peer_residual(x, z)
    fitted = qleace(Moments.of_groups(x, z), tolerance=tolerance)
    gaps = {"peer": covariance_gap(theirs(x, z), z), "ours": covariance_gap(fitted(x, z), z)}  # these also warm up
    runs: dict[str, list[float]] = {"peer": [], "ours": []}
    for _ in range(repeats):
        runs["peer"].append(seconds(lambda: theirs(x, z))[0])
        runs["ours"].append(seconds(lambda: ours(x, z, tolerance))[0])
    peer, own = statistics.median(runs["peer"]), statistics.median(runs["ours"])
    held = peer / own >= wanted and gaps["ours"] <= 0.1 * gaps["peer"] and fitted.converged
    print(
        f"({n:,}, {d}, {k}) {kind:16}  peer {peer:.2f} s  ours {own:.2f} s (± {spread(runs['ours']):.2f})  "
        f"{peer / own:.2f} x faster, {wanted} wanted  residual asked {tolerance:.1e}, reached {fitted.residual:.1e} in "
        f"{fitted.iterations} passes  covariance gap {covariance_gap(x, z):.2f} -> peer {gaps['peer']:.1e}, "
        f"ours {gaps['ours']:.1e}  {'held' if held else 'MISSED'}",
        flush=True,
    )
    return {"kind": kind, "n": n, "d": d, "k": k, "peer": peer, "ours": own, "tolerance": tolerance, "held": held}


def spread(times: list[float]) -> float:
    return (max(times) - min(times)) / 2


def to_the_end(kind: str, n: int, d: int, k: int) -> None:
    """Passes and seconds of the barycentre to a residual of 1e-8."""
    by_class = Moments.of_groups(*data(kind, n, d, k))
    taken, found = seconds(lambda: barycenter(by_class.covariance, by_class.count, tolerance=1e-8))
    print(
        f"({n:,}, {d}, {k}) {kind:16}  to 1e-8: {found.iterations} passes, {taken:.2f} s, residual {found.residual:.1e}"
    )


def main(fast: bool = False) -> int:
    """Print one line per size; 1 if a claim is false (small sizes claim nothing)."""
    with threadpool_limits(1):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            rows = [compare(*size, repeats=3) for size in (FAST_SIZES if fast else SIZES)]
            for kind, n, d, k, _ in (FAST_SIZES if fast else SIZES)[1:]:
                to_the_end(kind, n, d, k)
        finally:
            torch.set_num_threads(threads)
    return int(not fast and not all(row["held"] for row in rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="QLEACE beside concept-erasure, in CPU seconds on one thread.")
    parser.add_argument("--fast", action="store_true", help="small sizes, a few seconds")
    sys.exit(main(**vars(parser.parse_args())))
