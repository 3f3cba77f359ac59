"""Explanations by simplification: the budget holds, the model is untouched, and what a decision ignores goes first."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from firstcue.simplicity.codecs import Codec
from firstcue.simplicity.controls import correlation, randomised
from firstcue.simplicity.dct import DCTLaplace
from firstcue.simplicity.descent import Best
from firstcue.simplicity.explain import explain_simplify
from firstcue.simplicity.fidelity import Match, deep_layers, divergence
from firstcue.simplicity.glow import ImageGlow


def images(n: int = 4, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


class LeftHalf(nn.Module):
    """Decides by the mean of the left half alone, through a small network that has layers to compare."""

    def __init__(self, size: int = 8):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(size * size, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        with torch.no_grad():
            seen = torch.zeros(size, size)
            seen[:, : size // 2] = 8 / size**2
            self.first.weight.copy_(seen.flatten() * torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]))
            self.last.weight.copy_(torch.tensor([[4.0, -4.0, 1.0, -1.0], [-4.0, 4.0, -1.0, 1.0]]))
            self.first.bias.zero_()
            self.last.bias.copy_(torch.tensor([-6.0, 6.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.norm(self.first(x.flatten(1)))))


def test_every_image_keeps_its_budget_and_no_image_gets_dearer():
    model = LeftHalf().eval()
    found = explain_simplify(model, images(6), DCTLaplace(), kl_budget=0.05, steps=25, controls=False)
    again = divergence(model(images(6)), model(found.simplified))
    assert bool((again <= 0.05 + 1e-6).all()) and torch.allclose(again, found.kl, atol=1e-5)
    assert bool((found.bits_after <= found.bits_before).all()) and float(found.share_saved.mean()) > 0.2
    assert torch.equal(found.decision_before, found.decision_after) and bool(found.within_budget.all())
    assert torch.equal(found.simplified, (255 * found.simplified).round() / 255)


def test_what_the_model_does_not_look_at_loses_more_bits():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, 4)).eval()
    with torch.no_grad():  # many mixtures of the pixels on the left, so that none of them is free to move
        model[1].weight.normal_(generator=torch.Generator().manual_seed(0)).view(16, 8, 8)[..., 4:] = 0
    found = explain_simplify(model, images(6), DCTLaplace(block=4), kl_budget=0.01, steps=50, controls=False)
    left, right = found.bits_map[..., :4].sum(), found.bits_map[..., 4:].sum()
    assert float(right) > 1.5 * float(left)


def test_the_map_sums_to_the_bits_saved():
    found = explain_simplify(LeftHalf().eval(), images(3), DCTLaplace(), steps=8, controls=False)
    assert found.map_kind == "exact"
    assert torch.allclose(found.bits_map.sum(dim=(1, 2)).float(), found.bits_saved, atol=1e-2)


def test_the_model_is_left_exactly_as_found():
    model = nn.Sequential(LeftHalf(), nn.Dropout(0.5)).train()
    model[0].last.weight.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    explain_simplify(model, images(3), DCTLaplace(), steps=3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and model[0].norm.training and torch.equal(state, torch.get_rng_state())
    assert not model[0].last.weight.requires_grad and model[0].first.weight.requires_grad
    assert all(p.grad is None for p in model.parameters()) and not any(m._forward_pre_hooks for m in model.modules())


def test_controls_run_by_name_and_compare_with_the_explanation():
    model = LeftHalf().eval()
    found = explain_simplify(model, images(4), DCTLaplace(), steps=15)
    assert set(found.controls) == {"no bits", "no task", "random weights"}
    free = found.controls["no task"]
    assert bool((free.bits <= found.bits_after + 1e-3).all())
    assert torch.allclose(free.kl, divergence(model(images(4)), model(free.images)), atol=1e-5)
    assert float(found.controls["no bits"].bits.mean()) > float(found.bits_after.mean())
    only = explain_simplify(model, images(4), DCTLaplace(), steps=3, controls=["no task"])
    assert list(only.controls) == ["no task"]


def test_arrays_come_back_as_arrays_and_half_precision_as_half():
    model = LeftHalf().eval()
    from_numpy = explain_simplify(model, images(2).numpy(), DCTLaplace(), steps=3, controls=["no task"])
    assert isinstance(from_numpy.simplified, np.ndarray) and isinstance(from_numpy.bits_saved, np.ndarray)
    assert isinstance(from_numpy.controls["no task"].images, np.ndarray)
    assert (
        explain_simplify(model, images(2).half(), DCTLaplace(), steps=3, controls=False).simplified.dtype == torch.half
    )


def test_one_run_in_parts_explains_every_image():
    model = LeftHalf().eval()
    whole = explain_simplify(model, images(5), DCTLaplace(), steps=6, controls=False)
    parts = explain_simplify(model, images(5), DCTLaplace(), steps=6, controls=False, batch_size=2)
    assert torch.allclose(whole.bits_after, parts.bits_after, rtol=0.02)
    assert len(parts.history["bits"]) == 7 and len(parts) == 5


def test_another_target_holds_other_evidence_within_the_same_budget():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ELU(), nn.Linear(8, 3)).eval()
    own = explain_simplify(model, images(3), DCTLaplace(), steps=10, controls=False)
    other = explain_simplify(model, images(3), DCTLaplace(), 2, steps=10, controls=False)
    assert bool((other.kl <= 0.1).all()) and not torch.equal(own.simplified, other.simplified)


def test_gradients_at_scaled_weights_hold_the_budget_too():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ELU(), nn.Linear(8, 3)).eval()
    found = explain_simplify(model, images(3), DCTLaplace(), method="scaled_grad", steps=25, controls=False)
    assert bool((found.kl <= 0.1).all()) and float(found.bits_saved.sum()) > 50


@pytest.mark.parametrize("start", ["latent", "latent-zero"])
def test_latents_of_a_flow_are_explained_with_a_proxy_of_the_map(start: str):
    flow = ImageGlow((1, 8, 8), hidden=4, depth=1, scales=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    found = explain_simplify(model, images(2), flow, start=start, steps=4, controls=False)
    assert found.map_kind == "tiles" and found.simplified.shape == (2, 1, 8, 8)
    missed = ~found.within_budget
    assert bool((found.kl[~missed] <= 0.1).all()) and any("never answered alike" in w for w in found.warnings) == bool(
        missed.any()
    )


def test_a_standardisation_is_part_of_the_model():
    model = LeftHalf().eval()
    shifted = explain_simplify(model, images(3), DCTLaplace(), steps=5, controls=False, to_inputs=lambda z: z - 0.4)
    assert bool((divergence(model(images(3) - 0.4), model(shifted.simplified - 0.4)) <= 0.1).all())


def test_only_the_later_half_of_the_layers_is_compared_in_the_order_they_run():
    late, early = nn.Linear(4, 2), nn.Linear(4, 4)

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early = late, early

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.late(torch.relu(self.early(x.flatten(1))))

    model = Swapped()
    assert deep_layers(model, model, torch.rand(2, 1, 2, 2)) == [late]


def test_the_best_is_the_cheapest_that_meets_the_demand():
    best = Best.of(images(1))
    logits, far = torch.zeros(1, 2), torch.zeros(1)
    for bits, kl, met in (
        (9.0, 0.5, False),
        (8.0, 0.3, False),
        (20.0, 0.05, True),
        (5.0, 0.2, False),
        (25.0, 0.01, True),
    ):
        match = Match(logits, torch.tensor([kl]), far, far)
        best.offer(images(1, seed=int(bits)), torch.tensor([bits]), match, far, torch.tensor([met]))
    assert best.bits.tolist() == [20.0] and bool(best.met.all())
    assert torch.equal(best.images, images(1, seed=20))


def test_shuffled_weights_are_the_same_numbers_elsewhere():
    model = LeftHalf()
    shuffled = randomised(model, 3)
    for old, new in zip(model.parameters(), shuffled.parameters(), strict=True):
        assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)
    assert not torch.equal(shuffled.first.weight, model.first.weight)


def test_constant_images_have_no_correlation():
    assert bool(correlation(torch.zeros(1, 1, 3, 3), images(1, 3)).isnan().all())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": 255 * images(2)}, "Divide by 255"),
        ({"density": Codec("png")}, "measures only"),
        ({"kl_budget": 0.0}, "nats above zero"),
        ({"controls": ["nothing"]}, "random weights"),
        ({"start": "latent"}, "gray28-glow"),
        ({"start": "middle"}, "starts:"),
        ({"method": "magic"}, "methods:"),
        ({"target": [0, 1, 0]}, "3 class ids for 2 images"),
        ({"steps": 0}, "at least 1"),
        ({"x": images(2)[:0]}, "no images"),
    ],
)
def test_misuse_is_told_with_the_way_out(change: dict, says: str):
    given = {"model": LeftHalf(), "x": images(2), "density": DCTLaplace(), "steps": 2} | change
    with pytest.raises(ValueError, match=says):
        explain_simplify(**given)
