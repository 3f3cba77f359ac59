"""Change of features and weights: references computed the slow way, invariances, and planted changes."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from firstcue.moments import Moments
from firstcue.richness.movement import activation_change, parameter_norm, spectral_complexity, weight_movement
from firstcue.richness.similarity import cka, cka_of_moments, label_alignment, layer_similarity


def drawn(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def slow_cka(a, b):
    """With explicit n x n kernels and centring products."""
    n = len(a)
    h = torch.eye(n, dtype=torch.float64) - 1 / n
    k, m = h @ a @ a.T @ h, h @ b @ b.T @ h
    return float((k * m).sum() / (k.norm() * m.norm()))


def slow_unbiased(a, b):
    """HSIC_1 of Song et al. with explicit kernels without diagonal."""

    def hsic(x, y):
        n = len(x)
        k, m = x @ x.T, y @ y.T
        k, m = k - torch.diag(k.diagonal()), m - torch.diag(m.diagonal())
        one = torch.ones(n, dtype=torch.float64)
        return ((k @ m).trace() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one) / (
            n * (n - 3)
        )

    return float(hsic(a, b) / (hsic(a, a) * hsic(b, b)).sqrt())


def mlp(seed=0, width=12, depth=2):
    with torch.random.fork_rng():
        torch.random.manual_seed(seed)
        hidden = [layer for _ in range(depth) for layer in (nn.LazyLinear(width), nn.ReLU())]
        model = nn.Sequential(*hidden, nn.LazyLinear(3))
        model(torch.zeros(2, 5))
    return model


@given(
    seed=st.integers(0, 2**31), n=st.integers(4, 30), p=st.integers(1, 20), q=st.integers(1, 20), mean=st.sampled_from([0, 1e3])
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_cka_is_that_of_the_kernels(seed, n, p, q, mean):
    a, b = drawn(n, p, seed) + mean, drawn(n, q, seed + 1)
    b[:, : min(p, q)] += a[:, : min(p, q)] - mean

    assert cka(a, b) == pytest.approx(slow_cka(a, b), abs=1e-8)
    assert cka_of_moments(Moments.of(torch.cat([a, b], dim=1)), p) == pytest.approx(cka(a, b), abs=1e-8)
    assert cka(a, b, debias=True) == pytest.approx(slow_unbiased(a - a.mean(0), b), abs=1e-7, nan_ok=True)


def test_debiased_cka_is_that_of_the_peer():
    hsic = pytest.importorskip("cka.hsic").hsic
    a, b = drawn(40, 60), drawn(40, 7, 1)
    b = b + a[:, :7]

    cross, one, two = hsic((a @ a.T)[None], (b @ b.T)[None])

    assert cka(a, b, debias=True) == pytest.approx(float(cross / (one * two).sqrt()), abs=1e-10)


def test_unrelated_features_look_alike_with_few_rows_unless_debiased():
    a, b = drawn(40, 200), drawn(40, 200, 1)

    assert cka(a, b) > 0.7
    assert abs(cka(a, b, debias=True)) < 0.1


def test_cka_ignores_rotation_scale_and_offset_but_not_shear():
    a, b = drawn(60, 5), drawn(60, 4, 1) + drawn(60, 4, 2)
    turn = torch.linalg.qr(drawn(5, 5, 3)).Q
    shear = torch.diag(torch.tensor([10.0, 1, 1, 1, 1], dtype=torch.float64))

    assert cka(-7 * a @ turn + 100, b) == pytest.approx(cka(a, b), abs=1e-12)
    assert abs(cka(a @ shear, a) - 1) > 0.05


@pytest.mark.parametrize("dtype, mean, abs_", [(torch.float32, 1e4, 1e-3), (torch.float16, 0, 1e-3)])
def test_low_precision_with_a_large_mean_gives_nearly_the_same(dtype, mean, abs_):
    a, b = drawn(300, 4), drawn(300, 4, 1)
    b = b + a

    assert cka((a + mean).to(dtype), b) == pytest.approx(cka(a, b), abs=abs_)


def test_constant_features_have_no_similarity():
    assert math.isnan(cka(torch.ones(10, 3), drawn(10, 2)))


def test_moments_of_parts_give_the_similarity_of_all_rows():
    x = drawn(50, 6)
    merged = Moments.of(x[:7]).merge(Moments.of(x[7:]))

    assert cka_of_moments(merged, 2) == pytest.approx(cka(x[:, :2], x[:, 2:]), abs=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: cka(drawn(5, 2), drawn(4, 2)), "5 rows"),
        (lambda: cka(drawn(3, 2), drawn(3, 2), debias=True), "at least 4"),
        (lambda: cka(drawn(5, 2) / 0, drawn(5, 2)), "NaN or infinite"),
        (lambda: cka_of_moments(Moments.of(drawn(5, 2)), 2), "width"),
        (lambda: label_alignment(drawn(5, 2), [1] * 5), "one class"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_alignment_with_labels_is_perfect_for_collapsed_features_of_unequal_classes():
    y = torch.tensor([0] * 20 + [1] * 5 + [4] * 2)  # unequal classes, and two numbers that are missing
    collapsed = torch.nn.functional.one_hot(y, 5).double() @ torch.linalg.qr(drawn(9, 5)).Q.T

    assert label_alignment(collapsed, y) == pytest.approx(1, abs=1e-12)
    assert label_alignment(drawn(27, 9), [str(i) for i in y.tolist()]) < 0.7


def test_alignment_takes_regression_targets_as_they_are():
    targets = drawn(40, 2)

    assert label_alignment(targets @ torch.linalg.qr(drawn(2, 2, 3)).Q, targets) == pytest.approx(1, abs=1e-12)


def test_layers_are_compared_in_one_pass_as_one_by_one():
    model, x = mlp(), drawn(200, 5, dtype=torch.float32)
    found = layer_similarity(model, x, ["0", "2"], other=mlp(1), other_layers="4", batch_size=33)

    first, second = model[0](x), mlp(1)(x)
    assert found.values[0, 0] == pytest.approx(cka(first.detach(), second.detach()), abs=1e-5)
    assert (found.rows, found.columns, found.n) == (("0", "2"), ("4",), 200)
    assert len(found.to_rows()) == 2


def test_a_layer_is_like_itself_and_the_matrix_is_symmetric():
    found = layer_similarity(mlp(), drawn(100, 5, dtype=torch.float32), "*").values

    assert torch.allclose(found.diagonal(), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(found, found.T)


def test_a_layer_used_twice_is_refused():
    shared = nn.Linear(5, 5)
    with pytest.raises(ValueError, match="ran 2 times"):
        layer_similarity(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(10, 5), "0")


def test_movement_is_the_planted_one():
    start = mlp()
    end = copy.deepcopy(start)
    with torch.no_grad():
        end[0].weight.mul_(1.5)
        end[0].bias.zero_()
        start[0].bias.zero_()
        end[2].bias.add_(1)
        start[2].bias.zero_()
    moved = weight_movement(end, start)

    assert moved.by_tensor["0.weight"] == pytest.approx(0.5, rel=1e-6)
    assert moved.by_tensor["0.bias"] == 0 and moved.by_tensor["2.bias"] == math.inf
    assert moved.norm == pytest.approx(parameter_norm(end), rel=1e-9)
    assert moved.norm_ratio == pytest.approx(parameter_norm(end) / parameter_norm(start), rel=1e-6)


def test_movement_takes_a_state_dict_with_buffers_and_a_wrapped_model():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    start = {name: value.clone() for name, value in model.state_dict().items()}

    assert weight_movement(nn.DataParallel(model), start).relative == 0


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match="deepcopy"):
        weight_movement(mlp(), mlp(width=7))


def test_spectral_complexity_is_that_of_its_definition():
    model, start = mlp(), mlp(1)
    pairs = [(model[i].weight.detach().double(), start[i].weight.detach().double()) for i in (0, 2, 4)]
    norms = [torch.linalg.svdvals(w)[0] for w, _ in pairs]
    total = sum(((w - m).norm(dim=1).sum() / s) ** (2 / 3) for (w, m), s in zip(pairs, norms, strict=True))

    expected = float(math.prod(norms) * total**1.5)
    assert spectral_complexity(model, start) == pytest.approx(expected, rel=1e-9)
    assert spectral_complexity(model, start, log=True) == pytest.approx(math.log(expected), rel=1e-9)


def test_spectral_complexity_scales_as_the_function_and_overflows_by_name():
    model = mlp()
    doubled, huge = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        doubled[2].weight.mul_(2)
        for i in (0, 2, 4):
            huge[i].weight.mul_(1e30)

    assert spectral_complexity(doubled) == pytest.approx(2 * spectral_complexity(model), rel=1e-6)
    assert spectral_complexity(model, model) == 0
    assert math.isfinite(spectral_complexity(huge))
    with torch.no_grad():
        deep = nn.Sequential(*[nn.Linear(2, 2) for _ in range(12)])
        for layer in deep:
            layer.weight.mul_(1e30)
    assert spectral_complexity(deep) == math.inf and math.isfinite(spectral_complexity(deep, log=True))


def test_flipping_the_sign_of_a_layer_flips_every_pattern():
    model, x = mlp(depth=1), drawn(50, 5, dtype=torch.float32)
    flipped = copy.deepcopy(model)
    with torch.no_grad():
        flipped[0].weight.neg_()
        flipped[0].bias.neg_()

    assert activation_change(flipped, model, x, batch_size=7) == {"1": 1.0, "mean": 1.0}
    assert activation_change(model, model, x)["mean"] == 0


def test_activation_change_counts_maps_of_a_convolution_and_in_place_relu():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 36, 2))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight[0].neg_()
        other[0].bias[0].neg_()

    assert activation_change(other, model, torch.randn(10, 1, 8, 8))["1"] == pytest.approx(0.25)


def test_a_model_without_relu_modules_asks_for_layers():
    model = nn.Sequential(nn.Linear(5, 3))
    with pytest.raises(ValueError, match="layers="):
        activation_change(model, model, torch.randn(4, 5))
    assert activation_change(model, model, torch.randn(4, 5), layers="0")["mean"] == 0
