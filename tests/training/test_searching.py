"""Every remedy trains, chooses its own rate and epoch, says which labels it needs, and fails in words."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from firstcue.batch import Batch
from firstcue.data import garment_dominoes
from firstcue.forward import NotFinite, predict, seeded
from firstcue.training.remedies import (
    HELD_OUT_GROUPS,
    TRAINING_GROUPS,
    TRAININGS,
    Plan,
    TrainingRemedy,
    find,
    groups_of,
)
from firstcue.training.searching import finish, search, train_with
from firstcue.training.weighting import group_dro

WHOLE = [name for name, remedy in TRAININGS.items() if not remedy.head]
DRAWING = ["erm", "group sampling", "group subsampling", "lff", "eiil", "spare", "george", "mixup", "lisa"]
"""Those that draw something at random beside the order of rows, and plain training."""


def rows(n=500, strength=0.9, seed=0):
    """A hard core, an easy cue that agrees with the label in most rows, and noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (n,), generator=generator)
    cue = torch.where(torch.rand(n, generator=generator) < strength, y, 1 - y)
    x = torch.randn(n, 6, generator=generator)
    x[:, 0] += 2.0 * y - 1
    x[:, 1] = 3 * (2.0 * cue - 1) + 0.3 * x[:, 1]
    return Batch(x, y, attribute=cue, classes=("a", "b"), values=("0", "1"))


def network(seed):
    with seeded(seed):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


TRAIN, HELD, TEST = rows(), rows(300, 0.5, seed=1), rows(2000, 0.5, seed=2)


def worst(model, batch=TEST):
    right, groups = predict(model, batch.x).argmax(1) == batch.y, batch.groups()
    return min(float(right[groups == g].double().mean()) for g in groups.unique())


@pytest.fixture(scope="module")
def results():
    """Every remedy once, at two rates, with the CPU time of each."""
    found = {}
    for name in WHOLE:
        began = time.process_time()
        trained = train_with(name, network, TRAIN, HELD, rates=(0.01, 0.05), epochs=1)
        found[name] = trained, time.process_time() - began
    return found


@pytest.mark.parametrize("name", WHOLE)
def test_a_remedy_trains_quickly_and_says_how_it_was_chosen(results, name):
    trained, seconds = results[name]
    assert seconds < 2 * 2  # two seconds a training of 500 rows
    assert trained.remedy == name and trained.rate in (0.01, 0.05) and trained.epoch == 1
    assert [len(attempt.scores) for attempt in trained.tried] == [1, 1]
    assert trained.score == max(score for attempt in trained.tried for score in attempt.scores)
    assert trained.score == pytest.approx(worst(trained.model, HELD))
    assert trained.needs == tuple(dict.fromkeys((*find(name).needs, HELD_OUT_GROUPS)))
    assert not any(module._forward_pre_hooks for module in trained.model.modules())


@pytest.mark.parametrize("name", DRAWING)
def test_a_seed_gives_one_network_and_the_global_random_state_is_left(results, name):
    state, of_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    again = train_with(name, network, TRAIN, HELD, rates=(0.01, 0.05), epochs=1)
    for one, other in zip(again.model.parameters(), results[name][0].model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], of_numpy)  # noqa: NPY002


@pytest.mark.parametrize(
    "name", ["group sampling", "group weighting", "group-dro", "jtt", "eiil", "george", "last-layer"]
)
def test_remedies_that_know_or_find_the_groups_serve_the_worst_one(results, name):
    plain = worst(results["erm"][0].model)
    trained = train_with(name, network, TRAIN, HELD, rates=(0.05,), epochs=3)
    assert worst(trained.model) > plain + 0.05


@pytest.mark.parametrize("name", WHOLE)
def test_whatever_diverges_is_refused_with_its_name_and_rate(name):
    with pytest.raises(NotFinite, match=rf"{name} at learning rate 1e\+18"):
        train_with(name, network, TRAIN, HELD, rates=(1e18,), epochs=2)


def test_group_dro_on_rows_as_they_come_diverges_on_images_at_a_usual_rate_and_says_so():
    raw, held = garment_dominoes(0.95, "train"), garment_dominoes(0.95, "held-out")
    centre, spread = raw.x.mean(0), raw.x.std(0) + 0.1
    data, held = (replace(b, x=((b.x - centre) / spread).flatten(1), edit=None) for b in (raw, held))

    def wide(seed):
        with seeded(seed):
            return nn.Sequential(nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 2))

    remedy = TrainingRemedy(
        "group-dro, unbalanced",
        lambda s: Plan(replace(s.batch, group=groups_of(s.batch)), weighting=group_dro(0.01)),
        (TRAINING_GROUPS,),
    )
    found = train_with(remedy, wide, data, held, rates=(0.05, 0.002), epochs=8)
    assert found.rate == 0.002 and "diverged at learning rate 0.05" in found.note
    assert found.tried[0].failure.startswith("group-dro, unbalanced at learning rate 0.05: the loss is")
    assert not found.tried[1].failure
    assert found.score > 0.6


@pytest.mark.parametrize("selection", ["worst group", "worst class", "average", "last"])
def test_learning_from_failure_works_with_every_selection(selection):
    rates = (0.02,) if selection == "last" else (0.02, 0.05)
    trained = train_with("lff", network, TRAIN, HELD, selection=selection, rates=rates, epochs=3)
    assert trained.selection == selection
    assert (trained.epoch == 3 and trained.score is None) if selection == "last" else 0 <= trained.score <= 1
    assert (HELD_OUT_GROUPS in trained.needs) == (selection == "worst group")


