import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers
from sklearn.linear_model import LinearRegression, LogisticRegression
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, leace, leace_continuous, oas, oracle_leace
from firstcue.erasure.leace import AffineEraser, class_offsets, leace_from_rows, leace_map, orthogonal_eraser
from firstcue.linalg import factor_psd
from references import leace_projection, mean_gap, standardised_gap

ONE = {torch.float16: 2e-3, torch.float32: 2e-6, torch.float64: 1e-10}
"""How far class means may differ after erasure, in standard deviations, by what the type can hold."""


def fit(x, z):
    return leace(Moments.of_groups(x, z))


@pytest.mark.parametrize("name", hard())
def test_class_means_coincide_after_erasure(name):
    x, z = hard()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one feature and three classes: everything goes
        erased = fit(x, z)(x)
    limit = ONE[x.dtype] + 10 * torch.finfo(x.dtype).eps * float(x.double().mean().abs() / x.double().std())

    assert erased.dtype == x.dtype
    assert mean_gap(x, z) > 0.02
    assert float((class_gaps(erased, z) / spread(x)).abs().max()) < limit


def class_gaps(x, z):
    rows = x.double()
    return torch.stack([rows[z == c].mean(dim=0) - rows.mean(dim=0) for c in z.unique()])


def spread(x):
    found = x.double().std(dim=0, correction=0)
    return torch.where(found > 1e-12 * x.double().abs().max(), found, 1.0)


@pytest.mark.parametrize("name", ["plain", "constant feature", "copied feature", "rare class", "a class of one row"])
def test_the_map_is_that_of_the_theorem(name):
    x, z = hard()[name]

    # maps may differ where x has no variance: compare what they do to rows
    centred = x - x.mean(dim=0)
    assert_close(centred @ fit(x, z).projection.mT, centred @ leace_projection(x, z).mT, rtol=1e-8, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=integers(0, 2**31), n=integers(30, 200), d=integers(3, 9), k=integers(2, 3))
def test_the_map_is_that_of_the_theorem_for_any_data(seed, n, d, k):
    x, z = labelled(n, d, k, seed=seed)

    assert_close(fit(x, z).projection, leace_projection(x, z), rtol=1e-6, atol=1e-7)


def test_no_linear_probe_learns_anything_from_erased_data():
    x, z = labelled(2000, 10)
    erased = fit(x, z)(x).numpy()
    one_hot = torch.nn.functional.one_hot(z).double().numpy()
    probe = LogisticRegression(C=1e6, max_iter=2000)

    assert probe.fit(x.numpy(), z).score(x.numpy(), z) > 0.8
    assert LinearRegression().fit(erased, one_hot).score(erased, one_hot) < 1e-12
    assert probe.fit(erased, z).score(erased, z) == z.bincount().max() / len(z)
    assert probe.decision_function(erased).std(axis=0).max() < 1e-3


def test_movement_is_what_theory_says_and_nothing_feasible_moves_less():
    x, z = labelled()
    eraser = fit(x, z)
    moved = float((eraser(x) - x).square().sum(dim=1).mean())
    whole = Moments.of(x)
    offsets = class_offsets(Moments.of_groups(x, z))

    assert moved == pytest.approx(eraser.distortion, rel=1e-10)
    assert moved == pytest.approx(float(whole.covariance.trace() - Moments.of(eraser(x)).covariance.trace()), rel=1e-8)
    left = torch.linalg.qr(offsets).Q[:, :2]
    for seed in range(20):
        # every feasible map is P + D with D offsets = 0
        change = torch.randn(8, 8, generator=generator(seed), dtype=torch.float64) * 0.05
        other = eraser.projection + change - change @ left @ left.mT
        assert float((other @ offsets).norm()) < 1e-9
        centred = x - whole.mean
        assert float((centred @ other.mT - centred).square().sum(dim=1).mean()) > moved


def test_oracle_moves_least_then_leace_then_the_orthogonal_projection():
    x, z = labelled()
    by_class = Moments.of_groups(x, z)
    oracle, best, plain = oracle_leace(by_class), leace(by_class), orthogonal_eraser(by_class)

    assert oracle.distortion < best.distortion < plain.distortion
    assert plain.distortion == pytest.approx(float((plain(x) - x).square().sum(dim=1).mean()))
    assert mean_gap(plain(x), z) < 1e-12
    assert_close(plain.projection, plain.projection.mT)


