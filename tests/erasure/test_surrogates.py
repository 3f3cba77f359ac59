import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import firstcue as fc
from cases import generator, labelled
from firstcue import Batch, Moments, surrogates
from firstcue.bures import bures_map
from firstcue.erasure.surrogates.marginals import decay_of_mean, truncated_exponential
from firstcue.erasure.surrogates.normal import log_nearest_distance
from firstcue.erasure.surrogates.third import third_moment_gap

MADE = ["gaussian", "truncated_normal", "maxent", "independent", "third_order"]
EDITED = ["shift", "got", "cqn"]


def pictures(n=600, *, seed=0, dtype=torch.float32, classes=(0, 2, 3)):
    """Skewed, correlated pixels in [0, 1]; unequal classes, of which number 1 has no rows; one pixel constant."""
    g = generator(seed)
    y = torch.tensor(classes)[torch.multinomial(torch.tensor([1.0, 2.0, 3.0]), n, replacement=True, generator=g)]
    x = torch.rand(n, 8, generator=g)
    x = (x + x.roll(1, dims=1)) / 2
    x = x ** (1 + y[:, None] / 2)
    x[:, 5] = 0.0
    return Batch(x.reshape(n, 2, 2, 2).to(dtype), y, classes=("a", "b", "c", "d"))


def class_moments(batch, c):
    return Moments.of(batch.x[batch.y == c].flatten(1))


def quick(name):
    return {"truncated_normal": {"steps": 20}, "third_order": {"steps": 10, "per_class": None}}.get(name, {})


