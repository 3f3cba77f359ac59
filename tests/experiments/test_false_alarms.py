"""Discovery where there is nothing to accuse: a few of the two hundred cases of each kind, and what is made of alarms."""

from firstcue.experiments.spurious import false_alarms
from firstcue.sweeps import Trial


def test_a_few_cases_of_each_kind_raise_no_alarm():
    found = false_alarms.run(Trial("spurious/false-alarms", {"cases": 4, "controls": list(false_alarms.CONTROLS)}, 60))
    assert {row["control"]: row["alarms"] for row in found} == dict.fromkeys(false_alarms.CONTROLS, 0)


def test_the_controls_can_raise_an_alarm():
    """The same cue at strength .95 is named, and accused if the model reads it."""
    x, y, _ = false_alarms.cued_table(0, 0.95)
    found = false_alarms._found(x, y, 0, ask=false_alarms.reading(2.0))
    assert any(c.name == "column 2" and c.standing == "relied on" for c in found)


def test_one_case_in_twenty_is_too_many():
    rows = [{"control": "c", "of": 20, "alarms": alarms, "seed": seed} for seed, alarms in enumerate([0] * 9 + [1])]
    assert false_alarms.claims(rows)[0].verdict == "holds"
    rows[0]["alarms"] = 9
    assert false_alarms.claims(rows)[0].verdict == "inconclusive"
    assert false_alarms.claims([{"control": "c", "of": 200, "alarms": 40}])[0].verdict == "does not hold"
