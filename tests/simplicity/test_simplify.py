"""Simplifying while a classifier learns: identity at the start, exact look-ahead gradients, gates, and bits that fall."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from firstcue.batch import Batch
from firstcue.simplicity._outputs import replaying, training_without_batches
from firstcue.simplicity.act_grad import distance, evidence
from firstcue.simplicity.dct import DCTLaplace
from firstcue.simplicity.density import Uniform, bits
from firstcue.simplicity.gating import (
    PercentileClip,
    Pressure,
    automatic_tolerance,
    close_gate,
    solved_gate,
    warnings_of,
)
from firstcue.simplicity.glow import ImageGlow
from firstcue.simplicity.heads import HEADS
from firstcue.simplicity.lookahead import look_ahead
from firstcue.simplicity.simplify import Simplifier, simplified_training

SMALL = {"steps": 3, "warmup": 2, "batch_size": 8}


class Flow:
    """A linear flow with two levels of latents."""

    levels, shape, differentiable = 256, (1, 8, 8), True

    def encode(self, x):
        return [4 * x[..., :4] - 2, 4 * x[..., 4:] - 2]

    def decode(self, latents):
        return (torch.cat(list(latents), dim=-1) + 2) / 4

    def bits(self, x, *, generator=None):
        return sum(z.square().flatten(1).sum(dim=1) for z in self.encode(x))


class Asked(DCTLaplace):
    """Counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.times = 0

    def bits(self, x, *, generator=None):
        self.times += 1
        return super().bits(x, generator=generator)


class Broken(Asked):
    """Not finite in every second call."""

    def bits(self, x, *, generator=None):
        return super().bits(x, generator=generator) * (math.nan if self.times % 2 == 0 else 1.0)


