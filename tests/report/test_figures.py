"""Positions of marks: inside their axes, in the order of their values, broken where nothing was measured."""

import base64
import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from firstcue.finding import Finding, Moment, Order, Report
from firstcue.report.charts import agreement_histogram, spectrum_panels
from firstcue.report.figures import Scale, picture, scale_of, strip
from firstcue.report.panels import BOTTOM, LEFT, RIGHT, TOP
from firstcue.report.timeline import capacity, timeline

fractions = st.floats(-2, 2, allow_subnormal=False)


@given(st.lists(fractions, max_size=6))
def test_an_axis_holds_its_values_and_its_ticks(values: list[float]) -> None:
    axis = scale_of(values, high=1.0)
    assert all(axis.low - 1e-6 <= v <= axis.high + 1e-6 for v in [*values, 0.0, 1.0])
    ticks = axis.ticks
    assert 2 <= len(ticks) <= 7 and all(0 <= at <= 100 for _, at in ticks)
    assert [v for v, _ in ticks] == sorted({v for v, _ in ticks})


@given(fractions, fractions)
def test_marks_keep_the_order_of_their_values(a: float, b: float) -> None:
    axis = Scale(-2.0, 2.0)
    low, high = sorted((a, b))
    assert axis(low) <= axis(high)


def test_a_strip_of_nothing_is_nothing_and_marks_stay_inside() -> None:
    assert strip(None, 0.1, 0.2) is None
    marks = strip(0.5, -3.0, 3.0, 0.25)
    assert marks is not None and (marks.low, marks.dot, marks.high, marks.reference) == (0, 50, 100, 25)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**6), st.sampled_from(["used/core", "used/a", "capacity/a", "x"]), st.none() | fractions
        ),
        max_size=30,
    )
)
def test_every_timeline_is_drawn_inside_its_panel(points: list[tuple[int, str, float | None]]) -> None:
    panels = timeline([Moment(step=s, curve=c, value=v) for s, c, v in points])
    for panel in panels:
        for curve in panel.curves:
            assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in curve.dots)
        labels = sorted(c.label_y for c in panel.curves)
        assert all(b - a >= 13.9 for a, b in itertools.pairwise(labels)), "labels do not overlap"


def test_a_line_is_broken_where_nothing_was_measured() -> None:
    values = [0.1, None, 0.3, 0.4]
    (panel,) = timeline([Moment(step=i, curve="used/core", value=v) for i, v in enumerate(values)])
    assert panel.curves[0].path.count("M") == 2 and len(panel.curves[0].dots) == 3


def test_the_step_at_which_a_cue_was_used_is_marked() -> None:
    moments = [Moment(step=s, curve=f"{lens}/digit", value=0.5) for lens in ("used", "decodable") for s in (0, 1, 100)]
    used, decodable = timeline(moments, [Order(cue="digit", step_used=100, step_decodable=0)])
    assert used.curves[0].mark == (RIGHT, "100") and decodable.curves[0].mark == (LEFT, "0")


def test_panels_come_in_the_order_used_decodable_capacity_accuracy() -> None:
    moments = [
        Moment(step=0, curve=f"{lens}/core", value=0.5)
        for lens in ("accuracy", "zeal", "capacity", "decodable", "used")
    ]
    assert [p.title for p in timeline(moments)] == [
        "Used by the decisions", "Readable from the features", "Readable before training", "Accuracy", "zeal",
    ]  # fmt: skip


def test_what_was_readable_before_training_stands_beside_what_is_readable() -> None:
    finding = Finding(
        id="decodability/digit/penultimate/linear", cue="digit", kind="decodability", status="no shortcut found", meaning="m",
        details={"untrained_linear": 0.75, "chance": 0.5},
    )  # fmt: skip
    levels = capacity(Report(verdict="inconclusive", findings=(finding,)))
    moments = [Moment(step=s, curve=f"{lens}/digit", value=0.5) for lens in ("used", "decodable") for s in (0, 9)]
    used, decodable = timeline(moments, (), levels)
    assert levels == {"digit": 0.5} and used.curves[0].level is None
    assert decodable.curves[0].level == (TOP + BOTTOM) / 2 and "digit before training: 50 %" in decodable.description


def test_the_spectrum_is_marked_where_half_of_class_and_cue_is_held() -> None:
    spectra = {
        "directions": [1, 2, 4],
        "size": [1.0, 0.1, 0.001],
        "targets": {"class": [0.1, 0.3, 0.8], "digit": [0.9, 0.95, 1.0]},
        "head": [0.2, 0.9, 1.0],
    }
    held, size = spectrum_panels(spectra)
    assert [c.name for c in held.curves] == ["class", "digit", "head reads"]
    marks = {c.name: c.mark for c in size.curves if c.mark}
    assert marks["class"] == (RIGHT, "4") and marks["digit"] == (LEFT, "1")
    assert "half of digit within the 1 widest" in size.description
    heights = [y for _, y in size.curves[0].dots]
    assert heights == [TOP, pytest.approx((2 * TOP + BOTTOM) / 3, abs=0.1), BOTTOM], "powers of ten are evenly spaced"


@pytest.mark.parametrize("given", [None, {}, {"directions": []}, 3, "x"])
def test_what_was_not_measured_is_not_drawn(given: object) -> None:
    assert spectrum_panels(given) == [] and agreement_histogram(given) == []


@given(st.lists(st.floats(0, 1) | st.none(), min_size=2, max_size=40))
def test_bars_stand_on_the_axis_and_inside_the_panel(shares: list[float | None]) -> None:
    (panel,) = agreement_histogram({"groups": shares, "random_groups": shares[::-1], "random_signs": []})
    assert len(panel.bars) == len(shares)
    for bar in panel.bars:
        assert bar.x >= LEFT and bar.x + bar.width <= panel.right + 0.1
        assert TOP <= bar.y <= BOTTOM and bar.chance_y is not None and TOP <= bar.chance_y <= BOTTOM
    assert 2 <= len(panel.x_ticks) <= 12


def pixels(png: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_a_picture_holds_the_pixels_of_its_images() -> None:
    images = [
        np.zeros((28, 14)),
        np.ones((1, 28, 14)),
        torch.full((3, 28, 14), 0.5),
        np.full((28, 14), 7, dtype=np.uint8),
    ]
    sheet = pixels(picture(images, "t", "c", "a", columns=2).png)
    assert sheet.shape == (28 * 2 + 1, 14 * 2 + 1, 4)
    assert [int(sheet[y, x, 0]) for y, x in ((5, 5), (5, 20), (40, 5), (40, 20))] == [0, 255, 128, 7]
    assert sheet[28, 5, 3] == 0, "between images the page shows through"


def test_at_most_twelve_images_are_taken_and_what_is_no_image_is_refused() -> None:
    assert pixels(picture([np.zeros((8, 8))] * 40, "t", "c", "a").png).shape[0] == 8 * 2 + 1
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        picture([np.zeros(5)], "t", "c", "a")
    with pytest.raises(ValueError, match="no image"):
        picture([], "t", "c", "a")
