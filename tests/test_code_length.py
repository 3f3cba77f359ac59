"""A code length says what it takes to send labels: chance for noise, little for what is easy, the same for the same seed."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from torch import nn

import firstcue as fc
from firstcue.code_length.length import code_length, difference, power_law
from firstcue.code_length.sizes import validation_rows


@settings(max_examples=200, deadline=None)
@given(st.integers(4, 300_000), st.integers(2, 1000), st.integers(0, 4000), st.integers(2, 15))
def test_chunks_sum_to_all_rows_and_never_shrink(n, k, d, chunks):
    if n < 2 * chunks:
        with pytest.raises(ValueError, match="cannot be cut"):
            fc.chunk_sizes(n, k, d, chunks=chunks)
        return
    sizes = fc.chunk_sizes(n, k, d, chunks=chunks)
    assert len(sizes) == chunks and sum(sizes) == n and sizes[0] >= 1
    assert list(sizes) == sorted(sizes)


def test_chunks_of_cifar_are_the_published_ones():
    assert validation_rows(50_000) == 2048
    published = (1024, 1351, 1782, 2350, 3099, 4088, 5392, 7112, 9381, 12373)
    assert fc.chunk_sizes(50_000 - 2048, 10, 3072) == published
    assert fc.chunk_sizes(73_257 - 2048, 10, 3072)[0] == 1024


@pytest.mark.parametrize("wrong", [{"chunks": 1}, {"first": 0}, {"first": 51}, {"batch_size": 0}])
def test_impossible_chunks_are_refused(wrong):
    with pytest.raises(ValueError):
        fc.chunk_sizes(500, 10, 64, **wrong)


def blobs(n=600, k=3, spread=4.0, seed=0):
    y = torch.arange(n) % 7 % k  # unequal classes
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += spread * y
    return x, y


def shares(x, y, x_val, y_val, seed):
    """Knows only how often each class occurs."""
    counts = torch.bincount(y, minlength=3) + 0.5
    return lambda rows: (counts / counts.sum()).log().expand(len(rows), 3)


def uniform(x, y, x_val, y_val, seed):
    return lambda rows: torch.zeros(len(rows), 10)


def network(x, y, x_val, y_val, seed):
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def test_guessing_costs_the_logarithm_of_the_number_of_classes_in_both_forms():
    x, y = torch.zeros(47_952 + 2048, 1), torch.arange(50_000) % 10
    found = fc.description_length(uniform, x, y, seeds=2, validation=2048, first=1024)
    assert found.sizes == (1024, 1351, 1782, 2350, 3099, 4088, 5392, 7112, 9381, 12373)
    for value, expected in ((found.bits_per_sample, math.log2(10)), (found.reference, 11.44)):
        assert value == pytest.approx(expected, abs=0.005)
    assert found.chance == pytest.approx(math.log2(10)) and found.reference_chance == pytest.approx(found.reference)
    assert found.area == pytest.approx(found.chance)
    assert found.power_law.exponent == pytest.approx(0, abs=1e-9)


def test_random_labels_cost_what_guessing_costs():
    x, _ = blobs(2000)
    y = torch.randint(3, (2000,), generator=torch.Generator().manual_seed(1))
    found = fc.description_length(shares, x, y)
    assert found.bits_per_sample == pytest.approx(math.log2(3), abs=0.02)


def test_what_is_easy_has_a_short_code_and_what_is_hard_a_longer_one():
    easy, hard = (fc.description_length(GaussianNB(), *blobs(spread=s), seeds=3) for s in (6.0, 1.0))
    assert easy.bits_per_sample < 0.25 < hard.bits_per_sample < hard.chance
    assert hard.curve[-1].held_out_bits < hard.curve[0].held_out_bits
    gap = difference(hard, easy)
    assert gap.n == 3 and gap.ci_low > 0
    assert gap.value == pytest.approx(hard.bits_per_sample - easy.bits_per_sample)


def test_the_proper_form_is_what_a_slow_sum_over_rows_gives():
    x, y = blobs(90)
    found = fc.description_length(GaussianNB(), x, y, seeds=[4], chunks=3, validation=0)
    order = torch.randperm(90, generator=torch.Generator().manual_seed(4))
    bits, ends = found.sizes[0] * math.log2(3), np.cumsum(found.sizes)
    for start, stop in itertools.pairwise(ends):
        model = GaussianNB().fit(x[order[:start]], y[order[:start]])
        p = np.zeros((stop - start, 3))
        p[:, model.classes_] = model.predict_proba(x[order[start:stop]])
        p = (start * p + 1 / 3) / (start + 1)
        bits -= np.log2(p[np.arange(stop - start), y[order[start:stop]]]).sum()
    assert found.bits_per_sample == pytest.approx(bits / 90)
    assert math.isnan(found.ci_low) and found.curve[-1].bits == pytest.approx(found.curve[-1].held_out_bits)


def test_the_reference_form_weighs_held_out_losses_by_cumulative_sizes():
    held = np.array([[3.0, 1.0]])
    found = code_length(0 * held, held, (10, 20, 30), 4, [0])
    assert found.reference == pytest.approx((30 * 3 + 60 * 1) / 60)
    assert found.reference_chance == pytest.approx((30 * 2 + 60 * 2) / 60)


def test_the_same_seed_gives_the_same_length_whatever_ran_before():
    x, y = blobs(200)
    one = fc.description_length(network, x, y, seeds=2, chunks=4)
    torch.rand(3)
    before = torch.get_rng_state()
    two = fc.description_length(network, x, y, seeds=[1, 0], chunks=4)
    assert one.by_seed == two.by_seed[::-1]
    assert torch.equal(before, torch.get_rng_state())


def test_processes_side_by_side_give_the_lengths_of_one():
    x, y = blobs(200)
    alone = fc.description_length(network, x, y, seeds=2, chunks=3)
    together = fc.description_length(network, x, y, seeds=2, chunks=3, jobs=2)
    assert together.by_seed == pytest.approx(alone.by_seed, rel=1e-5)


def test_an_interrupted_measurement_goes_on_where_it_was(tmp_path):
    x, y = blobs(200)
    calls = []

    def tiring(*given):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(len(given[0]))
        return shares(*given)

    with pytest.raises(KeyboardInterrupt):
        fc.description_length(tiring, x, y, seeds=2, chunks=4, folder=tmp_path / "kept")
    done = len(calls)
    calls.clear()
    calls.extend([0] * 5)  # never 4 again
    resumed = fc.description_length(tiring, x, y, seeds=2, chunks=4, folder=tmp_path / "kept")
    assert len(calls) - 5 == 6 - done
    assert resumed == fc.description_length(shares, x, y, seeds=2, chunks=4)
    with pytest.raises(ValueError, match="other rows"):
        fc.description_length(shares, x + 1, y, seeds=2, chunks=4, folder=tmp_path / "kept")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int64])
def test_rows_of_any_type_and_shape_and_labels_of_any_kind_are_measured(dtype):
    x, y = blobs(90)
    names = np.array(["a", "b", "c"])[y]
    seen = []

    def note(x, *rest):
        seen.append((x.dtype, x.shape[1:]))
        return shares(x, *rest)

    fc.description_length(note, x.to(dtype).reshape(90, 1, 2, 2), names, seeds=1, chunks=3)
    assert set(seen) == {(dtype, (1, 2, 2))}


def test_a_class_that_the_first_chunk_lacks_costs_bits_but_not_infinitely_many():
    x, y = blobs(400)
    y[:] = 0
    y[:200] = 1
    y[7] = 2
    found = fc.description_length(LogisticRegression(), x, y, seeds=3, chunks=4)
    assert math.isfinite(found.bits_per_sample)


def diverged(x, y, x_val, y_val, seed):
    return lambda rows: torch.full((len(rows), 3), torch.nan)


def certain_and_wrong(x, y, x_val, y_val, seed):
    return lambda rows: torch.tensor([0.0, -math.inf, -math.inf]).expand(len(rows), 3)


@pytest.mark.parametrize("fit", [diverged, certain_and_wrong])
def test_a_loss_that_is_not_finite_is_named_and_not_hidden(fit):
    with pytest.warns(UserWarning, match="seed 0 at"):
        found = fc.description_length(fit, *blobs(200), seeds=2, chunks=3)
    assert not math.isfinite(found.bits_per_sample) and math.isnan(found.power_law.scale)


def test_a_power_law_is_recovered():
    rows = [10, 100, 1000, 10_000]
    found = power_law(rows, [3.0 * n**-0.4 for n in rows])
    assert (found.scale, found.exponent) == (pytest.approx(3.0), pytest.approx(0.4))
    assert found.error < 1e-9
    assert math.isnan(power_law(rows, [1.0, 0.5, 0.0, 0.1]).scale)


@pytest.mark.parametrize("call, way_out", [
    (lambda x, y: fc.description_length(shares, x, y[:-1]), "one per row"),
    (lambda x, y: fc.description_length(shares, x, 0 * y), "one class only"),
    (lambda x, y: fc.description_length(shares, x + torch.nan, y), "NaN"),
    (lambda x, y: fc.description_length(shares, x[:12], y[:12]), "cannot be cut"),
    (lambda x, y: fc.description_length(shares, x, y, seeds=[1, 1]), "none twice"),
    (lambda x, y: fc.description_length(shares, x, y, validation=200), "of the 200 rows"),
    (lambda x, y: fc.description_length(uniform, x, y), r"\(n, k\)"),
    (lambda x, y: fc.description_length(object(), x, y), "predict_proba"),
])  # fmt: skip
def test_a_mistake_is_refused_with_the_way_out(call, way_out):
    with pytest.raises(ValueError, match=way_out):
        call(*blobs(200))


def test_lengths_of_different_cuts_or_seeds_are_not_compared():
    x, y = blobs(200)
    one, two, three = (
        fc.description_length(shares, x, y, **how)
        for how in ({"seeds": [0]}, {"seeds": [1]}, {"seeds": [0], "chunks": 4})
    )
    with pytest.raises(ValueError, match="in common"):
        difference(one, two)
    with pytest.raises(ValueError, match="cut both alike"):
        difference(one, three)
