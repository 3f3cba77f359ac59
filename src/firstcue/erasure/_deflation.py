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


PATIENCE = 1000
"""Times that search spaces grow for one direction; many times what convergence takes, so that rounding cannot hold it up."""


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
        self._generator = generator
        self._begin(matrix.new_zeros(len(matrix), 0))
        self.fresh = False
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def _begin(self, removed: Tensor) -> None:
        """A random search space outside of `removed`."""
        shape = (len(self.matrix), min(BLOCK, len(self.matrix) - removed.shape[1]))
        start = torch.randn(shape, generator=self._generator, dtype=self.matrix.dtype).to(self.matrix.device)
        for _ in range(2):  # of a random vector little may lie outside; the second time it is clean and of unit length
            start = torch.linalg.qr(start - product(removed, product(removed.mT, start))).Q
        self.space = start
        image = product(self.matrix, self.space)
        self.image = image - product(removed, product(removed.mT, image))

    def update(self, removed: Tensor) -> None:
        """Values, vectors and residuals from the present space."""
        self._catch_up()
        if self.space.shape[1] == 0:
            self._begin(removed)
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
        self.update(removed)
        return True

    def remove(self, v: Tensor, removed: Tensor) -> None:
        """Take `v` out of the matrix and its norm; `removed` are the directions taken out before."""
        b = product(self.matrix, v)
        b = b - removed @ (removed.mT @ b)
        q = float(v @ b)
        self.square += q * q - 2 * float(b @ b)
        self._waiting.append((v, b))
        self.fresh = False

    def _catch_up(self) -> None:
        """Take what was removed since out of the search space: W - V V^T W, made orthonormal again, and its image."""
        if not self._waiting:
            return
        v, b = (torch.stack(columns, dim=1) for columns in zip(*self._waiting, strict=True))
        along = product(v.mT, self.space)
        eye = torch.eye(along.shape[1], dtype=along.dtype, device=along.device)
        left_of_it, turn = torch.linalg.eigh(eye - product(along.mT, along))
        kept = left_of_it > 1e-4  # of other vectors little is left, and that is rounding
        turn = turn[:, kept] / left_of_it[kept].sqrt()
        image = self.image - product(b, along)
        self.space = product(self.space - product(v, along), turn)
        self.image = product(image - product(v, product(v.mT, image)), turn)
        self._waiting = []

    def reduce(self, basis: Tensor) -> None:
        """Rewrite everything in the coordinates of `basis`, which spans what is left."""
        self.matrix = product(basis.mT, product(self.matrix, basis))
        self.matrix = (self.matrix + self.matrix.mT) / 2
        self.square = float(self.matrix.square().sum())
        self.space = torch.linalg.qr(basis.mT @ self.space).Q
        self.image = product(self.matrix, self.space)
        self.fresh, self._waiting = False, []


def _orthogonal(vectors: Tensor, *bases: Tensor) -> Tensor:
    """Orthonormal columns that span what `vectors` add to bases to which they are orthogonal up to rounding."""
    vectors, triangle = torch.linalg.qr(vectors / vectors.norm(dim=0))
    vectors = vectors[:, triangle.diagonal().abs() > 1e-6]  # which enlarges what rounding left along the bases
    for basis in bases:
        vectors = vectors - product(basis, product(basis.mT, vectors))
    vectors, triangle = torch.linalg.qr(vectors)
    return vectors[:, triangle.diagonal().abs() > 0.5]


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
    for _ in range(PATIENCE):
        search = max(state.searches, key=lambda s: s.upper)
        others = max((s.upper for s in state.searches if s is not search), default=0.0)
        if not search.fresh:
            search.update(state.removed)
        if search.residual > ROUGH * search.value and search.grow(state.removed, state.floor):
            continue
        search.settle()
        if search.upper < others:
            continue
        if search.value - search.error >= others or not search.grow(state.removed, state.floor):
            break
    for _ in range(PATIENCE):
        if search.residual <= max(PRECISE * search.value, state.floor):
            break
        if not search.grow(state.removed, state.floor):
            break
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
