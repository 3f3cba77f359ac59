"""Six inputs on which erasure goes wrong unless care is taken: what concept-erasure and firstcue leave behind.

    pip install 'firstcue[peers]'
    python benchmarks/erasure_failures.py

Gaps are those of `firstcue.erasure.report`: the largest distance of a class mean from the mean of all rows, in root mean
variances of a feature, and the largest Frobenius distance of a class covariance from their mean, over its norm.

holds       firstcue leaves no mean gap above 1e-3 and, with QLEACE, no covariance gap above 1e-6, or refuses.
false       if a line printed below says MISSED
"""

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from concept_erasure import LeaceEraser
from concept_erasure.quadratic import QuadraticFitter
from torch import Tensor
from torch.nn.functional import one_hot

import firstcue as fc
from firstcue.erasure.report import covariance_gap, mean_gap


def classes(n: int, d: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features whose class means and covariances differ; classes of equal size."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.arange(n) % k
    mix = torch.randn(k, d, d, generator=generator, dtype=torch.float64) / d**0.5 + torch.eye(d, dtype=torch.float64)
    centres = torch.randn(k, d, generator=generator, dtype=torch.float64)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return centres[z] + torch.einsum("ni,nij->nj", x, mix[z]), z


def gaps(x: Tensor, z: Tensor, unit: Tensor) -> tuple[float, float]:
    """Mean gap in units of the rows before, and covariance gap."""
    moments = fc.Moments.of_groups(x, z)
    spread = float(unit.double().var(dim=0, correction=0).mean().sqrt())
    return mean_gap(moments) / spread, covariance_gap(moments)


def peer_leace(x: Tensor, z: Tensor) -> Tensor:
    return LeaceEraser.fit(x, one_hot(z).to(x.dtype))(x)


def peer_leace_of_ids(x: Tensor, z: Tensor) -> Tensor:
    return LeaceEraser.fit(x, z[:, None].to(x.dtype))(x)


def peer_qleace(x: Tensor, z: Tensor, **settings: bool) -> Tensor:
    return QuadraticFitter.fit(x, z, **settings).eraser(x, z)


def leace(x: Tensor, z: Tensor) -> Tensor:
    return fc.leace(fc.Moments.of_groups(x, z))(x)


def qleace(x: Tensor, z: Tensor) -> Tensor:
    return fc.qleace(fc.Moments.of_groups(x, z))(x, z)


def show(name: str, x: Tensor, z: Tensor, *erasers: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """One line per eraser: gaps left, movement of the mean, mean squared movement of rows. False where ours left a gap."""
    good = True
    print(f"\n{name}: before, mean gap {gaps(x, z, x)[0]:.3g}, covariance gap {gaps(x, z, x)[1]:.3g}")
    for eraser in erasers:
        try:
            after = eraser(x, z)
        except ValueError as error:
            print(f"  {eraser.__name__:18} refuses: {str(error)[:100]}...")
            continue
        left, moved = gaps(after, z, x), (after.double() - x.double())
        missed = eraser in (leace, qleace) and (left[0] > 1e-3 or (eraser is qleace and left[1] > 1e-6))
        good = good and not missed
        print(
            f"  {eraser.__name__:18} mean gap {left[0]:8.2g}  covariance gap {left[1]:8.2g}  mean moved by "
            f"{float(moved.mean(dim=0).norm()):8.2g}  distortion {float(moved.square().sum(dim=1).mean()):.4g}{'  MISSED' * missed}"
        )
    return good


def main() -> int:
    good = []
    warnings.simplefilter("ignore")
    print(f"concept-erasure {version('concept-erasure')}, firstcue {fc.__version__}, torch {torch.__version__}")
    x, z = classes(2000, 32, 3)
    good.append(show("three classes, default settings", x, z, peer_qleace, qleace))
    good.append(show("class ids instead of one-hot rows", x, z, peer_leace_of_ids, leace))
    good.append(show("features around 10,000 in float32", (x + 1e4).float(), z, peer_leace, leace))
    generator = torch.Generator().manual_seed(0)
    rare = torch.zeros(20000, dtype=torch.int64)
    rare[:13] = 1
    good.append(
        show("13 rows of 20,000", torch.randn(20000, 8, generator=generator) + rare[:, None], rare, peer_leace, leace)
    )
    x, z = classes(3000, 6, 2)
    kept = (z == 0) | (torch.arange(len(z)) % 9 == 1)
    x, z = x[kept] + 3 * z[kept, None], z[kept]

    def peer_without_shrinkage(x: Tensor, z: Tensor) -> Tensor:
        return peer_qleace(x, z, shrinkage=False)

    good.append(show(f"classes of {int((z == 0).sum())} and {int(z.sum())} rows", x, z, peer_without_shrinkage, qleace))
    few, few_z = classes(100, 500, 2)
    good.append(show("100 rows of 500 features", few, few_z, peer_qleace, qleace))
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main())
