"""`fix` with remedies that train again: what reports chose nothing, and what is missing is said."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from firstcue.auditing.anew import with_fresh_weights
from firstcue.auditing.fixing import fix
from firstcue.auditing.remedies import applicable, find, report_rows
from firstcue.batch import Batch
from firstcue.forward import predict, seeded
from firstcue.training.remedies import HELD_OUT_GROUPS, TRAINING_GROUPS

QUICK = {"rates": (0.02,), "epochs": 2}


def rows(n=600, strength=0.9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=generator)
    cue = torch.where(torch.rand(n, generator=generator) < strength, y, 1 - y)
    x = torch.randn(n, 4, generator=generator)
    x[:, 0] += 2.0 * y - 1
    x[:, 1] = 3 * (2.0 * cue - 1) + 0.3 * x[:, 1]
    return Batch(x, y, attribute=cue, classes=("a", "b"), values=("0", "1"))


def network():
    with seeded(0):
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))


TRAIN, HELD = rows(), rows(500, 0.5, seed=1)


def test_the_rows_that_report_choose_nothing_and_the_model_is_left():
    model = network()
    before = copy.deepcopy(model.state_dict())
    fixed = fix(model, TRAIN, "group-dro", HELD, **QUICK)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    _, reports = report_rows(HELD.groups(), 0)
    told = HELD.rows(reports)
    right = predict(fixed.model, told.x).argmax(1) == told.y
    assert fixed.after.overall.accuracy == pytest.approx(float(right.double().mean()))
    assert fixed.before.overall.n == fixed.after.overall.n == int(reports.sum()) == 300
    chooses = HELD.rows(~reports)
    right = predict(fixed.model, chooses.x).argmax(1) == chooses.y
    worst = min(float(right[chooses.groups() == g].double().mean()) for g in range(4))
    assert max(fixed.changes["tried"][0]["scores"]) == pytest.approx(worst)
    assert fixed.needs == (TRAINING_GROUPS, HELD_OUT_GROUPS)


def test_without_an_attribute_classes_choose_and_no_group_label_is_used():
    fixed = fix(network(), replace(TRAIN, attribute=None), "jtt", replace(HELD, attribute=None), **QUICK)
    assert fixed.needs == () and fixed.changes["selection"] == "worst class" and fixed.changes["cue"] is None


def test_a_seed_gives_one_repair_and_the_random_state_is_left():
    state = torch.get_rng_state()
    one, other = (fix(network(), TRAIN, "lff", HELD, **QUICK) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_may_go_on_from_the_weights_as_they_are():
    model = network()
    still = fix(model, TRAIN, "erm", HELD, network=lambda: copy.deepcopy(model), rates=(1e-12,), epochs=1)
    fresh = fix(model, TRAIN, "erm", HELD, rates=(1e-12,), epochs=1, seed=1)
    assert torch.allclose(still.model[0].weight, model[0].weight)
    assert not torch.allclose(fresh.model[0].weight, model[0].weight)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        return self.scale * self.inner(x)


class OneLogit(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 1)

    def forward(self, x):
        return self.inner(x)


def test_fresh_weights_also_reset_running_statistics():
    model = network()
    model(torch.randn(64, 4) + 5)
    fresh = with_fresh_weights(model)
    assert float(fresh[1].running_mean.abs().max()) == 0 and not torch.equal(fresh[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fix(Scaled(), TRAIN, "jtt", HELD),
            r"Scaled \(the model\) has parameters and no `reset_parameters`; give network=",
        ),
        (lambda: fix(OneLogit(), TRAIN, "jtt", HELD), "needs logits of every class"),
        (
            lambda: fix(network(), replace(TRAIN, attribute=None), "irm", replace(HELD, attribute=None)),
            "needs groups of the training rows",
        ),
        (
            lambda: fix(network(), TRAIN, "last-layer, disagreement", HELD),
            "compares the model with an earlier checkpoint",
        ),
        (lambda: fix(network(), TRAIN, "magic", HELD), "no remedy is called 'magic'; remedies: as it is, last-layer"),
        (lambda: fix(network(), TRAIN, "jtt", HELD, selection="last"), "chooses no learning rate"),
        (lambda: find("jtt"), "trains the whole network again, which an audit does not do"),
    ],
    ids=["no reset", "one logit", "no groups", "no checkpoint", "unknown", "last", "in an audit"],
)
def test_what_is_missing_is_said_with_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_disagreement_finetunes_the_head_with_an_earlier_checkpoint():
    model, early = network(), network()
    with torch.no_grad():
        early[4].weight.neg_()
    fixed = fix(model, TRAIN, "last-layer, disagreement", HELD, early=early)
    assert fixed.needs == () and torch.equal(fixed.model[0].weight, model[0].weight)
    assert not torch.equal(fixed.model[4].weight, model[4].weight)


def test_an_audit_leaves_out_what_needs_a_checkpoint_unless_it_is_named():
    from firstcue.auditing.head_fits import Rows

    held = Rows(HELD.x, HELD.y, HELD.attribute, 2)
    assert "last-layer, disagreement" not in [m.name for m in applicable(held, held, None)]