@pytest.mark.parametrize("name", MADE + EDITED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_surrogate_is_a_batch_of_the_same_shape_type_and_classes(name, dtype):
    real = pictures(120, dtype=dtype)
    found = getattr(fc.surrogates, name)(real, **quick(name))

    assert found.x.shape == real.x.shape
    assert found.x.dtype == dtype
    assert found.classes == real.classes
    assert bool(torch.isfinite(found.x).all())
    assert found.y.dtype == torch.int64
    if name in MADE:
        assert torch.equal(found.y, real.y)
    else:
        assert not bool((found.y == real.y).any())
        assert set(found.y.tolist()) <= set(real.y.tolist())
        assert found.columns["source"] == [real.classes[c] for c in real.y.tolist()]


@pytest.mark.parametrize("name", MADE + EDITED)
def test_the_seed_decides_and_global_randomness_is_left_alone(name):
    real = pictures(120)
    state = torch.get_rng_state()
    one, same, other = (getattr(surrogates, name)(real, seed=seed, **quick(name)) for seed in (0, 0, 1))

    assert torch.equal(one.x, same.x) and torch.equal(one.y, same.y)
    assert not torch.equal(one.x, other.x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["truncated_normal", "maxent", "independent", "shift", "cqn"])
def test_pixels_stay_pixels(name):
    found = getattr(surrogates, name)(pictures(200), **quick(name))
    assert 0 <= float(found.x.min()) <= float(found.x.max()) <= 1


@pytest.mark.parametrize("name", ["gaussian", "maxent", "independent"])
def test_any_number_of_rows_of_each_class_can_be_made(name):
    found = getattr(surrogates, name)(pictures(60), per_class=7)
    assert torch.bincount(found.y).tolist() == [7, 0, 7, 7]


@pytest.mark.parametrize("name", ["gaussian", "maxent", "independent"])
def test_draws_have_the_mean_of_their_class(name):
    real = pictures()
    found = getattr(surrogates, name)(real, per_class=30_000)
    for c in (0, 2, 3):
        assert_close(class_moments(found, c).mean, class_moments(real, c).mean, atol=9e-3, rtol=0.0)


def test_normal_draws_have_the_covariance_of_their_class_and_no_skewness():
    real = pictures()
    found = surrogates.gaussian(real, per_class=30_000)
    for c in (0, 2, 3):
        assert_close(class_moments(found, c).covariance, class_moments(real, c).covariance, atol=2e-3, rtol=0.02)
        rows = found.x[found.y == c].flatten(1)
        cubes = (rows - rows.mean(dim=0)).pow(3).mean(dim=0) / rows.std(dim=0).clamp(min=1e-6).pow(3)
        assert float(cubes.abs().max()) < 0.06


def test_a_pixel_that_never_varies_is_not_made_to():
    real = pictures()
    for name in ("gaussian", "independent", "maxent", "got", "cqn", "shift"):
        assert float(getattr(surrogates, name)(real).x.flatten(1)[:, 5].abs().max()) < 1e-12, name


def test_shrinkage_is_used_where_it_is_asked_for():
    real = pictures()
    found = surrogates.gaussian(real, shrinkage=fc.random_matrix_shrinkage)
    assert float(found.x.flatten(1)[:, 5].std()) > 0


def test_truncated_normal_rows_have_the_moments_of_their_class_inside_the_box():
    real = pictures()
    found = surrogates.truncated_normal(real)
    for c in (0, 2, 3):
        assert_close(class_moments(found, c).mean, class_moments(real, c).mean, atol=5e-3, rtol=0.0)
        assert_close(class_moments(found, c).covariance, class_moments(real, c).covariance, atol=2e-3, rtol=0.0)


def test_the_reward_for_entropy_spreads_rows():
    real = pictures(300)
    near = [log_nearest_distance(surrogates.truncated_normal(real, entropy=e).x.flatten(1)) for e in (0.0, 0.02)]
    assert near[1] > near[0]


def test_the_nearest_distance_is_what_a_search_over_all_pairs_finds():
    x = torch.randn(40, 3, generator=generator(), dtype=torch.float64)
    distance = torch.tensor([min(float((a - b).norm()) for j, b in enumerate(x) if j != i) for i, a in enumerate(x)])
    assert_close(float(log_nearest_distance(x)), float(distance.log().mean()))


@settings(max_examples=200, deadline=None)
@given(mean=st.one_of(st.floats(1e-12, 0.5), st.floats(0.4999, 0.5), st.sampled_from([1e-300, 3e-3, 0.5])))
def test_the_inverse_of_the_truncated_exponential_is_exact(mean):
    import mpmath

    b = mpmath.mpf(float(decay_of_mean(torch.tensor([mean], dtype=torch.float64))))
    with mpmath.workdps(60):
        back = mpmath.mpf("0.5") if b == 0 else 1 / b - 1 / mpmath.expm1(b)
        assert abs(back - mpmath.mpf(mean)) <= 4e-15 * max(mpmath.mpf(mean), abs(mpmath.mpf("0.5") - mpmath.mpf(mean)))


@settings(max_examples=50, deadline=None)
@given(mean=st.floats(0, 1), u=st.floats(0, 1))
def test_truncated_exponential_draws_stay_in_the_box_and_grow_with_u(mean, u):
    mean, u = torch.tensor([mean], dtype=torch.float64), torch.tensor([[u]], dtype=torch.float64)
    one, two = truncated_exponential(u, mean), truncated_exponential(u + (1 - u) / 2, mean)
    lower, upper = sorted((float(one), float(two)))
    assert 0 <= lower <= upper <= 1
    assert float(truncated_exponential(u, torch.tensor([0.0]).double())) == 0.0
    assert float(truncated_exponential(u, torch.tensor([1.0]).double())) == 1.0


def test_independent_draws_have_the_marginals_and_no_correlations():
    real = pictures(2000)
    found = surrogates.independent(real)
    report = surrogates.matched(real, found)
    assert report.agrees["mean"] and report.agrees["marginals"]
    assert not report.agrees["covariance"]
    rows = found.x[found.y == 3].flatten(1)[:, [0, 1, 2, 3, 4, 6, 7]]
    assert float((torch.corrcoef(rows.mT) - torch.eye(7)).abs().max()) < 0.15


@pytest.mark.parametrize("target", [0, 2, 3])
@pytest.mark.parametrize("box", [(0, 1), None])
def test_shifted_classes_have_exactly_the_mean_of_the_other(target, box):
    real = pictures(dtype=torch.float64)
    found = surrogates.shift(real, target=[target] * len(real), box=box)
    for c in (0, 2, 3):
        came = found.x[real.y == c].flatten(1)
        assert_close(came.mean(dim=0), class_moments(real, target).mean, atol=1e-9, rtol=0.0)
    assert torch.equal(found.x[real.y == target], real.x[real.y == target])


def test_shifts_reach_even_a_saturated_mean():
    x = torch.cat([torch.rand(50, 1, generator=generator()), torch.ones(50, 1)]).double()
    real = Batch.of(x, [0] * 50 + [1] * 50)
    found = surrogates.shift(real)
    assert_close(found.x[:50], torch.ones(50, 1).double())
    assert float(found.x[50:].mean()) == pytest.approx(float(x[:50].mean()))


@pytest.mark.parametrize("target", [0, 2, 3])
def test_rows_carried_by_optimal_transport_have_exactly_the_moments_of_the_other(target):
    x, z = labelled(n=600, d=5)
    real = Batch.of(x, torch.tensor([0, 2, 3])[z])
    place = {0: 0, 2: 1, 3: 2}[target]
    found = surrogates.got(real, target=[str(target)] * len(real))
    by_id = surrogates.got(real, target=torch.full((len(real),), place))
    goal = class_moments(real, place)
    assert torch.equal(by_id.x, found.x)
    for c in range(3):
        came = Moments.of(found.x[real.y == c])
        assert_close(came.mean, goal.mean)
        assert_close(came.covariance, goal.covariance)


def test_optimal_transport_takes_the_shortest_map():
    x, z = labelled(n=300, d=4, k=2)
    real = Batch.of(x, z)
    found = surrogates.got(real)
    one, two = class_moments(real, 0), class_moments(real, 1)
    slow = two.mean + (x[z == 0] - one.mean) @ bures_map(one.covariance, two.covariance)
    assert_close(found.x[z == 0], slow)


def test_variance_that_the_source_lacks_is_drawn_as_noise():
    g = generator()
    wide = (
        torch.randn(20_000, 3, generator=g, dtype=torch.float64)
        @ torch.tensor([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1.0]]).double()
    )
    flat = torch.randn(20_000, 3, generator=g, dtype=torch.float64)
    flat[:, 2] = flat[:, 0]
    real = Batch.of(torch.cat([wide, flat]), [0] * 20_000 + [1] * 20_000)
    found = surrogates.got(real)
    for came, goal in ((found.x[20_000:], wide), (found.x[:20_000], flat)):
        assert_close(Moments.of(came).covariance, Moments.of(goal).covariance, atol=0.05, rtol=0.0)


