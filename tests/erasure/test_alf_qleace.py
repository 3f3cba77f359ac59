import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import floats, integers
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, alf_qleace, fold, injection, leace, load, quadratic_probe, save
from firstcue.erasure._deflation import Deflation, largest
from firstcue.erasure.leace import orthogonal_eraser
from references import mean_gap


def fit(x, z, *settings, **more):
    return alf_qleace(Moments.of_groups(x, z), *settings, **more)


def quietly(x, z, *settings, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(x, z, *settings, **more)


def differences(x, z):
    """Covariance of every class minus their unweighted mean, (k, d, d)."""
    found = torch.stack([torch.cov(x[z == c].double().mT, correction=0).reshape(x.shape[1], -1) for c in z.unique()])
    return found - found.mean(dim=0)


def worst(x, z):
    return float(differences(x, z).norm(dim=(1, 2)).max())


def gap(x, z):
    """Largest distance of a class mean from the mean."""
    return max(float((x[z == c].mean(dim=0) - x.mean(dim=0)).norm()) for c in z.unique())


def slow_directions(matrices, target):
    """Dense deflation: a full eigendecomposition and two products of every matrix for every direction; and relative gaps."""
    start, found, gaps = max(m.norm() for m in matrices), [], []
    while max(m.norm() for m in matrices) > (1 - target) * start:
        values, vectors = torch.linalg.eigh(matrices)
        size, place = values.abs().max(dim=1)
        c = int(size.argmax())
        inside = (values[c] - values[c, place[c]]).abs().sort().values[1]
        between = size[c] - size[torch.arange(len(size)) != c].max()
        gaps.append(float(min(inside, between) / size[c]))
        found.append(vectors[c, :, place[c]])
        rest = torch.eye(matrices.shape[1], dtype=matrices.dtype) - torch.outer(found[-1], found[-1])
        matrices = rest @ matrices @ rest
    return torch.stack(found, dim=1), gaps


@pytest.mark.parametrize("target", [0.3, 0.9, 0.99])
@pytest.mark.parametrize(
    "name", ["plain", "copied feature", "constant feature", "mean 1e6 times the spread", "float32"]
)
def test_means_coincide_and_covariance_differences_fall_by_the_target(name, target):
    x, z = hard()[name]
    eraser = quietly(x, z, target)
    left = leace(Moments.of_groups(x, z))(x.double())
    erased = eraser(x.double())

    assert gap(erased, z) < 1e-6 * float(x.double().std())
    assert worst(erased, z) <= (1 - target) * worst(left, z) * (1 + 1e-5)
    assert_close(erased.mean(dim=0), x.double().mean(dim=0), rtol=1e-7, atol=1e-9)
    assert eraser(x).dtype == x.dtype


@settings(max_examples=15, deadline=None)
@given(seed=integers(0, 2**31), d=integers(2, 24), k=integers(3, 6), target=floats(0.05, 0.999))
def test_the_fast_recursion_finds_what_dense_deflation_finds(seed, d, k, target):
    g = generator(seed)
    roots = torch.randn(k, d, d, generator=g, dtype=torch.float64) * torch.logspace(0, -2, d, dtype=torch.float64)
    matrices = roots @ roots.mT
    matrices = matrices - matrices.mean(dim=0)  # of two, the differences would be one matrix twice
    slow, gaps = slow_directions(matrices, target)
    state = Deflation(list(matrices), torch.eye(d, dtype=torch.float64))
    limit = (1 - target) * state.worst
    while state.worst > limit:
        state.remove(largest(state))
    fast = state.directions

    assert_close(fast.mT @ fast, torch.eye(fast.shape[1], dtype=torch.float64), rtol=0, atol=1e-12)
    clear = next((i for i, gap in enumerate(gaps) if gap < 1e-4), len(gaps))
    along = (slow[:, :clear] * fast[:, :clear]).sum(dim=0)
    assert float((slow[:, :clear] - fast[:, :clear] * along).norm(dim=0).max()) < 1e-8
    rest = torch.eye(d, dtype=torch.float64) - fast @ fast.mT
    assert state.worst == pytest.approx(float((rest @ matrices @ rest).norm(dim=(1, 2)).max()), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("d", [60, 130])
def test_directions_are_those_of_dense_deflation_after_many_were_removed(d):
    roots = torch.randn(4, d, d, generator=generator(d), dtype=torch.float64)
    roots *= torch.logspace(0, -1.5, d, dtype=torch.float64)
    matrices = roots @ roots.mT
    matrices = matrices - matrices.mean(dim=0)
    slow, gaps = slow_directions(matrices, 0.8)
    state = Deflation(list(matrices), torch.eye(d, dtype=torch.float64))
    while state.rank < slow.shape[1]:
        state.remove(largest(state))

    assert min(gaps) > 1e-5
    assert slow.shape[1] > d / 3  # the matrices were rewritten in between
    along = (slow * state.directions).sum(dim=0)
    assert float((slow - state.directions * along).norm(dim=0).max()) < 1e-7


def test_matrices_that_commute_lose_their_largest_eigenvalues_in_order():
    values = torch.randn(3, 20, generator=generator(), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(20, 20, generator=generator(1), dtype=torch.float64)).Q
    state = Deflation([turn @ torch.diag(v) @ turn.mT for v in values], torch.eye(20, dtype=torch.float64))
    order = values.abs().amax(dim=0).argsort(descending=True)
    for i in order[:12].tolist():
        v = largest(state)
        assert abs(float((state.basis @ v) @ turn[:, i])) == pytest.approx(1.0, abs=1e-9)
        state.remove(v)


@settings(max_examples=15, deadline=None)
@given(seed=integers(0, 2**31), low=floats(0.1, 0.95), step=floats(0.0, 0.05))
def test_a_higher_target_takes_more_directions_and_the_first_ones_are_the_same(seed, low, step):
    x, z = labelled(300, 8, 3, seed=seed)
    some, more = quietly(x, z, low), quietly(x, z, low + step)

    assert some.rank <= more.rank
    assert_close(more.right[:, : some.rank].abs(), some.right.abs(), rtol=1e-6, atol=1e-7)


def test_directions_are_orthonormal_and_the_map_is_a_projection():
    x, z = labelled(d=8, k=3)
    eraser = fit(x, z)
    directions = eraser.right[:, 2:]

    assert directions.shape[1] >= 1
    assert_close(directions.mT @ directions, torch.eye(directions.shape[1], dtype=torch.float64))
    assert_close(eraser.projection @ eraser.projection, eraser.projection)
    assert_close(eraser(eraser(x)), eraser(x))
    assert_close(eraser.left.mT @ eraser.right, torch.eye(eraser.rank, dtype=torch.float64))


def test_the_planted_direction_is_found():
    z = torch.arange(4000) % 2
    x = torch.randn(4000, 8, generator=generator(), dtype=torch.float64)
    planted = torch.linalg.qr(torch.randn(8, 1, generator=generator(1), dtype=torch.float64)).Q[:, 0]
    x += torch.outer(2 * z * (x @ planted), planted)  # three times the spread in class 1
    eraser = fit(x, z, 0.8, means=None)

    assert eraser.rank == 1
    assert float((eraser.right[:, 0] @ planted).abs()) > 0.999
    before, after = quadratic_probe(Moments.of_groups(x, z)), quadratic_probe(Moments.of_groups(eraser(x), z))
    assert (before(x).argmax(dim=1) == z).double().mean() > 0.7
    assert (after(eraser(x)).argmax(dim=1) == z).double().mean() < 0.56


def test_unequal_class_sizes_are_not_taken_for_unequal_covariances():
    z = (torch.arange(20_000) < 2000).long()
    x = torch.randn(20_000, 8, generator=generator(), dtype=torch.float64)
    x[:, 3] *= 1 + z
    eraser = fit(x, z, 0.8, means=None)

    assert eraser.rank == 1
    assert float(eraser.right[3, 0].abs()) > 0.99


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_max_rank_counts_the_directions_beyond_those_of_leace(limit):
    x, z = labelled()
    eraser = fit(x, z, 0.999, max_rank=limit)

    assert eraser.rank == 2 + limit
    assert mean_gap(eraser(x), z) < 1e-12
    if limit == 0:
        assert_close(eraser.projection, leace(Moments.of_groups(x, z)).projection)


@pytest.mark.parametrize("selection", ["frobenius", "least-squares"])
def test_movement_is_what_theory_says_and_no_less_than_that_of_leace(selection):
    x, z = labelled()
    eraser = fit(x, z, selection=selection)
    report = eraser.report(x, z)

    assert eraser.distortion == pytest.approx(float((eraser(x) - x).square().sum(dim=1).mean()))
    assert eraser.distortion > leace(Moments.of_groups(x, z)).distortion
    assert report["rank"] == eraser.rank
    assert report["variance_removed"] == pytest.approx(1 - report["variance_after"] / report["variance_before"])
    assert report["covariance_gap_after"] < report["covariance_gap_before"]


def test_selection_by_least_squares_spares_variance_where_loud_directions_say_little():
    z = torch.arange(6000) % 2
    x = torch.randn(6000, 6, generator=generator(), dtype=torch.float64)
    x[:, 0] *= 10 + 0.02 * z  # loud; the largest difference by little
    x[:, 1] *= 1 + z
    x = x - torch.stack([x[z == c].mean(dim=0) for c in (0, 1)])[z]
    loud, cheap = fit(x, z, 0.5, max_rank=1), fit(x, z, 0.5, max_rank=1, selection="least-squares")

    assert float(loud.right[0, -1].abs()) > 0.9
    assert float(cheap.right[1, -1].abs()) > 0.99
    assert cheap.distortion < 0.1 * loud.distortion


def test_selection_by_least_squares_takes_the_best_ratio():
    x, z = labelled()
    eraser = fit(x, z, max_rank=1, selection="least-squares")
    linear = leace(Moments.of_groups(x, z))
    erased = linear(x)
    found = differences(erased, z)
    largest_one = found[found.norm(dim=(1, 2)).argmax()]
    total = torch.cov(erased.mT, correction=0)

    def ratio(v):
        return float((largest_one @ v).square().sum() / (v @ total @ v))

    best = ratio(eraser.right[:, -1])
    for seed in range(50):
        other = linear.projection @ torch.randn(8, generator=generator(seed), dtype=torch.float64)
        assert ratio(other) < best
    assert worst(fit(x, z, 0.9, selection="least-squares")(x), z) <= 0.1 * worst(erased, z)


def test_means_may_be_erased_orthogonally_or_not_at_all():
    x, z = labelled()
    apart = x + 5 * z[:, None]
    plain = fit(apart, z, means=orthogonal_eraser)
    left_alone = fit(apart, z, means=None)

    assert mean_gap(plain(apart), z) < 1e-12
    assert_close(plain.projection, plain.projection.mT)
    assert mean_gap(left_alone(apart), z) > 0.1
    assert_close(left_alone.projection, left_alone.projection.mT)
    assert worst(left_alone(apart), z) <= 0.1 * worst(apart, z)


def test_at_target_one_no_difference_is_left_and_a_second_fit_removes_nothing():
    # classes that differ in two directions of twelve
    shared = torch.randn(600, 12, generator=generator(), dtype=torch.float64)
    per_class = [shared[:200] - shared[:200].mean(dim=0), shared[:200] - shared[:200].mean(dim=0)]
    per_class[1] = per_class[1] @ torch.diag(torch.tensor([2.0, 3.0] + [1.0] * 10, dtype=torch.float64))
    y, label = torch.cat(per_class), torch.arange(2).repeat_interleave(200)
    eraser = fit(y, label, 1.0)
    again = fit(eraser(y), label, 1.0)

    assert 2 <= eraser.rank <= 4
    assert worst(eraser(y), label) < 1e-9
    assert again.distortion < 1e-25
    assert_close(again(eraser(y)), eraser(y), rtol=0, atol=1e-12)


def test_at_target_one_classes_that_differ_everywhere_lose_everything_and_it_says_so():
    x, z = labelled()

    with pytest.warns(UserWarning, match="all variance of x.*a constant is left. Lower `target`"):
        eraser = fit(x, z, 1.0)
    assert float(eraser(x).var(dim=0).max()) < 1e-12


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_erasure_follows_rotation_scale_and_shift(scale):
    x, z = labelled()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=generator(1), dtype=x.dtype)).Q
    moved = scale * (x @ turn.mT + 3.0)

    assert_close(fit(moved, z)(moved) / scale, fit(x, z)(x) @ turn.mT + 3.0, rtol=1e-6, atol=1e-6)


