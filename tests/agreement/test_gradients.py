"""Gradients of environments, by whatever way the model allows, are those of each environment's loss alone."""

import copy
import gc
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.testing import assert_close

from firstcue.agreement import _ways
from firstcue.agreement.apply import apply_rule
from firstcue.agreement.examples import example_sums
from firstcue.agreement.gradients import environment_gradients
from firstcue.agreement.rules import and_mask, geometric_mean, mean_gradient, sand_mask
from firstcue.batch import Batch


class Scaled(nn.Module):
    """A parameter that no layer holds."""

    def __init__(self):
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.rand(6)), nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x * self.scale)


class Tied(nn.Module):
    """A weight that is used twice."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x).mean(dim=1).tanh())


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(self.layer(x).tanh())


class Unused(nn.Module):
    """A layer that the outputs do not depend on."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x):
        self.idle(x)
        return self.used(x)


class TokensFirst(nn.Module):
    """Works on (tokens, rows, features), where the first axis is not the row; T equals the number of rows."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x.transpose(0, 1)).tanh().sum(dim=0)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.recurrent(x)[0][:, -1])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        def body(t):
            return self.second(self.first(t).tanh()).tanh()

        return torch.utils.checkpoint.checkpoint(body, x, use_reentrant=False)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(7, 6, padding_idx=0), nn.LayerNorm(6), nn.Linear(6, 3)
        self.token = nn.Linear(6, 6, bias=False)

    def forward(self, x):
        return self.head(self.token(self.norm(self.embed(x))).relu().mean(dim=1))


def vectors(*shape):
    return lambda n: torch.randn(n, *shape, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


def words(n):
    return torch.randint(0, 7, (n, 4), generator=torch.Generator().manual_seed(n))


def flat(*layers):
    return lambda: nn.Sequential(*(layer() for layer in layers), nn.Flatten(), nn.LazyLinear(3))


BY_TAPE = {
    "mlp": (flat(partial(nn.Linear, 6, 8), nn.ReLU, partial(nn.Linear, 8, 4, bias=False), nn.Tanh), vectors(6)),
    "image": (
        flat(
            partial(nn.Conv2d, 2, 4, 3, stride=2, padding=1),
            partial(nn.ReLU, inplace=True),
            partial(nn.GroupNorm, 2, 4),
            partial(nn.Conv2d, 4, 6, (3, 1), groups=2, dilation=(1, 2), bias=False),
            partial(nn.PReLU, 6),
        ),
        vectors(2, 9, 8),
    ),
    "same padding": (flat(partial(nn.Conv2d, 2, 4, 4, padding="same"), nn.ReLU), vectors(2, 5, 5)),
    "wide image": (flat(partial(nn.Conv2d, 2, 4, (2, 3), groups=2, padding=(0, 2)), nn.ReLU), vectors(2, 4, 9)),
    "long signal": (flat(partial(nn.Conv1d, 1, 4, 4, padding="same", dilation=2), nn.ReLU), vectors(1, 9)),
    "circular padding": (
        flat(partial(nn.Conv2d, 2, 4, 3, padding=1, padding_mode="circular"), nn.ReLU),
        vectors(2, 5, 5),
    ),
    "signal": (flat(partial(nn.Conv1d, 2, 4, 3, stride=2, padding=1, dilation=2), nn.ReLU), vectors(2, 9)),
    "volume": (flat(partial(nn.Conv3d, 1, 2, 2), nn.ReLU), vectors(1, 3, 4, 3)),
    "transposed": (flat(partial(nn.ConvTranspose2d, 2, 3, 2), nn.ReLU), vectors(2, 3, 3)),
    "norms": (flat(partial(nn.InstanceNorm2d, 2, affine=True), partial(nn.LayerNorm, (2, 3, 3))), vectors(2, 3, 3)),
    "words": (Words, words),
    "unused": (Unused, vectors(6)),
    "evaluated batch norm": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).eval(),
        vectors(6),
    ),
}
BY_OTHER_WAYS = {
    "own parameter": (Scaled, vectors(6)),
    "tied": (Tied, words),
    "called twice": (Twice, vectors(6)),
    "tokens first": (TokensFirst, vectors(5, 4)),
    "recurrent": (Recurrent, vectors(3, 4)),
    "checkpoints": (Checkpointed, vectors(6)),
    "attention": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), nn.Flatten(), nn.Linear(12, 3)),
        vectors(3, 4),
    ),
}  # fmt: skip


def case(cases, name, n=11):
    make, inputs = cases[name]
    model, x = make().double(), inputs(n)
    model(x[:2])
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) / 2)
    y = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(1))
    return model, x, y


def alone(model, loss, x, y, environment):
    """The slow reference: a forward and a backward pass of each environment's rows."""
    rows = {name: [] for name, _ in model.named_parameters()}
    for e in environment.unique():
        own = environment == e
        gradients = torch.autograd.grad(
            loss(model(x[own]), y[own]), list(model.parameters()), allow_unused=True, materialize_grads=True
        )
        for name, g in zip(rows, gradients, strict=True):
            rows[name].append(g)
    return {name: torch.stack(gradients) for name, gradients in rows.items()}


