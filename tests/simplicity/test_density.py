"""Bits are what they are said to be: exact where they can be, bounds otherwise, and refused where they would mislead."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import firstcue as fc
from firstcue.simplicity.density import Density, require_differentiable
from firstcue.simplicity.independent import Independent
from firstcue.simplicity.mixture import Mixture
from firstcue.simplicity.quantising import SharedNoise, dequantised, grey_levels, quantised

RANGES = {
    "0..1": (0.0, 1.0),
    "-0.5..0.5": (-0.5, 0.5),
    "-1..1": (-1.0, 1.0),
    "0..255": (0.0, 255.0),
    "0..256": (0.0, 256.0),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=6, shape=(1, 5, 4), seed=0, dtype=torch.float32):
    return torch.rand(n, *shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def beta(low=2.0, high=3.0):
    one = torch.ones((), dtype=torch.float64)
    return torch.distributions.Beta(low * one, high * one)


class Answering:
    """A density that gives whatever it is told to."""

    levels, shape, differentiable = 256, None, True

    def __init__(self, answer):
        self.answer = answer

    def bits(self, x, *, generator=None):
        return self.answer(x)


# --- exact values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 28, 28), (3, 7, 5)], ids=str)
def test_a_uniform_density_takes_eight_bits_per_value(shape):
    assert torch.equal(fc.bits(fc.Uniform(), images(shape=shape)), torch.full((6,), 8.0 * math.prod(shape)))


@pytest.mark.parametrize("in_range", RANGES)
@pytest.mark.parametrize("per_dim", [False, True], ids=["sum", "mean"])
def test_every_range_of_a_uniform_distribution_gives_eight_bits(in_range, per_dim):
    law = torch.distributions.Uniform(*(torch.tensor(end, dtype=torch.float64) for end in RANGES[in_range]))

    def log_prob(v):
        each = law.log_prob(v).flatten(start_dim=1)
        return each.mean(dim=1) if per_dim else each

    found = fc.bits(fc.from_log_prob(log_prob, in_range, per_dim=per_dim), images(dtype=torch.float64)) / 20
    torch.testing.assert_close(found, torch.full((6,), 8.0, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("in_range", RANGES)
def test_bits_do_not_depend_on_the_range_a_density_was_trained_on(in_range):
    low, high = RANGES[in_range]
    seen = {"0..255": 255.0}.get(in_range, high - low)  # 255 v for v in [0, 1]
    law = torch.distributions.TransformedDistribution(beta(), torch.distributions.AffineTransform(low, seen))
    x = images(dtype=torch.float64)
    torch.testing.assert_close(fc.bits(fc.from_log_prob(law, in_range), x), fc.bits(fc.from_log_prob(beta()), x))


def two_pixel_images(levels):
    return torch.tensor(list(itertools.product(range(levels), repeat=2)), dtype=torch.float64).view(-1, 1, 1, 2) / (
        levels - 1
    )


@pytest.mark.parametrize("shared", [False, True])
def test_probabilities_of_all_tiny_images_sum_to_one(shared):
    density = Independent.fit(images(9, (1, 1, 2), dtype=torch.float64), levels=4, shared=shared)
    bits = fc.bits(density, two_pixel_images(4))
    assert math.isclose(float(torch.exp2(-bits).sum()), 1.0, rel_tol=1e-12)


def test_a_mixture_of_densities_still_sums_to_one():
    parts = [fc.Uniform(4), Independent.fit(images(9, (1, 1, 2)), levels=4)]
    bits = fc.bits(Mixture(parts, [1, 3]), two_pixel_images(4))
    assert math.isclose(float(torch.exp2(-bits).sum()), 1.0, rel_tol=1e-12)


def test_a_mixture_costs_at_most_its_fee_above_the_cheapest_part():
    x, parts = images(), [fc.Uniform(), fc.DCTLaplace(), Independent.fit(images(seed=1))]
    each = torch.stack([fc.bits(part, x) for part in parts])
    mixed = fc.bits(Mixture(parts), x)
    assert bool((mixed <= each.min(dim=0).values + math.log2(3) + 1e-3).all())


def test_a_histogram_gives_the_share_of_each_level():
    x = torch.tensor([0.0, 0.0, 0.0, 1.0]).view(4, 1, 1, 1)
    density = Independent.fit(x, levels=2, smoothing=0.0)
    torch.testing.assert_close(fc.bits(density, x), torch.tensor([math.log2(4 / 3)] * 3 + [2.0]))


# --- dequantisation -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*more than 20 bits")
@settings(max_examples=8, deadline=None)
@given(low=st.floats(0.5, 5), high=st.floats(0.5, 5), levels=st.sampled_from([2, 4]))
def test_the_dequantised_bound_is_never_below_the_discrete_code(low, high, levels):
    """Jensen: the mean of -log2 p over a cell is at least -log2 of the mass of the cell."""
    from scipy import stats

    x = two_pixel_images(levels)
    density = fc.from_log_prob(beta(low, high), levels=levels)
    bound, error = fc.bits(density, x, n_dequant=64, return_error=True)
    mass = np.diff(stats.beta(low, high).cdf(np.linspace(0, 1, levels + 1)))
    exact = -np.log2(mass)[(x * (levels - 1)).round().long().numpy()].sum(axis=(1, 2, 3))
    assert bool((bound.numpy() >= exact - 6 * error.numpy() - 1e-9).all())


def test_the_standard_error_shrinks_with_more_draws_and_covers_what_they_differ_by():
    density, x = fc.from_log_prob(beta(), levels=4), images(20, dtype=torch.float64)
    few, many = (fc.bits(density, x, n_dequant=k, return_error=True) for k in (16, 400))
    assert float((many.error / few.error).median()) == pytest.approx(0.2, rel=0.3)
    assert float(((few.bits - many.bits).abs() < 4 * few.error).double().mean()) > 0.9


def test_an_exact_density_is_asked_once_and_has_no_error():
    asked = []
    density = Answering(lambda x: asked.append(len(x)) or torch.full((len(x),), 9.0))
    assert fc.bits(density, images(), return_error=True).error.tolist() == [0.0] * 6
    assert asked == [6]


def test_one_draw_of_noise_has_no_standard_error():
    assert fc.bits(fc.from_log_prob(beta()), images(), n_dequant=1, return_error=True).error.isnan().all()


@pytest.mark.parametrize(
    "make", [lambda: fc.from_log_prob(beta()), fc.DCTLaplace, fc.Uniform], ids=["noisy", "dct", "uniform"]
)
def test_bits_of_an_image_depend_neither_on_batches_nor_on_its_neighbours(make):
    density, x = make(), images(7, dtype=torch.float64)
    whole = fc.bits(density, x)
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    torch.testing.assert_close(fc.bits(density, x, batch_size=2), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(fc.bits(density, x[order]), whole[order], rtol=1e-12, atol=0)
    torch.testing.assert_close(fc.bits(density, x[2:3]), whole[2:3], rtol=1e-12, atol=0)


def test_a_seed_makes_bits_repeatable_and_leaves_the_global_state_alone():
    density, x = fc.from_log_prob(beta()), images()
    state = torch.get_rng_state()
    first, again, other = (fc.bits(density, x, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_without_a_generator_noise_is_the_same_every_time():
    assert torch.equal(dequantised(images()), dequantised(images()))
    assert not torch.equal(dequantised(images(), seeded(1)), dequantised(images()))


@settings(max_examples=30, deadline=None)
@given(levels=st.integers(2, 256), dtype=st.sampled_from([torch.float32, torch.float64]), seed=st.integers(0, 99))
def test_a_dequantised_value_stays_inside_the_cell_of_its_level(levels, dtype, seed):
    q = torch.arange(levels, dtype=dtype).repeat(50, 1)
    v = dequantised(q / (levels - 1), seeded(seed), levels)
    assert torch.equal((v * levels).floor(), q)
    assert float(v.min()) > 0 and float(v.max()) < 1


def test_quantised_images_lie_on_grey_levels_and_gradients_pass_unchanged():
    y = torch.linspace(-0.3, 1.3, 101).requires_grad_()
    on_lattice = quantised(y)
    assert torch.equal(on_lattice * 255, (on_lattice * 255).round())
    assert float(on_lattice.detach().min()) >= 0 and float(on_lattice.detach().max()) <= 1
    on_lattice.sum().backward()
    assert torch.equal(y.grad, torch.ones(101))
    assert torch.equal(grey_levels(on_lattice.detach()), grey_levels(y.detach()))


def test_shared_noise_is_the_same_for_every_image_of_a_call():
    v = dequantised(torch.zeros(3, 1, 4, 4), SharedNoise().manual_seed(3))
    assert torch.equal(v[0], v[1]) and v[0].unique().numel() == 16


# --- what comes back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_bits_come_back_in_the_type_of_the_images(dtype):
    found = fc.bits(fc.DCTLaplace(), images(dtype=dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(
        found.double(), fc.bits(fc.DCTLaplace(), images(dtype=dtype).double()), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays_in_give_arrays_out(dtype):
    found = fc.bits(fc.Uniform(), np.random.default_rng(0).random((3, 1, 2, 2)).astype(dtype))
    assert isinstance(found, np.ndarray) and found.dtype == dtype and found.tolist() == [32.0] * 3


def test_bits_beyond_half_precision_are_refused_by_name():
    with pytest.raises(ValueError, match=r"overflow torch.float16.*x.float\(\)"):
        fc.bits(fc.Uniform(), torch.zeros(1, 3, 64, 64, dtype=torch.float16))


def test_no_images_give_no_bits():
    assert fc.bits(fc.Uniform(), torch.zeros(0, 1, 4, 4)).shape == (0,)


def test_a_density_that_trains_is_measured_in_evaluation_mode_and_left_training():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(20, 1), torch.nn.Flatten(0))
    density = fc.from_log_prob(net.forward)
    density.net = net
    density.train()
    first = fc.bits(density, images(), seed=0)
    assert torch.equal(first, fc.bits(density, images(), seed=0)) and net.training


def test_what_is_called_a_density_is_one():
    made = [fc.Uniform(), fc.DCTLaplace(), fc.Codec("png"), fc.from_log_prob(beta()), Mixture([fc.Uniform()])]
    assert all(isinstance(density, Density) for density in made)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.rand(2, 1, 4, 4) * 255, r"Divide by 255: x / 255"),
        (torch.rand(2, 1, 4, 4) * 2 - 1, r"\(x \+ 1\) / 2"),
        (torch.randn(50, 1, 4, 4) * 9, r"Undo the standardisation"),
        (torch.randint(0, 255, (2, 1, 4, 4)), r"int64 values.*x / 255"),
        (torch.rand(2, 4, 4), r"\(2, 4, 4\).*x\[:, None\]"),
        (torch.rand(2, 16), r"\(2, 16\); images \(n, c, h, w\)"),
        (torch.full((2, 1, 4, 4), float("nan")), r"NaN or infinite values in 2 of 2"),
    ],
    ids=["bytes", "signed", "standardised", "integers", "no-channel", "rows", "nan"],
)
def test_images_that_are_not_in_range_are_refused_with_the_way_out(x, says):
    with pytest.raises(ValueError, match=says):
        fc.bits(fc.Uniform(), x)


def test_what_rounding_leaves_outside_changes_nothing():
    x = images()
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    outside = x.clone()
    outside[0, 0, 0, :2] = torch.tensor([-1e-7, 1 + 1e-6])
    assert torch.equal(fc.bits(fc.DCTLaplace(), x), fc.bits(fc.DCTLaplace(), outside))


def test_images_of_another_shape_than_the_density_knows_are_refused():
    density = Independent.fit(images(shape=(1, 5, 4)))
    with pytest.raises(ValueError, match=r"\(3, 5, 4\), but this density knows \(1, 5, 4\)"):
        fc.bits(density, images(shape=(3, 5, 4)))
    with pytest.raises(ValueError, match="3 channels, this histogram 1"):
        fc.bits(Independent.fit(images(), shared=True), images(shape=(3, 5, 4)))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda x: torch.full((len(x),), float("nan")), r"Answering\) gave NaN or infinite bits for 6 of 6"),
        (lambda x: torch.zeros(len(x), 1), r"answered 6 images with \(6, 1\); a tensor of shape \(6,\)"),
        (lambda x: torch.zeros(()), r"answered 6 images with \(\)"),
        (lambda x: 3.0, r"answered 6 images with float"),
    ],
    ids=["nan", "column", "scalar", "float"],
)
def test_a_density_that_answers_nonsense_is_named(answer, says):
    with pytest.raises(ValueError, match=says):
        fc.bits(Answering(answer), images())


def test_negative_bits_are_warned_of():
    with pytest.warns(UserWarning, match=r"6 of 6 inputs have negative bits \(lowest: -0.5 per value\)"):
        found = fc.bits(Answering(lambda x: torch.full((len(x),), -10.0)), images())
    assert found.tolist() == [-10.0] * 6


def test_more_than_twenty_bits_per_value_are_warned_of():
    with pytest.warns(UserWarning, match=r"more than 20 bits per value \(highest: 50\)"):
        fc.bits(Answering(lambda x: torch.full((len(x),), 1000.0)), images())


def test_a_codec_asked_to_optimise_says_what_to_take_instead():
    with pytest.raises(ValueError, match=r'cannot be optimised.*load_density\("gray28"\)'):
        fc.Codec("png").bits(images().requires_grad_())
    with pytest.raises(
        ValueError, match="Explaining a decision needs the gradient of the bits, which Codec does not have"
    ):
        require_differentiable(fc.Codec("png"), "Explaining a decision")
    require_differentiable(fc.DCTLaplace(), "Explaining a decision")


@pytest.mark.parametrize("bad", [{"n_dequant": 0}, {"batch_size": 0}], ids=str)
def test_counts_below_one_are_refused(bad):
    with pytest.raises(ValueError, match="must be at least 1"):
        fc.bits(fc.Uniform(), images(), **bad)


def test_histograms_refuse_what_they_cannot_count():
    with pytest.raises(ValueError, match="is empty"):
        Independent.fit(torch.zeros(0, 1, 2, 2))
    with pytest.raises(ValueError, match="would be impossible"):
        Independent.fit(torch.zeros(3, 1, 2, 2), smoothing=0.0)
    with pytest.raises(ValueError, match="positive and sum to 1"):
        Independent(torch.ones(1, 2, 2, 4))


def test_a_mixture_measures_in_the_precision_of_its_networks():
    flow = torch.nn.Linear(20, 1).requires_grad_(False)  # of single precision
    flow.log_prob = lambda v: flow(v)[:, 0]
    whole = Mixture([fc.Uniform(), fc.from_log_prob(flow, flat=True)])
    assert len(list(whole.parameters())) == 2
    assert fc.bits(whole, images(dtype=torch.float64)).dtype == torch.float64


def test_mixtures_refuse_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="different numbers of grey levels"):
        Mixture([fc.Uniform(), fc.Uniform(4)])
    with pytest.raises(ValueError, match="different shapes"):
        Mixture([Independent.fit(images(shape=(1, 2, 2))), Independent.fit(images(shape=(1, 3, 2)))])
    with pytest.raises(ValueError, match="a positive weight for each"):
        Mixture([fc.Uniform()], [0.0])


def test_the_gradient_of_a_histogram_points_to_the_likelier_neighbour():
    x = torch.cat([torch.zeros(9, 1, 1, 1), torch.ones(1, 1, 1, 1) / 255])
    density = Independent.fit(x, smoothing=1.0)
    y = torch.full((1, 1, 1, 1), 1 / 255).requires_grad_()
    density.bits(y).sum().backward()
    assert float(y.grad) > 0
