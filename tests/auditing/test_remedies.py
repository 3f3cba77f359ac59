"""What a repair promises, and that the promise is kept on fresh rows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import case, rows, table

from firstcue._progress import silent
from firstcue.auditing.erased import balanced_fit, balanced_weights
from firstcue.auditing.head_fits import Rows, erase, recentred_bias
from firstcue.auditing.remedies import METHODS, applicable, find, try_all, try_remedy
from firstcue.spurious.metrics import group_metrics


def as_rows(batch):
    return Rows(batch.x, batch.y, batch.attribute, batch.num_values)


def test_erasing_inside_the_head_equals_erasing_before_it():
    c = case(table(0.95), seed=0)
    repaired = erase(as_rows(c.held), None, c.head, 0)
    x = c.held.x.double()
    before = (
        balanced_fit(x, c.held.y, [c.held.attribute]).eraser()(x) @ c.head.weight.double().mT + c.head.bias.double()
    )
    after = x @ repaired.weight.mT + repaired.bias
    shift = (after - before).mean(dim=0)
    assert torch.allclose(after - before, shift.expand_as(after), atol=1e-6)


def test_the_recentred_bias_matches_class_shares_as_a_slow_optimiser_does():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(300, 4, generator=generator).double() + torch.tensor([3.0, 0, 0, -3.0])
    y = torch.arange(300) % 4
    w = torch.rand(300, generator=generator).double()
    shift = recentred_bias(logits, y, w)
    shares = (w[:, None] * (logits + shift).softmax(1)).sum(0) / w.sum()
    true = torch.stack([w[y == k].sum() for k in range(4)]) / w.sum()
    assert torch.allclose(shares, true, atol=1e-5)
    free = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    slow = torch.optim.LBFGS([free], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss():
        slow.zero_grad()
        value = (w * torch.nn.functional.cross_entropy(logits + free, y, reduction="none")).sum()
        value.backward()
        return value

    slow.step(loss)
    assert torch.allclose(shift, (free - free.mean()).detach(), atol=1e-4)


def test_a_class_without_rows_leaves_the_bias_finite():
    shift = recentred_bias(torch.randn(50, 3).double(), torch.arange(50) % 2, torch.ones(50))
    assert torch.isfinite(shift).all()


@pytest.mark.parametrize("name", ["last-layer", "erase", "erase means and covariances", "and-mask"])
def test_a_repair_lifts_the_worst_group_and_keeps_its_promise_on_fresh_rows(name):
    c = case(table(0.95), seed=1)
    as_it_is, tried = (try_remedy(find(n), as_rows(c.held), None, c.head, 0) for n in ("as it is", name))
    assert tried.promise.worst_group.accuracy > as_it_is.promise.worst_group.accuracy + 0.1
    fresh = rows(np.full((2, 2), 0.5), 8000, np.random.default_rng(99))
    decisions = (fresh.x.double() @ tried.repaired.weight.double().mT + tried.repaired.bias.double()).argmax(1)
    truth = group_metrics(fresh.y, decisions, fresh.groups()).worst_group.accuracy
    low, high = tried.promise.intervals["worst_group"]
    assert low <= truth <= high


def test_the_and_mask_stops_where_one_value_alone_wants_to_go_on():
    c = case(table(0.95), seed=3)
    repaired = METHODS["and-mask"].fit(as_rows(c.held), None, c.head, 0)
    again = METHODS["and-mask"].fit(
        as_rows(c.held), None, replace(c.head, weight=repaired.weight, bias=repaired.bias), 0
    )
    moved = float((again.weight - repaired.weight).norm())
    assert moved < float((repaired.weight - c.head.weight).norm())
    assert torch.isfinite(again.weight).all()


def test_erasing_covariances_makes_the_spread_of_logits_equal():
    generator = torch.Generator().manual_seed(0)
    y, a = torch.arange(4000) % 2, torch.arange(4000) // 2 % 2
    x = torch.randn(4000, 3, generator=generator)
    x[:, 0] += 2.0 * y
    x[:, 1] *= 1 + 3 * a  # the cue is a spread
    head = case(table(0.9), seed=0).head
    head = replace(head, weight=torch.tensor([[-1.0, -1.0, 0], [1.0, 1.0, 0]]), bias=torch.zeros(2))
    held = Rows(x, y, a, 2)
    spread = {}
    for name in ("erase", "erase means and covariances"):
        repaired = METHODS[name].fit(held, None, head, 0)
        logits = x.double() @ repaired.weight.mT
        spread[name] = float(logits[a == 1, 1].std() / logits[a == 0, 1].std())
    assert spread["erase"] > 2
    assert abs(spread["erase means and covariances"] - 1) < 0.1


def test_rows_that_report_are_answered_by_fits_that_did_not_see_them():
    c = case(table(0.95), seed=2, n_held=400)
    held, seen = as_rows(c.held), []

    def spy(part, train, head, seed):
        seen.append(len(part.y))
        return METHODS["erase"].fit(part, train, head, seed)

    try_remedy(replace(METHODS["erase"], fit=spy), held, None, c.head, 0)
    assert seen == [400] + [320] * 5


def test_the_remedy_is_chosen_on_rows_that_do_not_report_it():
    c = case(table(0.95), seed=4)
    told = try_all(("last-layer", "erase"), as_rows(c.held), None, c.head, 0, silent)
    assert [r.selected for r in told].count(True) == 1
    assert not told[0].selected
    assert {r.n for r in told} == {900}


def test_remedies_that_need_what_is_not_there_are_left_out_and_unknown_ones_refused():
    c = case(table(0.9), seed=5)
    blind = Rows(c.held.x, c.held.y)
    assert [m.name for m in applicable(blind, None, None)] == ["as it is", "last-layer, class-balanced"]
    with pytest.raises(ValueError, match="no remedy is called 'magic'; remedies: as it is, last-layer, erase"):
        applicable(blind, None, ["magic"])


def test_balanced_weights_ignore_rows_that_are_left_out():
    cells, kept = torch.tensor([0, 0, 1, 1]), torch.tensor([True, False, True, True])
    assert balanced_weights(cells, kept).tolist() == [1.5, 0.0, 0.75, 0.75]
