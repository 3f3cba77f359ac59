"""Experiments on simplified training: small runs say what they should, and claims judge what they are given."""

import math

import pytest
import torch

from firstcue.experiments.simplicity import bits_curves, distractor_removal, retraining, task_swap
from firstcue.experiments.simplicity._beds import bed, sized, source
from firstcue.sweeps import Trial

MODULES = (distractor_removal, task_swap, bits_curves, retraining)
TINY = {
    "core": "digits", "size": 8, "train_rows": 60, "test_rows": 30, "channels": 2, "width": 2,
    "warmup": 4, "steps": 4, "retrain_steps": 4, "density": "dct",
}  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.split(".")[-1])
def test_every_scale_plans_each_seed_once(module):
    for scale in module.SCALES:
        planned = module.trials(scale, 3)
        assert len({repr(t) for t in planned}) == len(planned) and {t.seed for t in planned} == {0, 1, 2}
        assert all(t.experiment.startswith("simplicity/") for t in planned)


def rows_of(module, changes, seeds=2):
    settings = {**module.SCALES["tiny"].settings, **TINY, **changes}
    return [
        trial.label(module.run(trial)) for trial in (Trial("simplicity/x", settings, seed) for seed in range(seeds))
    ]


@pytest.mark.filterwarnings("ignore:the gate is stuck")
def test_a_striped_bed_is_run_judged_and_drawn():
    rows = [row for task in ("core", "distractor") for part in rows_of(task_swap, {"task": task}) for row in part]
    assert all(
        math.isfinite(row[name]) for row in rows for name in ("ratio_after", "accuracy_simplified", "bits_after")
    )
    assert [row["needed_before"] for row in rows] == pytest.approx([0.7, 0.7, 0.3, 0.3], abs=0.02)
    assert len(task_swap.claims(rows)) == 3 and "stripes" in task_swap.figures(rows)


def test_curves_and_retraining_are_run_judged_and_drawn():
    ways = [(bits_curves.OURS, 0.0), (bits_curves.OURS, 1.0), ("blur", 0.0), ("blur", 9.0), ("jpeg", 20)]
    curves = [
        row
        for way, strength in ways
        for part in rows_of(bits_curves, {"way": way, "strength": strength})
        for row in part
    ]
    assert len(bits_curves.claims(curves)) == 4 and "curves" in bits_curves.figures(curves)
    networks = [row for part in rows_of(retraining, {"strategy": "act_grad"}) for row in part]
    assert {row["network"] for row in networks} == {"joint", "retrained", "originals"}
    assert len(retraining.claims(networks)) == 8 and "networks" in retraining.figures(networks)


def removed(task, seed, ratio, accuracy=0.9):
    return {
        "density": "dct", "task": task, "seed": seed, "accuracy_simplified": accuracy, "accuracy_reference": 0.9,
        "bits_before": 6.0, "bits_after": 4.0, "ratio_before": 1.0, "ratio_after": ratio + 0.001 * seed,
        "bits_needed_alone": 5.0, "bits_other_alone": 4.9, "needed_before": 0.5, "needed_after": 0.5,
        "other_before": 0.5, "other_after": 0.5 * ratio,
    }  # fmt: skip


def verdicts(core, swapped, **more):
    rows = [removed("core", seed, core, **more) for seed in range(3)]
    rows += [removed("distractor", seed, swapped, **more) for seed in range(3)]
    assert "parts" in distractor_removal.figures(rows)
    return [claim.verdict for claim in distractor_removal.claims(rows)]


def test_a_distractor_that_goes_under_both_labellings_holds_the_claims():
    assert verdicts(0.2, 0.3) == ["holds"] * 7


def test_a_density_that_takes_the_same_part_whatever_the_labels_is_found_out():
    found = verdicts(0.2, 5.2)
    assert found[2] == "holds" and found[5] == "does not hold" and found[6] == "does not hold"


def test_lost_accuracy_is_said():
    assert verdicts(0.2, 0.3, accuracy=0.7)[0] == "does not hold"


def test_images_to_learn_from_and_to_test_on_are_other_images():
    learn, _ = source("digits", "train", 1257, 8, 0)
    test, _ = source("digits", "test", 540, 8, 0)
    seen = {tuple(row) for row in learn.flatten(1).tolist()}
    assert not any(tuple(row) in seen for row in test.flatten(1).tolist())
    assert learn.min() == 0 and learn.max() == 1
    assert sized(torch.rand(2, 1, 28, 28), 14).shape == sized(torch.rand(2, 1, 8, 8), 14).shape == (2, 1, 14, 14)


def test_a_swapped_bed_has_the_same_images_and_the_other_labels():
    s = {**TINY, "kind": "stripes", "strength": 0.3, "task": "core"}
    first, swapped = bed(s, "train", 0), bed({**s, "task": "distractor"}, "train", 0)
    assert torch.equal(first.images, swapped.images) and torch.equal(first.other_labels, swapped.labels)
