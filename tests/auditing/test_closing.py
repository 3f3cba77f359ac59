"""The sentence under the verdict says what a repair leaves of the cue, in numbers that read well."""

import pytest

from firstcue.auditing.closing import sentence
from firstcue.finding import Finding, Groups, Interval, Remedy


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (0.16, "16 points of accuracy still hang on the cue"),
        (0.012, "1 point of accuracy still hangs on the cue"),
        (-0.04, "no accuracy hangs on the cue any more"),
        (-0.2, "decisions now lean 20 points of accuracy against the cue"),
    ],
)
def test_what_a_repair_leaves_is_said_in_words(left, said):
    finding = Finding(id="a/b/c/d", cue="digit", kind="reliance by edit", status="relies", meaning="")
    repaired = Remedy(
        name="erase", worst_group=0.8, relies=Interval(value=left), needs_group_labels=True, selected=True
    )
    line = sentence("shortcut", [finding], Groups(), (repaired,), True)
    assert f"reaches 80% and {said}." in line


@pytest.mark.parametrize(("ci_low", "named"), [(0.3, True), (0.01, False), (None, False)])
def test_a_property_that_decisions_hang_on_is_named_though_the_verdict_stays(ci_low, named):
    finding = Finding(
        id="discovered/token 61/penultimate/edit",
        cue="token 61",
        kind="discovered cue",
        status="inferred",
        relies=Interval(value=0.4, ci_low=ci_low, ci_high=0.5),
        meaning="",
    )
    line = sentence("no shortcut found", [finding], Groups(), (), False)
    assert line.startswith("No shortcut found (no attribute was named)")
    assert ("Decisions hang on token 61" in line) is named