def test_row_order_doubled_rows_and_names_do_not_matter():
    x, z = labelled()
    order = torch.randperm(len(x), generator=generator(3))
    plain = fit(x, z)(x)

    assert_close(fit(x[order], z[order])(x), plain)
    assert_close(fit(torch.cat([x, x]), torch.cat([z, z]))(x), plain)
    assert_close(fit(x, np.array(["z", "y", "x"])[z])(x), plain)
    assert_close(alf_qleace(Moments.of_groups(x, z, weights=torch.full((600,), 2.0)))(x), plain)
    assert_close(alf_qleace(Moments.of_groups(x, z, 5))(x), plain)


def test_streamed_parts_with_an_absent_class_give_the_same_eraser():
    x, z = labelled()
    order = z.argsort()
    parts = [Moments.of_groups(x[p], z[p], 3) for p in order.tensor_split(5)]
    streamed = parts[0]
    for part in parts[1:]:
        streamed = streamed.merge(part)

    assert_close(alf_qleace(streamed).projection, fit(x, z).projection, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_types_and_arrays_come_back_as_they_were(dtype):
    x, z = labelled(3000, 16, dtype=dtype)
    eraser = fit(x, z)

    assert eraser(x).dtype == dtype
    assert mean_gap(eraser(x), z) < 20 * torch.finfo(dtype).eps
    if dtype != torch.bfloat16:
        assert isinstance(eraser(x.numpy()), np.ndarray)


def test_it_folds_into_a_layer_and_is_saved(tmp_path):
    x, z = labelled(dtype=torch.float32)
    eraser = fit(x, z)
    layer = torch.nn.utils.skip_init(torch.nn.Linear, 8, 3)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator()))

    assert_close(fold(eraser, layer)(x), layer(eraser(x)), rtol=1e-4, atol=1e-4)
    assert torch.equal(load(save(eraser, tmp_path / "eraser"))(x), eraser(x))