UNEQUAL = torch.tensor([3, 1, 3, 3, 7, 1, 3, 7, 3, 3, 1])


@pytest.mark.parametrize("cases, name", [(c, n) for c in (BY_TAPE, BY_OTHER_WAYS) for n in c])
def test_gradients_are_those_of_each_environments_loss_alone(cases, name):
    model, x, y = case(cases, name)
    singles = torch.arange(len(x))

    for environment in (UNEQUAL, singles, torch.zeros(len(x)).long()):
        expected = alone(model, cross_entropy, x, y, environment)
        assert_close(environment_gradients(model, cross_entropy, (x, y), environment), expected, rtol=1e-9, atol=1e-11)
    sums = example_sums(model, cross_entropy, (x, y), ("signs", "scatter", "nonzero"))
    for key, stack in alone(model, cross_entropy, x, y, singles).items():
        assert_close(sums[key].mean, stack.mean(dim=0), rtol=1e-9, atol=1e-11)
        assert_close(sums[key].variance, stack.var(dim=0), rtol=1e-7, atol=1e-11)


@pytest.mark.parametrize("name", BY_TAPE)
def test_ordinary_layers_take_one_backward_pass(name):
    model, x, _ = case(BY_TAPE, name)

    assert _ways.allows(model, x, dict(model.named_parameters())) == "tape"


@pytest.mark.parametrize("name", BY_OTHER_WAYS)
def test_what_the_tape_cannot_follow_is_noticed(name):
    model, x, _ = case(BY_OTHER_WAYS, name, n=5)

    assert _ways.allows(model, x, dict(model.named_parameters())) != "tape"


def test_ways_agree():
    model, x, y = case(BY_TAPE, "mlp")
    order = UNEQUAL.argsort(stable=True)
    x, y, sizes = x[order], y[order], UNEQUAL.unique(return_counts=True)[1].tolist()
    parameters = dict(model.named_parameters())
    expected = alone(model, cross_entropy, x, y, UNEQUAL[order])

    for way in (_ways.mapped, _ways.separate):
        found = {}
        losses = way(
            model,
            x,
            y,
            sizes,
            parameters,
            cross_entropy,
            _ways.Sinks(parameters, sizes, _ways.Stack, found.__setitem__),
        )
        assert len(losses) == 3
        assert_close({name: found[name].values for name in parameters}, expected, rtol=1e-10, atol=1e-12)


