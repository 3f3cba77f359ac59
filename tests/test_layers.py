"""Looking inside a model sees what it computed and changes nothing in it."""

import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from firstcue.layers import (
    activations,
    layer_moments,
    layer_moments_of,
    left_as_found,
    list_layers,
    predict,
    unwrap,
)
from firstcue.moments import Moments


def seeded(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_network():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    )


class Restless(nn.Module):
    """Updates and replaces buffers and draws random numbers even while evaluating."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.full((2,), -0.0))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.calls += 1
        self.last = x.mean(0)[:2]
        self.nothing = torch.rand(1)
        np.random.rand()  # noqa: NPY002
        return self.fc(x)


def state(model):
    flags = [module.training for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    buffers = {n: b.numpy().tobytes() for n, b in model.named_buffers()}
    drawn = (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes())  # noqa: NPY002
    return flags, hooks, buffers, drawn, torch.is_grad_enabled()


def same_buffer_objects(model):
    return [id(b) for b in model.buffers()]


@pytest.mark.parametrize("make, shape", [(small_network, (6, 1, 8, 8)), (Restless, (6, 4))])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_bit_for_bit_as_found(make, shape, training):
    model, x = make().train(training), seeded(shape)
    model[1].eval() if isinstance(model, nn.Sequential) else None  # a frozen layer keeps its own mode
    before, objects = state(model), same_buffer_objects(model)

    predict(model, x)
    with activations(model, "*"):
        model(x)
    layer_moments_of(model, x, "*", group=[0, 0, 1, 1, 1, 1])

    assert state(model) == before
    assert same_buffer_objects(model) == objects


def test_outputs_after_a_look_inside_are_those_of_a_model_never_looked_at():
    x = seeded((6, 1, 8, 8))
    torch.manual_seed(5)  # the test itself owns the global state here
    untouched = small_network()
    torch.manual_seed(5)
    watched = small_network()
    predict(watched, x)

    torch.manual_seed(6)
    expected = untouched(x)
    torch.manual_seed(6)

    assert torch.equal(watched(x), expected)


def test_a_model_is_left_as_found_after_an_exception():
    model = small_network().train()
    before = state(model)

    with pytest.raises(ValueError, match=r"RuntimeError on inputs of shape \(2, 3, 8, 8\), dtype torch.float32"):
        predict(model, seeded((2, 3, 8, 8)))
    with pytest.raises(KeyError), activations(model, "*"):
        model(seeded((2, 1, 8, 8)))
        raise KeyError
    with suppress(RuntimeError), layer_moments(model, "*", group=[0, 1]):
        model(seeded((2, 3, 8, 8)))

    assert state(model) == before


def test_no_gradients_flow_inside_and_graphs_outside_survive():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    loss = model(seeded((8, 3))).sum()

    with left_as_found(model):
        assert not model(seeded((8, 3))).requires_grad
    loss.backward()

    assert model[0].weight.grad is not None


def test_the_random_state_of_python_is_restored():
    with left_as_found(nn.Linear(2, 2)):
        first = random.getstate()
        random.random()

    assert random.getstate() == first


def test_modes_are_restored_without_calling_an_overridden_train():
    class Counting(nn.Linear):
        calls = 0

        def train(self, mode=True):
            self.calls += 1
            return super().train(mode)

    model = Counting(2, 2)

    with left_as_found(model):
        assert not model.training

    assert model.calls == 0 and model.training


def test_lazy_layers_are_refused_rather_than_created():
    with pytest.raises(ValueError, match="run one batch through it first"):
        predict(nn.LazyLinear(3), seeded((2, 4)))


def test_an_activation_is_what_the_layer_returned_not_what_a_later_one_made_of_it():
    model, x = small_network().eval(), seeded((6, 1, 8, 8))

    with activations(model, ["1"], pool="flatten") as seen:
        model(x)

    expected = model[1](model[0](x)).flatten(1)
    assert int((expected < 0).sum()) > 0
    assert_close(seen["1"][0], expected.detach())


def test_a_module_used_twice_gives_two_tensors():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Linear(3, 3)

        def forward(self, x):
            return self.step(self.step(x))

    model, x = Twice(), seeded((5, 3))

    with activations(model, "step") as seen:
        model(x)
    moments = layer_moments_of(model, x, "step", group=[0, 0, 1, 1, 1], batch_size=2)["step"]

    assert_close(seen["step"], [model.step(x).detach(), model(x).detach()])
    assert moments.count.tolist() == [4.0, 6.0]


class Odd(nn.Module):
    """Returns `make(x)`."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