def test_selections_measure_what_they_are_called():
    model = network(0)
    found = search(
        find("erm"),
        lambda seed: model,
        TRAIN,
        HELD,
        selections=("worst group", "worst class", "average"),
        rates=(1e-9,),
        epochs=1,
    )
    right = predict(model, HELD.x).argmax(1) == HELD.y
    assert found.kept["average"].score == pytest.approx(float(right.double().mean()))
    by_class = min(float(right[HELD.y == c].double().mean()) for c in (0, 1))
    assert found.kept["worst class"].score == pytest.approx(by_class)
    assert found.kept["worst group"].score == pytest.approx(worst(model, HELD))


def test_the_kept_state_is_that_of_the_best_epoch():
    whole = train_with("erm", network, TRAIN, HELD, rates=(0.05,), epochs=6)
    shorter = train_with("erm", network, TRAIN, HELD, rates=(0.05,), epochs=whole.epoch)
    assert whole.epoch == max(range(6), key=lambda e: (whole.tried[0].scores[e], -e)) + 1
    for one, other in zip(whole.model.parameters(), shorter.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "name", ["last-layer", "last-layer on training rows", "last-layer, class-balanced", "last-layer, disagreement"]
)
def test_a_new_head_leaves_the_body_as_it_was_trained(name):
    remedy = TRAININGS[name]
    found = search(remedy, network, TRAIN, HELD, selections=("average",), rates=(0.05,), epochs=4)
    kept = replace(found.kept["average"], epoch=4)
    model = finish(remedy, kept, network, TRAIN, HELD)
    assert_close(model[0].weight.detach(), kept.state["0.weight"])
    assert not torch.equal(model[2].weight.detach(), kept.state["2.weight"])


def test_disagreement_needs_an_earlier_network_than_the_one_chosen():
    with pytest.raises(ValueError, match="the first epoch was chosen"):
        train_with("last-layer, disagreement", network, TRAIN, HELD, rates=(0.05,), epochs=1)


# what the rows lack ----------------------------------------------------------------------------------------------------

UNKNOWN = replace(TRAIN, attribute=None, values=())


@pytest.mark.parametrize("name", [name for name in WHOLE if TRAINING_GROUPS in TRAININGS[name].needs])
def test_a_remedy_without_the_groups_it_needs_is_refused_with_those_that_need_none(name):
    with pytest.raises(
        ValueError, match=r"needs groups of the training rows.*Without group labels there are: .*jtt, lff"
    ):
        train_with(name, network, UNKNOWN, HELD)


@pytest.mark.parametrize("name", [name for name in WHOLE if not TRAININGS[name].needs])
def test_a_remedy_that_needs_no_groups_uses_none(name):
    blind = train_with(
        name,
        network,
        UNKNOWN,
        replace(HELD, attribute=None, values=()),
        selection="worst class",
        rates=(0.02,),
        epochs=1,
    )
    seeing = train_with(name, network, TRAIN, HELD, selection="worst class", rates=(0.02,), epochs=1)
    assert blind.needs == ()
    for one, other in zip(blind.model.parameters(), seeing.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_groups_may_be_given_as_such():
    given = Batch(TRAIN.x, TRAIN.y, group=TRAIN.groups())
    a, b = (train_with("group-dro", network, d, HELD, rates=(0.02,), epochs=1) for d in (TRAIN, given))
    for one, other in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_group_without_held_out_rows_is_named():
    part = HELD.rows(~((HELD.y == 1) & (HELD.attribute == 0)))
    trained = train_with("group-dro", network, TRAIN, part, rates=(0.02,), epochs=1)
    assert "no held-out row: class 1 with attribute 0" in trained.note


def test_an_empty_group_changes_nothing_for_the_others():
    full = replace(TRAIN, values=("0", "never", "1"), attribute=2 * TRAIN.attribute)
    a, b = (
        train_with(
            "group-dro",
            network,
            d,
            replace(HELD, attribute=None, group=None),
            selection="average",
            rates=(0.02,),
            epochs=1,
        )
        for d in (TRAIN, full)
    )
    for one, other in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert_close(one, other)


def test_a_thousand_groups_train():
    many = Batch(TRAIN.x.repeat(4, 1), TRAIN.y.repeat(4), group=torch.arange(2000) % 1000)
    for name in ("group-dro", "group weighting", "group sampling", "vrex"):
        trained = train_with(name, network, many, HELD, rates=(0.01,), epochs=1, selection="average")
        assert math.isfinite(trained.score)


def test_overlapping_groups_are_refused_with_the_way_out():
    overlapping = Batch(TRAIN.x, TRAIN.y, group=torch.ones(len(TRAIN), 2).long())
    with pytest.raises(ValueError, match="giving each combination an id"):
        train_with("group-dro", network, overlapping, HELD, rates=(0.01,), epochs=1)


@pytest.mark.parametrize(
    ("options", "held", "message"),
    [
        ({"selection": "last"}, HELD, "chooses no learning rate"),
        ({}, None, "needs `held_out` rows"),
        ({}, Batch(HELD.x, HELD.y), 'choose by "worst class"'),
        ({"rates": ()}, HELD, "at least one positive rate"),
        ({"rates": (0.0,)}, HELD, "at least one positive rate"),
        ({"epochs": 0}, HELD, "one epoch"),
    ],
    ids=["last", "no rows", "no groups", "no rates", "rate of zero", "no epochs"],
)
def test_what_cannot_choose_is_refused(options, held, message):
    with pytest.raises(ValueError, match=message):
        train_with("erm", network, TRAIN, held, **options)


def test_a_remedy_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match="no remedy is called 'magic'; remedies: erm, class sampling"):
        train_with("magic", network, TRAIN, HELD)
    with pytest.raises(ValueError, match="fits a head to held-out rows"):
        train_with("last-layer", network, TRAIN, selection="last", rates=(0.01,), epochs=1)