class Mixing(nn.Module):
    """Rows that depend on each other without a BatchNorm layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        return self.layer(x - x.mean(dim=0))


def normed():
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


def through_the_pooled_graph(model, x, y, environment):
    outputs = copy.deepcopy(model)
    logits, params = outputs(x), list(outputs.parameters())
    rows = [
        torch.autograd.grad(cross_entropy(logits[environment == e], y[environment == e]), params, retain_graph=True)
        for e in environment.unique()
    ]
    return {name: torch.stack([r[i] for r in rows]) for i, (name, _) in enumerate(outputs.named_parameters())}


@pytest.mark.parametrize("make", [normed, lambda: Mixing().double()])
def test_rows_that_depend_on_each_other_share_one_forward_pass(make):
    model, (_, x, y) = make(), case(BY_TAPE, "mlp")

    found = environment_gradients(model, cross_entropy, (x, y), UNEQUAL)

    assert_close(found, through_the_pooled_graph(model, x, y, UNEQUAL), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", [normed, lambda: Mixing().double()])
def test_environments_can_be_normalised_on_their_own(make):
    model, (_, x, y) = make(), case(BY_TAPE, "mlp")

    found = environment_gradients(model, cross_entropy, (x, y), UNEQUAL, batch_norm="per_environment")

    assert_close(found, alone(copy.deepcopy(model), cross_entropy, x, y, UNEQUAL), rtol=1e-9, atol=1e-11)


def test_running_statistics_can_be_used_in_train_mode():
    model, (_, x, y) = normed(), case(BY_TAPE, "mlp")

    found = environment_gradients(model, cross_entropy, (x, y), UNEQUAL, batch_norm="eval")

    assert_close(found, alone(copy.deepcopy(model).eval(), cross_entropy, x, y, UNEQUAL), rtol=1e-9, atol=1e-11)
    assert all(m.training for m in model.modules())


def test_an_environment_of_one_row_has_no_statistics_of_its_own():
    model, (_, x, y) = normed(), case(BY_TAPE, "mlp")

    with pytest.raises(ValueError, match=r'two rows or more.*batch_norm="pooled" or "eval"'):
        environment_gradients(model, cross_entropy, (x, y), torch.arange(11) // 2, batch_norm="per_environment")


def test_the_model_is_left_as_it_was_found():
    model, (_, x, y) = normed(), case(BY_TAPE, "mlp")
    model.append(nn.Dropout(0.5))
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    for mode in ("pooled", "per_environment", "eval"):
        environment_gradients(model, cross_entropy, (x, y), UNEQUAL, batch_norm=mode)

    assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state) and all(m.training for m in model.modules())
    assert bool((model[0].weight.grad == 1).all()) and model[0].bias.grad is None
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())


def test_dropout_drops_units_in_train_mode_and_the_mean_is_the_pooled_gradient():
    model = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.5), nn.Linear(40, 3)).double()
    _, x, y = case(BY_TAPE, "mlp")
    environment = torch.arange(10) % 2

    torch.manual_seed(3)
    found = environment_gradients(model, cross_entropy, (x[:10], y[:10]), environment)
    order = environment.argsort(stable=True)
    torch.manual_seed(3)
    cross_entropy(model(x[:10][order]), y[:10][order]).backward()

    assert bool((found["2.weight"] == 0).all(dim=1).any()), "no unit is dropped"
    assert_close(found["0.weight"].mean(dim=0), model[0].weight.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        partial(cross_entropy, weight=torch.tensor([1.0, 5.0, 0.2]).double()),
        partial(cross_entropy, ignore_index=2),
        lambda outputs, y: outputs.logsumexp(dim=0).mean() + cross_entropy(outputs, y),
        lambda outputs, y: (outputs[torch.arange(len(y)), y] ** 2).sum() / (len(y) if float(outputs.sum()) < 1e9 else 1),
    ],
    ids=["class weights", "ignored labels", "not a mean over rows", "looks at values"],
)  # fmt: skip
def test_any_loss_is_that_of_the_environment_alone(loss):
    model, x, y = case(BY_TAPE, "mlp", n=30)
    y[:3] = torch.tensor([0, 1, 1])
    environment = torch.arange(30) % 3

    found = environment_gradients(model, loss, (x, y), environment)

    assert_close(found, alone(model, loss, x, y, environment), rtol=1e-9, atol=1e-11)


def test_regression_targets_and_a_single_output_work():
    model = nn.Linear(6, 1).double()
    x, y = vectors(6)(11), vectors(1)(11)

    found = environment_gradients(model, mse_loss, (x.numpy(), y.numpy()), UNEQUAL.numpy())

    assert_close(found, alone(model, mse_loss, x, y, UNEQUAL))


def test_environments_of_any_kind_and_a_batch_with_groups_give_the_same():
    model, x, y = case(BY_TAPE, "mlp")
    expected = environment_gradients(model, cross_entropy, (x, y), UNEQUAL)

    assert_close(environment_gradients(model, cross_entropy, Batch(x, y, UNEQUAL)), expected, rtol=0, atol=0)
    assert_close(
        environment_gradients(model, cross_entropy, (x, y), [f"site {int(e)}" for e in UNEQUAL]),
        expected,
        rtol=0,
        atol=0,
    )
    some = environment_gradients(model, cross_entropy, (x, y), UNEQUAL, parameters=["0.bias"])
    assert list(some) == ["0.bias"] and torch.equal(some["0.bias"], expected["0.bias"])


def test_frozen_parameters_are_left_out():
    model, x, y = case(BY_TAPE, "image")
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)

    found = environment_gradients(model, cross_entropy, (x, y), UNEQUAL)

    assert "0.weight" not in found and "2.bias" not in found and "0.bias" in found
    assert_close(found["2.weight"].shape, torch.Size([3, 4]))


def test_half_precision_inputs_and_parameters_work():
    model, x, y = case(BY_TAPE, "mlp")
    expected = environment_gradients(model, cross_entropy, (x, y), UNEQUAL)

    found = environment_gradients(copy.deepcopy(model).bfloat16(), cross_entropy, (x.half(), y), UNEQUAL)

    assert found["0.weight"].dtype == torch.bfloat16
    assert_close(found["0.weight"].double(), expected["0.weight"], rtol=0.1, atol=0.02)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch": (torch.zeros(11, 6), torch.zeros(10).long())}, "`x` has 11 rows but `y` has 10"),
        ({"environment": torch.zeros(3).long()}, "`x` has 11 rows but `environment` has 3"),
        ({"environment": None}, "no environments"),
        ({"batch": (torch.zeros(0, 6), torch.zeros(0).long()), "environment": torch.zeros(0)}, "no rows"),
        ({"batch": (torch.full((11, 6), torch.nan), torch.zeros(11).long())}, "`x` has NaN"),
        ({"batch": torch.zeros(11, 6)}, "a Batch or a pair"),
        ({"batch_norm": "train"}, "is one of"),
        ({"parameters": ["nonsense"]}, "no trained parameter is called 'nonsense'"),
        ({"loss": partial(cross_entropy, reduction="none")}, "return its mean over rows, one number"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, message):
    model, x, y = case(BY_TAPE, "mlp")
    arguments = {"model": model.float(), "loss": cross_entropy, "batch": (x, y), "environment": UNEQUAL} | change

    with pytest.raises(ValueError, match=message):
        environment_gradients(**arguments)


def test_a_frozen_model_is_refused():
    model, x, y = case(BY_TAPE, "mlp")

    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        environment_gradients(model.requires_grad_(False), cross_entropy, (x, y), UNEQUAL)


@pytest.mark.parametrize("rule", [and_mask, mean_gradient, lambda stack: stack.mean(dim=0)])
def test_a_gradient_that_is_not_finite_names_its_parameter_and_changes_nothing(rule):
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.second((self.first(x) * 0).abs().sqrt())

    model, (_, x, y) = Root().double(), case(BY_TAPE, "mlp")

    with pytest.raises(ValueError, match=r"gradient of parameter 'first\.(weight|bias)' is NaN or infinite"):
        apply_rule(model, rule, cross_entropy, (x, y), UNEQUAL)
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="'first"):
        environment_gradients(model, cross_entropy, (x, y), UNEQUAL)


RULES = [
    mean_gradient,
    and_mask,
    partial(and_mask, threshold=0.3, scale="tensor", clip=2.0),
    partial(and_mask, threshold=0.3, scale="norm", zeros="abstain"),
    partial(geometric_mean, threshold=0.3),
    partial(geometric_mean, threshold=0.3, floor=0.0),
    partial(sand_mask, threshold=0.2),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "cases, name", [(BY_TAPE, "mlp"), (BY_TAPE, "image"), (BY_TAPE, "unused"), (BY_OTHER_WAYS, "tied")]
)
@pytest.mark.parametrize("environment", [UNEQUAL, torch.arange(11)])
def test_a_rule_applied_layer_by_layer_is_the_rule_of_all_gradients(rule, cases, name, environment):
    model, x, y = case(cases, name)
    expected = {
        key: rule(stack) for key, stack in environment_gradients(model, cross_entropy, (x, y), environment).items()
    }

    losses = apply_rule(model, rule, cross_entropy, (x, y), environment)

    assert_close({key: p.grad for key, p in model.named_parameters()}, expected, rtol=1e-6, atol=1e-9)
    assert_close(
        losses,
        torch.stack([cross_entropy(model(x)[environment == e], y[environment == e]) for e in environment.unique()]),
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", [and_mask, lambda stack: stack.mean(dim=0)])
def test_rules_work_in_half_precision(dtype, rule):
    model, x, y = case(BY_TAPE, "mlp")
    apply_rule(model, rule, cross_entropy, (x, y), UNEQUAL)
    half = copy.deepcopy(model).to(dtype)

    apply_rule(half, rule, cross_entropy, (x, y), UNEQUAL)

    assert half[0].weight.grad.dtype == dtype
    close = torch.isclose(half[0].weight.grad.double(), model[0].weight.grad, rtol=0.1, atol=0.02)
    assert float(close.double().mean()) > 0.9  # a sign that rounding turned may close a mask


def test_rules_without_a_scope_see_the_whole_model():
    model, x, y = case(BY_TAPE, "mlp")
    seen = []

    def rule(stack):
        seen.append(tuple(stack.shape))
        return stack[0]

    apply_rule(model, rule, cross_entropy, (x, y), UNEQUAL)

    assert seen == [(3, sum(p.numel() for p in model.parameters()))]
    assert_close(model[0].weight.grad, environment_gradients(model, cross_entropy, (x, y), UNEQUAL)["0.weight"][0])


def test_a_rule_of_the_wrong_shape_is_refused():
    model, x, y = case(BY_TAPE, "mlp")

    with pytest.raises(ValueError, match="one number for each component"):
        apply_rule(model, lambda stack: stack, cross_entropy, (x, y), UNEQUAL)


def test_the_mean_rule_is_the_gradient_of_the_mean_loss_by_environment_or_by_example():
    model, x, y = case(BY_TAPE, "mlp")
    grads = []
    for objective in (
        lambda: torch.stack([cross_entropy(model(x[e == UNEQUAL]), y[e == UNEQUAL]) for e in (1, 3, 7)]).mean(),
        lambda: cross_entropy(model(x), y),
    ):
        model.zero_grad()
        objective().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})

    for weight, expected in zip(("environment", "example"), grads, strict=True):
        apply_rule(model, mean_gradient, cross_entropy, (x, y), UNEQUAL, weight=weight)
        assert_close({name: p.grad for name, p in model.named_parameters()}, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="`weight` is"):
        apply_rule(model, mean_gradient, cross_entropy, (x, y), UNEQUAL, weight="row")


def test_environments_may_change_from_batch_to_batch():
    model, x, y = case(BY_TAPE, "mlp")

    for environment, count in ((UNEQUAL, 3), (UNEQUAL[:4], 2), (torch.tensor([5, 5]), 1)):
        losses = apply_rule(model, and_mask, cross_entropy, (x[: len(environment)], y[: len(environment)]), environment)
        assert losses.shape == (count,)
    alone_again = alone(model, cross_entropy, x[:2], y[:2], torch.tensor([5, 5]))
    assert_close(model[0].weight.grad, alone_again["0.weight"][0])  # one environment: nothing to mask


def test_training_by_a_rule_moves_batch_norm_statistics_once():
    model, (_, x, y) = normed(), case(BY_TAPE, "mlp")
    plain = copy.deepcopy(model)
    plain(x)

    apply_rule(model, and_mask, cross_entropy, (x, y), UNEQUAL)

    assert_close(model[1].running_mean, plain[1].running_mean)
    assert int(model[1].num_batches_tracked) == 1


def test_a_model_can_be_forgotten():
    """What is remembered about a model does not keep it alive, nor do its graphs."""
    model, x, y = case(BY_TAPE, "image")
    apply_rule(model, and_mask, cross_entropy, (x, y), UNEQUAL)
    watched = weakref.ref(model)

    del model
    gc.collect()

    assert watched() is None
