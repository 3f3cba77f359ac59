"""Erasing under the unchanged head: balanced moments, the batched control, and the traps that would accuse the innocent."""

import pytest
import torch
from planted import case, table

from firstcue.auditing.erased import (
    _cell_sums,
    _cross_of_cells,
    _erased_logits,
    balanced_fit,
    balanced_weights,
    erase_across_folds,
    erasure_effect,
)
from firstcue.auditing.splits import stratified_folds
from firstcue.erasure.leace import leace
from firstcue.layers import Head
from firstcue.moments import Moments
from firstcue.spurious.association import association
from firstcue.spurious.reliance import accuracy_gap


def parts(strength=0.9, **options):
    c = case(table(strength), seed=3, **options)
    return c, c.held.x, c.held.y, c.held.attribute


def test_balanced_weights_give_every_cell_the_same_total():
    _, _, y, a = parts()
    cells = y * 2 + a
    w = balanced_weights(cells, torch.ones(len(y), dtype=torch.bool))
    totals = torch.zeros(4, dtype=torch.float64).index_add_(0, cells, w)
    assert torch.allclose(totals, totals[:1].expand(4))
    assert float(w.mean()) == pytest.approx(1.0)


def test_erasing_on_balanced_moments_equals_erasing_on_a_balanced_resample():
    _, x, y, a = parts()
    x = x.double()
    cells = y * 2 + a
    counts = torch.bincount(cells)
    # repeating every row lcm / n_cell times makes cells equal, the slow way
    size = int(torch.tensor([int(n) for n in counts]).prod())
    fit = balanced_fit(x, y, [a])
    means = torch.stack([x[cells == g].mean(0) for g in range(4)])
    seconds = torch.stack([x[cells == g].mT @ x[cells == g] / int(counts[g]) for g in range(4)])
    mean = means.mean(0)
    assert size > 0
    assert torch.allclose(fit.mean, mean)
    assert torch.allclose(fit.covariance, seconds.mean(0) - mean[:, None] * mean)
    by_value = torch.stack([(means[v] + means[2 + v]) / 2 for v in (0, 1)])
    assert torch.allclose(fit.cross[0], ((by_value - mean) * 0.5**0.5).mT)
    erased = fit.eraser()(x)
    left = torch.stack([erased[cells == g].mean(0) for g in range(4)])
    assert torch.allclose(left[0] + left[2], left[1] + left[3], atol=1e-9)


def test_the_eraser_of_two_attributes_erases_both():
    _, x, y, a = parts()
    b = (torch.arange(len(y)) // 2) % 3
    x = x.double()
    x[:, -1] += 2.0 * b
    fit = balanced_fit(x, y, [a, b])
    both, only = fit.eraser()(x), fit.eraser([0])(x)
    cells = (y * 2 + a) * 3 + b
    w = balanced_weights(cells, torch.ones(len(y), dtype=torch.bool))[:, None]

    def spread(e, z):
        means = torch.stack([(w * e)[z == v].sum(0) / w[z == v].sum() for v in z.unique()])
        return float((means - means.mean(0)).abs().max())

    assert spread(both, a) < 1e-8
    assert spread(both, b) < 1e-8
    assert spread(only, a) < 1e-8
    assert spread(only, b) > 0.5


def test_every_row_is_erased_by_a_map_that_did_not_see_it():
    c, x, y, a = parts()
    fold = stratified_folds(y * 2 + a, 5, 0)
    logits, _ = erase_across_folds(x, y, [a], c.head, fold)
    moved = x.clone()
    moved[fold == 2] += 100 * torch.randn(
        int((fold == 2).sum()), x.shape[1], generator=torch.Generator().manual_seed(0)
    )
    again, _ = erase_across_folds(moved, y, [a], c.head, fold)
    only = balanced_fit(moved, y, [a], kept=fold != 2).eraser()
    assert torch.allclose(again[fold == 2], c.head(only(moved[fold == 2])).double(), atol=1e-3)
    assert torch.allclose(only(x[:5]), balanced_fit(x, y, [a], kept=fold != 2).eraser()(x[:5]), atol=1e-4)
    assert not torch.allclose(logits[fold == 1], again[fold == 1], atol=1e-2)


@pytest.mark.parametrize("classes", [2, 30], ids=["by one map", "by what is read"])
def test_the_batched_control_equals_one_eraser_at_a_time(classes):
    _, x, y, a = parts()
    generator = torch.Generator().manual_seed(1)
    head = Head(
        "head",
        torch.randn(classes, x.shape[1], generator=generator),
        torch.randn(classes, generator=generator),
    )
    train = torch.arange(len(y)) % 5 != 0
    fit = balanced_fit(x, y, [a], kept=train)
    generator = torch.Generator().manual_seed(0)
    values = torch.stack([a, a[torch.randperm(len(a), generator=generator)]]).to(torch.int16)
    centre = x[train].mean(dim=0)
    sums = _cell_sums(x[train] - centre, y[train], values[:, train], (2, 2))
    cross, mean = _cross_of_cells(sums)
    got = _erased_logits(x[~train], cross, mean + centre, fit, head)
    for b in range(2):
        cells = y * 2 + values[b].long()
        w = balanced_weights(cells, train)
        by = Moments.of_groups(x.double(), values[b].long(), 2, weights=w)
        mean = by.pool().mean
        cross = (by.count / by.count.sum()).sqrt()[:, None] * (by.mean - mean)
        g = torch.linalg.solve(fit.covariance, cross.mT)
        change = cross.mT @ torch.linalg.pinv(cross @ g, rtol=1e-8) @ g.mT
        slow = head((x.double() - (x.double() - mean) @ change.mT)[~train])
        assert torch.allclose(got[:, b].double(), slow.double(), atol=1e-3)


def test_a_head_that_uses_the_cue_loses_its_gap_and_the_control_does_not():
    c, x, y, a = parts(0.95)
    found = association(c.train.y, c.train.attribute, 2, 2)
    effect = erasure_effect(x, y, a, c.head, found.r)
    assert effect.closed > 0.75
    assert effect.p_value == pytest.approx(1 / 200)
    assert effect.group_average_after >= effect.group_average_before - 0.02
    assert effect.change_low > 0.05


def test_erasing_with_raw_moments_erases_the_label_too_and_turns_the_gap_negative():
    c = case(table(0.8), table(0.8), seed=0, uses=False, n_held=3000)
    x, y, a = c.held.x, c.held.y, c.held.attribute
    found = association(c.train.y, c.train.attribute, 2, 2)
    raw = leace(Moments.of_groups(x, a, 2))
    assert accuracy_gap(found, c.head(raw(x)).argmax(1) == y, y, a).value < -0.05
    assert abs(erasure_effect(x, y, a, c.head, found.r).gap_after.value) < 0.05


def test_an_attribute_that_is_noise_is_significant_no_more_often_than_it_should_be():
    c, x, y, _ = parts(0.95)
    found = association(c.train.y, c.train.attribute, 2, 2)
    generator = torch.Generator().manual_seed(1)
    p = [
        erasure_effect(
            x, y, torch.randint(2, (len(y),), generator=generator), c.head, found.r, draws=99, seed=s
        ).p_value
        for s in range(20)
    ]
    assert sum(v < 0.05 for v in p) <= 4


def test_few_rows_for_the_dimension_are_shrunk_and_said():
    c, x, y, a = parts(n_held=120)
    found = association(c.train.y, c.train.attribute, 2, 2)
    assert erasure_effect(x, y, a, c.head, found.r, draws=19).shrunk