@pytest.mark.parametrize(
    "make",
    [lambda x: (x, 1), lambda x: [None, x], lambda x: {"hidden": x, "other": x + 1}, lambda x: x],
    ids=["tuple", "list", "mapping", "tensor"],
)
def test_the_first_tensor_of_a_tuple_list_or_mapping_counts(make):
    model = nn.Sequential(Odd(make))

    with activations(model, "0") as seen:
        model(torch.ones(4, 3))

    assert_close(seen["0"], [torch.ones(4, 3)])


def test_a_layer_without_a_tensor_is_refused_by_name():
    model = nn.Sequential(Odd(lambda x: {"note": "none"}))

    with pytest.raises(ValueError, match="layer '0' returns dict without a tensor"), activations(model, "0"):
        model(torch.ones(4, 3))


@pytest.mark.parametrize(
    "shape, pool, expected",
    [
        ((5, 3, 4, 2), "mean", lambda t: t.mean((2, 3))),
        ((5, 3, 4, 2, 2), "mean", lambda t: t.mean((2, 3, 4))),
        ((5, 7, 3), "mean", lambda t: t.mean(1)),
        ((5, 7, 3), "last", lambda t: t[:, -1]),
        ((5, 3, 4, 2), "flatten", lambda t: t.flatten(1)),
        ((5, 7, 3), lambda t: t[:, 0], lambda t: t[:, 0]),
        ((5,), "mean", lambda t: t[:, None]),
        ((5, 3), "mean", lambda t: t),
    ],
)
def test_pooling_is_what_it_says(shape, pool, expected):
    model, x = nn.Sequential(nn.Identity()), seeded(shape)

    with activations(model, "0", pool=pool) as seen:
        model(x)

    assert_close(seen["0"][0], expected(x))


@pytest.mark.parametrize(
    "pool, message",
    [("max", '"mean", "flatten", "last"'), ("last", "the last token of"), (lambda t: t, r"has to return \(n, d\)")],
)
def test_pooling_that_does_not_fit_is_refused(pool, message):
    model = nn.Sequential(nn.Identity())

    with pytest.raises(ValueError, match=message), activations(model, "0", pool=pool):
        model(torch.ones(2, 3, 4, 4))


def test_patterns_name_layers_and_misspelt_ones_get_a_hint():
    model = nn.ModuleDict({"layer4": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "head": nn.Linear(2, 2)})

    assert list_layers(model, "layer4.*") == ["layer4.0", "layer4.1"]
    assert list_layers(nn.DataParallel(model), ["head", "layer4"]) == ["layer4", "head"]
    with pytest.raises(ValueError, match=r"no layer 'laier4'; did you mean 'layer4'"):
        list_layers(model, ["head", "laier4"])


def test_a_misspelt_layer_leaves_no_hook():
    model = small_network()
    before = state(model)

    with pytest.raises(ValueError, match="no layer"), layer_moments(model, ["0", "nope"]):
        pass

    assert state(model) == before


def test_moments_by_group_are_those_of_the_activations():
    model, x = small_network().eval(), seeded((30, 1, 8, 8))
    group = ["b"] * 25 + ["a"] * 5
    with activations(model, "2") as seen:
        model(x)

    moments = layer_moments_of(model, x, ["2"], group=group, batch_size=7)["2"]
    expected = Moments.of_groups(seen["2"][0], group)

    assert moments.classes == ("a", "b")
    assert_close(
        (moments.count, moments.mean, moments.scatter, moments.rows),
        (expected.count, expected.mean, expected.scatter, expected.rows),
        rtol=1e-5,
        atol=1e-6,
    )


def test_moments_without_groups_do_not_depend_on_the_batch_size():
    model, x = small_network(), seeded((30, 1, 8, 8)) + 100

    small, large = (layer_moments_of(model, x, ["0", "5"], batch_size=b) for b in (4, 30))

    for layer in ("0", "5"):
        assert_close(small[layer].mean, large[layer].mean, rtol=1e-5, atol=1e-5)
        assert_close(small[layer].scatter, large[layer].scatter, rtol=1e-4, atol=1e-4)