def test_it_cannot_write_the_label_into_a_lattice():
    g = generator(1)
    x = torch.randn(8000, 2, generator=g, dtype=torch.float64)
    x[:, 0] = (x[:, 0] * 2).round() / 2
    z = (torch.rand(8000, generator=g, dtype=torch.float64) < torch.sigmoid(2 * x[:, 0])).long()
    x = torch.cat([x, torch.randn(8000, 2, generator=g, dtype=torch.float64) * (1 + z[:, None])], dim=1)

    assert not injection(x, quietly(x, z)(x), z)["injected"]


def test_a_class_with_fewer_rows_than_features_is_equalised_on_these_rows():
    x, z = labelled(60, 30)
    eraser = quietly(x, z)

    assert worst(eraser(x), z) <= 0.1 * worst(leace(Moments.of_groups(x, z))(x), z) * (1 + 1e-9)


def test_classes_that_differ_in_nothing_lose_nothing():
    half = torch.randn(50, 4, generator=generator(), dtype=torch.float64)
    x, z = torch.cat([half, half]), torch.arange(2).repeat_interleave(50)

    assert fit(x, z).rank == 0
    assert torch.equal(fit(x, z)(x), x)


def test_more_classes_than_features_leave_nothing_and_say_so():
    x, z = labelled(3000, 4, 9)

    with pytest.warns(UserWarning, match="leaves a constant"):
        eraser = fit(x, z)
    assert float(Moments.of(eraser(x)).covariance.abs().max()) < 1e-20