def images(n=32, channels=1, seed=0):
    """Two classes: a bright left or right half, on noise."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.4 * torch.rand(n, channels, 8, 8, generator=generator)
    y = torch.arange(n) % 2
    x[y == 0, :, :, :4] += 0.5
    x[y == 1, :, :, 4:] += 0.5
    return (x * 255).round() / 255, y


def classifier(channels=1, dropout=0.0, norm=False):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norms = [nn.BatchNorm2d(4)] if norm else []
        parts = [nn.Conv2d(channels, 4, 3, padding=1), *norms, nn.ELU(), nn.AvgPool2d(2)]
        return nn.Sequential(*parts, nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 2))


def fitted(**settings):
    given = {"classifier": classifier(), "density": DCTLaplace(), "batches": images(), **SMALL, **settings}
    return Simplifier(width=4, scales=2).fit(
        given.pop("classifier"), given.pop("density"), given.pop("batches"), **given
    )


# heads


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_starts_as_the_identity(head):
    x = torch.linspace(0, 1, 256).reshape(4, 1, 8, 8)
    net = Simplifier(head, width=4, scales=3).build((1, 8, 8), Flow() if head == "latent" else None)
    assert torch.equal((255 * net(x)).round(), (255 * x).round())


@pytest.mark.parametrize("head", ["blend", "mix", "mix_grey", "res"])
def test_colour_images_of_odd_size_keep_their_shape(head):
    x = images(3, channels=3)[0][:, :, :7, :5]
    assert torch.equal(Simplifier(head, width=4).build((3, 7, 5))(x), x)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_every_head_can_be_moved_from_the_identity(head):
    x = images()[0]
    net = Simplifier(head, width=4, scales=2).build((1, 8, 8), Flow() if head == "latent" else None)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(40):
        loss = (net(x) - 0.5).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((net(x).detach() - 0.5).square().mean()) < 0.9 * float((x - 0.5).square().mean())


def test_simplified_images_lie_on_the_lattice_of_grey_levels():
    net = Simplifier(width=4).build((1, 8, 8))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    found = 255 * net(images()[0])
    assert (found - found.round()).abs().max() < 1e-3 and found.min() >= 0 and found.max() <= 255


def test_a_simplifier_works_in_the_latents_of_our_flow():
    flow = ImageGlow(shape=(1, 8, 8), scales=2, hidden=4).requires_grad_(False).eval()
    x, y = images()
    net = Simplifier("latent", width=4, scales=2).build((1, 8, 8), flow)
    assert (255 * (net(x) - x)).abs().max() < 0.5
    found = Simplifier("latent", width=4, scales=2).fit(classifier(), flow, (x, y), tau=5.0, **SMALL)
    assert found.skipped == 0 and not torch.equal(found(x), x)


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    Simplifier().build((1, 8, 8), seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_a_latent_head_asks_for_a_flow():
    with pytest.raises(ValueError, match="gray28-glow"):
        Simplifier("latent").build((1, 8, 8), DCTLaplace())


# looking ahead


def test_the_look_ahead_gradient_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 2, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 0, 1, 0])
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    start = torch.tensor([0.7, -0.2], dtype=torch.float64)

    def objective(phi):
        ahead = look_ahead(model, phi[0] * x + phi[1] * x.square(), x, y, rate=0.8)
        return ahead.loss

    phi = start.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(phi), phi)
    wanted = []
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = 1e-5
        wanted.append(float(objective(start + step) - objective(start - step)) / 2e-5)
    assert found.tolist() == pytest.approx(wanted, rel=1e-6)


def test_the_virtual_step_is_the_step_that_gradient_descent_takes():
    x, y = images()
    model = classifier()
    ahead = look_ahead(model, x, x, y, rate=0.5)
    stepped = copy.deepcopy(model)
    nn.functional.cross_entropy(stepped(x), y).backward()
    torch.optim.SGD(stepped.parameters(), lr=0.5).step()
    wanted = nn.functional.cross_entropy(stepped(x), y, reduction="none")
    torch.testing.assert_close(ahead.original, wanted)
    assert all(p.grad is None for p in model.parameters())


def test_a_classifier_without_parameters_has_no_step_to_look_ahead_to():
    with pytest.raises(ValueError, match="no parameters to train"):
        look_ahead(nn.Flatten(), torch.rand(2, 1, 1, 2), torch.rand(2, 1, 1, 2), torch.tensor([0, 1]))


def test_attention_can_be_looked_through():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.Flatten(1, 2), layer, nn.Flatten(), nn.Linear(64, 2))
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    ahead = look_ahead(model, x, x.detach(), torch.tensor([0, 1, 0, 1]))
    assert bool(torch.isfinite(torch.autograd.grad(ahead.loss, x)[0]).all())


# what the classifier uses


@pytest.mark.parametrize("measure", ["cosine", "l1", "sse"])
def test_an_image_is_at_distance_zero_from_itself(measure):
    x, y = images()
    model = classifier()
    found, logits = distance(model, x, evidence(model, x, y), measure=measure)
    assert float(found.abs().max()) < 1e-5 and torch.allclose(logits, model(x))


def test_what_the_classifier_ignores_has_no_distance():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        model[1].weight.reshape(2, 8, 8)[:, :, 4:] = 0
    x, y = images()
    ignored, used = x.clone(), x.clone()
    ignored[..., 4:] = torch.rand(32, 1, 8, 4)
    used[..., :4] = torch.rand(32, 1, 8, 4)
    original = evidence(model, x, y)
    assert float(distance(model, ignored, original)[0].max()) < 1e-5
    assert float(distance(model, used, original)[0].min()) > 1e-3


def test_evidence_is_measured_row_by_row():
    x, y = images()
    model = classifier()
    whole = distance(model, x.flip(3), evidence(model, x, y))[0]
    one = distance(model, x[3:4].flip(3), evidence(model, x[3:4], y[3:4]))[0]
    torch.testing.assert_close(whole[3:4], one)


def test_a_model_without_layers_per_image_is_refused():
    with pytest.raises(ValueError, match="no layer of the classifier"):
        evidence(nn.Flatten(), torch.rand(2, 1, 1, 3))


def test_hooks_are_gone_after_a_comparison():
    model = classifier()
    x, y = images()
    distance(model, x, evidence(model, x, y))
    assert not any(module._forward_pre_hooks for module in model.modules())


# gates and weights


def test_no_image_beyond_the_tolerance_is_under_pressure_and_every_solved_one_fully():
    assert solved_gate(torch.tensor([0.5, 0.6, 99.0]), 0.5).tolist() == [0.0, 0.0, 0.0]
    assert solved_gate(torch.zeros(4), 0.1).tolist() == [1.0] * 4
    assert close_gate(torch.tensor([0.0, 0.0]), torch.tensor([False, True]), 0.2).tolist() == [0.0, 1.0]


def test_shut_gates_give_no_bits_gradient_at_all():
    density = Asked()
    shut = fitted(density=density, tau=1e-9, lam=5.0)
    without = fitted(lam=0, tau=1e-9)
    assert all(row["gate"] == 0 and row["bits_per_pixel"] is None for row in shut.history if row["phase"] == "simplify")
    for a, b in zip(shut.simplifier.parameters(), without.simplifier.parameters(), strict=True):
        assert torch.equal(a, b)


def test_without_weight_the_density_is_never_asked():
    density = Asked()
    fitted(density=density, lam=0)
    assert density.times == 0


def test_the_tolerance_is_the_median_and_at_least_a_tenth():
    assert automatic_tolerance(torch.tensor([0.01, 0.02, 5.0])) == 0.1
    assert automatic_tolerance(torch.tensor([0.4, 0.6, 5.0, math.nan])) == pytest.approx(0.6)
    assert fitted(tau="auto").tau >= 0.1 and fitted(tau=0.7).tau == 0.7


def test_the_weight_rises_over_the_ramp_and_hunts_the_target():
    pressure = Pressure(2.0, target=3.0, ramp=3, speed=0.1, damping=0.5)
    assert [pressure.at(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    pressure.heard(6.0)
    assert pressure.at(9) > 2.0
    for _ in range(9):
        pressure.heard(1.0)
    assert pressure.at(9) < 2.0
    pressure.heard(math.nan)
    assert math.isfinite(pressure.at(9))


def test_gradients_are_clipped_to_the_norms_of_late():
    clip = PercentileClip(percentile=80, window=10)
    for _ in range(10):
        clip([torch.ones(4)])
    assert float(clip([1000 * torch.ones(4)])[0].norm()) == pytest.approx(2.0)


def test_a_stuck_gate_is_told_with_its_remedy():
    rows = [{"phase": "simplify", "lam": 1.0, "gate": 0.0, "skipped": False}] * 20
    (ahead,) = warnings_of(rows, "lookahead")
    (grad,) = warnings_of(rows, "act_grad")
    assert "warmup" in ahead and "tau" in ahead and "d_max" in grad
    assert warnings_of([{"phase": "simplify", "lam": 1.0, "gate": 0.5, "skipped": False}] * 20, "lookahead") == ()
    with pytest.warns(UserWarning, match="the gate is stuck"):
        fitted(tau=1e-9, steps=20)


def test_a_target_that_was_not_reached_is_told():
    rows = [{"phase": "simplify", "lam": 1.0, "gate": 0.5, "skipped": False, "bits_per_pixel": 3.0}] * 20
    (told,) = warnings_of(rows, "lookahead", target=2.0)
    assert "1.50 times the bits asked for" in told and "steps" in told
    assert warnings_of(rows, "lookahead", target=2.9) == warnings_of(rows, "lookahead") == ()
    with pytest.warns(UserWarning, match="times the bits asked for"):
        fitted(share=0.2, steps=4, strategy="reconstruction", classifier=None)


# fitting


@pytest.mark.parametrize(("strategy", "frozen"), [("lookahead", False), ("act_grad", False), ("act_grad", True)])
def test_bits_fall_and_the_classes_stay(strategy, frozen):
    x, y = images(64)
    model = Simplifier().fit(classifier(), None, (x, y), lam=0, steps=1, warmup=60, classifier_rate=0.01).classifier
    given = {"strategy": strategy, "frozen": frozen, "lam": 0.5, "steps": 40, "rate": 3e-3, "d_max": 0.3}
    found = fitted(classifier=model, batches=(x, y), **given)
    simple = found(x)
    density = DCTLaplace()
    assert float(density.bits(simple).mean()) < 0.9 * float(density.bits(x).mean())
    assert float((found.as_module()(x).argmax(1) == y).float().mean()) > 0.9
    assert found.skipped == 0 and len(found.history) == 40 + (0 if frozen else 2)


def test_a_frozen_classifier_stays_as_it_was_and_needs_no_labels():
    model = classifier(norm=True)
    before = copy.deepcopy(model.state_dict())
    x, _ = images()
    found = fitted(classifier=model, batches=[x[:16], x[16:]], strategy="act_grad", frozen=True)
    for name, value in found.classifier.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_given_classifier_is_never_changed():
    model = classifier(dropout=0.5, norm=True)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    found = fitted(classifier=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m.training for m in model.modules()) and not any(m.training for m in found.classifier.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_the_same_seed_gives_the_same_simplifier_and_another_seed_another():
    runs = [fitted(classifier=classifier(dropout=0.3), seed=seed) for seed in (1, 1, 2)]
    first, again, other = ([p.detach() for p in run.simplifier.parameters()] for run in runs)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_dropout_repeats_itself_within_a_step():
    model = classifier(dropout=0.5).train()
    x = images()[0]
    call = replaying(model, 3)
    assert torch.equal(call(x), call(x)) and not torch.equal(call(x), replaying(model, 4)(x))


def test_batch_norm_is_held_while_images_are_simplified():
    model = classifier(norm=True).train()
    with training_without_batches(model):
        assert not model[1].training and model[2].training
    assert model[1].training
    with pytest.warns(UserWarning, match="never saw a batch"):
        fitted(classifier=classifier(norm=True), warmup=0)
    found = fitted(classifier=classifier(norm=True), warmup=2)
    assert int(found.classifier[1].num_batches_tracked) == 2 and found.warnings == ()


def test_steps_that_are_not_finite_are_skipped_and_counted():
    with pytest.warns(UserWarning, match="steps were skipped"):
        found = fitted(density=Broken(), tau=50.0, steps=6)
    assert found.skipped == 3 == sum(row["skipped"] for row in found.history if row["phase"] == "simplify")
    assert all(bool(torch.isfinite(p).all()) for p in found.simplifier.parameters())


def test_augmentation_draws_the_same_for_both():
    seen = []

    def shifted(x, generator):
        by = int(torch.randint(0, 8, (), generator=generator))
        seen.append(by)
        return x.roll(by, dims=3)

    fitted(augment=shifted, strategy="act_grad", frozen=True)
    assert seen[0::2] == seen[1::2] and len(set(seen)) > 1


def test_a_bits_target_is_approached_from_both_sides():
    x, y = images(64)
    density = DCTLaplace()
    before = float(density.bits(x).mean())
    given = {"strategy": "reconstruction", "classifier": None, "batches": (x, y), "steps": 80, "rate": 2e-3}
    high = fitted(bits_target=0.9 * before, lam=0.1, **given)
    low = fitted(bits_target=0.4 * before, lam=0.1, **given)
    found = [float(density.bits(run(x)).mean()) / before for run in (high, low)]
    assert found == pytest.approx([0.9, 0.4], abs=0.15)


def test_images_of_a_solved_task_stop_at_their_target():
    """Nothing but the target holds them there: a trace is enough for the classifier."""
    x, y = images(64)
    density = DCTLaplace()
    fit = fitted(batches=(x, y), lam=5.0, share=0.7, warmup=100, steps=150, rate=3e-3, classifier_rate=1e-2)
    left = float(density.bits(fit(x)).mean()) / float(density.bits(x).mean())
    assert fit.history[-1]["loss_original"] < 0.1
    assert 0.6 < left < 0.8


@pytest.mark.parametrize("batched", [lambda x, y: (x, y), Batch, lambda x, y: [(x[:40], y[:40]), (x[40:], y[40:])]])
def test_a_share_is_that_target_whatever_form_the_rows_have(batched):
    x, y = images(64)
    target = 0.5 * float(bits(DCTLaplace(), x).mean())
    given = {"strategy": "reconstruction", "classifier": None, "batches": batched(x, y), "steps": 4}
    assert fitted(share=0.5, **given).history == fitted(bits_target=target, **given).history


def test_a_share_needs_rows_that_can_be_read_again():
    with pytest.raises(ValueError, match="read once only"):
        fitted(share=0.5, batches=iter([images(8)]))


def test_one_logit_counts_as_two_classes():
    x, y = images()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    for strategy in ("lookahead", "act_grad"):
        assert fitted(classifier=model, batches=(x, y), strategy=strategy)(x).shape == x.shape


def test_arrays_give_arrays_and_half_precision_stays_half():
    found = fitted()
    x = images()[0]
    assert found(x.numpy()).dtype == np.float32
    assert found(x.half()).dtype == torch.float16 and found(x.double()).dtype == torch.float64


def test_one_call_trains_with_simplification():
    found = simplified_training(classifier(), DCTLaplace(), images(), width=4, **SMALL)
    assert found.as_module()(images()[0]).shape == (32, 2)


class Measuring(Uniform):
    differentiable = False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "magic"}, "strategies: lookahead"),
        ({"frozen": True}, "only \"act_grad\" explains"),
        ({"lam": -1.0}, "0 or more"),
        ({"tau": 0}, "a loss above 0"),
        ({"d_max": 0}, "a distance above 0"),
        ({"steps": 0}, "at least 1"),
        ({"density": None}, "a density is needed"),
        ({"classifier": None}, "does without one"),
        ({"bits_target": 10, "lam": 0}, "weight to start from"),
        ({"bits_target": -1}, "above 0"),
        ({"share": 1.2}, "at most 1"),
        ({"share": 0.5, "lam": 0}, "weight to start from"),
        ({"share": 0.5, "bits_target": 10}, "not both"),
        ({"density": Measuring()}, "needs the gradient"),
        ({"batches": (images()[0] * 255, images()[1])}, "Divide by 255"),
        ({"batches": [images()[0]]}, "must yield labels"),
        ({"batches": ["word"]}, "yields a str"),
        ({"batches": []}, "shape of the images is not known"),
        ({"batches": iter([images()])}, "read once"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_a_way_out(settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(**settings)


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="heads: res"):
        Simplifier("paint")
