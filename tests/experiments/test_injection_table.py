"""What edits write into data: the lattice on which it is plain, and the claims about it."""

import pytest
import torch

from firstcue.experiments.erasure.injection import METHODS, SCALES, claims, figures, lattice, run, trials
from firstcue.sweeps import Trial


def test_the_lattice_is_one_and_its_label_follows_it():
    x, z = lattice(4000, 4, seed=0)
    assert torch.equal(2 * x[:, 0], (2 * x[:, 0]).round())
    assert float(z[x[:, 0] > 0].double().mean()) > 0.7
    assert float(z[x[:, 1] > 0].double().mean()) == pytest.approx(0.5, abs=0.05)


def test_label_dependent_edits_write_the_label_into_the_lattice_and_label_free_ones_do_not():
    rows = []
    for seed in range(2):
        trial = Trial("erasure/injection", {"data": "lattice", "size": 4, "rows": 1500}, seed)
        rows += trial.label(run(trial))
    assert {row["method"] for row in rows} == {"raw", *METHODS}
    mean = {m: sum(r["strong"] for r in rows if r["method"] == m) / 2 for m in ("raw", *METHODS)}
    assert mean["oracle"] > 0.93 and mean["qleace"] > 0.9
    assert mean["raw"] == pytest.approx(0.75, abs=0.05)
    assert mean["leace"] < 0.6 and mean["free-form"] < mean["raw"] + 0.02
    assert all(abs(r["linear"] - r["baseline"]) < 0.06 for r in rows if r["method"] in ("leace", "oracle", "qleace"))

    verdicts = {claim.text: claim.verdict for claim in claims(rows)}
    assert len(verdicts) == len(METHODS)
    assert set(figures(rows)) == {"accuracy"}


def test_the_same_trial_gives_the_same_rows():
    trial = Trial("erasure/injection", {"data": "lattice", "size": 4, "rows": 300}, 3)
    assert run(trial) == run(trial)


@pytest.mark.parametrize("scale", SCALES)
def test_every_seed_has_its_trial(scale):
    found = trials(scale, 2)
    assert len(set(found)) == len(found)
    assert {trial.seed for trial in found} == {0, 1}
