"""D_LR against its definition with n x n matrices, its closed forms, its invariances, and inputs that break others."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from firstcue import Moments, balanced_weights, low_rank_measure, low_rank_of_moments
from firstcue.heads import Head
from firstcue.richness.probing import deflated_square

REFERENCES = ["raw", "centered", "softmax"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def features_and_head(n=300, p=12, c=4, seed=0):
    """Correlated features away from zero, and a head with biases."""
    x = normal(n, p, seed=seed) @ normal(p, p, seed=seed + 1) + normal(p, seed=seed + 2)
    head = Head("head", normal(c, p, seed=seed + 3), normal(c, seed=seed + 4))
    return x, head


def outputs_of(x, head):
    return x @ head.weight.T + head.bias


def by_definition(x, f, reference, weights=None):
    """1 - CKA with every matrix of the definition written out, rows repeated for integer weights."""
    if weights is not None:
        x, f = (t.repeat_interleave(weights, dim=0) for t in (x, f))
    n = len(x)
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    span = f if reference == "raw" else centring @ f
    span = span - span.mean(dim=1, keepdim=True) if reference == "softmax" else span
    left, sizes, _ = torch.linalg.svd(span, full_matrices=False)
    left = left[:, sizes > sizes[0] * (1e-10 if reference == "raw" else 1e-3**0.5)]
    kernel, projector = centring @ x @ x.T @ centring, centring @ left @ left.T @ centring
    return float(1 - (kernel * projector).sum() / (kernel.norm() * projector.norm()))


def simplex(k):
    """k unit vectors at equal angles."""
    return (torch.eye(k, dtype=torch.float64) - 1 / k) * (k / (k - 1)) ** 0.5


def collapsed(counts, offset=0.0):
    """Features that are the same within each class, at the corners of a simplex; and outputs that read them."""
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    basis = torch.linalg.qr(normal(20, len(counts), seed=6)).Q
    x = simplex(len(counts))[y] @ basis.T + offset * normal(20, seed=7)
    return x, simplex(len(counts))[y] @ simplex(len(counts)).T, y


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("n, p, c", [(300, 12, 4), (20, 40, 5), (60, 7, 1), (50, 3, 6), (4, 2, 2)])
def test_it_is_one_minus_the_centred_alignment_with_the_projector(n, p, c, reference):
    x, head = features_and_head(n, p, c)
    if reference == "softmax" and c == 1:
        wanted = by_definition(x, torch.cat([0 * outputs_of(x, head), outputs_of(x, head)], dim=1), "softmax")
    else:
        wanted = by_definition(x, outputs_of(x, head), reference)

    found = low_rank_measure(x, outputs_of(x, head), reference)

    tolerance = 1e-9 if reference == "raw" else 1e-12
    assert found.dlr == pytest.approx(wanted, abs=tolerance)
    assert low_rank_measure(x, head, reference).dlr == pytest.approx(wanted, abs=tolerance)
    assert low_rank_of_moments(Moments.of(x), head, reference, rtol=1e-12).dlr == pytest.approx(wanted, abs=tolerance)
    joint = Moments.of(torch.cat([x, outputs_of(x, head)], dim=1))
    assert low_rank_of_moments(joint, c, reference, rtol=1e-12).dlr == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("n", [300, 8])
def test_a_head_with_more_outputs_than_features_gives_the_number_of_its_outputs(n, reference):
    """As a language model has: the outputs are never compared with each other in full."""
    x, head = features_and_head(n, 12, 70)
    head.weight[:, :9] *= 1e-2  # of which "centered" leaves some out
    wanted = low_rank_measure(x, outputs_of(x, head), reference)

    tolerance = 1e-9 if reference == "raw" else 1e-12
    for found in (
        low_rank_measure(x, head, reference),
        low_rank_of_moments(Moments.of(x), head, reference, rtol=1e-12),
        low_rank_measure(x, head, reference, blocks=4),
    ):
        assert found.dlr == pytest.approx(wanted.dlr, abs=tolerance)
        assert found.rank == pytest.approx(wanted.rank, abs=1e-6)
        assert found.num_outputs == 70
    if n > 12:
        assert low_rank_measure(x, head, reference, method="probe").dlr == pytest.approx(wanted.dlr, abs=1e-9)
        assert low_rank_measure(x, head, reference, debias="hsic").dlr == pytest.approx(
            low_rank_measure(x, outputs_of(x, head), reference, debias="hsic").dlr, abs=1e-9
        )


def test_a_head_that_can_read_all_features_says_that_used_means_nothing():
    x, head = features_and_head(300, 12, 70)

    assert any("70 outputs can read all 12 features" in note for note in low_rank_measure(x, head).notes)
    assert not any("can read all" in note for note in low_rank_measure(*features_and_head()).notes)


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_row_of_weight_three_counts_as_three_rows(reference):
    x, head = features_and_head(60)
    weights = torch.arange(60) % 4

    found = low_rank_measure(x, head, reference, weights=weights)

    assert found.dlr == pytest.approx(by_definition(x, outputs_of(x, head), reference, weights), abs=1e-12)
    few = low_rank_measure(x[:9], head, reference, weights=weights[:9])
    assert few.dlr == pytest.approx(by_definition(x[:9], outputs_of(x[:9], head), reference, weights[:9]), abs=1e-12)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("debias", [False, True, "hsic"])
def test_it_is_one_minus_used_variance_times_the_root_of_participation_over_rank(reference, debias):
    x, head = features_and_head()

    found = low_rank_measure(x, head, reference, debias)

    assert found.unclipped == pytest.approx(1 - found.used * math.sqrt(found.isotropy), abs=1e-12)
    assert found.unused == 1 - found.used
    assert found.dlr == {"raw": found.dlr_raw, "centered": found.dlr_centered, "softmax": found.dlr_softmax}[reference]


@pytest.mark.parametrize("reference", REFERENCES)
def test_it_depends_on_the_features_only_up_to_rotation_scale_offset_and_copies(reference):
    x, head = features_and_head()
    f = outputs_of(x, head)
    before = low_rank_measure(x, f, reference).dlr
    rotation = torch.linalg.qr(normal(12, 12, seed=9)).Q

    for changed in (
        1e-3 * x,
        x @ rotation,
        x + 10 * normal(12, seed=8),
        torch.cat([x, x], 1),
        nn.functional.pad(x, (0, 3)),
    ):
        assert low_rank_measure(changed, f, reference).dlr == pytest.approx(before, abs=1e-12)


def test_it_depends_on_the_features_beyond_what_a_linear_map_keeps():
    x, head = features_and_head()

    stretched = low_rank_measure(x * torch.linspace(1, 4, 12, dtype=torch.float64), outputs_of(x, head))

    assert abs(stretched.dlr - low_rank_measure(x, head).dlr) > 0.01


@pytest.mark.parametrize("reference", ["raw", "centered"])
def test_it_depends_on_the_outputs_only_through_their_span(reference):
    x, head = features_and_head()
    f = outputs_of(x, head)
    before = low_rank_measure(x, f, reference).dlr
    mixing = torch.linalg.qr(normal(4, 4, seed=9)).Q * torch.tensor([1.0, 2, 3, 5])

    assert low_rank_measure(x, f @ mixing, reference).dlr == pytest.approx(before, abs=1e-12)
    assert low_rank_measure(x, 1e-6 * f, reference).dlr == pytest.approx(before, abs=1e-12)
    assert low_rank_measure(x, torch.cat([f, f @ mixing], 1), reference).dlr == pytest.approx(before, abs=1e-12)


def test_only_the_raw_reference_sees_biases_of_the_outputs():
    x, head = features_and_head()
    f = outputs_of(x, head)
    biased = f + 5 * normal(4, seed=11)

    assert low_rank_measure(x, biased, "centered").dlr == pytest.approx(
        low_rank_measure(x, f, "centered").dlr, abs=1e-12
    )
    assert abs(low_rank_measure(x, biased).dlr - low_rank_measure(x, f).dlr) > 1e-4


def test_an_almost_constant_mean_output_is_not_counted_as_a_learned_function():
    """Collapsed features, and a mean over outputs that is a constant plus noise of 1e-3."""
    x, f, _ = collapsed([100] * 10)
    x, noise = x + 1e-2 * normal(*x.shape, seed=3), 1e-3 * normal(len(x), 1, seed=4)

    for reference in REFERENCES:
        assert low_rank_measure(x, f + 0.5 + noise, reference).dlr < 3e-3, reference
    # where that constant is zero the noise is a direction of its own, which only the literal reference keeps
    found = low_rank_measure(x, f + noise)
    assert found.dlr == pytest.approx(1 - 0.9**0.5, abs=5e-3)
    assert found.dlr_centered < 3e-3 and found.dlr_softmax < 3e-3
    assert any("the references differ" in note for note in found.notes)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_collapsed_balanced_classes_are_as_rich_as_can_be(reference, offset):
    x, f, _ = collapsed([50] * 5, offset)

    found = low_rank_measure(x, f, reference)

    assert found.unclipped == pytest.approx(0, abs=1e-13 if offset == 0 else 1e-11)
    assert found.used == pytest.approx(1)
    assert found.rank == pytest.approx(4)


def test_one_hot_features_are_as_rich_as_can_be():
    one_hot = torch.eye(6, dtype=torch.float64).repeat(7, 1)

    assert low_rank_measure(one_hot, one_hot @ normal(6, 6)).unclipped == pytest.approx(0, abs=1e-13)


def test_collapsed_classes_of_unequal_size_count_as_equal_under_balanced_weights():
    x, f, y = collapsed([200, 100, 50, 25, 12])

    plain, balanced = (low_rank_measure(x, f, "centered", weights=w) for w in (None, balanced_weights(y)))

    assert plain.dlr == pytest.approx(0.2110, abs=5e-5)
    assert (plain.used, plain.participation_ratio, plain.rank) == pytest.approx((1, 2.4903, 4), abs=5e-5)
    assert balanced.unclipped == pytest.approx(0, abs=1e-12)
    assert low_rank_measure(x, f, weights=balanced_weights(y)).unclipped == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sigma, wanted", [(0.1, 9.92e-5), (0.3, 7.29e-3), (1.0, 0.2606)])
def test_noise_within_classes_raises_it_as_the_closed_form_says(sigma, wanted):
    k, d, n = 5, 30, 20_000
    y = torch.arange(n) % k
    basis = torch.linalg.qr(normal(d, k, seed=1)).Q
    means = 3 * simplex(k) @ basis.T
    x = means[y] + sigma * normal(n, d, seed=2)
    r = k - 1
    s = float((means - means.mean(0)).square().sum() / k / r)
    closed = 1 - r**0.5 * (s + sigma**2) / (r * (s + sigma**2) ** 2 + (d - r) * sigma**4) ** 0.5

    found = low_rank_measure(x, x @ means.T)

    assert found.dlr == pytest.approx(closed, rel=0.02)


@pytest.mark.parametrize("d, c, wanted", [(50, 10, 0.5527864045), (512, 10, 0.8602457514), (512, 9, 0.8674174785)])
def test_white_features_give_one_minus_the_root_of_rank_over_width(d, c, wanted):
    white = torch.linalg.qr(normal(d + 60, d) - normal(d + 60, d).mean(dim=0)).Q

    found = low_rank_measure(white, white @ normal(d, c, seed=1), "centered")

    assert found.dlr == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("direction", [0, 7, 19])
def test_one_output_along_a_principal_direction_gives_its_share_of_the_spectrum(direction):
    x = normal(400, 20) * torch.linspace(2, 0.3, 20, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch.cov(x.T))

    found = low_rank_measure(x, (x - x.mean(dim=0)) @ vectors[:, direction])

    assert found.dlr == pytest.approx(float(1 - values[direction] / values.norm()), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_it_lies_between_zero_and_one_and_is_a_number_unless_something_is_constant(n, p, c, rank, seed):
    x = normal(n, p, seed=seed)
    weight = normal(c, min(rank, p), seed=seed + 1) @ normal(min(rank, p), p, seed=seed + 2)

    for reference in REFERENCES:
        found = low_rank_measure(x, x @ weight.T, reference)
        assert found.reason or (0 <= found.dlr <= 1 and abs(found.unclipped - found.dlr) < 1e-9)
        assert bool(found.reason) == math.isnan(found.dlr)


def test_blocks_and_debiasing_never_crash_on_few_rows():
    x, head = features_and_head(6, 4, 2)

    assert 0 <= low_rank_measure(x, head, blocks=4).ci_low <= 1
    assert 0 <= low_rank_measure(x, head, debias="auto").dlr <= 1
    assert "too few" in low_rank_measure(x[:3], head, debias=True).reason
    assert "too few" in low_rank_measure(x[:3], head, debias="hsic").reason
    assert "not debiased" in " ".join(low_rank_measure(x[:3], head, debias="auto").notes)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda x, f: (torch.where(x > 2, math.nan, x), f), r"features are NaN or infinite in \d+ of 300 rows"),
        (lambda x, f: (x, f / 0), "outputs are NaN or infinite in 300 of 300 rows"),
        (lambda x, f: (0 * x + 0.1, f), "features are constant"),
        (lambda x, f: (x, 0 * f + 0.1), "outputs are constant"),
        (lambda x, f: (x, 0 * f), "outputs are constant"),
        (lambda x, f: (x[:1], f[:1]), "features are constant"),
        (lambda x, f: (x[:0], f[:0]), "no rows"),
    ],
)
@pytest.mark.parametrize("method", ["exact", "probe"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_has_no_number_is_said_with_a_reason(make, reason, method, dtype):
    x, head = features_and_head()
    x, f = make(x.to(dtype), outputs_of(x, head).to(dtype))

    found = low_rank_measure(x, f, method=method)

    assert math.isnan(found.dlr) and math.isnan(found.used)
    assert re.search(reason, found.reason), found.reason


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_lower_precision_changes_it_by_little(dtype, tolerance):
    x, head = features_and_head()
    wanted = low_rank_measure(x, head).dlr

    assert low_rank_measure(x.to(dtype), outputs_of(x, head).to(dtype)).dlr == pytest.approx(wanted, abs=tolerance)
    assert low_rank_measure(x.to(dtype), head).dlr == pytest.approx(wanted, abs=tolerance)


def test_float32_features_far_from_zero_keep_their_number():
    x, head = features_and_head(700, 40, 5)
    f = outputs_of(x, head).float()
    wanted = low_rank_measure(x, f, "centered").dlr

    for method in ("exact", "probe"):
        far = low_rank_measure(x.float() + 1e4, f, "centered", method=method)
        tolerance = 1e-5 + 4 * far.probe_error
        assert far.dlr == pytest.approx(wanted, abs=tolerance), method


def test_rows_of_numpy_give_the_same_number():
    x, head = features_and_head()

    assert low_rank_measure(x.numpy(), outputs_of(x, head).numpy()) == low_rank_measure(x, outputs_of(x, head))
    layer = nn.Linear(12, 4).double()
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    assert low_rank_measure(x, layer).dlr == low_rank_measure(x, head).dlr


def test_moments_of_parts_merge_to_the_number_of_all_rows_in_any_order():
    x, head = features_and_head(500)
    joint = torch.cat([x, outputs_of(x, head)], dim=1)
    parts = [Moments.of(joint[a:b]) for a, b in ((0, 7), (7, 8), (8, 300), (300, 300), (300, 500))]
    wanted = low_rank_measure(x, head).dlr

    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        merged = parts[order[0]]
        for i in order[1:]:
            merged = merged.merge(parts[i])
        assert low_rank_of_moments(merged, 4).dlr == pytest.approx(wanted, abs=1e-12)


def test_moments_of_float32_rows_do_not_take_rounding_for_a_learned_function():
    """Ten outputs of which only three are independent."""
    x = normal(2000, 30).float()
    weight = (normal(10, 3, seed=1) @ normal(3, 30, seed=2)).float()

    of_rows = low_rank_measure(x, x @ weight.T)
    of_moments = low_rank_of_moments(Moments.of(torch.cat([x, x @ weight.T], dim=1)), 10)

    assert of_rows.rank == pytest.approx(3, abs=0.01)
    assert of_moments.dlr == pytest.approx(of_rows.dlr, abs=1e-5)


@pytest.mark.parametrize("debias", [True, "hsic"])
@pytest.mark.parametrize("n", [128, 256, 512])
def test_debiasing_brings_small_samples_within_three_hundredths_of_the_truth(n, debias):
    """Gaussian features of 512 directions: the truth is 1 - sqrt(10 / 512)."""
    head = Head("", normal(10, 512, seed=1), torch.zeros(10, dtype=torch.float64))
    plain, corrected = [], []
    for seed in range(5):
        x = normal(n, 512, seed=100 + seed)
        plain.append(low_rank_measure(x, head, "centered").dlr)
        corrected.append(low_rank_measure(x, head, "centered", debias).dlr)

    assert np.mean(corrected) == pytest.approx(0.8602, abs=0.03)
    assert np.mean(plain) < 0.8602 - 0.04


def test_auto_corrects_small_samples_only_and_says_so():
    x, head = features_and_head(4000)

    assert low_rank_measure(x, head, debias="auto").debiased == ""
    assert low_rank_measure(x[:40], head, debias="auto").debiased == "gaussian"
    assert "too small" in " ".join(low_rank_measure(x[:20], head).notes)


def test_the_interval_covers_the_number_of_the_population_about_as_often_as_it_says():
    truth = low_rank_measure(*features_and_head(200_000, 6, 2)).dlr
    covered = 0
    for seed in range(40):
        x, head = features_and_head(800, 6, 2)
        mix, shift = normal(6, 6, seed=1), normal(6, seed=2)
        x = normal(800, 6, seed=1000 + seed) @ mix + shift
        found = low_rank_measure(x, head, blocks=10)
        assert found.ci_low < found.dlr < found.ci_high
        covered += found.ci_low <= truth <= found.ci_high

    assert covered >= 34, f"95 % intervals covered the truth {covered} of 40 times"


def test_probes_agree_with_the_exact_number_within_their_own_error():
    x = normal(3000, 300) @ (normal(300, 300, seed=1) * torch.logspace(0, -1.5, 300, dtype=torch.float64))
    head = Head("", normal(5, 300, seed=2), normal(5, seed=3))
    exact = low_rank_measure(x, head)

    for dtype in (torch.float64, torch.float32):
        found = [low_rank_measure(x.to(dtype), head, method="probe", seed=seed) for seed in range(6)]
        errors = [f.dlr - exact.dlr for f in found]
        assert max(map(abs, errors)) < 2e-3
        assert max(abs(e) / f.probe_error for e, f in zip(errors, found, strict=True)) < 6
    assert low_rank_measure(x, head, method="probe", seed=3) == low_rank_measure(x, head, method="probe", seed=3)


def test_probes_take_weights():
    x, head = features_and_head(400)
    weights = torch.arange(400) % 3
    exact = low_rank_measure(x, head, weights=weights)

    found = low_rank_measure(x, head, weights=weights, method="probe")

    assert found.dlr == pytest.approx(exact.dlr, abs=1e-9)  # 12 features: the deflation is complete
    assert found.used == pytest.approx(exact.used, abs=1e-12)


def test_the_deflated_square_norm_is_unbiased_whatever_the_directions():
    a = normal(30, 30)
    s = a @ a.T
    q = torch.linalg.qr(normal(30, 4, seed=1)).Q
    generator = torch.Generator().manual_seed(2)
    signs = (torch.randint(0, 2, (30, 20_000), generator=generator) * 2 - 1).double()
    directions = torch.cat([q, signs - q @ (q.T @ signs)], dim=1)

    value, error = deflated_square(s @ directions, directions, 4)

    assert abs(value - float(s.square().sum())) < 4 * error
    assert error < 0.02 * value


def test_large_numbers_with_few_strong_functions_come_with_a_warning():
    x = normal(2000, 6) * torch.tensor([20.0, 1, 1, 1, 1, 1])

    found = low_rank_measure(x, x @ torch.linalg.qr(normal(6, 6, seed=1)).Q, "centered")

    assert found.dlr > 0.5 and found.used == pytest.approx(1)
    assert any("does not mean lazy" in note for note in found.notes)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, f: low_rank_measure(x, f[:-1]), "`features` has 300 rows but `outputs` has 299"),
        (lambda x, f: low_rank_measure(x, f, "mean"), "`reference` is one of raw, centered, softmax; got 'mean'"),
        (lambda x, f: low_rank_measure(x, f, debias="yes"), "`debias` is False, True"),
        (lambda x, f: low_rank_measure(x, f, method="fast"), "`method` is one of exact, probe"),
        (lambda x, f: low_rank_measure(x, f, method="probe", blocks=5), "no jackknife"),
        (lambda x, f: low_rank_measure(x, f, blocks=1), "two blocks"),
        (lambda x, f: low_rank_measure(x[:2], torch.ones(2, 20_000)), "give the head itself"),
        (lambda x, f: low_rank_measure(x, f, method="probe", probes=1), "`probes` is at least 2"),
        (lambda x, f: low_rank_measure(x, f, debias="hsic", weights=torch.ones(300)), "needs equal weights"),
        (lambda x, f: low_rank_measure(x[:, 0], f), r"`features` has shape \(300,\)"),
        (lambda x, f: low_rank_measure(x, nn.Linear(5, 2)), "the head reads 5 features but there are 12"),
        (lambda x, f: low_rank_of_moments(Moments.of(x), 12), "have 12 columns, of which 12 cannot be outputs"),
        (lambda x, f: low_rank_of_moments(Moments.of_groups(x, [0, 1] * 150), 3), "have a group axis"),
        (lambda x, f: low_rank_of_moments(Moments.of(x), 3, debias="hsic"), "needs the rows themselves"),
    ],
)
def test_a_mistake_is_refused_with_a_way_out(call, message):
    x, head = features_and_head()

    with pytest.raises(ValueError, match=message):
        call(x, outputs_of(x, head))


def test_weighted_moments_are_not_debiased_silently():
    x, head = features_and_head(60)
    weighted = Moments.of(x, torch.linspace(0.1, 2, 60))

    assert "not debiased" in " ".join(low_rank_of_moments(weighted, head, debias="auto").notes)
    assert "weights too unknown" in low_rank_of_moments(weighted, head, debias=True).reason


def test_inputs_are_left_as_they_were():
    x, head = features_and_head()
    f, before = outputs_of(x, head), x.clone()
    state = torch.get_rng_state()

    low_rank_measure(x, f, blocks=3)
    low_rank_measure(x, f, method="probe")

    assert_close(x, before, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())
