"""File sizes: ordered as images are, less their headers, and without a gradient."""

import zlib

import pytest
import torch

import firstcue as fc


def pictures():
    """A blank page, a ramp and noise, grey 28 x 28."""
    ramp = torch.linspace(0, 1, 28).expand(1, 28, 28)
    noise = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    return torch.stack([torch.zeros(1, 28, 28), ramp, noise])


@pytest.mark.parametrize("name", ["png", "webp"])
def test_lossless_files_are_small_for_simple_images_and_cannot_compress_noise(name):
    blank, ramp, noise = (fc.bits(fc.Codec(name), pictures()) / 784).tolist()
    assert 0 <= blank < ramp < 0.3
    assert 8 <= noise < 8.5


def test_a_lossy_file_is_smaller_than_a_lossless_one_of_noise():
    noise = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(fc.bits(fc.Codec("jpeg"), noise)) < 0.9 * float(fc.bits(fc.Codec("png"), noise))


@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
def test_a_single_pixel_costs_nothing_and_nothing_costs_less(name):
    assert fc.bits(fc.Codec(name), torch.zeros(2, 1, 1, 1)).tolist() == [0.0, 0.0]
    assert fc.bits(fc.Codec(name), torch.zeros(1, 3, 1, 1)).tolist() == [0.0]


def test_three_channels_are_one_colour_picture_and_others_are_coded_one_by_one():
    grey = pictures()[1:2]
    one = float(fc.bits(fc.Codec("png"), grey))
    assert float(fc.bits(fc.Codec("png"), grey.expand(-1, 2, -1, -1))) == 2 * one
    assert float(fc.bits(fc.Codec("webp"), pictures()[2:].expand(-1, 3, -1, -1))) < 1.5 * 784 * 8


def test_any_function_to_bytes_is_a_codec():
    density = fc.Codec(lambda plane: zlib.compress(plane.tobytes(), 9))
    blank, _, noise = (fc.bits(density, pictures()) / 784).tolist()
    assert blank < 0.2 < 7.9 < noise
    with pytest.raises(ValueError, match="gave int; a function to bytes"):
        fc.bits(fc.Codec(lambda plane: plane.size), pictures())
    with pytest.raises(ValueError, match="made of a function cannot be stored"):
        _ = density.config


def test_an_unknown_codec_is_refused():
    with pytest.raises(ValueError, match="no codec 'gif'; give one of png, webp, jpeg"):
        fc.Codec("gif")
