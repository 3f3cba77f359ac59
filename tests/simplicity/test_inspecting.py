"""A data set in bits: extremes are found, classes compared with chance, maps add up, and figures show what they were given."""

import math

import pytest
import torch

import firstcue as fc
from firstcue.simplicity import figures, galleries
from firstcue.simplicity.inspecting import group_bits, rank_correlation
from firstcue.simplicity.saved import bits_saved_map, contrast_normalised


def graded(n=24, size=12):
    """Noise of growing contrast, so that row i is simpler than row i + 1."""
    noise = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(0)) - 0.5
    return 0.5 + noise * torch.linspace(0, 1, n)[:, None, None, None]


def test_the_simplest_and_most_complex_rows_of_every_class_are_named():
    y = ["even", "odd"] * 12
    found = fc.inspect_bits(fc.DCTLaplace(), graded(), y, examples=3)
    assert found.overall.simplest == (0, 1, 2) and found.overall.most_complex == (23, 22, 21)
    even, odd = found.by_class
    assert (even.name, even.n, even.simplest, odd.most_complex) == ("even", 12, (0, 2, 4), (23, 21, 19))
    assert found.agreement_with_png > 0.6
    assert found.explained < 0.1 and found.explained_by_chance == pytest.approx(1 / 23)
    assert len(found.to_rows()) == 3 and found.by_group == ()


def test_a_class_that_is_simpler_is_told_from_chance():
    found = fc.inspect_bits(fc.DCTLaplace(), graded(), [0] * 12 + [1] * 12, group=["a"] * 20 + ["b"] * 4)
    assert found.explained > 0.3 > 5 * found.explained_by_chance
    simple, other = found.by_class
    assert simple.ci_high < other.ci_low and simple.ci_low < simple.mean < simple.ci_high
    assert [group.n for group in found.by_group] == [20, 4]


def test_bits_of_groups_are_means_with_student_intervals():
    from scipy import stats

    values = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    (whole,) = group_bits(values, [0] * 4)
    low, high = stats.t.interval(0.95, 3, loc=4.0, scale=stats.sem(values.numpy()))
    assert (whole.ci_low, whole.ci_high, whole.median) == pytest.approx((low, high, 3.0))
    (single, _) = group_bits([1.0, 2.0], ["a", "b"])
    assert math.isnan(single.ci_low) and math.isnan(single.spread) and single.mean == 1.0


def test_equal_bits_and_vectors_leave_open_what_cannot_be_said():
    same = fc.inspect_bits(fc.Uniform(), graded(), [0, 1] * 12)
    assert math.isnan(same.explained) and math.isnan(same.agreement_with_png)
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    rows = fc.inspect_bits(fc.GaussianVectors.of(fc.Moments.of(x), 0.1), x, [0, 1, 2] * 20)
    assert math.isnan(rows.agreement_with_png) and rows.values == 3 and len(rows.by_class) == 3


def test_rank_correlation_is_that_of_scipy():
    from scipy import stats

    a, b = torch.randn(2, 30, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert math.isnan(rank_correlation([1.0, 1.0], [1.0, 2.0]))


def test_inspecting_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="`x` is empty"):
        fc.inspect_bits(fc.Uniform(), torch.zeros(0, 1, 2, 2))
    with pytest.raises(ValueError, match="`bits` has 24 rows but `y` has 2"):
        fc.inspect_bits(fc.Uniform(), graded(), [0, 1])


# --- where bits went -----------------------------------------------------------------------------------------------


def test_a_map_of_saved_bits_adds_up_to_them():
    x, density = graded(), fc.DCTLaplace()
    half = x.clone()
    half[..., :8, :8] = 0.5
    saved = bits_saved_map(density, x, half)
    assert not saved.proxy
    torch.testing.assert_close(
        saved.bits.sum(dim=(1, 2)), (fc.bits(density, x) - fc.bits(density, half)).double(), rtol=1e-4, atol=0.1
    )


def test_without_a_map_tiles_show_where_simplifying_saves():
    x = graded()[-3:]
    half = x.clone()
    half[..., :6] = 0.5
    saved = bits_saved_map(fc.Codec("png"), x, half, tile=6)
    assert saved.proxy
    assert bool((saved.bits[..., :6].mean(dim=(1, 2)) > 1).all()) and float(saved.bits[..., 6:].abs().max()) == 0


