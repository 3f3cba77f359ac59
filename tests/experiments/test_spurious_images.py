"""Experiments on real images and tables: they run at a size of seconds, repeat themselves, and judge what they say."""

from dataclasses import replace

import pytest

from firstcue.experiments.spurious import easy_and_hard_cues, tables
from firstcue.sweeps import Trial

LITTLE = {"rows": 600, "held_out": 200, "test": 200, "epochs": 2, "hidden": 16}


def test_learning_curves_hold_what_is_used_readable_and_possible():
    trial = easy_and_hard_cues.trials("tiny", 1)[0]
    trial = replace(trial, settings={**trial.settings, **LITTLE})

    rows = easy_and_hard_cues.run(trial)

    assert [row["step"] for row in rows][:2] == [0, 1] and [row["end"] for row in rows].count(True) == 1
    assert all(
        -1 <= row[name] <= 1 for row in rows for name in ("core", "spurious", "decoded_core", "capacity_spurious")
    )
    assert 0 <= rows[-1]["repaired"] <= 1


def cued(strength: float, cue: str, seed: int) -> dict:
    hurt = 0.5 * (strength > 0.9) * (1 if cue == easy_and_hard_cues.EASY else 0.5)
    return {
        "garments": "pullover, coat", "cue": cue, "strength": strength, "seed": seed, "end": True, "step": 9,
        "worst": 0.8 - hurt + 0.001 * seed, "repaired": 0.75, "core": 0.7 - hurt, "decoded_core": 0.7 + 0.001 * seed,
        "spurious": 0.0, "decoded_spurious": 0.9 + 0.001 * seed, "capacity_core": 0.3, "capacity_spurious": 0.8,
    }  # fmt: skip


def test_claims_about_cues_follow_from_their_rows_and_are_drawn():
    cues = (easy_and_hard_cues.EASY, easy_and_hard_cues.HARD)
    rows = [cued(strength, cue, seed) for strength in (0.5, 0.95) for cue in cues for seed in range(3)]

    found = easy_and_hard_cues.claims(rows)

    assert [claim.verdict for claim in found] == ["holds"] * 5
    assert found[1].value == pytest.approx(0.25, abs=0.01)
    assert len(easy_and_hard_cues.figures(rows)["learning-curves"].axes) == 2


def test_tables_are_resampled_without_sharing_a_row():
    trial = tables.trials("tiny", 1)[0]
    train, held_out, test = tables._split(tables._table("breast-cancer"), trial.settings, 3)

    ids = [set(part.index.tolist()) for part in (train, held_out, test)]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
    counts = sorted(train.groups().bincount().tolist())
    assert counts == [5, 5, 45, 45] and test.groups().bincount().tolist() == [20] * 4


def test_the_experiment_on_tables_repeats_itself_and_judges():
    trial = Trial("spurious/tables", {**tables.SCALES["tiny"].settings, "epochs": 3}, 0)
    rows = tables.run(trial)

    assert rows == tables.run(trial) and [row["method"] for row in rows] == [
        tables.PLAIN,
        tables.SAMPLED,
        tables.RETRAINED,
    ]
    rows = [{**trial.settings, "seed": seed, **row} for seed in range(2) for row in rows]
    assert len(tables.claims(rows)) == 3 and set(tables.figures(rows)) == {"accuracy"}
