"""The verdict on cases whose answer is known: 200 of each kind, judged by Wilson's bounds.

Two routes are judged apart: with an edit of the input, and with erasure alone. `firstcue` must not accuse a cue that is
absent, unused, or only found on rows that are harder; it should find what was planted.
"""

import numpy as np
import pytest
import torch
from planted import case, table

from firstcue.probes import held_out_accuracy
from firstcue.spurious.metrics import wilson

N = 200
HARDER = np.array([[False, True], [True, False]])

INNOCENT = {
    "clean": lambda seed: case(table(0.5), seed=seed),
    "encoded but unused, associated": lambda seed: case(table(0.9), seed=seed, uses=False),
    "encoded but unused, independent": lambda seed: case(table(0.5), seed=seed, uses=False),
    "harder conflicting rows": lambda seed: case(table(0.9), seed=seed, uses=False, harder=HARDER),
    "commonest value the same in both classes, unused": lambda seed: case(
        np.array([[0.9, 0.1], [0.6, 0.4]]), seed=seed, uses=False
    ),
    "two classes, ten values, unused": lambda seed: case(table(0.9, 2, 10), seed=seed, uses=False, n_held=3000),
    "random attribute": lambda seed: random_attribute(seed),
}

PLANTED = {
    "strength .7": lambda seed: case(table(0.7), seed=seed),
    "strength .8": lambda seed: case(table(0.8), seed=seed),
    "strength .95": lambda seed: case(table(0.95), seed=seed),
    "strength .98": lambda seed: case(table(0.98), seed=seed),
    "three classes, three values": lambda seed: case(table(0.8, 3, 3), seed=seed),
    "two classes, ten values": lambda seed: case(table(0.9, 2, 10), seed=seed, n_held=3000),
    "commonest value the same in both classes": lambda seed: case(np.array([[0.9, 0.1], [0.6, 0.4]]), seed=seed),
    "unequal cells": lambda seed: case(table(0.9), table(0.8), seed=seed),
}


def random_attribute(seed):
    """A head that leans on one cue, audited for another that is noise."""
    from dataclasses import replace

    c = case(table(0.95), seed=seed)
    generator = torch.Generator().manual_seed(seed)

    def noise(batch):
        return replace(batch, attribute=torch.randint(2, (len(batch),), generator=generator), cue="noise")

    return replace(c, train=noise(c.train), held=noise(c.held))


def statuses(make, *, edit, n=N):
    return [make(seed).finding(edit=edit, seed=seed).status for seed in range(n)]


def test_the_unused_cases_do_encode_their_cue_and_do_not_rely_on_it():
    for seed in range(3):
        c = INNOCENT["encoded but unused, associated"](seed)
        assert held_out_accuracy("linear", c.held.x, c.held.attribute, seed=seed).accuracy > 0.9
        assert abs(c.finding(edit=True).relies.value) < 0.05


@pytest.mark.parametrize("kind", INNOCENT)
@pytest.mark.parametrize("edit", [True, False], ids=["edit", "erasure"])
def test_a_few_innocent_cues_are_not_accused(kind, edit):
    assert "relies" not in statuses(INNOCENT[kind], edit=edit, n=4)


@pytest.mark.parametrize("kind", PLANTED)
def test_a_few_planted_shortcuts_are_found_by_an_edit(kind):
    assert statuses(PLANTED[kind], edit=True, n=4) == ["relies"] * 4


def test_a_cue_that_equals_the_label_is_not_identifiable_and_never_a_shortcut():
    assert statuses(lambda seed: case(table(1.0), table(1.0), seed=seed), edit=False, n=5) == ["not identifiable"] * 5
    judged_where_rows_conflict = statuses(lambda seed: case(table(1.0), seed=seed), edit=True, n=3)
    assert judged_where_rows_conflict == ["relies"] * 3


@pytest.mark.science
@pytest.mark.parametrize("kind", INNOCENT)
@pytest.mark.parametrize("edit", [True, False], ids=["edit", "erasure"])
def test_at_most_five_in_a_hundred_innocent_cues_are_accused(kind, edit):
    accused = statuses(INNOCENT[kind], edit=edit).count("relies")
    low, high = wilson(accused, N)
    print(f"{kind}, {'edit' if edit else 'erasure'}: {accused}/{N} accused ({low:.3f} to {high:.3f})")
    assert low <= 0.05
    assert high <= 0.08


@pytest.mark.science
@pytest.mark.parametrize("kind", PLANTED)
def test_planted_shortcuts_are_found_by_an_edit(kind):
    found = statuses(PLANTED[kind], edit=True).count("relies")
    low, high = wilson(found, N)
    print(f"{kind}, edit: {found}/{N} found ({low:.3f} to {high:.3f})")
    assert low >= 0.95


@pytest.mark.science
@pytest.mark.parametrize("kind", ["strength .8", "strength .95", "three classes, three values", "unequal cells"])
def test_strong_shortcuts_are_found_by_erasure_alone(kind):
    found = statuses(PLANTED[kind], edit=False).count("relies")
    low, high = wilson(found, N)
    print(f"{kind}, erasure: {found}/{N} found ({low:.3f} to {high:.3f})")
    assert low >= 0.85
