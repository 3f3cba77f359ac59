"""Networks on surrogate data: the rows an experiment gives, and what it makes of planted curves."""

import pytest

from firstcue.experiments.erasure.surrogate_curves import EDITED, MADE, SCALES, claims, figures, run, trials
from firstcue.sweeps import Trial

SMALL = {
    "data": "builtin:digits", "side": 8, "rows": 400, "held_out": 200, "steps": 16, "batch": 32,
    "net": "mlp", "rate": 1e-3, "width": 16, "depth": 1,
}  # fmt: skip


def curve(surrogate, accuracies, seed):
    steps = (0, 1, 2, 4, 8)
    base = {"data": "planted", "net": "mlp", "seed": seed, "surrogate": surrogate}
    return [base | {"step": s, "accuracy": a} for s, a in zip(steps, accuracies, strict=True)]


def planted(maxent, gaussian, shift, seeds=3):
    """Curves that differ between seeds by little."""
    real = (0.1, 0.2, 0.5, 0.7, 0.9)
    rows = []
    for seed in range(seeds):
        for name, values in (("real", real), ("maxent", maxent), ("gaussian", gaussian), ("shift", shift)):
            rows += curve(
                name, [v + 0.001 * seed * i for i, v in enumerate(values)] if name != "real" else values, seed
            )
    return rows


def test_a_trial_gives_every_surrogate_at_every_power_of_two_and_again_the_same():
    trial = Trial("erasure/surrogate-curves", SMALL, seed=1)
    rows = run(trial)
    assert {row["step"] for row in rows} == {0, 1, 2, 4, 8, 16}
    assert {row["surrogate"] for row in rows} == {"real", *MADE, *EDITED}
    assert len(rows) == 6 * 7
    assert all(0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1 for row in rows)
    assert rows == run(trial)
    labelled = trial.label(rows) + Trial("erasure/surrogate-curves", SMALL, seed=2).label(rows)
    assert len(claims(labelled)) == 5
    assert set(figures(labelled)) == {"curves"}


def test_curves_that_rise_early_and_fall_uphold_every_claim():
    verdicts = [
        claim.verdict
        for claim in claims(planted((0.1, 0.6, 0.9, 0.7, 0.5), (0.1, 0.2, 0.5, 0.9, 0.8), (0.1, 0.5, 0.6, 0.5, 0.2)))
    ]
    assert verdicts == ["holds"] * 5


def test_curves_that_follow_the_real_one_refute_them():
    late = (0.1, 0.1, 0.2, 0.6, 0.95)
    verdicts = [claim.verdict for claim in claims(planted(late, (0.1, 0.5, 0.4, 0.5, 0.9), late))]
    assert verdicts[0] == "does not hold"
    assert verdicts[1] == "does not hold"
    assert verdicts[4] == "does not hold"


@pytest.mark.parametrize("scale", SCALES)
def test_every_seed_has_its_trial(scale):
    found = trials(scale, 3)
    assert len(set(found)) == len(found)
    assert {trial.seed for trial in found} == {0, 1, 2}
