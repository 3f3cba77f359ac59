"""Erasing inside a network reaches every layer named, on every kind of network, and leaves nothing behind."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

import firstcue as fc
from cases import generator, labelled
from firstcue.batch import Batch
from firstcue.layers import activations, layer_moments_of
from firstcue.moments import Moments
from firstcue.positions import features_last, put_back, with_first_tensor


class Attention(nn.Module):
    """Returns a tuple, as attention layers do."""

    def __init__(self, d):
        super().__init__()
        self.inner = nn.MultiheadAttention(d, 2, batch_first=True)

    def forward(self, x):
        return self.inner(x, x, x)


class ViT(nn.Module):
    """Patches, two blocks with residual streams, the mean token, a head."""

    def __init__(self, d=16):
        super().__init__()
        self.patches = nn.Conv2d(1, d, 4, stride=4)
        self.attention = nn.ModuleList(Attention(d) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 3)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        for attention, mlp in zip(self.attention, self.mlp, strict=True):
            tokens = tokens + attention(tokens)[0]
            tokens = tokens + mlp(tokens)
        return self.head(self.norm(tokens).mean(dim=1))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(3),
    )  # fmt: skip


def pictures(n=120, seed=0):
    """Images whose concept is a brighter upper half, of classes 0, 0, 0, 1, 2, ..."""
    z = torch.arange(n) % 5 % 4 % 3
    x = torch.randn(n, 1, 16, 16, generator=generator(seed))
    x[:, :, :8] += 0.7 * z[:, None, None, None]
    return x, z


def mean_gap(features, z):
    """Largest difference of a class mean from the mean, in standard deviations, over all positions of all rows."""
    moments = Moments.of_groups(
        features.reshape(-1, features.shape[-1]), z.repeat_interleave(features[0].numel() // features.shape[-1])
    )
    spread = moments.pool().covariance.diagonal().clamp(min=1e-12).sqrt()
    return float(((moments.mean - moments.pool().mean) / spread).abs().max())


def seen_inside(model, x, layer):
    """What a layer really passes on, features last."""
    kept = []
    module = dict(model.named_modules())[layer]
    hook = module.register_forward_hook(lambda m, a, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(x)
    hook.remove()
    return features_last(kept[0])


NETWORKS = {
    "conv net": (conv_net, ["0", "3", "6"]),
    "vision transformer": (ViT, ["patches", "attention.0", "mlp.0", "attention.1", "norm"]),
}


def network(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORKS[name][0]().eval()
        model(pictures(4)[0])
    return model, NETWORKS[name][1]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", [fc.leace, fc.oracle_leace, fc.qleace], ids=lambda m: m.__name__)
def test_scrubbing_makes_class_means_equal_at_every_layer_at_once(name, method):
    model, layers = network(name)
    x, z = pictures(600)
    erasers = fc.scrub(model, [(x[:350], z[:350]), (x[350:], z[350:])], layers, method)

    raw = {layer: mean_gap(seen_inside(model, x, layer), z) for layer in layers}
    with fc.erased(model, erasers, group=torch.cat([z] * len(layers))):
        gaps = {layer: mean_gap(seen_inside(model, x, layer), z) for layer in layers}

    assert list(erasers) == layers
    assert min(raw.values()) > 0.01, "the concept was readable before"
    assert max(gaps.values()) < 1e-4, gaps


@pytest.mark.parametrize("name", NETWORKS)
def test_a_probe_of_held_out_rows_is_at_chance_where_the_concept_was_erased(name):
    model, layers = network(name)
    (x, z), (new_x, new_z) = pictures(800), pictures(800, seed=1)
    erasers = fc.scrub(model, [(x, z)], layers)
    chance = float(torch.bincount(new_z).max() / len(new_z))
    radius = 3 * (chance * (1 - chance) / len(new_z)) ** 0.5

    def accuracy():
        with activations(model, layers) as seen:
            model(x)
            model(new_x)
        found = {}
        for layer, (train, new) in seen.items():
            probe = fc.linear_probe(Moments.of_groups(train, z))
            found[layer] = float((probe(new).argmax(dim=1) == new_z).float().mean())
        return found

    before = accuracy()
    with fc.erased(model, erasers):
        after = accuracy()

    assert before[layers[0]] > chance + radius, "the probe can read the concept before"
    assert all(value < chance + radius for value in after.values()), (before, after)


def test_erasers_fitted_on_the_untouched_network_do_not_fit_together():
    model, layers = network("vision transformer")
    x, z = pictures(600)
    alone = fc.scrub(model, [(x, z)], layers, sequential=False)
    with fc.erased(model, alone):
        together = mean_gap(seen_inside(model, x, "norm"), z)
    with fc.erased(model, {"norm": alone["norm"]}):
        by_itself = mean_gap(seen_inside(model, x, "norm"), z)
    assert by_itself < 1e-4 < together


def test_one_pass_over_a_single_batch_is_the_exact_scrubbing():
    model, layers = network("vision transformer")
    x, z = pictures(300)
    exact, streamed = fc.scrub(model, [(x, z)], layers), fc.scrub(model, (x, z), layers, sequential="one pass")
    assert list(exact) == list(streamed) == layers
    for layer in layers:
        assert_close(streamed[layer].projection, exact[layer].projection)


def test_one_pass_over_many_batches_removes_most_of_the_concept():
    model, layers = network("vision transformer")
    x, z = pictures(1600)
    batches = zip(x.split(200), z.split(200), strict=True)  # a generator will do
    erasers = fc.scrub(model, batches, layers, sequential="one pass")
    raw = mean_gap(seen_inside(model, x, "norm"), z)
    with fc.erased(model, erasers):
        assert mean_gap(seen_inside(model, x, "norm"), z) < 0.3 * raw


def test_a_folded_head_and_a_hook_before_it_give_the_same_outputs():
    model, _ = network("vision transformer")
    x, z = pictures(200)
    eraser = fc.leace(layer_moments_of(model, x, "norm", group=z)["norm"])
    with fc.erased(model, {"norm": eraser}):
        hooked = model(x)
    model.head = fc.fold(eraser, model.head)
    assert_close(model(x), hooked, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout, shape", [
    ("auto", (5, 3)), ("auto", (5, 7, 3)), ("auto", (5, 3, 2, 4)), ("auto", (5, 3, 2, 2, 2)), ("channels first", (5, 3, 9)),
    ("channels last", (5, 2, 4, 3)), ("auto", (5,)),
])  # fmt: skip
def test_features_are_put_back_where_they_were_taken(layout, shape):
    tensor = torch.randn(shape, generator=generator())
    features = features_last(tensor, layout)
    assert features.shape[-1] == (1 if len(shape) == 1 else 3)
    back = put_back(features.clone(), tensor, layout)
    assert torch.equal(back, tensor) and back.is_contiguous()


def test_flat_features_are_all_numbers_of_a_row():
    tensor = torch.randn(5, 3, 2, 4, generator=generator())
    assert features_last(tensor, "flat").shape == (5, 24)
    assert torch.equal(put_back(features_last(tensor, "flat"), tensor, "flat"), tensor)


def test_a_flat_eraser_makes_every_position_of_a_map_equal():
    model, _ = network("conv net")
    x, z = pictures(600)
    each = fc.scrub(model, [(x, z)], "3")
    flat = fc.scrub(model, [(x, z)], "3", layout="flat")
    with fc.erased(model, each):
        assert mean_gap(seen_inside(model, x, "3").flatten(1), z) > 0.05
    with fc.erased(model, flat, layout={"3": "flat"}):
        assert mean_gap(seen_inside(model, x, "3").flatten(1), z) < 1e-4


def test_outputs_of_every_kind_keep_their_kind():
    from collections import namedtuple

    pair = namedtuple("pair", "hidden cache")
    one = torch.ones(2)
    assert with_first_tensor(pair("a", one), lambda t: 2 * t).cache.tolist() == [2, 2]
    assert with_first_tensor({"a": None, "b": one, "c": one}, lambda t: 2 * t)["c"] is one
    assert with_first_tensor([one, one], lambda t: 2 * t)[0].tolist() == [2, 2]
    with pytest.raises(ValueError, match="without a tensor"):
        with_first_tensor(("a", None), lambda t: t, "layer1")


def state(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    buffers = {name: value.numpy().tobytes() for name, value in model.state_dict().items()}
    return hooks, buffers, [m.training for m in model.modules()], torch.get_rng_state().numpy().tobytes()


def test_a_model_is_left_as_found_also_after_an_exception():
    model, layers = network("conv net")
    model.train()
    x, z = pictures(60)
    before = state(model)
    erasers = fc.scrub(model, [(x, z)], layers)
    with pytest.raises(KeyError), fc.erased(model, erasers):
        raise KeyError
    assert state(model) == before
    with pytest.raises(ValueError, match="labels"):
        fc.scrub(model, [(x, z[:-1])], layers)
    assert state(model) == before


def test_gradients_pass_through_an_erased_layer_but_not_along_the_concept():
    x, z = labelled(dtype=torch.float32)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    eraser = fc.leace(Moments.of_groups(model[0](x), z))
    with fc.erased(model, {"0": eraser}):
        model(x).square().sum().backward()
    gradient = model[0].bias.grad
    assert float(gradient.abs().max()) > 0
    # d(P h) reaches the bias only through P^T, which the read directions leave
    assert_close(
        eraser.left.float().mT @ gradient, torch.zeros(eraser.rank), atol=1e-2 * float(gradient.norm()), rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_of_any_precision_keeps_it(dtype):
    model, layers = network("vision transformer")
    model = model.to(dtype)
    x, z = pictures(300)
    erasers = fc.scrub(model, [(x, z)], layers)
    with fc.erased(model, erasers):
        out = seen_inside(model, x.to(dtype), "norm")
    assert out.dtype == dtype
    assert mean_gap(out, z) < 20 * torch.finfo(dtype).eps


def test_labels_follow_the_rows_from_call_to_call():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    x, z = labelled()
    eraser = fc.oracle_leace(Moments.of_groups(x, z))
    whole = eraser(x, z)
    with fc.erased(model, {"0": eraser}, group=z.numpy()):
        assert_close(torch.cat([model(part) for part in x.split(250)]), whole)
    with fc.erased(model, {"0": eraser}) as erasing:
        for rows in (slice(0, 100), slice(50, 90)):
            erasing.group = z[rows]
            assert_close(model(x[rows]), whole[rows])


def test_a_concept_of_tokens_is_erased_token_by_token_and_padding_does_not_count():
    tokens = torch.randn(40, 7, 5, generator=generator())
    z = (torch.arange(40)[:, None] + torch.arange(7)) % 3
    tokens += z[..., None] * torch.arange(5.0)
    mask = (torch.arange(7) < 5).expand(40, 7).long()
    tokens[:, 5:] = 100.0

    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Identity()

        def forward(self, tokens, attention_mask):
            return self.embed(tokens)

    model = Reader()
    inputs = {"tokens": tokens, "attention_mask": mask}
    unlabelled = z.clone()
    unlabelled[:, 6] = -100
    eraser = fc.scrub(model, [(inputs, unlabelled)], "embed")["embed"]
    kept = mask.bool()
    assert_close(eraser.mean.float(), tokens[kept].mean(dim=0))
    erased_tokens = eraser(tokens)[kept]
    for c in range(3):
        assert_close(erased_tokens[z[kept] == c].mean(dim=0), eraser.mean.float(), atol=1e-4, rtol=0)
    by_class = fc.scrub(model, [(inputs, z)], "embed", fc.oracle_leace)
    with fc.erased(model, by_class, group=z):
        found = model(**inputs)[kept]
    for c in range(3):
        assert_close(found[z[kept] == c].mean(dim=0), eraser.mean.float(), atol=1e-4, rtol=0)


def test_batches_may_lack_a_class_and_carry_it_as_an_attribute():
    x, z = labelled()
    model = nn.Sequential(nn.Linear(8, 6).double())
    whole = fc.scrub(model, (x, z), "0")["0"]
    by_class = torch.argsort(z).split(150)
    named = [(x[rows], [f"class {int(c)}" for c in z[rows]]) for rows in by_class]
    batches = [replace(Batch.of(x[rows], z[rows] % 2), attribute=z[rows]) for rows in by_class]
    for parts in (named, batches):
        assert_close(fc.scrub(model, parts, "0")["0"].projection, whole.projection)


def test_a_batch_of_padding_only_adds_nothing():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Identity()

        def forward(self, tokens, attention_mask):
            return self.embed(tokens)

    tokens, z = torch.randn(30, 4, 3, generator=generator()), torch.arange(30) % 2
    full = {"tokens": tokens, "attention_mask": torch.ones(30, 4)}
    empty = {"tokens": tokens + torch.nan, "attention_mask": torch.zeros(30, 4)}
    alone, beside = (fc.scrub(Reader(), parts, "embed")["embed"] for parts in ([(full, z)], [(empty, z), (full, z)]))
    assert_close(beside.projection, alone.projection)


def missing_layer(model, x, z, eraser):
    with fc.erased(model, {"3.conv": eraser}):
        pass


def idle_layer(model, x, z, eraser):
    model.unused = nn.Linear(8, 8)
    model.forward = lambda x: nn.Sequential.forward(model[:1], x)
    with fc.erased(model, {"unused": eraser}):
        model(x)


def idle_layer_in_scrubbing(model, x, z, eraser):
    model.forward = lambda x: nn.Sequential.forward(model[:1], x)
    fc.scrub(model, [(x, z)], ["0", "2"])


def wrong_width(model, x, z, eraser):
    with fc.erased(model, {"2": eraser}):
        model(x)


def no_labels(model, x, z, eraser):
    with fc.erased(model, {"0": fc.oracle_leace(Moments.of_groups(model[0](x), z))}):
        model(x)


def too_few_labels(model, x, z, eraser):
    with fc.erased(model, {"0": eraser}, group=z[:10]):
        model(x)


def a_generator(model, x, z, eraser):
    fc.scrub(model, ((a, b) for a, b in [(x, z)]), "0")


def nothing(model, x, z, eraser):
    fc.scrub(model, [], "0", sequential="one pass")


def batch_without_attribute(model, x, z, eraser):
    fc.scrub(model, Batch.of(x, z), "0")


def not_finite(model, x, z, eraser):
    model[0].weight.data[0, 0] = torch.nan
    fc.scrub(model, (x, z), "0")


def one_class(model, x, z, eraser):
    fc.scrub(model, (x, 0 * z), "0")


def small_first_batch(model, x, z, eraser):
    fc.scrub(model, zip(x.split(12), z.split(12), strict=True), "0", fc.qleace, sequential="one pass")


def compiled(model, x, z, eraser):
    with fc.erased(torch.compile(model), {"0": eraser}):
        pass


@pytest.mark.parametrize("mistake, way_out", [
    (missing_layer, "no layer '3.conv'; its layers: 0, 1, 2"), (idle_layer, "'unused' never ran"),
    (idle_layer_in_scrubbing, "'2' never ran"), (wrong_width, "fitted on 8"), (no_labels, "group=labels"),
    (too_few_labels, "`group` has 10"), (a_generator, "give a list"), (nothing, "yields nothing"),
    (batch_without_attribute, "with_attribute"), (not_finite, "layer '0'"), (one_class, "one class only"),
    (small_first_batch, "larger batches"), (compiled, "unwrap"),
], ids=lambda value: getattr(value, "__name__", ""))  # fmt: skip
def test_a_mistake_is_refused_with_the_way_out(mistake, way_out):
    x, z = labelled(dtype=torch.float32)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    eraser = fc.leace(Moments.of_groups(model[0](x), z))
    with pytest.raises(ValueError, match=way_out):
        mistake(model, x, z, eraser)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def sentences(n=64, t=9):
    """Token ids whose concept is that word 5 occurs often, padded to different lengths."""
    z = torch.arange(n) % 3
    ids = torch.randint(6, 40, (n, t), generator=generator())
    ids[torch.rand(n, t, generator=generator(1)) < 0.2 * z[:, None]] = 5
    mask = (torch.arange(t) < 4 + torch.arange(n)[:, None] % 6).long()
    return {"input_ids": ids, "attention_mask": mask}, z


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_hugging_face_transformer_is_scrubbed_at_every_block(transformers, kind):
    if kind == "bert":
        config = transformers.BertConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            num_labels=3,
        )
        make, layers = (
            transformers.BertForSequenceClassification,
            ["bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.1"],
        )
    else:
        config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16)
        make, layers = transformers.GPT2Model, ["wte", "h.0", "h.1", "ln_f"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make(config).eval()
    inputs, z = sentences()
    first = {name: value[:40] for name, value in inputs.items()}
    rest = {name: value[40:] for name, value in inputs.items()}
    erasers = fc.scrub(model, [(first, z[:40]), (rest, z[40:])], layers)
    assert list(erasers) == layers

    tokens = inputs["attention_mask"].bool()
    labels = z[:, None].expand(tokens.shape)[tokens]

    def gap(layer):
        kept = []
        hook = dict(model.named_modules())[layer].register_forward_hook(
            lambda m, a, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
        with torch.no_grad():
            model(**inputs)
        hook.remove()
        return mean_gap(kept[0][tokens], labels)

    before = {layer: gap(layer) for layer in layers}
    with fc.erased(model, erasers):
        after = {layer: gap(layer) for layer in layers}
    assert min(before.values()) > 0.05 and max(after.values()) < 1e-3, (before, after)


def test_a_partial_method_and_a_pattern_of_layers_will_do():
    model, _ = network("vision transformer")
    x, z = pictures(200)
    erasers = fc.scrub(model, (x, np.array(["a", "b", "c"])[z]), "mlp.*.3", partial(fc.leace, shrinkage=fc.oas))
    assert list(erasers) == ["mlp.0.3", "mlp.1.3"]
    one = erasers["mlp.0.3"]
    with fc.erased(model, {"mlp.*.3": one}):
        model(x)