def test_rank_transport_gives_each_feature_the_distribution_of_the_other():
    real = pictures(3000)
    found = surrogates.cqn(real, target=[3] * 3000)
    report = surrogates.matched(real, Batch(found.x[real.y == 0], found.y[real.y == 0], classes=real.classes))
    assert report.gap["marginals"] < 0.02
    assert set(report.by_class) == {"d"}


def test_third_order_rows_have_three_moments_of_their_class():
    real = pictures(900)
    report = surrogates.matched(real, surrogates.third_order(real, per_class=400))
    assert report.agrees["mean"] and report.agrees["covariance"] and report.agrees["third"]
    assert report.gap["third"] < 0.1 * surrogates.matched(real, surrogates.gaussian(real)).gap["third"]


def test_a_box_holds_third_order_rows_too():
    found = surrogates.third_order(pictures(200), box=(0, 1), per_class=100)
    assert 0 <= float(found.x.min()) <= float(found.x.max()) <= 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 8), m=st.integers(2, 8), d=st.integers(1, 4))
def test_the_distance_of_third_moments_is_that_of_the_tensors(seed, n, m, d):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, d)) ** 2, rng.normal(size=(m, d))
    tensors = [np.einsum("ni,nj,nk->ijk", r, r, r) / len(r) for r in (a - a.mean(0), b - b.mean(0))]
    gap, size = third_moment_gap(torch.from_numpy(a), torch.from_numpy(b))
    assert gap == pytest.approx(np.linalg.norm(tensors[0] - tensors[1]), abs=1e-6)
    assert size == pytest.approx(np.linalg.norm(tensors[0]), abs=1e-6)


def test_two_draws_of_one_distribution_are_found_to_agree_and_a_moved_one_is_not():
    one, two = pictures(1500), pictures(1500, seed=1)
    report = surrogates.matched(one, two)
    far = surrogates.matched(one, Batch(two.x + 0.1, two.y, classes=two.classes))

    assert all(report.gap[s] < 2 * report.noise[s] for s in report.gap)
    assert not far.agrees["mean"] and not far.agrees["marginals"]
    assert far.gap["covariance"] == pytest.approx(report.gap["covariance"], rel=1e-3)
    assert set(report.by_class) == {"a", "c", "d"}


def test_gaps_are_what_they_are_said_to_be():
    one, two = pictures(300, dtype=torch.float64), pictures(300, seed=1, dtype=torch.float64)
    found = surrogates.matched(one, two).by_class["c"]
    a, b = (batch.x[batch.y == 2].flatten(1).numpy() for batch in (one, two))
    cov = [np.cov(rows.T, bias=True) for rows in (a, b)]
    assert found["mean"] == pytest.approx(np.linalg.norm(a.mean(0) - b.mean(0)) / np.sqrt(np.trace(cov[0]) / 8))
    assert found["covariance"] == pytest.approx(np.linalg.norm(cov[0] - cov[1]) / np.linalg.norm(cov[0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda b: surrogates.maxent(Batch(b.x + 5, b.y)), "outside the box"),
        (lambda b: surrogates.maxent(b, box=(-np.inf, np.inf)), "two finite walls"),
        (lambda b: surrogates.truncated_normal(Batch(3 * b.x, b.y)), "outside the box"),
        (lambda b: surrogates.gaussian(Batch(b.x[:1], b.y[:1])), "has 1 row"),
        (lambda b: surrogates.gaussian(b, per_class=0), "at least 1"),
        (lambda b: surrogates.got(Batch(b.x, b.y * 0)), "one class only"),
        (lambda b: surrogates.shift(b, target=[1] * len(b)), "no rows"),
        (lambda b: surrogates.cqn(b, target=["z"] * len(b)), "no rows"),
        (lambda b: surrogates.got(b, target=[0]), "one per row"),
        (lambda b: surrogates.matched(b, Batch(b.x.flatten(1)[:, :3], b.y)), "same features"),
        (lambda b: surrogates.gaussian(Batch(b.x * torch.nan, b.y)), "NaN"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call(pictures(60))


@pytest.mark.parametrize("name", MADE + EDITED)
def test_the_real_rows_are_left_as_they_are(name):
    real = pictures(120, dtype=torch.float64)
    x, y = real.x.clone(), real.y.clone()
    getattr(surrogates, name)(real, **quick(name))
    assert torch.equal(real.x, x) and torch.equal(real.y, y)
