import subprocess
import sys
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, lists
from torch.testing import assert_close

from cases import generator, hard, labelled
from firstcue import Moments, jackknife
from firstcue._scatter import CHUNK_ROWS
from references import two_pass

FIELDS = ("count", "mean", "scatter", "rows", "cubic", "quartic")


def assert_same(one, two, rtol=1e-12, atol=1e-12):
    for name in FIELDS:
        a, b = getattr(one, name), getattr(two, name)
        assert (a is None) == (b is None)
        if a is not None:
            size = float(b.double().abs().max()) if b.numel() else 0.0
            slack = 1e3 if name in ("cubic", "quartic") else 1.0  # higher orders amplify the rounding of the mean
            assert_close(a, b, rtol=slack * rtol, atol=slack * atol * size)


@settings(max_examples=25, deadline=None)
@given(seed=integers(0, 2**31), cuts=lists(integers(0, 60), max_size=5))
def test_moments_do_not_depend_on_how_the_data_was_split(seed, cuts):
    x = 1e3 + torch.randn(60, 4, generator=generator(seed), dtype=torch.float64)
    parts = [Moments.of(part, fourth=True) for part in x.tensor_split(sorted(cuts))]

    whole = Moments.of(x, fourth=True)

    assert_same(reduce(Moments.merge, parts), whole)
    assert_same(reduce(Moments.merge, parts[::-1]), whole)


@settings(max_examples=25, deadline=None)
@given(seed=integers(0, 2**31), cut=integers(0, 80))
def test_moments_of_groups_merge_when_a_group_is_absent_from_a_part(seed, cut):
    x, z = labelled(80, 3, 4, seed=seed)
    z[:cut] = z[:cut].clamp(max=1)

    def build(s):
        return Moments.of_groups(x[s], z[s], 4, fourth=True)

    assert_same(build(slice(0, cut)).merge(build(slice(cut, None))), build(slice(None)))


@pytest.mark.parametrize("name", hard())
def test_moments_equal_the_definition(name):
    x, z = hard()[name]
    precise = Moments.of(x, precision="float64")
    count, mean, scatter = two_pass(x)
    size = scatter.diagonal().sqrt()[:, None] * scatter.diagonal().sqrt() + 1e-20 * mean.square().max()

    assert precise.count == count == precise.rows
    assert_close(precise.mean, mean, rtol=1e-13, atol=1e-13 * float(x.double().std()))
    assert float(((precise.scatter - scatter) / size).abs().max()) < 1e-9
    assert float(((Moments.of(x).scatter - scatter) / size).abs().max()) < 3e-6
    assert_same(Moments.of_groups(x, z, precision="float64").pool(), precise, 1e-9, 1e-9)


def test_rows_beyond_one_chunk_are_merged_exactly():
    x = torch.randn(2 * CHUNK_ROWS + 17, 3, generator=generator(), dtype=torch.float64)
    x[CHUNK_ROWS:] += 1e5  # a shift fixed by the first chunk would lose eleven digits here
    _, mean, scatter = two_pass(x)

    assert_close(Moments.of(x).mean, mean, rtol=1e-13, atol=0)
    assert_close(Moments.of(x).scatter, scatter, rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6, -3e6])
def test_float32_is_right_to_what_the_input_holds_however_far_from_zero(offset):
    x = (torch.randn(20_000, 6, generator=generator()) + offset).float()
    x[10_000:] += 2.0
    _, mean, scatter = two_pass(x)

    for whole in (Moments.of(x), reduce(Moments.merge, map(Moments.of, x.split(3_000)))):
        assert_close(whole.mean, mean, rtol=1e-14, atol=1e-12)
        assert_close(whole.scatter, scatter, rtol=1e-6, atol=2e-6 * float(scatter.max()))


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e18, 1e30])
def test_float32_products_neither_underflow_nor_overflow(scale):
    x = torch.randn(500, 3, generator=generator()) * scale
    x[:, 1] = scale  # a constant beside them

    _, _, scatter = two_pass(x)

    assert_close(Moments.of(x).scatter, scatter, rtol=1e-5, atol=2e-6 * float(scatter.max()))


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int32, torch.int64, torch.bool],
)
def test_every_number_type_is_read(dtype):
    x = (10 * torch.rand(300, 4, generator=generator())).to(dtype)
    _, mean, scatter = two_pass(x)

    assert_close(Moments.of(x).mean, mean)
    assert_close(Moments.of(x).scatter, scatter, rtol=1e-5, atol=1e-5 * float(scatter.max()))
    assert Moments.of(x).scatter.dtype == torch.float64


def test_arrays_and_tensors_give_the_same_moments():
    x, z = labelled(dtype=torch.float32)

    assert_same(Moments.of_groups(x.numpy(), z.numpy()), Moments.of_groups(x, z), 0, 0)
    assert_same(Moments.of(x.numpy()[::-1, ::-1][::-1, ::-1]), Moments.of(x), 0, 0)
    assert_same(Moments.of(np.asfortranarray(x.numpy())), Moments.of(x), 1e-6, 1e-6)


