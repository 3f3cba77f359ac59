"""Curves over the spectrum: against canonical correlations and explained variance, and with planted features."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from firstcue import feature_spectrum, low_rank_measure
from firstcue.heads import Head


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n=600, seed=0):
    """A wide cue, a narrower core, and noise; the head reads the cue."""
    generator = torch.Generator().manual_seed(seed)
    y, cue = (torch.randint(0, 2, (n,), generator=generator) for _ in range(2))
    sign_y, sign_cue = 2.0 * y - 1, 2.0 * cue - 1
    x = 0.1 * torch.randn(n, 8, generator=generator, dtype=torch.float64)
    x[:, 0] += 10 * sign_cue
    x[:, 1] += 3 * torch.randn(n, generator=generator, dtype=torch.float64)
    x[:, 2] += sign_y
    return (
        x @ torch.linalg.qr(normal(8, 8, seed=9)).Q + 5,
        sign_cue[:, None] * torch.tensor([[1.0, -1.0]]).double(),
        y,
        cue,
    )


def by_definition(x, g, mode):
    """Quality through explicit principal components and projections, one k after the other."""
    x, g = x - x.mean(dim=0), g - g.mean(dim=0)
    left, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    left = left[:, sizes > 1e-6 * sizes[0]]
    if mode == "subspace":
        span, strength, _ = torch.linalg.svd(g, full_matrices=False)
        g = span[:, strength > 1e-6 * strength[0]]
    return torch.stack([(left[:, :k].T @ g).square().sum() / g.square().sum() for k in range(1, left.shape[1] + 1)])


@pytest.mark.parametrize("mode", ["subspace", "energy"])
@pytest.mark.parametrize("n, p", [(300, 12), (20, 40), (200, 1)])
def test_quality_is_the_share_of_the_targets_in_the_first_components(mode, n, p):
    x = normal(n, p) @ normal(p, p, seed=1) + 3
    targets = normal(n, 3, seed=2) + x[:, :1]

    found = feature_spectrum(x, x @ normal(p, 2, seed=3), targets, mode)

    assert_close(found.quality, by_definition(x, targets, mode), rtol=0, atol=1e-9)
    assert_close(found.use, by_definition(x, x @ normal(p, 2, seed=3), mode), rtol=0, atol=1e-9)


def test_size_is_the_spectrum_of_the_covariance():
    x = normal(300, 6) * torch.tensor([5.0, 3, 1, 0.5, 0, 0])
    wanted = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)[:4]

    found = feature_spectrum(x, x[:, :2], x[:, 0])

    assert_close(found.eigenvalues, wanted)
    assert_close(found.size, wanted / wanted[0])


def test_quality_ends_at_the_mean_squared_canonical_correlation():
    from sklearn.cross_decomposition import CCA

    x = normal(400, 7)
    targets = normal(400, 3, seed=1) + x[:, :3] @ normal(3, 3, seed=2)
    one, two = CCA(3, scale=False, max_iter=5000, tol=1e-14).fit_transform(x.numpy(), targets.numpy())
    correlations = [np.corrcoef(one[:, i], two[:, i])[0, 1] for i in range(3)]

    found = feature_spectrum(x, x[:, :2], targets)

    assert float(found.quality[-1]) == pytest.approx(np.mean(np.square(correlations)), abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 40),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 1000),
    st.sampled_from(["subspace", "energy"]),
)
def test_curves_never_fall_and_stay_within_zero_and_one(n, p, c, seed, mode):
    x = normal(n, p, seed=seed)
    y = torch.arange(n) % 3

    found = feature_spectrum(x, x @ normal(p, c, seed=seed + 1), y, mode)

    for curve in (found.quality, found.use):
        assert bool((curve.diff() >= -1e-12).all())
        assert float(curve[0]) >= 0 and float(curve[-1]) <= 1
    assert bool((found.size.diff() <= 1e-12).all())
    assert float(found.use[-1]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n, p, c", [(300, 12, 4), (30, 50, 3)])
def test_the_measure_follows_from_the_curve_of_use(n, p, c):
    x = normal(n, p) @ normal(p, p, seed=1)
    outputs = x @ normal(p, c, seed=2)

    found = feature_spectrum(x, outputs, torch.arange(n) % 2)
    share = torch.diff(found.use, prepend=torch.zeros(1, dtype=torch.float64)) * found.rank

    wanted = low_rank_measure(x, outputs, "centered").dlr
    dlr = 1 - float((found.eigenvalues * share).sum()) / (found.rank**0.5 * float(found.eigenvalues.norm()))
    assert dlr == pytest.approx(wanted, abs=1e-12)


def test_both_modes_agree_for_balanced_one_hot_targets():
    x, y = normal(300, 8), torch.arange(300) % 5

    one, two = (feature_spectrum(x, x[:, :2], y, mode).quality for mode in ("subspace", "energy"))

    assert_close(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("through_rows", [False, True])
def test_the_spurious_feature_is_found_at_its_rank_and_the_head_is_seen_to_read_it(through_rows):
    x, outputs, y, cue = planted()
    if through_rows:
        x = torch.cat([x, torch.zeros(600, 700, dtype=torch.float64)], dim=1)

    found = feature_spectrum(x, outputs, y, attributes={"background": cue})

    assert found.reached("background") == 1
    assert found.reached("quality") == 3
    assert found.reached("use") == 1
    assert float(found.quality[1]) < 0.05 and float(found.quality[2]) > 0.9


def test_held_out_rows_keep_planted_features_and_drop_memorised_ones():
    x, outputs, y, cue = planted()
    generator = torch.Generator().manual_seed(5)
    code = torch.randint(0, 2, (1200,), generator=generator)
    code[:600] = y  # a code of the label that is broken on the other rows
    other = planted(seed=7)
    first = torch.cat([x, 6.0 * code[:600, None]], dim=1)
    second = torch.cat([other[0], 6.0 * code[600:, None]], dim=1)

    inside = feature_spectrum(first, outputs, y, attributes={"cue": cue})
    outside = feature_spectrum(
        first, outputs, y, attributes={"cue": cue}, held_out=(second, other[1], other[2], {"cue": other[3]})
    )

    assert float(inside.quality[2]) > 0.9
    assert float(outside.quality[2]) < 0.1 and float(outside.quality[-1]) > 0.9
    assert float(outside.attributes["cue"][0]) > 0.95
    assert_close(outside.size, inside.size)
    same = feature_spectrum(first, outputs, y, held_out=(first, outputs, y))
    assert_close(same.quality, inside.quality, rtol=0, atol=1e-8)
    assert_close(same.use, inside.use, rtol=0, atol=1e-8)


def test_more_directions_than_held_out_rows_are_cut():
    x, outputs, y, _ = planted()

    found = feature_spectrum(x, outputs, y, held_out=(x[:5], outputs[:5], y[:5]))

    assert len(found.quality) == len(found.size) == 4
    assert found.n == 5 and "fit by chance" in found.notes[0]


def test_without_centring_the_mean_is_a_direction_of_its_own():
    x, outputs, y, _ = planted()

    found = feature_spectrum(x + 100, outputs, y, center=False)

    assert float(found.size[1]) < 0.05
    assert len(found.size) == 8


def test_targets_may_be_of_any_kind():
    x, outputs, y, _ = planted()
    wanted = feature_spectrum(x, outputs, y).quality

    names = np.array(["coat", "shirt"])[y.numpy()]
    for targets in (names, list(names), torch.nn.functional.one_hot(y), y.numpy(), y.bool(), y.float() * 0.3 + 0.1):
        assert_close(feature_spectrum(x, outputs, targets).quality, wanted, rtol=0, atol=1e-9)


def test_types_are_those_of_the_features():
    x, outputs, y, _ = planted()
    exact = feature_spectrum(x, outputs, y)

    found = feature_spectrum(x.numpy(), outputs.numpy(), y.numpy(), attributes={"a": y})
    assert all(isinstance(c, np.ndarray) for c in (found.size, found.quality, found.use, found.attributes["a"]))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 5e-2)):
        half = feature_spectrum(x.to(dtype), outputs.to(dtype), y)
        assert_close(half.quality[:3], exact.quality[:3], rtol=0, atol=tolerance)
    head = Head("", normal(2, 8), normal(2, seed=1))
    by_head = feature_spectrum(x, head, y)
    assert_close(by_head.use, feature_spectrum(x, x @ head.weight.T + head.bias, y).use)


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda x, f: (torch.where(x > 6, math.nan, x), f), "features are NaN"),
        (lambda x, f: (x, f * math.inf), "outputs are NaN"),
        (lambda x, f: (0 * x + 0.1, f), "features are constant"),
        (lambda x, f: (0 * x.float() + 0.1, f), "features are constant"),
    ],
)
def test_what_has_no_spectrum_is_said_with_a_reason(change, reason):
    x, outputs, y, cue = planted()

    found = feature_spectrum(*change(x, outputs), y, attributes={"cue": cue})

    assert reason in found.reason
    assert math.isnan(float(found.quality[-1])) and math.isnan(float(found.attributes["cue"][-1]))
    assert found.reached("quality") is None


def test_constant_targets_have_no_quality_but_leave_the_rest():
    x, outputs, y, _ = planted()

    found = feature_spectrum(x, outputs, 0 * y)

    assert math.isnan(float(found.quality[-1])) and float(found.use[-1]) > 0.9


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, f, y: feature_spectrum(x, f, y, "share"), "`mode` is one of subspace, energy"),
        (lambda x, f, y: feature_spectrum(x, f, y[:-1]), "`features` has 600 rows but `targets` has 599"),
        (lambda x, f, y: feature_spectrum(x, f, y, attributes={"sex": y[1:]}), "`sex` has 599"),
        (lambda x, f, y: feature_spectrum(x, f, y, held_out=(x, f)), "`held_out` is"),
        (lambda x, f, y: feature_spectrum(x, f, y, held_out=(x[:, 1:], f, y)), "has 7 features, the other rows 8"),
        (
            lambda x, f, y: feature_spectrum(x, f, y, attributes={"a": y}, held_out=(x, f, y)),
            "needs the same attributes",
        ),
        (lambda x, f, y: feature_spectrum(x, f, y).curve("background"), "there is no curve 'background'"),
    ],
)
def test_a_mistake_is_refused_with_a_way_out(call, message):
    x, outputs, y, _ = planted()

    with pytest.raises(ValueError, match=message):
        call(x, outputs, y)
