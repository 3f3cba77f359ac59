import torch
from hypothesis import given
from hypothesis import strategies as st

from firstcue.auditing.splits import stratified_folds


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.integers(2, 6), st.integers(0, 5))
def test_every_cell_is_dealt_out_evenly_and_folds_are_equally_large(cells, folds, seed):
    cells = torch.tensor(cells)
    fold = stratified_folds(cells, folds, seed)
    for cell in cells.unique():
        sizes = fold[cells == cell].bincount(minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    sizes = fold.bincount(minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_the_same_seed_gives_the_same_folds_and_leaves_global_randomness_alone():
    state = torch.get_rng_state()
    cells = torch.arange(100) % 3
    assert torch.equal(stratified_folds(cells, 5, 7), stratified_folds(cells, 5, 7))
    assert not torch.equal(stratified_folds(cells, 5, 7), stratified_folds(cells, 5, 8))
    assert torch.equal(state, torch.get_rng_state())
