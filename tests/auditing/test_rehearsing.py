"""What a rehearsal on the last layer says of remedies that train the whole network, and where it says nothing."""

import numpy as np
import pytest
import torch
from planted import case, table

from firstcue._progress import silent
from firstcue.auditing import rehearsing
from firstcue.auditing.head_fits import Rows
from firstcue.auditing.rehearsing import predicted, sample, stage
from firstcue.auditing.remedies import METHODS, NEEDS_TRAINING, SIMPLIFY, Stakes, report_rows, try_all
from firstcue.spurious.association import association
from firstcue.training.remedies import TRAINING_GROUPS, TRAININGS


def as_rows(batch):
    return Rows(batch.x, batch.y, batch.attribute, batch.num_values)


@pytest.fixture(scope="module")
def told():
    """All rows of one report, on a small budget."""
    c = case(table(0.95), seed=0, n_train=600, n_held=600)
    stakes = Stakes(association(c.train.y, c.train.attribute))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsing, "RATES", (0.5,))
        patch.setattr(rehearsing, "EPOCHS", 2)
        return try_all(None, as_rows(c.held), as_rows(c.train), c.head, 0, silent, stakes)


def test_every_remedy_has_one_row_that_says_where_its_number_is_from(told):
    assert sorted(r.name for r in told) == sorted({*METHODS, *NEEDS_TRAINING, SIMPLIFY})
    for r in told:
        assert (r.worst_group is None) == (r.basis not in ("measured", "predicted"))
        assert r.basis in ("measured", "predicted") or r.note.startswith("not ")
    assert [r.basis for r in told][: sum(r.basis == "measured" for r in told)].count("measured") == 6


def test_only_what_was_measured_is_chosen_and_labels_are_named(told):
    by_name = {r.name: r for r in told}
    assert [r.basis for r in told if r.selected] == ["measured"]
    assert by_name["lisa"].needs == (TRAINING_GROUPS,) and by_name["jtt"].needs == ()
    assert all(r.needs_group_labels == bool(r.needs) for r in told)


def test_a_prediction_has_an_interval_on_the_rows_that_report(told):
    reports = next(r.n for r in told if r.name == "as it is")
    for r in told:
        if r.basis == "predicted":
            assert r.n == reports and r.ci_low <= r.worst_group <= r.ci_high
            assert r.gain.ci_low <= r.gain.value <= r.gain.ci_high
    plain = next(r for r in told if r.name == "erm")
    assert plain.gain.value == 0


def test_balanced_groups_are_predicted_to_gain_and_balanced_classes_are_not(told):
    gains = {r.name: r.gain.value for r in told if r.basis == "predicted"}
    assert min(gains[name] for name in ("group weighting", "group sampling", "group-dro")) > 0.1
    assert abs(gains["class weighting"]) < 0.1  # classes are equal in size


def test_what_acts_on_features_or_needs_an_early_network_has_no_number():
    c = case(table(0.9), seed=1, n_train=300, n_held=300)
    held = as_rows(c.held)
    _, reports = report_rows(held.cells, 0)
    found = predicted(["coral", "cnc", "lff"], held, as_rows(c.train), reports, 2, 0, silent)
    assert {r.basis for r in found} == {"not predicted"}
    assert [r.note for r in found] == [rehearsing.BY_FEATURES] * 2 + [rehearsing.BY_EARLY]


def test_remedies_that_act_on_features_leave_a_lone_head_as_plain_training_does():
    """Why they have no number: their penalty has no gradient for the head."""
    c = case(table(0.9), seed=1, n_train=300, n_held=300)
    held = as_rows(c.held)
    _, reports = report_rows(held.cells, 0)
    on = stage(as_rows(c.train), held, reports, 2, 0)
    for name in ("cnc", "mmd"):
        layer = on.network(0)
        recipe = TRAININGS[name].recipe
        from firstcue.training.remedies import Setting

        plan = recipe(Setting(on.train, layer, on.network, lambda m: torch.optim.SGD(m.parameters(), lr=0.1), 64, 0))
        outputs = layer(plan.batch.x)
        losses = torch.nn.functional.cross_entropy(outputs, plan.batch.y, reduction="none")
        objective = plan.weighting(losses, outputs, plan.batch)
        plan.weighting.remove()
        parts = (
            [losses[plan.batch.group == e].mean() for e in plan.batch.group.unique()]
            if name == "mmd"
            else [losses.mean()]
        )
        ours, plain = (
            torch.autograd.grad(v, layer.weight, retain_graph=True)[0] for v in (objective, torch.stack(parts).mean())
        )
        assert torch.allclose(ours, plain, atol=1e-6)


def test_without_groups_or_training_rows_it_says_so():
    c = case(table(0.9), seed=2, n_train=300, n_held=300)
    blind, known = Rows(c.held.x, c.held.y), Rows(c.train.x, c.train.y)
    _, reports = report_rows(blind.cells, 0)
    lisa, focal = predicted(["lisa", "focal loss"], blind, known, reports, 2, 0, silent)
    assert lisa.note == rehearsing.NO_GROUPS and focal.basis == "predicted"
    (nothing,) = predicted(["focal loss"], blind, None, reports, 2, 0, silent)
    assert nothing.note == rehearsing.NO_ROWS


def test_where_remedies_are_named_nothing_is_rehearsed():
    c = case(table(0.95), seed=3, n_train=300, n_held=300)
    found = try_all(["erase"], as_rows(c.held), as_rows(c.train), c.head, 0, silent)
    assert [(r.name, r.basis) for r in found] == [("as it is", "measured"), ("erase", "measured")]


def test_rows_are_drawn_in_the_shares_of_training():
    cells = torch.tensor([0] * 500 + [1] * 500 + [3] * 100)
    counts = torch.tensor([9000, 900, 0, 100])
    drawn = cells[sample(cells, counts, 400, 0)].bincount().tolist()
    assert drawn == [360, 36, 0, 4]
    assert int(sample(cells, None, 10_000, 0).sum()) == len(cells)
    few = cells[sample(cells, torch.tensor([500, 500, 0, 1_000_000]), 4000, 0)].bincount()
    assert int(few[3]) == 100 and int(few.min()) == 0


def test_odd_features_are_taken_and_the_random_state_is_left():
    c = case(table(0.9), seed=4, n_train=200, n_held=300)
    wide = torch.cat([c.train.x, torch.ones(200, 300), torch.zeros(200, 40)], dim=1) + 1000.0
    held = torch.cat([c.held.x, torch.ones(300, 300), torch.zeros(300, 40)], dim=1) + 1000.0
    known, seen = (Rows(x.half(), b.y, b.attribute, 2) for x, b in ((wide, c.train), (held, c.held)))
    _, reports = report_rows(seen.cells, 0)
    state = torch.get_rng_state()
    one, other = (predicted(["group-dro", "mixup"], seen, known, reports, 2, 0, silent) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state) and one == other
    assert all(np.isfinite(r.worst_group) for r in one)


def test_a_class_absent_in_training_and_few_rows_are_no_error():
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 2
    known, seen = Rows(x, y, y.flip(0), 2), Rows(x, torch.arange(60) % 3, torch.arange(60) // 3 % 2, 2)
    _, reports = report_rows(seen.cells, 0)
    names = ["class weighting", "group subsampling", "group-dro", "jtt", "irm", "and-mask, all layers", "lisa"]
    found = predicted(names, seen, known, reports, 3, 0, silent)
    assert len(found) == len(names)
    assert {r.basis for r in found} <= {"predicted", "not predicted"}
