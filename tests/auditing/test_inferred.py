from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from firstcue.auditing.inferred import infer_clusters
from firstcue.spurious.intervals import wilson

CLEAN, HALF = 0.5, 0.5


def gaussian(rng, n):
    """Classes that overlap: errors lie near the boundary."""
    y = rng.integers(0, 2, n)
    x = rng.normal(size=(n, 20))
    x[:, :4] += 0.8 * (2 * y[:, None] - 1)
    return x, y


def exclusive_or(rng, n):
    """A class that no linear map sees."""
    x = rng.normal(size=(n, 6))
    x[:, :2] += 0.3 * np.sign(x[:, :2])
    return x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).astype(int)


def three_classes(rng, n):
    y = rng.integers(0, 3, n)
    x = rng.normal(size=(n, 12))
    x[:, :3] += 2.0 * np.eye(3)[y]
    return x, y


TASKS = (gaussian, exclusive_or, three_classes)
TEMPTED = (gaussian, three_classes)  # a network learns the exclusive or so well that it leaves the cue alone


def rows(task, rng, n, strength, *, noise=0.0, hard=0.0):
    """Rows with a noisy cue that agrees with the label in a share `strength`; labels may be wrong, inputs hard."""
    x, y = task(rng, n)
    classes = y.max() + 1
    agrees = rng.random(n) < strength
    cue = np.where(agrees, y, (y + rng.integers(1, classes, n)) % classes)
    told = rng.normal(size=(n, 4)) * 0.5 + 2.5 * np.eye(4)[cue]
    unclear = rng.random(n) < 0.25
    x[unclear] += hard * rng.normal(size=x[unclear].shape)
    y = np.where(rng.random(n) < noise, (y + rng.integers(1, classes, n)) % classes, y)
    return torch.from_numpy(np.hstack([x, told])).float(), torch.from_numpy(y), torch.from_numpy(cue)


