"""Experiments on Boolean data run, repeat themselves, and judge what they found."""

import math

import pytest
import torch

from firstcue.experiments import find
from firstcue.experiments.spurious import early_inference, hard_staircase, last_layer, phases, slower_core
from firstcue.experiments.spurious._lab import in_most_seeds, times
from firstcue.experiments.spurious._remedies import CONTROL, HEADS, KEYS, fresh_cues, gains
from firstcue.experiments.spurious.early_inference import f1_of_all, f1_score
from firstcue.spurious.batched import BooleanRun, Dynamics
from firstcue.spurious.boolean import boolean_data
from firstcue.spurious.functions import parity, staircase
from firstcue.spurious.two_layer import TwoLayers
from firstcue.sweeps import Trial

CELL = ["parity 2", "parity 1", 0.9, 2]
NETS = {"rate": 0.1, "batch_size": 64, "width": 32}
SETTINGS = {
    "spurious/slower-core": NETS
    | {
        "core": "parity 2",
        "noise": 2,
        "degrees": [1, 2],
        "strengths": [0.5, 0.9],
        "steps": 800,
        "every": 50,
        "held_out": 400,
    },
    "spurious/phases": NETS
    | {"core": "parity 2", "noise": 2, "strength": 0.9, "degrees": [1, 2], "steps": 800, "every": 50, "held_out": 400},
    "spurious/two-subnetworks": NETS | {"cells": [CELL], "steps": 800, "rows": 500},
    "spurious/not-forgotten": NETS | {"cells": [CELL], "steps": 800, "rows": 500},
    "spurious/last-layer": NETS | {"cells": [CELL], "at": [0, 100], "rows": 400, "method": "group-balanced"},
    "spurious/early-inference": NETS
    | {
        "noise": 2,
        "strength": 0.9,
        "rows": 600,
        "epochs": [1, 2],
        "pairs": [["parity 2", "parity 1"], ["parity 4", "parity 3"]],
        "steps": 50,
    },
    "spurious/hard-staircase": hard_staircase.SCALES["tiny"].settings
    | {"training": "erm", "rows": 600, "held_out": 300, "test": 400, "width": 8, "epochs": 2, "rates": [0.2]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_experiment_runs_repeats_itself_and_judges(name):
    (experiment,) = find(name)
    plan = [Trial(name, SETTINGS[name], seed) for seed in (0, 1)]
    if name.endswith("staircase"):
        plan += [Trial(name, {**SETTINGS[name], "training": CONTROL}, seed) for seed in (0, 1)]
    rows = [row for trial in plan for row in trial.label(experiment.run(trial))]
    again = plan[0].label(experiment.run(plan[0]))
    assert rows[: len(again)] == again
    made = experiment.claims(rows)
    assert made and all(claim.n == 2 for claim in made)
    assert len({claim.text for claim in made}) == len(made)
    figures = experiment.figures(rows)
    assert figures and all(figure.axes for figure in figures.values())


def delay_rows(ratio):
    return [
        {"seed": s, "degree": d, "strength": p, "ratio": 1.0 if p == 0.5 else ratio(d, s)}
        for s in range(5)
        for d in (1, 3)
        for p in (0.5, 0.9)
    ]


def test_delays_are_judged_by_the_interval_over_seeds():
    found = slower_core.claims(delay_rows(lambda d, s: 2.7 + 0.1 * s if d == 1 else 1.1))
    assert {claim.verdict for claim in found} == {"holds"}
    found = slower_core.claims(delay_rows(lambda d, s: 0.9 - 0.01 * s if d == 1 else 4.0 + 0.1 * s))
    assert [claim.verdict for claim in found[:3]] == ["does not hold"] * 3
    censored = delay_rows(lambda d, s: None if s == 3 else 2.7)
    assert slower_core.claims(censored)[0].verdict == "inconclusive"


def test_a_run_that_ended_too_early_has_no_time():
    curves = {
        "step": [0, 10, 20, 30],
        "spurious_correlation": [0.1, 0.995, 1.0, 0.9],
        "core_correlation": [0.0, 0.2, 0.3, 0.96],
        "decoded_core": [0.0, 0.96, 0.97, 0.98],
    }
    rows = [{"run": 0, **dict(zip(curves, row, strict=True))} for row in zip(*curves.values(), strict=True)]
    networks = TwoLayers.untrained([2], [0], 2)
    found = times(Dynamics((BooleanRun(parity(1), parity(1), 0.5),), rows, networks), 0)
    assert found == {"core_step": None, "decoded_step": 10, "peak": 1.0, "peak_step": 10, "last_step": 30}


def test_overlap_of_phases_is_what_it_says():
    row = {"decoded_step": 300, "core_step": 600, "peak_step": 450, "peak": 0.2}
    assert phases._overlaps(row)
    assert not phases._overlaps(row | {"peak_step": 100})
    assert not phases._overlaps(row | {"peak_step": 1000})
    assert not phases._overlaps(row | {"core_step": None})


@pytest.mark.parametrize(("true", "verdict"), [(3, "holds"), (2, "holds"), (1, "does not hold")])
def test_a_claim_about_most_seeds_counts_them(true, verdict):
    claim = in_most_seeds("c", [True] * true + [False] * (3 - true), published="")
    assert claim.verdict == verdict and claim.value == true / 3
    assert in_most_seeds("c", [True], published="").verdict == "inconclusive"


def test_knowing_nothing_has_the_f1_of_the_constant_guess():
    truth = torch.tensor([True] + [False] * 9)
    assert f1_score(torch.ones(10, dtype=torch.bool), truth) == pytest.approx(f1_of_all(0.1))
    assert f1_score(torch.zeros(10, dtype=torch.bool), truth) == 0


def rows_of_remedies():
    """Plain training at 0.3, the control at 0.8, and remedies in between or below."""
    names = (*KEYS, *(remedy.name for remedy in HEADS))
    return [
        {"remedy": name, "selection": selection, "needs": needs, "seed": seed, "worst_group": value + 0.01 * seed}
        for name in names
        for value in [{CONTROL: 0.8, "erm": 0.3, "jtt": 0.5}.get(name, 0.2)]
        for selection, needs in (("worst group", "groups of held-out rows"), ("worst class", "nothing"))
        for seed in range(3)
    ]


def test_every_remedy_is_trained_once_and_judged():
    assert len(set(KEYS)) == len(KEYS) and not {remedy.name for remedy in HEADS} & set(KEYS)
    rows = rows_of_remedies()
    found = hard_staircase.claims(rows)
    assert len(found) == len(KEYS) - 1 + len(HEADS)
    assert {claim.verdict for claim in found} == {"holds"}


def test_gains_are_over_plain_training_chosen_with_the_same_labels():
    found = {claim.text: claim for claim in gains(rows_of_remedies(), "none")}
    assert len(found) == 2 * (len(KEYS) - 2 + len(HEADS))
    jtt = [claim for text, claim in found.items() if text.startswith("jtt")]
    assert [claim.verdict for claim in jtt] == ["holds"] * 2 and jtt[0].value == pytest.approx(0.2)
    others = {claim.verdict for text, claim in found.items() if not text.startswith("jtt")}
    assert others == {"does not hold"}


def test_fresh_cues_say_nothing_of_the_label_and_keep_the_core():
    batch = boolean_data(parity(3), staircase(4, ties="plus"), 0.95, 20_000)
    fresh = fresh_cues(batch, seed=1)
    assert torch.equal(fresh.x[:, :3], batch.x[:, :3]) and torch.equal(fresh.y, batch.y)
    assert torch.equal(2 * fresh.attribute - 1, staircase(4, ties="plus")(fresh.x[:, 3:]).long())
    assert abs(float((fresh.y == fresh.attribute).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(20_000)


def test_the_step_that_is_claimed_is_where_the_network_still_fails():
    cell = {"core": "parity 4", "cue": "parity 2", "strength": 0.9, "noise": 4}
    rows = [
        {"seed": seed, **cell, "step": step, "worst_before": before, "worst_after": after}
        for seed in range(3)
        for step, before, after in ((0, 0.0, 0.6), (1000, 0.05, 0.99 + 0.001 * seed), (4000, 0.99, 1.0))
    ]
    found = last_layer.claims(rows)
    assert all("step 1000" in claim.text for claim in found)
    assert {claim.verdict for claim in found} == {"holds"}
    assert len(found) == 4


def test_inference_is_judged_at_its_best_epoch():
    rows = [
        {
            "seed": s,
            "pair": "a / b",
            "hard": False,
            "epoch": e,
            "method": m,
            "f1": 0.97 + 0.001 * s if e == 2 else 0.1,
            "chance": 0.18,
        }
        for s in range(4)
        for e in (1, 2)
        for m in early_inference.METHODS
    ]
    assert {claim.verdict for claim in early_inference.claims(rows)} == {"holds"}
    assert {c.verdict for c in early_inference.claims([r | {"hard": True} for r in rows])} == {"does not hold"}
