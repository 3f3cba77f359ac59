"""Take the direction in which any of several symmetric matrices is largest out of all of them, again and again.

Removing v turns D into Q D Q with Q = I - v v^T, and |Q D Q|^2 = |D|^2 - 2 |D v|^2 + (v^T D v)^2. So a direction costs one
product per matrix: the matrices stay as they are, and it is vectors that are projected.
"""

import torch
from torch import Tensor

from firstcue._blas import eigh, product
from firstcue.linalg import EPS

BLOCK = 4
"""Eigenvectors of a matrix that are sought together."""

SPACE = 40
"""Vectors kept per matrix before its search space is cut back to the better half."""

ROUGH = 0.01
"""Residual at which a value is believed to be near the largest."""

PRECISE = 1e-12
"""Residual of an eigenvector, relative to its eigenvalue, at which it is taken."""


class Search:
    """Leading eigenvectors of one matrix, by magnitude of the eigenvalue: the best within a space that grows by residuals.

    The space is kept when a direction is removed, so that the next search starts near its end.
    """

    def __init__(self, matrix: Tensor, generator: torch.Generator) -> None:
        self.matrix = matrix
        self.square = float(matrix.square().sum())
        self.upper = float("inf")
        """No eigenvalue is larger in magnitude: removing directions never enlarges one."""
        self.value = 0.0
        self.residual = float("inf")
        start = torch.randn(len(matrix), BLOCK, generator=generator, dtype=matrix.dtype).to(matrix.device)
        self.space = torch.linalg.qr(start).Q
        self.image = product(matrix, self.space)
        self.fresh = False

    def update(self) -> None:
        """Values, vectors and residuals from the present space."""
        values, rotation = torch.linalg.eigh(
            product(self.space.mT, self.image)
        )  # few: numpy would wait for its threads
        order = values.abs().argsort(descending=True)
        self._values, self._rotation = values[order], rotation[:, order]
        best = self._rotation[:, :BLOCK]
        self._vectors, images = product(self.space, best), product(self.image, best)
        self._residuals = images - self._vectors * self._values[:BLOCK]
        lengths = self._residuals.norm(dim=0)
        self._lengths = lengths.tolist()
        self.value, self.residual = float(self._values[0].abs()), self._lengths[0]
        others = (self._values[1:] - self._values[0]).abs()
        gap = float(others.min()) if len(others) else self.value
        self.error = min(self.residual, self.residual**2 / gap if gap > 0 else self.residual)
        self.fresh = True

    @property
    def vector(self) -> Tensor:
        return self._vectors[:, 0]

    def settle(self) -> None:
        """Believe the leading value: what it may be off by bounds the largest eigenvalue."""
        self.upper = min(self.upper, self.value + self.error)

    def grow(self, removed: Tensor, floor: float) -> bool:
        """Add the residuals that are not yet rounding to the space; False if there is none left to add."""
        limit = max(PRECISE * self.value, floor)
        wanted = [i for i, length in enumerate(self._lengths) if length > limit]
        full = min(SPACE, len(self.matrix) - removed.shape[1])
        if self.space.shape[1] + len(wanted) > full:
            kept = self._rotation[:, : full // 2]
            self.space, self.image = product(self.space, kept), product(self.image, kept)
        wanted = wanted[: full - self.space.shape[1]]
        if not wanted:
            return False
        fresh = _orthogonal(self._residuals[:, wanted], self.space, removed)
        if fresh.shape[1] == 0:
            return False
        image = product(fresh.mT, self.matrix).mT  # a narrow factor is faster first
        image = image - product(removed, product(removed.mT, image))
        self.space, self.image = torch.cat([self.space, fresh], dim=1), torch.cat([self.image, image], dim=1)
        self.update()
        return True

    def remove(self, v: Tensor, removed: Tensor) -> None:
        """Take `v` out of the matrix, its norm and the search space; `removed` are the directions taken out before."""
        b = product(self.matrix, v)
        b = b - removed @ (removed.mT @ b)
        q = float(v @ b)
        self.square += q * q - 2 * float(b @ b)
        along = self.space.mT @ v
        length = float(along.norm())
        if length > 0:
            self._rotate_out(v, b, along / length, length)
        self.image = self.image - v[:, None] * (b @ self.space)
        self.fresh = False

    def _rotate_out(self, v: Tensor, b: Tensor, along: Tensor, length: float) -> None:
        """Turn the basis of the space until one vector alone has a part along `v`, and take that part away."""
        mirror = along.clone()
        mirror[0] += 1.0 if float(along[0]) >= 0 else -1.0
        mirror = mirror / mirror.norm()
        for name in ("space", "image"):
            held = getattr(self, name)
            setattr(self, name, held - 2 * torch.outer(held @ mirror, mirror))
        part = self.space[:, 0] @ v
        rest = self.space[:, 0] - part * v
        size = float(rest.norm())
        if size < 1e-2:  # little is left of it, and that is rounding
            self.space, self.image = self.space[:, 1:], self.image[:, 1:]
            return
        self.space[:, 0] = rest / size
        self.image[:, 0] = (self.image[:, 0] - part * b) / size

    def reduce(self, basis: Tensor) -> None:
        """Rewrite everything in the coordinates of `basis`, which spans what is left."""
        self.matrix = product(basis.mT, product(self.matrix, basis))
        self.matrix = (self.matrix + self.matrix.mT) / 2
        self.square = float(self.matrix.square().sum())
        self.space = torch.linalg.qr(basis.mT @ self.space).Q
        self.image = product(self.matrix, self.space)
        self.fresh = False


def _orthogonal(vectors: Tensor, *bases: Tensor) -> Tensor:
    """Orthonormal columns that span what `vectors` add to the bases."""
    vectors = vectors / vectors.norm(dim=0)
    for _ in range(2):
        for basis in bases:
            vectors = vectors - product(basis, product(basis.mT, vectors))
        vectors, triangle = torch.linalg.qr(vectors)
        size = triangle.diagonal().abs()
        vectors = vectors[:, size > 1e-8]
    return vectors


class Deflation:
    """Several symmetric matrices and the directions taken out of them so far.

    Vectors are in the coordinates of `basis`, which spans what was left when the matrices were last rewritten.
    """

    def __init__(self, matrices: list[Tensor], cost: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        first = matrices[0]
        self.floor = 10 * EPS * len(first) ** 0.5 * max(float(m.norm()) for m in matrices)
        """What a residual cannot go below."""
        self.searches = [Search(m, generator) for m in matrices]
        self.cost = cost
        """Positive semi-definite: v^T cost v is the price of removing v."""
        self.basis = torch.eye(len(first), dtype=first.dtype, device=first.device)
        self.removed = first.new_zeros(len(first), 0)
        self._found: list[Tensor] = []
        self._reliable = [s.square for s in self.searches]

    @property
    def worst(self) -> float:
        """Largest Frobenius norm of what is left of a matrix."""
        return max(0.0, max(s.square for s in self.searches)) ** 0.5

    @property
    def directions(self) -> Tensor:
        """`(d, m)`, orthonormal, in the order in which they were removed."""
        return torch.stack(self._found, dim=1) if self._found else self.basis.new_zeros(len(self.basis), 0)

    @property
    def rank(self) -> int:
        """Number of directions removed."""
        return len(self._found)

    def remove(self, v: Tensor) -> None:
        """Take a unit vector out of all matrices."""
        v = v - self.removed @ (self.removed.mT @ v)
        v = v / v.norm()
        for search in self.searches:
            search.remove(v, self.removed)
        self._found.append(self.basis @ v)
        self.removed = torch.cat([self.removed, v[:, None]], dim=1)
        lost = any(s.square < 1e-6 * before for s, before in zip(self.searches, self._reliable, strict=True))
        if lost or self.removed.shape[1] >= max(16, len(v) // 8):
            self._reduce()

    def _reduce(self) -> None:
        """Leave the removed directions out of the matrices, which also renews norms that were carried along."""
        rest = torch.linalg.qr(self.removed, mode="complete").Q[:, self.removed.shape[1] :]
        self.basis = product(self.basis, rest)
        self.cost = product(rest.mT, product(self.cost, rest))
        for search in self.searches:
            search.reduce(rest)
        self.removed = rest.new_zeros(rest.shape[1], 0)
        self._reliable = [s.square for s in self.searches]


def largest(state: Deflation) -> Tensor:
    """The direction of the largest eigenvalue, by magnitude, of any matrix.

    Eigenvalues are refined only as far as it takes to see which matrix has the largest, its vector to the end.
    """
    while True:
        search = max(state.searches, key=lambda s: s.upper)
        others = max((s.upper for s in state.searches if s is not search), default=0.0)
        if not search.fresh:
            search.update()
        if search.residual > ROUGH * search.value and search.grow(state.removed, state.floor):
            continue
        search.settle()
        if search.upper < others:
            continue
        if search.value - search.error >= others or not search.grow(state.removed, state.floor):
            break
    while search.residual > max(PRECISE * search.value, state.floor) and search.grow(state.removed, state.floor):
        pass
    return search.vector


def costs_least(state: Deflation) -> Tensor:
    """The direction v in which the matrix D of largest norm loses most per price: the largest |D v|^2 / v^T cost v.

    That norm falls by at least |D v|^2.
    """
    matrix = max(state.searches, key=lambda s: s.square).matrix
    removed = state.removed
    inside = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) - removed @ removed.mT
    cost = product(inside, product(state.cost, inside))
    # a little of its mean is added in every direction, so that one without price, or one removed, is no exception
    ridge = 1e-9 * float(cost.diagonal().mean())
    triangle = torch.linalg.cholesky(cost + ridge * torch.eye(len(cost), dtype=cost.dtype, device=cost.device))
    whitened = torch.linalg.solve_triangular(triangle, product(inside, product(matrix, inside)), upper=False)
    _, vectors = eigh(product(whitened, whitened.mT))
    found = torch.linalg.solve_triangular(triangle.mT, vectors[:, -1:], upper=True)[:, 0]
    return found / found.norm()