@pytest.mark.parametrize("scale", [1e-9, 1e-2, 1.0, 1e9])
def test_the_orthogonal_projection_erases_in_any_unit(scale):
    x, z = labelled()
    plain = orthogonal_eraser(Moments.of_groups(scale * x, z))

    assert plain.rank == 2
    assert mean_gap(plain(scale * x), z) < 1e-12


def test_erasing_twice_changes_nothing():
    x, z = labelled()
    eraser = fit(x, z)

    assert_close(eraser(eraser(x)), eraser(x), rtol=0, atol=1e-12)
    assert_close(eraser.projection @ eraser.projection, eraser.projection)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_erased_data_has_nothing_left_to_erase(dtype):
    x, z = labelled(dtype=dtype)
    again = fit(fit(x, z)(x), z)

    assert again.rank == 0
    assert torch.equal(again(x), x)


def test_labels_that_say_nothing_still_leave_equal_means():
    x, _ = labelled()
    z = torch.randint(0, 2, (len(x),), generator=generator(5))

    assert mean_gap(fit(x, z)(x), z) < 1e-12


def test_variance_never_grows_in_any_direction():
    x, z = labelled()
    before, after = Moments.of(x).covariance, Moments.of(fit(x, z)(x)).covariance

    assert torch.linalg.eigvalsh(before - after)[0] > -1e-12
    assert_close(Moments.of(fit(x, z)(x)).mean, Moments.of(x).mean)


def test_the_map_follows_any_invertible_change_of_features():
    x, z = labelled()
    change = torch.randn(8, 8, generator=generator(3), dtype=torch.float64)
    moved = x @ change.mT + 7.0

    assert_close(fit(moved, z)(moved), fit(x, z)(x) @ change.mT + 7.0)


def test_the_order_of_rows_and_the_names_of_classes_are_irrelevant():
    x, z = labelled()
    shuffled = torch.randperm(len(x), generator=generator())
    names = np.array(["z", "y", "x"])[z]

    assert_close(fit(x[shuffled], z[shuffled]).projection, fit(x, z).projection)
    assert_close(fit(x, names).projection, fit(x, z).projection)


def test_repeating_rows_and_weighting_them_are_the_same():
    x, z = labelled(100)
    weights = torch.randint(0, 4, (100,), generator=generator())
    rows = torch.arange(100).repeat_interleave(weights)

    weighted = leace(Moments.of_groups(x, z, 3, weights))
    assert_close(weighted.projection, fit(x[rows], z[rows]).projection)
    assert mean_gap(weighted(x)[rows], z[rows]) < 1e-12


@pytest.mark.parametrize("parts", [2, 7])
def test_streamed_moments_give_the_same_eraser(parts):
    x, z = labelled()
    streamed = Moments.of_groups(x[:0], z[:0], 3)
    for some, labels in zip(x.tensor_split(parts), z.tensor_split(parts), strict=True):
        streamed = streamed.merge(Moments.of_groups(some, labels, 3))

    assert_close(leace(streamed).projection, fit(x, z).projection)


# what a careless implementation gets silently wrong


