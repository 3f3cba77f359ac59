"""Sparse fits taken together arrive where fits on their own do, and stop early without losing the worst group."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from firstcue.forward import NotFinite
from firstcue.training.logistic import fit_readout
from firstcue.training.retrain import retrain_head
from firstcue.training.sparse import fit_sparse


def rows_of(n=300, d=12, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = (x[:, 0] - 0.5 * x[:, 1] + torch.randn(n, generator=generator, dtype=torch.float64) > 0.3).to(dtype)
    return ((x - x.mean(dim=0)) / x.std(dim=0)).to(dtype), y


def objective(x, y, strength, weight, bias):
    losses = torch.nn.functional.softplus(-(2 * y - 1) * (x @ weight + bias))
    return float(strength * losses.sum() + weight.abs().sum())


@pytest.mark.parametrize("strength", [1.0, 0.1, 0.01])
def test_with_enough_steps_it_is_liblinears_solution(strength):
    x, y = rows_of()
    exact = fit_readout(x.numpy(), y.long().numpy(), 2, inverse_strength=strength)
    weight, bias = torch.from_numpy(exact.weight[1] - exact.weight[0]), float(exact.bias[1] - exact.bias[0])

    found = fit_sparse(x, y, torch.ones(300, 1, dtype=torch.float64), torch.tensor([strength]), steps=2000)

    best, ours = (objective(x, y, strength, *fit) for fit in ((weight, bias), (found.weight[:, 0], found.bias[0])))
    assert ours <= best * (1 + 1e-3)


def test_fits_together_are_fits_alone_and_rows_that_do_not_count_change_nothing():
    x, y = rows_of()
    rows = torch.randint(0, 3, (300, 4), generator=torch.Generator().manual_seed(1)).double()
    strengths = torch.tensor([1.0, 0.3, 0.1, 0.03])

    together = fit_sparse(x, y, rows, strengths, steps=2000)

    for i, strength in enumerate(strengths):
        times = rows[:, i].long()
        some, labels = x.repeat_interleave(times, dim=0), y.repeat_interleave(times)
        alone = fit_sparse(some, labels, torch.ones(len(some), 1).double(), strength[None], steps=2000)
        assert_close(together.weight[:, i], alone.weight[:, 0], rtol=0, atol=5e-3)


def test_a_fit_that_begins_at_its_solution_stays_there():
    x, y = rows_of()
    rows, strength = torch.ones(300, 1).double(), torch.tensor([0.1])
    first = fit_sparse(x, y, rows, strength, steps=2000)

    again = fit_sparse(x, y, rows.expand(-1, 3), strength.expand(3), start=first)

    assert again.steps < first.steps + 25
    assert_close(again.weight, first.weight.expand(-1, 3), rtol=0, atol=5e-3)


def test_the_intercept_is_free_of_the_penalty():
    x, y = rows_of()
    y[:] = 1.0
    y[:30] = 0.0

    found = fit_sparse(x, y, torch.ones(300, 1).double(), torch.tensor([1e-6]), steps=500)

    assert not found.weight.any()
    assert float(found.bias) == pytest.approx(np.log(9), rel=0.02)


def test_coefficients_that_are_not_numbers_are_refused():
    x, y = rows_of(dtype=torch.float32)
    x[3, 3] = torch.nan
    with pytest.raises(NotFinite, match="standardised"):
        fit_sparse(x, y, torch.ones(300, 1), torch.ones(1))


def embeddings(n, d, seed):
    """As after a ReLU: the core and a stronger cue among correlated directions of falling size."""
    network, draw = np.random.default_rng(0), np.random.default_rng(seed)
    mixing = network.standard_normal((60, d)) * (1 + np.arange(60))[:, None] ** -0.5
    y, cue = draw.integers(0, 2, n), draw.integers(0, 2, n)
    z = draw.standard_normal((n, 60))
    z[:, 5] += 1.6 * (2 * y - 1)
    z[:, 1] += 2.5 * (2 * cue - 1)
    x = np.maximum(z @ mixing, 0) + 0.3 * draw.standard_normal((n, d))
    return x.astype(np.float32), y, 2 * y + cue


@pytest.mark.parametrize("method", ["dfr", "dfr-train"])
def test_stopping_early_costs_the_worst_group_nothing(monkeypatch, method):
    x, y, group = embeddings(600, 100, 1)
    rows = embeddings(600, 100, 2) if method == "dfr-train" else None
    new_x, new_y, new_group = embeddings(4000, 100, 3)

    def worst(least):
        monkeypatch.setattr("firstcue.training.methods.LEAST_SHARED", least)
        fit = retrain_head(x, y, group, method=method, train=rows)
        right = fit(new_x).argmax(1) == new_y
        return fit, min(float(right[new_group == g].mean()) for g in range(4))

    (exact, wanted), (early, found) = worst(1 << 40), worst(0)

    assert "stopped early" in early.note and "stopped early" not in exact.note
    assert early.fits == exact.fits and early.rows_per_group == exact.rows_per_group
    assert found > wanted - 0.015