def test_a_row_of_weight_two_counts_twice_and_one_of_weight_zero_not_at_all():
    x, z = labelled(50, 3)
    weights = torch.randint(0, 3, (50,), generator=generator())
    x[weights == 0] = torch.nan
    repeated = weights.repeat_interleave(weights)
    rows = torch.arange(50).repeat_interleave(weights)

    weighted = Moments.of_groups(x, z, 3, weights, fourth=True)
    copied = Moments.of_groups(x[rows], z[rows], 3, fourth=True)

    assert len(repeated) == weighted.count.sum()
    for name in ("count", "mean", "scatter", "cubic", "quartic"):
        assert_close(getattr(weighted, name), getattr(copied, name), rtol=1e-11, atol=1e-11)
    assert weighted.rows.tolist() == [int(((z == c) & (weights > 0)).sum()) for c in range(3)]


def test_weights_that_are_fractions_follow_the_definition():
    x, _ = labelled(5000, 4, dtype=torch.float32)
    weights = torch.rand(5000, generator=generator())
    count, mean, scatter = two_pass(x, weights)
    found = Moments.of(x, weights)

    assert_close(found.count, count)
    assert_close(found.mean, mean, rtol=1e-6, atol=1e-9)
    assert_close(found.scatter, scatter, rtol=1e-5, atol=1e-6 * float(scatter.max()))


def test_fourth_order_sums_follow_the_definition():
    x, _ = labelled(9000, 3)
    found = Moments.of(x + 50, fourth=True)
    y = x - x.mean(dim=0)

    assert_close(found.quartic, y.square().sum(dim=1).square().sum())
    assert_close(found.cubic, y.square().sum(dim=1) @ y)


def test_pooling_carries_the_fourth_order_sums():
    x, z = labelled()

    assert_same(Moments.of_groups(x, z, fourth=True).pool(), Moments.of(x, fourth=True), 1e-10, 1e-10)


def test_no_rows_are_the_identity_of_merge():
    x, z = labelled(40, 3)
    some, none = Moments.of(x), Moments.of(x[:0])

    assert none.count == none.rows == 0
    assert_same(some.merge(none), some, 0, 0)
    assert_same(none.merge(some), some, 0, 0)
    assert_same(none.merge(none), none, 0, 0)
    assert_same(Moments.of_groups(x, z).merge(Moments.of_groups(x[:0], z[:0])), Moments.of_groups(x, z), 0, 0)


def test_groups_are_matched_by_name_when_parts_know_different_ones():
    x = torch.randn(6, 2, generator=generator(), dtype=torch.float64)
    labels = np.array(["b", "a", "b", "c", "a", "c"])

    merged = Moments.of_groups(x[:3], labels[:3]).merge(Moments.of_groups(x[3:], labels[3:]))

    assert merged.classes == ("a", "b", "c")
    assert_same(merged, Moments.of_groups(x, labels))


def test_numbers_as_labels_keep_their_order_when_matched():
    x = torch.randn(4, 2, generator=generator())
    merged = Moments.of_groups(x[:2], [10, 2]).merge(Moments.of_groups(x[2:], [-1, 2]))

    assert merged.classes == ("-1", "2", "10")
    assert merged.rows.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    "labels", [[0, 5, 10, 5], ["x", "y", "z", "y"], [0.0, 5.0, 10.0, 5.0], [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]]]
)
def test_labels_of_any_kind_become_groups(labels):
    x = torch.arange(8.0).reshape(4, 2)
    found = Moments.of_groups(x, labels)

    assert found.rows.tolist() == [1, 2, 1]
    assert len(found.classes) == 3


@pytest.mark.parametrize(
    "ids",
    [
        [0, 2, 2],
        [False, True, True],
        np.array([0, 2, 2], dtype=np.int8),
        [[1, 0, 0], [0, 0, 1], [0, 0, 1]],
        torch.tensor([[0], [2], [2]]),
    ],
)
def test_with_a_number_of_groups_ids_keep_their_place(ids):
    found = Moments.of_groups(torch.arange(6.0).reshape(3, 2), ids, 3)
    last = int(np.asarray(found.rows).nonzero()[0][-1])

    assert found.rows.sum() == 3
    assert found.rows[0] == 1
    assert found.rows[last] == 2
    assert last == (1 if np.asarray(ids).dtype == bool else 2)


def test_many_small_groups_agree_with_one_at_a_time():
    x, _ = labelled(3000, 4)
    group = torch.randint(0, 700, (3000,), generator=generator())
    found = Moments.of_groups(x, group, 700)

    for g in (0, 13, 699):
        assert_same(found.group(g), Moments.of(x[group == g]))
    assert_same(found.pool(), Moments.of(x), 1e-11, 1e-11)


