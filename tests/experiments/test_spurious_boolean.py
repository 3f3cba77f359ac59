"""Experiments on Boolean data run, repeat themselves, and judge what they found."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from firstcue.experiments import find
from firstcue.experiments.spurious import early_inference, hard_staircase, last_layer, phases, slower_core
from firstcue.experiments.spurious._inference import (
    _two_means,
    error_set,
    f1_of_all,
    f1_score,
    opposed_environments,
    output_clusters,
)
from firstcue.experiments.spurious._lab import in_most_seeds, times
from firstcue.experiments.spurious._remedies import REMEDIES, TRAININGS, fresh_cues, worst_class, worst_group
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
    | {"training": "plain", "rows": 1000, "held_out": 1000, "test": 1000, "width": 16, "epochs": 2, "rates": [0.2]},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_an_experiment_runs_repeats_itself_and_judges(name):
    (experiment,) = find(name)
    plan = [Trial(name, SETTINGS[name], seed) for seed in (0, 1)]
    if name.endswith("staircase"):
        plan += [Trial(name, {**SETTINGS[name], "training": "fresh cues"}, seed) for seed in (0, 1)]
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


def spurious_reference(seed, n=2000):
    """Outputs that follow the shortcut only, and who goes against it."""
    batch = boolean_data(parity(3), parity(1), 0.9, n, seed=seed)
    noise = 0.2 * torch.randn(n, generator=torch.Generator().manual_seed(seed))
    return 3.0 * (2 * batch.attribute - 1) + noise, batch.y, batch.y != batch.attribute


@pytest.mark.parametrize("method", [error_set, output_clusters, opposed_environments])
@pytest.mark.parametrize("seed", range(3))
def test_a_reference_that_knows_only_the_shortcut_gives_the_groups_away(method, seed):
    output, y, minority = spurious_reference(seed)
    assert f1_score(method(output, y), minority) >= 0.95


@pytest.mark.parametrize("method", [output_clusters, opposed_environments])
def test_a_reference_that_knows_nothing_tells_nothing(method):
    _, y, minority = spurious_reference(0)
    noise = torch.randn(len(y), generator=torch.Generator().manual_seed(5))
    assert f1_score(method(noise, y), minority) < f1_of_all(0.1) + 0.1


def test_the_derivative_in_the_scale_is_that_of_autograd():
    output, y, _ = spurious_reference(1, 50)
    output, sign = output.double(), 2.0 * y - 1
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    slow = torch.stack(
        [
            torch.autograd.grad(torch.nn.functional.softplus(-s * scale * o), scale)[0]
            for o, s in zip(output, sign, strict=True)
        ]
    )
    torch.testing.assert_close(-sign * output * torch.sigmoid(-sign * output), slow)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
@settings(max_examples=60, deadline=None)
def test_two_means_leave_the_least_spread(values):
    x = torch.tensor(values, dtype=torch.float64)

    def spread(side):
        parts = [x[side], x[~side]]
        return sum(float((p - p.mean()).square().sum()) for p in parts if len(p))

    cuts = [x > v for v in x]
    assert spread(_two_means(x)) <= min(map(spread, cuts)) + 1e-6 * (1 + float(x.square().sum()))


def test_knowing_nothing_has_the_f1_of_the_constant_guess():
    truth = torch.tensor([True] + [False] * 9)
    assert f1_score(torch.ones(10, dtype=torch.bool), truth) == pytest.approx(f1_of_all(0.1))
    assert f1_score(torch.zeros(10, dtype=torch.bool), truth) == 0


def test_every_remedy_starts_from_a_training_and_is_run_once():
    assert {remedy.training for remedy in REMEDIES.values()} == set(TRAININGS)
    rows = []
    for training in TRAININGS:
        for name in (n for n, r in REMEDIES.items() if r.training == training):
            rows += [{"remedy": name, "seed": s, "worst_group": 0.3 + 0.01 * s} for s in range(3)]
    for row in rows:
        if row["remedy"].startswith("control"):
            row["worst_group"] += 0.5
    found = hard_staircase.claims(rows)
    assert len(found) == len(REMEDIES) - 1
    assert {claim.verdict for claim in found} == {"holds"}


def test_fresh_cues_say_nothing_of_the_label_and_keep_the_core():
    batch = boolean_data(parity(3), staircase(4, ties="plus"), 0.95, 20_000)
    fresh = fresh_cues(batch, seed=1)
    assert torch.equal(fresh.x[:, :3], batch.x[:, :3]) and torch.equal(fresh.y, batch.y)
    assert torch.equal(2 * fresh.attribute - 1, staircase(4, ties="plus")(fresh.x[:, 3:]).long())
    assert abs(float((fresh.y == fresh.attribute).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(20_000)


def test_scores_to_select_by_see_groups_or_classes():
    batch = boolean_data(parity(1), parity(1), 0.9, 1000)
    follows_the_cue = batch.attribute
    assert worst_group(follows_the_cue, batch) == 0
    assert 0.8 < worst_class(follows_the_cue, batch) < 0.95


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