def test_results_are_the_same_every_time_and_leave_the_random_state_alone():
    x, z = labelled()
    state = torch.random.get_rng_state()

    assert torch.equal(fit(x, z).right, fit(x, z).right)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, z: fit(x, z, 0.0), "`target`.*above 0 and at most 1; got 0.0"),
        (lambda x, z: fit(x, z, 1.1), "`target`.*got 1.1"),
        (lambda x, z: fit(x, z, float("nan")), "`target`.*got nan"),
        (lambda x, z: fit(x, z, max_rank=-1), "`max_rank`.*-1"),
        (lambda x, z: fit(x, 0 * z), "one class only"),
        (lambda x, z: fit(x, 0 * z, means=None), "one class only"),
        (lambda x, z: fit(x[:0], z[:0]), "one class only"),
        (lambda x, z: alf_qleace(Moments.of(x)), "one group axis"),
        (lambda x, z: fit(x, torch.where(torch.arange(600) == 5, 7, z)), r"a single row.*\['7'\].*`leace`"),
        (lambda x, z: fit(torch.where(x > 2, torch.nan, x), z), "NaN or infinite"),
    ],
)
def test_a_mistake_is_answered_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call(*labelled())


def test_a_search_begins_anew_where_little_is_left_of_a_random_start():
    x, z = labelled(283 + 8 * 7 * 2 * 3, 7, 2, seed=322)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that everything goes
        eraser = alf_qleace(Moments.of_groups(1e-6 * x, z))
    erased = eraser(1e-6 * x)
    assert_close(erased[z == 0].mean(dim=0), erased[z == 1].mean(dim=0), rtol=0, atol=1e-16)
