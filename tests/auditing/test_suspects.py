"""An audit to which no attribute was given: what it finds by itself, what it accuses, and what it leaves to the reader."""

import numpy as np
import pytest
import torch
from planted import case, table

from firstcue.auditing.cue import findings
from firstcue.auditing.prepare import Prepared
from firstcue.auditing.subject import Subject
from firstcue.auditing.suspects import as_discovered, suspects
from firstcue.auditing.verdict import overall_verdict
from firstcue.batch import Batch
from firstcue.finding import Finding, Interval
from firstcue.layers import Head
from firstcue.report.words import status

LEANING = table(0.95)


def judged(c, train=None, held=None, seed=0):
    """What is said of properties that nobody named, and the notes."""
    parts = [Batch.of(b.x, b.y) for b in (c.train, c.held)]
    data = Prepared(train or parts[0], held or parts[1], (), "held-out rows", ())
    head = Head("head", c.head.weight[:, : data.train.x.shape[1]], c.head.bias)
    subject = Subject(head(data.held.x), data.held.x, head, head)
    found, notes = suspects(data, subject, seed)
    said = findings([s.measured for s in found], {}, subject, "penultimate")
    return {f.cue: as_discovered(f, s) for f, s in zip(said, found, strict=True)}, notes


def verdict(c, **options):
    return overall_verdict(list(judged(c, **options)[0].values()))


def test_a_pairing_that_holds_in_held_out_rows_accuses_nobody():
    found, _ = judged(case(LEANING, LEANING, seed=0))
    assert found
    assert {f.status for f in found.values()} == {"inferred"}


def test_a_property_that_decisions_hang_on_is_left_to_the_reader():
    found, _ = judged(case(LEANING, LEANING, seed=0))
    used = [f for f in found.values() if f.relies is not None and f.relies.ci_low > 0.05]
    assert used
    assert all("If it does not belong to the class" in f.meaning for f in used)


@pytest.mark.parametrize("seed", range(4))
def test_a_column_whose_pairing_breaks_is_accused_and_columns_of_the_core_are_not(seed):
    found, _ = judged(case(LEANING, seed=seed))
    guilty = {cue for cue, f in found.items() if f.status == "relies"}
    assert guilty and guilty <= {"column 2", "column 3"}  # the cue's; 0 and 1 hold the core, the rest is noise


@pytest.mark.parametrize("seed", range(4))
def test_a_head_that_does_not_use_the_cue_is_not_accused(seed):
    c = case(LEANING, seed=seed, uses=False)
    assert {"column 2", "column 3"} & set(judged(c)[0])
    assert verdict(c) == "no shortcut found"


def test_metadata_that_equal_the_label_are_named_in_a_note_and_not_judged():
    c = case(table(0.5), seed=2)
    train, held = (Batch.of(b.x, b.y, leak=np.where(b.y == 0, "a", "b")) for b in (c.train, c.held))
    found, notes = judged(c, train=train, held=held)
    assert "leak" not in found
    assert any("leak is the label under another name" in note for note in notes)


def test_associated_metadata_without_an_editor_never_convict():
    c = case(LEANING, seed=3, uses=False)
    train, held = (Batch.of(b.x[:, :2], b.y, place=np.array(["sea", "land"])[b.attribute]) for b in (c.train, c.held))
    found, _ = judged(c, train=train, held=held)
    assert found["place"].status == "inferred"
    assert "could not be measured" in found["place"].meaning


def test_ids_of_tokens_are_not_taken_for_a_table():
    tokens = Batch.of(torch.randint(0, 50, (200, 6), generator=torch.Generator().manual_seed(0)), torch.arange(200) % 2)
    data = Prepared(tokens, tokens, (), "held-out rows", ())
    assert suspects(data, Subject(torch.zeros(200, 2), embeds=True), 0) == ([], [])


@pytest.mark.parametrize("embeds", [False, True])
def test_integers_are_ids_only_for_a_model_that_looks_them_up(embeds):
    y = torch.arange(200) % 2
    rows = Batch.of(torch.stack([y + 1, torch.arange(200) % 5 + 3], dim=1), y)
    data = Prepared(rows, rows, (), "held-out rows", ())
    logits = torch.stack([1.0 - y, y.float()], dim=1)
    _, notes = suspects(data, Subject(logits, embeds=embeds), 0)
    assert any(("token 1" if embeds else "column 0") in note for note in notes)


def test_the_words_for_a_used_property_and_an_unused_one_differ():
    plain = Finding(id="i", cue="c", kind="discovered cue", status="inferred", meaning="m")
    used = plain.model_copy(update={"relies": Interval(value=0.4, ci_low=0.3, ci_high=0.5)})
    assert status(plain) == "nothing suspicious"
    assert status(used) == "used; yours to judge"


@pytest.mark.science
@pytest.mark.parametrize("harder", [False, True])
def test_heads_that_do_not_use_the_cue_are_not_accused_by_an_audit(harder):
    """Ten cases each; two hundred cheaper ones are in the tests of discovery."""
    noisy = np.array([[False, True], [True, False]]) if harder else None
    cases = [case(LEANING, seed=s, uses=False, harder=noisy, n_train=1000, n_held=600) for s in range(10)]
    assert [verdict(c) for c in cases] == ["no shortcut found"] * 10
