"""Which rows fit, which choose, which report: splits that keep every cell's share, the same for the same seed."""

import torch
from torch import Tensor


def some_rows(n: int, most: int, seed: int) -> Tensor:
    """Ids of `n` rows in their order, or of `most` of them drawn at random.

    Example:
        >>> some_rows(3, 5, seed=0).tolist()
        [0, 1, 2]
    """
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values


def stratified_folds(cells: Tensor, folds: int, seed: int) -> Tensor:
    """Fold id of every row; each cell is dealt out evenly, so that small cells are in every fold.

    Args:
        cells: `(n,)` ids of the cells to keep balanced.
        folds: Number of folds.
        seed: Of the shuffle within cells.

    Returns:
        `(n,)` int64 in `0 .. folds - 1`.

    Example:
        >>> stratified_folds(torch.tensor([0, 0, 1, 1]), 2, seed=0).bincount().tolist()
        [2, 2]
    """
    generator = torch.Generator().manual_seed(seed)
    fold = torch.empty(len(cells), dtype=torch.int64)
    start = 0
    for cell in cells.unique().tolist():
        members = (cells.cpu() == cell).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=generator)]
        # starting where the last cell ended keeps the folds equally large
        fold[shuffled] = (torch.arange(len(members)) + start) % folds
        start += len(members)
    return fold