def test_an_empty_group_has_no_covariance():
    found = Moments.of_groups(torch.ones(3, 2), [0, 0, 0], 2)

    assert found.covariance[1].isnan().all()
    assert (found.covariance[0] == 0).all()


def test_covariance_is_that_of_this_very_sample():
    x, _ = labelled()

    assert_close(Moments.of(x).covariance, torch.cov(x.mT, correction=0))


def test_memory_beyond_the_input_is_one_chunk_and_the_result():
    code = """
import resource, torch
from firstcue import Moments
import scipy.linalg
Moments.of_groups(torch.randn(9000, 256), torch.arange(9000) % 4)
x, z = torch.randn(300_000, 256), torch.arange(300_000) % 4
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Moments.of_groups(x, z)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(found.stdout) < 30_000  # kilobytes; the input takes 300,000


def test_the_input_is_left_as_it_was():
    x, z = labelled(dtype=torch.float32)
    before = x.clone()
    Moments.of_groups(x, z)
    Moments.of(x)

    assert torch.equal(x, before)


def test_moments_of_a_tensor_that_requires_grad_do_not():
    x = torch.randn(9, 2, requires_grad=True)

    assert not Moments.of(x).scatter.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_missing_value_is_refused_with_its_row(value, dtype):
    x = torch.randn(5000, 3, generator=generator()).to(dtype)
    x[4711, 1] = value

    with pytest.raises(ValueError, match=r"1 of 5000 rows \(first: row 4711\)"):
        Moments.of(x)
    with pytest.raises(ValueError, match="row 4711"):
        Moments.of_groups(x, torch.arange(5000) % 3)


def test_values_too_large_to_square_are_refused():
    with pytest.raises(ValueError, match="too large to be squared"):
        Moments.of(torch.tensor([[1e200], [-1e200]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: Moments.of(x[:, 0]), r"shape \(6,\).*x\[:, None\]"),
        (lambda x: Moments.of(x.reshape(3, 2, 2)), r"shape \(3, 2, 2\).*x.reshape\(len\(x\), -1\)"),
        (lambda x: Moments.of(x.to(torch.complex64)), "complex"),
        (lambda x: Moments.of(x, precision="half"), "`precision`.*'half'"),
        (lambda x: Moments.of(x, [1, 1, 1, 1, 1, -1]), "`weights`.*not negative.*1 other"),
        (lambda x: Moments.of(x, [1, 1, 1, 1, 1, float("nan")]), "`weights`.*finite"),
        (lambda x: Moments.of(x, [1, 1]), "`x` has 6 rows but `weights` has 2"),
        (lambda x: Moments.of_groups(x, [0, 1]), "`x` has 6 rows but `group` has 2"),
        (lambda x: Moments.of_groups(x, [0, 1, 2, 0, 1, 3], 3), "id 3 but `num_groups` is 3"),
        (lambda x: Moments.of_groups(x, [0, 1, 2, 0, 1, -1], 3), "id -1 but `num_groups` is 3"),
        (lambda x: Moments.of_groups(x, list("ababab"), 2), "label 'a', which is not an id"),
        (lambda x: Moments.of_groups(x, [0.5, 1, 2, 0, 1, 2]), "regression target"),
        (lambda x: Moments.of(x).merge(Moments.of(x[:, :1])), "of 2 and of 1 features"),
        (lambda x: Moments.of(x).merge(Moments.of_groups(x, [0, 1] * 3)), r"group axes \(\) and \(2,\)"),
        (lambda x: Moments.of(x).pool(), "no group axis"),
        (lambda x: jackknife(lambda m: m.mean, [Moments.of(x), Moments.of(x[:0])]), "got 1"),
    ],
)
def test_a_mistake_is_answered_with_what_was_found(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(12.0).reshape(6, 2))


def test_the_jackknife_of_a_mean_is_its_textbook_standard_error():
    x = torch.randn(40, 2, generator=generator(), dtype=torch.float64)
    value, error = jackknife(lambda m: m.mean, [Moments.of(row[None]) for row in x])

    assert_close(value, x.mean(dim=0))
    assert_close(error, x.std(dim=0) / 40**0.5)


def test_the_jackknife_leaves_out_each_chunk_once_whatever_its_size():
    x = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    chunks = [Moments.of(part) for part in x.tensor_split([3, 10, 11, 30])]
    seen = []
    jackknife(lambda m: seen.append(float(m.count)) or float(m.count), chunks)

    assert seen == [50, 47, 43, 49, 31, 30]


def test_the_jackknife_error_of_a_correlation_covers_the_truth():
    def correlation(m):
        c = m.covariance
        return float(c[0, 1] / (c[0, 0] * c[1, 1]).sqrt())

    inside = 0
    for seed in range(60):
        x = torch.randn(400, 2, generator=generator(seed), dtype=torch.float64)
        x[:, 1] += x[:, 0]
        value, error = jackknife(correlation, [Moments.of(part) for part in x.tensor_split(12)])
        inside += abs(value - 0.5**0.5) < 2 * error
    assert 50 <= inside <= 60