def test_a_proxy_map_reads_the_bits_of_pixels_that_are_coded_by_themselves():
    """For a density that adds up over pixels a swapped tile saves exactly what it saves in the whole."""
    x = graded()
    density = fc.Independent.fit(x)
    hidden = type("Hidden", (), {"levels": 256, "shape": None, "differentiable": True, "bits": density.bits})()
    exact, proxy = (bits_saved_map(d, x, 0.5 + 0 * x, tile=1) for d in (density, hidden))
    torch.testing.assert_close(exact.bits, proxy.bits, rtol=1e-3, atol=1e-3)


def test_maps_of_images_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(24, 1, 12, 12\), `simplified` \(3, 1, 12, 12\)"):
        bits_saved_map(fc.DCTLaplace(), graded(), graded()[:3])
    with pytest.raises(ValueError, match="`tile` is 0"):
        bits_saved_map(fc.Codec("png"), graded(), graded(), tile=0)


def test_restored_contrast_spans_everything_and_flat_images_turn_grey():
    found = contrast_normalised(graded())
    assert bool((found[0] == 0.5).all())
    assert found[1:].amin(dim=(1, 2, 3)).eq(0).all() and found[1:].amax(dim=(1, 2, 3)).eq(1).all()


# --- figures --------------------------------------------------------------------------------------------------------


def test_a_line_goes_through_the_means_over_seeds_in_the_order_of_bits():
    rows = [
        {"line": "simplified", "setting": lam, "bits": 4 - lam + seed * 0.1, "accuracy": 0.9 - lam / 10, "seed": seed}
        for lam in (0, 1, 2)
        for seed in (0, 1, 2)
    ]
    (line, *_) = figures.accuracy_against_bits(rows, chance=0.1).axes[0].get_lines()
    assert list(line.get_xdata()) == pytest.approx([2.1, 3.1, 4.1])
    assert list(line.get_ydata()) == pytest.approx([0.7, 0.8, 0.9])


def test_condensation_draws_a_line_for_each_weight():
    rows = [
        {"lam": lam, "images_per_class": k, "total_bits": 1e4 * k, "accuracy": 0.5 + k / 100}
        for lam in (0, 100)
        for k in (1, 10)
    ]
    legend = figures.condensation_curve(rows, full=0.9).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["weight 0", "weight 100"]


def test_the_monitor_tells_a_shut_gate_from_an_open_one_and_counts_skipped_steps():
    def history(gate):
        return [{"gate": gate, "bits_per_pixel": 3.0, "loss": 1.0, "skipped": i < 2} for i in range(10)]

    shut, opened = figures.training_monitor(history(0.0)), figures.training_monitor(history(0.5))
    assert "gate shut" in shut.axes[0].get_title() and opened.axes[0].get_title() == ""
    assert "2 of 10 skipped" in shut.axes[2].get_xlabel()


def test_pictures_are_sorted_by_what_was_saved():
    x = graded()
    figure = galleries.simplified_grid(
        x, 0.5 + 0 * x, bits_before=torch.arange(24.0), bits_after=torch.zeros(24), rows=2
    )
    shown = [figure.axes[4 * i].images[0].get_array() for i in range(2)]
    assert [float(abs(image - x[i, 0].numpy()).max()) for image, i in zip(shown, (23, 22), strict=True)] == [0.0, 0.0]


def test_extremes_show_the_rows_that_were_named():
    x = graded()
    found = fc.inspect_bits(fc.DCTLaplace(), x, [0, 1] * 12, examples=2)
    figure = galleries.extremes(x, found.by_class)
    assert len(figure.axes) == 8
    assert float(abs(figure.axes[0].images[0].get_array() - x[0, 0].numpy()).max()) == 0
    assert float(abs(figure.axes[7].images[0].get_array() - x[23, 0].numpy()).max()) == 0


def test_colour_images_are_shown_in_colour():
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert galleries.image_grid(x, titles=["a", "b"]).axes[0].images[0].get_array().shape == (5, 5, 3)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.accuracy_against_bits([]),
        lambda: figures.condensation_curve([{"lam": 0}]),
        lambda: figures.training_monitor([]),
        lambda: figures.bits_by_class([], []),
        lambda: figures.mean_bits([]),
        lambda: galleries.extremes(graded(), []),
        lambda: galleries.image_grid(torch.zeros(0, 1, 2, 2)),
        lambda: galleries.simplified_grid(graded(), graded()[:2]),
        lambda: galleries.saved_grid(graded(), graded(), bits_saved_map(fc.Uniform(), graded()[:1], graded()[:1])),
    ],
    ids=["curve", "condensation", "monitor", "violin", "means", "extremes", "grid", "simplified", "saved"],
)
def test_figures_of_nothing_are_refused(draw):
    with pytest.raises(ValueError, match=r"nothing to show|no rows|lack|label per row|same shape|one map per image"):
        draw()