def test_groups_that_do_not_match_the_rows_are_refused():
    model, x = nn.Sequential(nn.Linear(3, 2)), seeded((6, 3))

    with (
        pytest.raises(ValueError, match="has 7 rows but the block ran 6"),
        layer_moments(model, "0", group=[0] * 7),
    ):
        model(x)
    with pytest.raises(ValueError, match="of which `group` has 4"), layer_moments(model, "0", group=[0] * 4):
        model(x)
    with pytest.raises(ValueError, match="`x` has 6 rows but `group` has 4"):
        layer_moments_of(model, x, "0", group=[0] * 4)
    with pytest.raises(ValueError, match="num_groups"):
        layer_moments_of(model, x, "0", group=[0, 1, 2, 3, 4, 5], num_groups=5)


def test_layers_that_never_run_and_nan_activations_are_named():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x).log()

    with pytest.raises(ValueError, match="layers unused did not run"):
        layer_moments_of(Skips(), seeded((4, 3)), "*used")
    with pytest.raises(ValueError, match="output of layer '0'"):
        layer_moments_of(nn.Sequential(Skips()), seeded((4, 3)), "0")


def test_wrappers_are_taken_off_and_other_modules_named_module_are_not():
    inner = nn.Linear(2, 2)
    ordinary = nn.Sequential()
    ordinary.module = inner

    assert unwrap(nn.DataParallel(nn.DataParallel(inner))) is inner
    assert unwrap(torch.optim.swa_utils.AveragedModel(inner)).weight.shape == (2, 2)
    assert unwrap(ordinary) is ordinary
    assert unwrap(torch.compile(inner)) is inner


@pytest.mark.parametrize(
    "make",
    [
        lambda f: f,
        lambda f: {"logits": f, "hidden": f + 1},
        lambda f: {"out": f},
        lambda f: (f,),
        lambda f: f[..., None],
    ],
)
def test_logits_are_found_in_what_the_model_returns(make):
    linear, x = nn.Linear(3, 4), seeded((5, 3))

    assert_close(predict(nn.Sequential(linear, Odd(make)), x), linear(x).detach())


@pytest.mark.parametrize("squeeze", [True, False])
def test_one_output_stands_for_two_logits(squeeze):
    linear, x = nn.Linear(3, 1), seeded((5, 3))
    model = nn.Sequential(linear, nn.Flatten(0)) if squeeze else linear

    logits = predict(model, x, batch_size=2)

    assert_close(logits, torch.cat([torch.zeros(5, 1), linear(x).detach()], 1))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda x: (x, x), r"2 tensors \(\[0\] \(5, 3\), \[1\] \(5, 3\)\)"),
        (lambda x: {"note": 1}, "0 tensors"),
        (lambda x: x.mean(), "one row of logits per input"),
        (lambda x: x[:2], "one row of logits per input"),
        (lambda x: x[:, :, None].expand(-1, -1, 2), "one vector of logits per input"),
        (lambda x: torch.where(torch.arange(5)[:, None] == 3, torch.nan, x), r"in 1 of 5 rows \(rows 3\)"),
    ],
)
def test_outputs_that_cannot_be_meant_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        predict(Odd(make), seeded((5, 3)))


def test_nan_rows_are_counted_from_the_first_row_of_the_data():
    model = Odd(lambda x: x.log())
    x = torch.ones(20, 2)
    x[[13, 17]] = -1

    with pytest.raises(ValueError, match="rows 13"):
        predict(model, x, batch_size=4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_inputs_of_any_floating_type_meet_the_models_type(dtype):
    linear, x = nn.Linear(3, 2), seeded((5, 3)).half()

    logits = predict(linear, x.to(dtype))

    assert logits.dtype == torch.float32
    assert_close(logits, linear(x.float()).detach())
    assert_close(predict(linear, x.numpy()), logits)


def test_integer_inputs_stay_integers():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))

    assert predict(model, torch.arange(9).reshape(3, 3)).shape == (3, 2)


@pytest.mark.parametrize(
    "x, message", [(torch.zeros(0, 3), "no rows"), (torch.full((2, 3), torch.nan), "NaN or infinite values in 2 of 2")]
)
def test_empty_and_nan_inputs_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        predict(nn.Linear(3, 2), x)