@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize("parts", [1, 9])
def test_float32_data_far_from_zero_is_erased(offset, parts):
    x, z = labelled(20_000, 16)
    far = (x + offset).float()
    moments = [Moments.of_groups(a, b, 3) for a, b in zip(far.tensor_split(parts), z.tensor_split(parts), strict=True)]
    by_class = moments[0]
    for part in moments[1:]:
        by_class = by_class.merge(part)
    eraser = leace(by_class)

    assert mean_gap(far, z) > 1.0
    # the guarantee is on the map; what is written back in float32 is rounded to a grid of width 2^-23 offset
    assert mean_gap(eraser(far.double()), z) < 1e-8
    assert mean_gap(eraser(far), z) < 5e-9 * offset + 1e-6
    assert_close(eraser.projection, leace_projection(far, z), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("ratio", [1e-2, 1e-3, 1e-5])
def test_a_concept_in_a_direction_of_little_variance_is_erased(ratio):
    d = 256
    z = torch.randint(0, 2, (4000,), generator=generator())
    x = torch.randn(4000, d, generator=generator(1), dtype=torch.float64)
    x[:, 0] = ratio * (0.5 * x[:, 0] + 3.0 * z)
    rotation = torch.linalg.qr(torch.randn(d, d, generator=generator(2), dtype=torch.float64)).Q
    rotated, quiet = (x @ rotation).float(), rotation[0]

    erased = fit(rotated, z)(rotated)
    assert standardised_gap(rotated, z, quiet) > 1.5
    assert standardised_gap(fit(rotated, z)(rotated.double()), z, quiet) < 1e-6
    assert standardised_gap(erased, z, quiet) < 1e-6 / ratio


@pytest.mark.parametrize("count", [1, 13])
def test_a_rare_class_is_erased(count):
    x = torch.randn(20_000, 8, generator=generator())
    z = torch.zeros(20_000, dtype=torch.int64)
    z[:count] = 1
    x[:count] += 1.0

    assert mean_gap(x, z) > 1.0
    assert mean_gap(fit(x, z)(x), z) < 2e-6


@pytest.mark.parametrize("unit", [1e-6, 1e-2, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_do_not_matter(unit, dtype):
    x, z = labelled(dtype=dtype)

    assert fit(unit * x, z).rank == 2
    assert mean_gap(fit(unit * x, z)(unit * x), z) < ONE[dtype]


@pytest.mark.parametrize(
    "recode",
    [
        lambda z: z.to(torch.int32),
        lambda z: z.double(),
        lambda z: z.to(torch.float16),
        lambda z: 5 * z,
        lambda z: z - 1,
        lambda z: torch.nn.functional.one_hot(z),
        lambda z: torch.nn.functional.one_hot(z).bool(),
        lambda z: z[:, None],
        lambda z: z.numpy(),
        lambda z: z.tolist(),
        lambda z: np.array(["cat", "dog", "bird"])[z],
        lambda z: np.array(["cat", "dog", "bird"], dtype=object)[z],
    ],
    ids=[
        "int32",
        "float",
        "float16",
        "gaps",
        "negative",
        "one-hot",
        "bool one-hot",
        "column",
        "array",
        "list",
        "text",
        "object",
    ],
)
def test_labels_of_any_kind_mean_the_same(recode):
    x, z = labelled()
    by_class = Moments.of_groups(x, recode(z))

    assert len(by_class.classes) == 3
    assert_close(leace(by_class).projection, fit(x, z).projection)


def test_two_classes_may_be_booleans():
    x, z = labelled(k=2)

    assert_close(fit(x, z.bool()).projection, fit(x, z).projection)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_erased_and_returned(dtype):
    x, z = labelled(3000, 16, dtype=dtype)
    erased = fit(x, z)(x)

    assert erased.dtype == dtype
    assert mean_gap(erased, z) < 20 * torch.finfo(dtype).eps
    assert mean_gap(x, z) > 0.5


def test_integers_are_erased_to_float32():
    x, z = labelled(1000)
    counts = (20 * x).round().to(torch.int64)
    erased = fit(counts, z)(counts)

    assert erased.dtype == torch.float32
    assert mean_gap(erased, z) < 1e-5


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_arrays_come_back_as_arrays(dtype):
    x, z = labelled()
    array = x.numpy().astype(dtype)
    eraser = fit(array, z.numpy())
    erased = eraser(array)

    assert isinstance(erased, np.ndarray)
    assert erased.dtype == dtype
    assert_close(torch.from_numpy(erased), eraser(torch.from_numpy(array)), rtol=0, atol=0)
    read_only = array[::2]
    read_only.flags.writeable = False
    assert_close(eraser(read_only), erased[::2])


def test_sequences_of_vectors_are_erased_vector_by_vector():
    x, z = labelled()
    eraser = fit(x, z)

    assert_close(eraser(x.reshape(20, 30, 8)), eraser(x).reshape(20, 30, 8))
    assert_close(eraser(x[0]), eraser(x)[0])
    assert eraser(x[:0]).shape == (0, 8)


@pytest.mark.parametrize(("n", "d"), [(100, 500), (300, 1000), (10, 11), (5, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_rows_than_features_are_erased(n, d, dtype):
    x, z = labelled(n, d, 2, dtype=torch.float64)
    x = x.to(dtype)

    for eraser in (fit(x, z), leace_from_rows(x, z)):
        assert mean_gap(x, z) > 0.02
        assert mean_gap(eraser(x), z) < (1e-10 if dtype == torch.float64 else 2e-5)
        assert eraser.rank == 1


def test_the_gram_path_is_the_same_map():
    x, z = labelled(40, 60)
    unseen, _ = labelled(20, 60, seed=9)
    by_rows, by_moments = leace_from_rows(x, z), fit(x, z)

    assert_close(by_rows(unseen), by_moments(unseen), rtol=1e-6, atol=1e-6)
    assert by_rows.distortion == pytest.approx(by_moments.distortion)
    assert_close(leace_from_rows(x[:, :8], z)(x[:, :8]), fit(x[:, :8], z)(x[:, :8]))


def test_the_gram_path_needs_no_square_of_the_features():
    x, z = torch.randn(12, 200_000, generator=generator()), torch.arange(12) % 3  # a d x d matrix would take 320 GB

    assert float((class_gaps(leace_from_rows(x, z)(x), z) / spread(x)).abs().max()) < 5e-6


def test_more_classes_than_features_leave_nothing_and_say_so():
    x, z = labelled(3000, 8, 20)

    with pytest.warns(UserWarning, match="all 8 directions"):
        eraser = fit(x, z)
    assert Moments.of(eraser(x)).covariance.abs().max() < 1e-20


def test_one_feature_carries_one_concept_and_nothing_else():
    x, z = labelled(d=1, k=2)

    with pytest.warns(UserWarning, match="leaves a constant"):
        eraser = fit(x, z)
    assert_close(eraser(x), x.mean().expand_as(x))


def test_constant_features_alone_are_left_alone():
    x = torch.full((30, 4), 0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(leace(Moments.of_groups(x, torch.arange(30) % 2))(x), x)


def test_a_class_without_rows_is_ignored():
    x, z = labelled()

    assert_close(leace(Moments.of_groups(x, 2 * z, 7)).projection, fit(x, z).projection)


def test_shrinkage_changes_the_metric_and_not_the_guarantee():
    x, z = labelled(60, 30)
    by_class = Moments.of_groups(x, z)
    shrunk = leace(by_class, shrinkage=oas)

    assert mean_gap(shrunk(x), z) < 1e-12
    assert shrunk.distortion > leace(by_class).distortion
    assert shrunk.distortion == pytest.approx(float((shrunk(x) - x).square().sum(dim=1).mean()))


def test_a_factor_can_be_shared_by_many_concepts():
    x, z = labelled()
    whole, by_class = Moments.of(x), Moments.of_groups(x, z)
    shared = leace_map(class_offsets(by_class), factor_psd(whole.covariance, rows=len(x)), whole.mean)

    assert_close(shared.projection, leace(by_class).projection)


# real-valued concepts


def test_real_valued_concepts_lose_all_covariance():
    x, z = labelled(500)
    target = torch.stack([x[:, 0] + x[:, 1].sin(), z * 1e-6, z * 1e6 + 3.0], dim=1)
    target = torch.cat([target, target[:, :1] * 2], dim=1)  # a copied column
    eraser = leace_continuous(Moments.of(torch.cat([x, target], dim=1)), num_features=8)
    erased = eraser(x)
    centred = (target - target.mean(dim=0)) / target.std(dim=0)

    assert eraser.rank == 2
    assert float((erased.mT @ centred).abs().max()) / len(x) < 1e-12
    assert eraser.distortion == pytest.approx(float((erased - x).square().sum(dim=1).mean()))


def test_one_hot_columns_as_a_concept_are_the_classes():
    x, z = labelled()
    joint = torch.cat([x, torch.nn.functional.one_hot(z).double()], dim=1)

    assert_close(leace_continuous(Moments.of(joint), 8).projection, fit(x, z).projection)


def test_soft_labels_are_erased():
    x, z = labelled()
    soft = torch.softmax(
        3 * torch.nn.functional.one_hot(z) + torch.randn(600, 3, generator=generator()), dim=1
    ).double()
    eraser = leace_continuous(Moments.of(torch.cat([x, soft], dim=1)), 8)

    assert eraser.rank == 2
    assert LinearRegression().fit(eraser(x).numpy(), soft.numpy()).score(eraser(x).numpy(), soft.numpy()) < 1e-12


# the map as a layer, and the report


def test_the_module_is_saved_moved_and_differentiated_like_any_layer():
    x, z = labelled(dtype=torch.float32)
    eraser = fit(x, z)
    module, other = eraser.to_module(), fit(*labelled(seed=4)).to_module()
    other.load_state_dict(module.state_dict())
    inputs = x.clone().requires_grad_()
    other(inputs).sum().backward()

    assert_close(other(x), eraser(x))
    assert_close(inputs.grad, eraser.projection.sum(dim=0).float().expand_as(x))
    assert torch.equal(module(x.reshape(20, 30, 8)), module(x).reshape(20, 30, 8))
    assert module.half()(x.half()).dtype == torch.float16
    assert list(module.parameters()) == []


def test_gradients_pass_through_the_eraser():
    x, z = labelled()
    eraser = fit(x, z)
    inputs = x.clone().requires_grad_()
    eraser(inputs)[:, 0].sum().backward()

    assert_close(inputs.grad, eraser.projection[0].expand_as(x))


def test_the_report_says_what_was_done():
    x, z = labelled()
    report = fit(x, z).report(x, z)

    assert report["rank"] == 2
    assert report["n"] == 600
    assert report["distortion"] == pytest.approx(report["optimum"])
    assert report["mean_gap_before"] == pytest.approx(mean_gap(x, z))
    assert report["mean_gap_after"] < 1e-12
    assert report["variance_removed"] == pytest.approx(1 - report["variance_after"] / report["variance_before"])
    assert report["covariance_gap_before"] > 0.1
    assert report["covariance_gap_after"] > 0.1
    assert all(isinstance(value, float) for value in report.values())


def test_the_report_on_other_rows_shows_what_did_not_carry_over():
    x, z = labelled(60, 30)
    unseen, labels = labelled(4000, 30)
    report = fit(x, z).report(unseen.numpy(), labels.numpy())

    assert report["mean_gap_after"] > 0.1
    assert report["distortion"] > report["optimum"] * 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, z: fit(x, torch.zeros_like(z)), "one class only.*'0'"),
        (lambda x, z: leace(Moments.of_groups(x, torch.zeros_like(z), 4)), "one class only"),
        (lambda x, z: leace(Moments.of_groups(x[:0], z[:0], 4)), "one class only"),
        (lambda x, z: leace(Moments.of(x)), "one group axis.*Moments.of_groups"),
        (lambda x, z: leace_from_rows(x, z[:5]), "`z` has 5"),
        (lambda x, z: leace_from_rows(x[:3], [1, 1, 1]), "`z` has one class only"),
        (lambda x, z: leace_from_rows(x[:3] * float("nan"), [1, 2, 1]), "NaN"),
        (lambda x, z: fit(x, z)(x[:, :5]), r"shape \(600, 5\) but the eraser was fitted on 8 features"),
        (lambda x, z: fit(x, z)(["a"]), "numbers are needed"),
        (lambda x, z: leace_continuous(Moments.of(x), 8), r"\[x, z\].*`num_features` = 8"),
        (lambda x, z: leace_continuous(Moments.of(x[:0]), 7), "no rows"),
        (lambda x, z: leace_continuous(Moments.of(torch.cat([x, 0 * x], dim=1)), 8), "constant over all rows"),
        (lambda x, z: fit(x, x[:, 0]), "regression target.*leace_continuous"),
        (lambda x, z: fit(torch.where(x > 2, torch.inf, x), z), "NaN or infinite"),
    ],
)
def test_a_mistake_is_answered_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call(*labelled())


@pytest.mark.peer
@pytest.mark.parametrize("k", [2, 5])
def test_the_peer_finds_the_same_map(k):
    concept_erasure = pytest.importorskip("concept_erasure", reason="needs the extra `peers`")
    x, z = labelled(2000, 32, k)
    peer = concept_erasure.LeaceFitter.fit(x, torch.nn.functional.one_hot(z), shrinkage=False).eraser

    assert_close(fit(x, z).projection, peer.P, rtol=1e-8, atol=1e-9)
    assert isinstance(fit(x, z), AffineEraser)
