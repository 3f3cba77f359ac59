"""Three efforts: the same verdict, more or less around it, and a foretold duration that is about right."""

import time

import pytest
from planted import case, table, timeless

import firstcue as fc
from firstcue.auditing import model as auditing
from firstcue.auditing import stages
from firstcue.auditing.effort import DEFAULT, EFFORTS, FAST, THOROUGH, Effort
from firstcue.auditing.forecast import Forecast, Sizes, _forecast, forecast

CASES = {
    "planted": (case(table(0.95), seed=0, n_train=800, n_held=500), "shortcut"),
    "clean": (case(table(0.5), seed=1, n_train=800, n_held=500), "no shortcut found"),
    "encoded, unused": (case(table(0.9), seed=2, uses=False, n_train=800, n_held=500), "no shortcut found"),
}


@pytest.mark.parametrize("edit", [True, False], ids=["edit", "erasure"])
@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_the_same_at_every_effort(name, edit, monkeypatch):
    monkeypatch.setattr(stages, "described", lambda *_: ([], {}, []))
    c, verdict = CASES[name]
    train, held = ((b if edit else (b.x, b.y, b.attribute)) for b in (c.train, c.held))
    reports = {e: fc.audit(c.model(), train, held_out=held, remedies=(), effort=e) for e in EFFORTS}
    (found,) = {r.verdict for r in reports.values()}
    assert found == verdict or (found == "inconclusive" and not edit and name == "encoded, unused")  # few rows
    assert len({r.groups.model_dump_json() for r in reports.values()}) == 1
    assert {e: r.environment.effort for e, r in reports.items()} == {e: e for e in EFFORTS}


def test_more_effort_never_measures_less():
    def numbers(effort: Effort) -> list[int]:
        return [value for value in vars(effort).values() if isinstance(value, int)]

    for less, more in ((FAST, DEFAULT), (DEFAULT, THOROUGH)):
        assert all(a <= b for a, b in zip(numbers(less), numbers(more), strict=True))
        assert set(less.lenses) <= set(more.lenses)


def test_the_level_of_the_erasure_test_can_be_reached_at_every_effort_after_holms_correction():
    for effort in EFFORTS.values():
        for cues in (1, 2, 10):
            assert cues / (max(effort.draws, effort.draws_per_cue * cues) + 1) < 0.05


def test_a_fast_audit_describes_nothing_and_its_duration_is_foretold(monkeypatch):
    """Processor time, so that other work on the machine does not count."""
    c, told = CASES["planted"][0], []
    monkeypatch.setattr(auditing, "forecast", lambda *a: forecast(*a, clock=time.process_time))
    fc.audit(c.model(), c.train, held_out=c.held, effort="fast")  # what is imported and compiled once is not foretold
    began = time.process_time()
    report = fc.audit(c.model(), c.train, held_out=c.held, effort="fast", announce=told.append)
    took, foretold = time.process_time() - began, report.environment.seconds_expected
    assert {f.kind for f in report.findings} == {"reliance"}
    assert {r.name for r in report.remedies} >= {"as it is", "last-layer", "erase"}
    assert took / 4 < foretold < 4 * took
    (sentence,) = told
    assert sentence.startswith("1 cue on 500 held-out rows, 2 remedies (fast): about ")
    assert report.environment.seconds > 0


def test_work_that_grows_is_foretold_to_take_longer():
    small = Sizes(held=500, train=500, width=16, classes=2, values=2, cues=1, row=1e-5, remedies=("last-layer",))
    base = _forecast(small, DEFAULT, 1.0).seconds
    more = {"held": 20_000, "classes": 50, "layers": 5, "checkpoints": 30, "row": 1e-2, "cues": 9, "pixels": 10**5}
    for name, value in more.items():
        grown = Sizes(**{**vars(small), name: value})
        assert _forecast(grown, DEFAULT, 1.0).seconds > base, name
    assert _forecast(small, FAST, 1.0).seconds < base < _forecast(small, THOROUGH, 1.0).seconds
    assert _forecast(small, DEFAULT, 3.0).seconds == pytest.approx(3 * base, rel=0.05)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.1, "1 s"), (17.4, "17 s"), (44.0, "40 s"), (600.0, "10 minutes"), (9000.0, "2.5 hours")]
)
def test_durations_are_told_no_finer_than_they_are_known(seconds, words):
    assert Forecast({"all": seconds}, "Work").sentence == f"Work: about {words} on this machine."


def test_everything_but_durations_is_the_same_for_the_same_seed():
    c = CASES["planted"][0]
    one, two = (fc.audit_embeddings(c.train.x, c.train.y, c.train.attribute, effort="fast", seed=3) for _ in range(2))
    assert timeless(one) == timeless(two)