def trained(x, y, seed, *, epochs=8, width=32):
    """A small network and its logits after four steps."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, int(y.max()) + 1)
        )
    generator = torch.Generator().manual_seed(seed + 1000)
    optimizer, early = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9), None
    for _ in range(epochs):
        for step, part in enumerate(torch.randperm(len(x), generator=generator).split(64)):
            optimizer.zero_grad()
            cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
            if early is None and step == 3:
                early = {k: v.clone() for k, v in net.state_dict().items()}
    return net, early


def case(task, seed, strength, held_strength, *, noise=0.0, hard=0.0, use_early=False):
    """What is inferred about a network trained at `strength` from held-out rows at `held_strength`."""
    rng = np.random.default_rng(seed)
    classes = 3 if task is three_classes else 2
    fair = 1 / classes
    x, y, _ = rows(task, rng, 1500, fair if strength == CLEAN else strength, noise=noise, hard=hard)
    held, labels, cue = rows(task, rng, 1000, fair if held_strength == HALF else held_strength, noise=noise, hard=hard)
    net, early = trained(x, y, seed)
    with torch.no_grad():
        features = net[:-1](held)
        outputs = net[-1](features)
        representation = torch.func.functional_call(net, early, held) if use_early else features
    right = outputs.argmax(1) == labels
    return infer_clusters(representation, right, labels, outputs=outputs, features=features, seed=seed, draws=199), cue


KINDS = ({}, {"noise": 0.1}, {"hard": 1.0}, {"noise": 0.05, "hard": 1.0}, {"noise": 0.2})


def flagged(cases):
    return sum(found.p_value < 0.05 for found, _ in cases)


def clean_cases(count, **options):
    return [case(TASKS[i % 3], i, CLEAN, HALF, **KINDS[i % 5], **options) for i in range(count)]


def planted_cases(count, strengths=(0.9, 0.95), **options):
    return [case(TEMPTED[i % 2], 500 + i, strengths[i // 2 % 2], HALF, **options) for i in range(count)]


def test_twenty_clean_networks_raise_hardly_an_alarm():
    """Without a shortcut, with noisy labels and hard inputs: 4 of 20 would come by chance in 2 % of such tests."""
    assert flagged(clean_cases(20)) <= 3


def test_planted_shortcuts_are_found_when_held_out_rows_conflict():
    found = planted_cases(6)
    assert flagged(found) >= 5
    for inferred, cue in found:
        if inferred.p_value < 0.05 and int(cue.max()) == 1:
            agreement = float((inferred.cluster == cue).double().mean())
            assert max(agreement, 1 - agreement) > 0.7
            assert inferred.error_high > inferred.error_low + 0.1


def test_early_outputs_serve_as_representation():
    assert flagged(clean_cases(5, use_early=True)) <= 1
    assert flagged(planted_cases(6, use_early=True)) >= 2


@pytest.mark.science
@pytest.mark.parametrize("use_early", [False, True])
def test_false_alarms_stay_near_their_level(use_early):
    alarms = flagged(clean_cases(120, use_early=use_early))
    assert wilson(alarms, 120)[0] < 0.05


def test_a_cue_that_is_left_alone_is_no_suspect():
    found = [case(exclusive_or, 700 + i, 0.9, HALF) for i in range(3)]
    assert flagged(found) == 0


@pytest.mark.science
def test_most_planted_shortcuts_are_found():
    assert wilson(flagged(planted_cases(60)), 60)[0] > 0.8


def clumps(seed=0, n=800, cue_weight=1.2):
    """Class and cue on an axis each, and a head that reads both."""
    generator = torch.Generator().manual_seed(seed)
    y, cue = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    x = torch.stack([y - 0.5, cue - 0.5], dim=1) + 0.2 * torch.randn(n, 2, generator=generator)
    margin = x[:, 0] + cue_weight * x[:, 1]
    return x, (margin > 0) == y, y, torch.stack([-margin, margin], dim=1), cue


def test_the_clusters_are_the_cue():
    x, right, y, outputs, cue = clumps()
    found = infer_clusters(x, right, y, outputs=outputs)
    agreement = float((found.cluster == cue).double().mean())
    assert max(agreement, 1 - agreement) > 0.95
    assert found.p_value < 0.05 and found.opposed > 0.2 and found.readable > 0.8
    assert found.worst[0] != found.worst[1]
    assert found.n == 800 and found.note == ""


def test_outputs_may_be_guessed_or_of_one_column():
    x, right, y, outputs, _ = clumps()
    one = infer_clusters(x, right, y, outputs=outputs[:, 1] - outputs[:, 0])
    assert one.p_value < 0.05
    assert infer_clusters(x, right, y).p_value < 0.05


def test_a_value_that_is_harder_in_every_class_is_no_suspect():
    x, _, y, outputs, cue = clumps(cue_weight=0.0)
    rng = torch.Generator().manual_seed(1)
    right = torch.rand(800, generator=rng) > 0.3 * cue  # whatever the class
    found = infer_clusters(x, right, y, outputs=outputs)
    assert found.error_high - found.error_low > 0.2
    assert abs(found.opposed) < 0.06 and found.p_value > 0.05


def test_wrong_labels_cannot_be_read_and_are_no_suspect():
    x, _, y, outputs, _ = clumps(cue_weight=0.0)
    noisy = torch.where(torch.rand(800, generator=torch.Generator().manual_seed(1)) < 0.15, 1 - y, y)
    found = infer_clusters(x, outputs.argmax(1) == noisy, noisy, outputs=outputs)
    assert found.readable < 0.62 and found.p_value > 0.05


def test_names_of_classes_scale_and_order_of_rows_do_not_matter():
    x, right, y, outputs, _ = clumps()
    plain = infer_clusters(x, right, y, outputs=outputs)
    named = infer_clusters(
        x.numpy() * 100 + 7, right.numpy(), np.array(["dog", "cat"])[1 - y], outputs=outputs[:, [0, 1]]
    )
    assert (named.opposed, named.error_high, named.error_low) == pytest.approx(
        (plain.opposed, plain.error_high, plain.error_low)
    )
    order = torch.randperm(800, generator=torch.Generator().manual_seed(2))
    moved = infer_clusters(x[order], right[order], y[order], outputs=outputs[order])
    assert moved.opposed == pytest.approx(plain.opposed)
    assert moved.readable == pytest.approx(plain.readable, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_any_precision_is_taken(dtype):
    x, right, y, outputs, _ = clumps()
    assert infer_clusters(x.to(dtype), right, y, outputs=outputs.to(dtype)).p_value < 0.05


def test_more_features_than_rows_and_constant_features_are_taken():
    x, right, y, outputs, _ = clumps(n=120)
    noise = 0.01 * torch.randn(120, 300, generator=torch.Generator().manual_seed(3))
    wide = torch.cat([x, noise, torch.ones(120, 1)], dim=1)
    found = infer_clusters(wide, right, y, outputs=outputs)
    assert found.opposed > 0.2 and 0 < found.p_value <= 1


def test_a_model_without_errors_is_not_suspected():
    x, _, y, outputs, _ = clumps()
    found = infer_clusters(x, torch.ones(800, dtype=torch.bool), y, outputs=outputs)
    assert found.p_value == 1 and found.error_high == 0
    assert "too few" in found.note


def test_a_model_that_is_always_wrong_gets_an_answer():
    x, _, y, _, _ = clumps()
    found = infer_clusters(x, torch.zeros(800, dtype=torch.bool), y)
    assert found.p_value == 1 and found.error_low == 1


def test_a_class_of_few_rows_has_no_worst_cluster():
    x, right, y, outputs, _ = clumps()
    y, three = y.clone(), torch.cat([outputs, outputs.min(dim=1, keepdim=True).values - 1], dim=1)
    y[:12] = 2
    found = infer_clusters(x, right, y, outputs=three)
    assert found.worst[2] is None and None not in found.worst[:2]


def test_the_same_seed_gives_the_same_answer_and_leaves_the_global_state():
    x, right, y, outputs, _ = clumps()
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (infer_clusters(x, right, y, outputs=outputs, seed=5) for _ in range(2))
    assert torch.equal(first.cluster, second.cluster) and first.p_value == second.p_value
    assert torch.equal(state, torch.get_rng_state()) and (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
    with pytest.raises(FrozenInstanceError):
        first.p_value = 0.0


@pytest.mark.parametrize(
    ("x", "right", "y", "options", "message"),
    [
        (torch.zeros(4, 2), [True] * 4, [0, 0, 0, 0], {}, "one class only"),
        (torch.zeros(3, 2), [True] * 4, [0, 0, 1, 1], {}, "`representation` has 3 rows"),
        (torch.full((4, 2), torch.inf), [True] * 4, [0, 0, 1, 1], {}, "`representation` has NaN or infinite"),
        (torch.zeros(4, 2, 2), [True] * 4, [0, 0, 1, 1], {}, "pool maps"),
        (torch.zeros(4, 2), [True] * 3, [0, 0, 1, 1], {}, "one bool per row"),
        (torch.zeros(4, 2), [0.5] * 4, [0, 0, 1, 1], {}, "one bool per row"),
        (torch.zeros(4, 2), [True] * 4, [0, 1, 2, 2], {"outputs": torch.zeros(4, 2)}, "`outputs` has 2 columns"),
        (torch.zeros(4, 2), [True] * 4, [0, 0, 1, 1], {"features": torch.zeros(5, 2)}, "`features` has 5 rows"),
    ],
)
def test_mistakes_are_named_with_the_way_out(x, right, y, options, message):
    with pytest.raises(ValueError, match=message):
        infer_clusters(x, right, y, **options)
