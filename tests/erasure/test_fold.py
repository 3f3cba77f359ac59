import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cases import labelled
from firstcue import Moments, fold, leace, oracle_leace


def pair(bias=True, dtype=torch.float64, offset=0.0):
    x, z = labelled(dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    linear = nn.utils.skip_init(nn.Linear, 8, 5, bias=bias, dtype=dtype)
    with torch.no_grad():
        for p in linear.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return x + offset, leace(Moments.of_groups(x + offset, z)), linear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_folded_layer_erases_by_itself(bias, offset):
    x, eraser, linear = pair(bias, offset=offset)
    folded = fold(eraser, linear)

    assert_close(folded(x), linear(eraser(x)), rtol=1e-9, atol=1e-9)
    assert folded(x).sub(linear(x)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_layer_keeps_its_type(dtype):
    x, eraser, linear = pair(dtype=dtype)
    folded = fold(eraser, linear)

    assert folded.weight.dtype == dtype
    assert_close(folded(x), linear(eraser(x)), rtol=30 * torch.finfo(dtype).eps, atol=60 * torch.finfo(dtype).eps)


def test_the_given_layer_and_the_random_state_are_left_as_they_were():
    _, eraser, linear = pair()
    before, state = {k: v.clone() for k, v in linear.state_dict().items()}, torch.random.get_rng_state()
    linear.weight.requires_grad_(False)
    folded = fold(eraser, linear.eval())

    assert all(torch.equal(before[name], value) for name, value in linear.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not folded.weight.requires_grad
    assert folded.bias.requires_grad
    assert not folded.training


def test_folding_twice_changes_nothing():
    _, eraser, linear = pair()
    folded = fold(eraser, linear)

    assert_close(fold(eraser, folded).weight, folded.weight)
    assert_close(fold(eraser, folded).bias, folded.bias)


@pytest.mark.parametrize(
    ("eraser", "linear", "message"),
    [
        (lambda m: oracle_leace(m), nn.Linear(8, 2), "a GroupEraser needs the class of each row.*`leace`"),
        (lambda m: leace(m), nn.Conv2d(8, 2, 1), "`linear` is a Conv2d"),
        (lambda m: leace(m), nn.Linear(9, 2), "reads 9 features but the eraser was fitted on 8"),
    ],
)
def test_a_mistake_is_answered_with_what_was_found(eraser, linear, message):
    with pytest.raises(ValueError, match=message):
        fold(eraser(Moments.of_groups(*labelled())), linear)
