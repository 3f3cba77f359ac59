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
