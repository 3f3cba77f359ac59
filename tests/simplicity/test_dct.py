"""Cosine waves: the transform loses nothing, the order of images is the one that eyes expect, and maps add up."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

import firstcue as fc
from firstcue.simplicity.dct import _cosines, nats_of

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 16, 24), (2, 9, 8), (1, 7, 3), (4, 1, 1)]


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def patches(n=40, size=28, seed=0):
    """Pieces of the two photographs that ship with scikit-learn."""
    from sklearn.datasets import load_sample_images

    photos = [torch.from_numpy(photo.copy()).double().mean(dim=-1) / 255 for photo in load_sample_images().images]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        photo = photos[int(torch.randint(2, (1,), generator=generator))]
        top, left = (int(torch.randint(side - size, (1,), generator=generator)) for side in photo.shape)
        found.append(photo[top : top + size, left : left + size])
    return torch.stack(found)[:, None].float()


def per_value(x, density=None):
    return float(fc.bits(density or fc.DCTLaplace(), x).mean()) / x[0].numel()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block", [8, 4, None], ids=str)
def test_a_bits_map_adds_up_to_the_bits(shape, block):
    density, x = fc.DCTLaplace(block), noise(3, *shape, dtype=torch.float64)
    map_ = density.bits_map(x)
    assert map_.shape == (3, *shape[1:])
    torch.testing.assert_close(map_.sum(dim=(1, 2)), density.bits(x))


@pytest.mark.parametrize("shape", [(1, 10, 9), (3, 9, 4), (2, 7, 3), (4, 1, 1)], ids=str)
@pytest.mark.parametrize("block", [8, None], ids=str)
def test_amplitudes_and_the_first_means_keep_the_volume_of_images(shape, block):
    """So a density of the one is a density of the other."""

    def flat(q):
        parts = list(fc.DCTLaplace(block)._amplitudes(q.view(1, *shape)))
        return torch.cat([amplitudes.flatten() for _, amplitudes, _ in parts])

    c, h, w = shape
    jacobian = torch.autograd.functional.jacobian(flat, noise(math.prod(shape), dtype=torch.float64)) / 255
    blank = jacobian.abs().sum(dim=1) == 0  # the means of the first block, which have a uniform law of their own
    first = torch.zeros(h, w, dtype=torch.float64)
    first[: block or h, : block or w] = 1
    channels = _cosines(3, first) if c == 3 else torch.eye(c, dtype=torch.float64)
    jacobian[blank] = torch.einsum("kc,hw->kchw", channels, first / first.norm()).reshape(c, -1)
    assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(0, abs=1e-9)


def bits_of(sizes, scale):
    """Of single amplitudes under a single law."""
    law = torch.full((1, 1, 1, 1), scale, dtype=torch.float64)
    return nats_of(sizes.view(-1, 1, 1, 1, 1, 1), law).flatten() / math.log(2)


@pytest.mark.parametrize("scale", [0.02, 0.3, 1.0, 30.0, 300.0])
def test_the_mass_of_all_cells_of_a_law_is_one(scale):
    cells = torch.arange(-6000, 6001, dtype=torch.float64)
    assert float(torch.exp2(-bits_of(cells, scale)).sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 30.0])
def test_amplitudes_cost_what_the_laplace_law_says(scale):
    law = torch.distributions.Laplace(torch.tensor(0.0).double(), scale)

    def exact(size):
        return -(law.cdf(size + 0.5) - law.cdf(size - 0.5)).log2()

    size = torch.tensor([-2.0, -0.7, 0.0, 0.5, 0.6, 1.0, 4.1], dtype=torch.float64)
    torch.testing.assert_close(bits_of(size, scale), exact(size))
    inside = torch.linspace(-0.5, 0.5, 21, dtype=torch.float64)
    torch.testing.assert_close(bits_of(inside, scale), exact(inside), rtol=0, atol=0.1)


def test_constant_is_simpler_than_a_ramp_a_ramp_than_a_photograph_and_that_than_noise():
    ramp = torch.linspace(0, 1, 28).expand(1, 1, 28, 28)
    constant = max(per_value(torch.full((1, 1, 28, 28), grey)) for grey in (0.0, 0.3, 1.0))
    diagonal = (ramp + ramp.mT) / 2
    ramps = [per_value(r) for r in (ramp, ramp.mT, diagonal)]
    natural, random = per_value(patches()), per_value(noise(20, 1, 28, 28))
    assert constant < min(ramps) and max(ramps) < natural < random
    assert constant < 0.1 and 8 < random < 9


def test_photographs_get_cheaper_by_losing_contrast_or_by_blur():
    x = patches()
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    faded = [per_value((x - mean) * (k / 10) + mean) for k in range(1, 11)]
    assert faded == sorted(faded)
    blurred = [per_value(x), *(per_value(avg_pool2d(x, k, 1, k // 2, count_include_pad=False)) for k in (3, 5))]
    assert blurred == sorted(blurred, reverse=True)


def test_inverted_and_shifted_photographs_cost_the_same():
    wide = patches(size=29)
    x, shifted = wide[..., :28, :28], wide[..., 1:, 1:]
    assert per_value(1 - x) == pytest.approx(per_value(x), rel=1e-4)
    assert per_value(shifted) == pytest.approx(per_value(x), rel=0.05)


def test_grey_pictures_in_colour_cost_little_more_than_grey_ones():
    x = patches(10)
    density = fc.DCTLaplace()
    grey, colour = fc.bits(density, x).mean(), fc.bits(density, x.expand(-1, 3, -1, -1)).mean()
    independent = fc.bits(density, noise(10, 3, 28, 28)).mean()
    assert float(colour) < 1.5 * float(grey) and float(colour) < 0.5 * float(independent)


@pytest.mark.parametrize("block", [8, None], ids=str)
def test_scales_fitted_to_images_describe_such_images_no_worse_than_fixed_ones(block):
    ours = torch.cat([patches(60, seed=1), torch.zeros(1, 1, 28, 28)]) * 0.5
    fitted, fixed = fc.DCTLaplace.fit(ours, block), fc.DCTLaplace(block)
    assert per_value(ours, fitted) < 1.003 * per_value(ours, fixed)
    assert per_value(noise(5, 1, 28, 28), fitted) < 9


def test_images_unlike_any_fixed_law_get_cheaper_by_fitting():
    waves = torch.cos(torch.pi / 8 * (torch.arange(8.0) + 0.5) * 7)
    checks = 0.5 + 0.4 * noise(50, 1, 1, 1) * waves[:, None] * waves[None, :]
    assert per_value(checks, fc.DCTLaplace.fit(checks)) < 0.8 * per_value(checks)


def test_fitted_scales_are_the_mean_amplitudes():
    wave = torch.cos(torch.pi / 8 * (torch.arange(8.0) + 0.5) * 3) / 4 + 0.5
    x = wave.expand(1, 1, 8, 8)
    scales = fc.DCTLaplace.fit(x.expand(5, 1, 8, 8)).scales
    assert scales.argmax() == 3  # row 0, column 3
    assert float(scales[0, 0, 3]) == pytest.approx(255 / 4 * math.sqrt(8 * 4), rel=0.01)


@pytest.mark.parametrize("block", [8, None], ids=str)
def test_gradients_are_finite_everywhere_and_lead_to_cheaper_images(block):
    x = torch.cat([patches(4, 14), noise(1, 1, 14, 14), torch.zeros(1, 1, 14, 14), torch.ones(1, 1, 14, 14)])
    density, y = fc.DCTLaplace(block), x.clone().requires_grad_()
    optimizer = torch.optim.Adam([y], lr=0.003)
    for _ in range(15):
        optimizer.zero_grad()
        density.bits(y).sum().backward()
        assert bool(torch.isfinite(y.grad).all())
        optimizer.step()
    with torch.no_grad():
        assert bool((density.bits(y) < 0.995 * density.bits(x))[:5].all())


def test_half_precision_and_double_agree():
    x = patches(3)
    whole = fc.bits(fc.DCTLaplace(), x.double())
    torch.testing.assert_close(fc.bits(fc.DCTLaplace(), x).double(), whole, rtol=1e-4, atol=0)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="`block` is 1; at least 2 pixels"):
        fc.DCTLaplace(1)
    with pytest.raises(ValueError, match=r"\(1, 4, 4\), but the block is 8 x 8"):
        fc.DCTLaplace(8, torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match="finite and positive"):
        fc.DCTLaplace(8, torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="at least one image of 8 x 8"):
        fc.DCTLaplace.fit(noise(3, 1, 4, 4))
    with pytest.raises(ValueError, match="3 channels, but the scales were fitted on 1"):
        fc.bits(fc.DCTLaplace.fit(patches(3)), noise(2, 3, 28, 28))
