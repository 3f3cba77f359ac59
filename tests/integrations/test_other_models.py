"""Models of other libraries are audited as they come: nets of skorch, models of timm's shape, of Hugging Face, and exported programs."""

import pytest
import torch
from torch import nn

import firstcue as fc
from firstcue.cli import main
from firstcue.integrations.exported import program_module
from firstcue.integrations.modules import as_module
from firstcue.layers import features_and_outputs, find_head, predict, with_head


def images(n: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures whose upper half tells the class weakly and whose lower half tells a cue strongly."""
    generator = torch.Generator().manual_seed(0)
    y, cue = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    x = torch.randn(n, 1, 8, 8, generator=generator)
    x[:, :, :4] += (2 * y[:, None, None, None] - 1) * 0.5
    x[:, :, 4:] += 2 * cue[:, None, None, None] - 1.0
    return x, y, cue


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 2)
    ).eval()  # fmt: skip


def exported(model: nn.Module, x: torch.Tensor, **given) -> torch.export.ExportedProgram:
    return torch.export.export(model, (x[:4],), dynamic_shapes=({0: torch.export.Dim("rows")},), **given)


# skorch --------------------------------------------------------------------------------------------------------------


def test_a_net_of_skorch_is_its_module():
    skorch = pytest.importorskip("skorch")
    x, y, cue = images()
    net = skorch.NeuralNetClassifier(network, criterion=nn.CrossEntropyLoss, max_epochs=2, lr=0.1, verbose=0)
    with pytest.raises(ValueError, match=r"has no module yet; call its fit"):
        fc.audit(net, (x, y, cue))
    net.fit(x.numpy(), y.numpy())
    module = as_module(net)
    assert module is net.module_
    assert (predict(module, x).argmax(dim=1).numpy() == net.predict(x.numpy())).all()
    assert fc.fix(net, (x, y, cue), "last-layer", (x, y, cue)).after.overall.n == 120


def test_a_net_of_skorch_that_returns_probabilities_is_told_to_return_logits():
    skorch = pytest.importorskip("skorch")
    x, y, cue = images()
    net = skorch.NeuralNetClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Softmax(dim=1)), verbose=0
    ).initialize()
    with pytest.raises(ValueError, match="softmax of its linear layer '1', not logits"):
        fc.audit(net, (x, y, cue))


# timm ----------------------------------------------------------------------------------------------------------------


class LikeTimm(nn.Module):
    """The methods that models of timm have; timm itself is not needed."""

    def __init__(self, num_classes: int = 2, pool: str = "avg"):
        super().__init__()
        self.num_features, self.pool = 4, pool
        self.stem, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int) -> None:
        self.num_classes = num_classes
        if self.pool == "conv":
            self.fc = nn.Conv2d(4, num_classes, 1)
        else:
            self.fc = nn.Linear(4, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.stem(x)).relu()

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = self.drop(x.mean(dim=(2, 3), keepdim=self.pool == "conv"))
        return pooled if pre_logits else self.fc(pooled).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


@pytest.mark.parametrize("pool", ["avg", "conv"])
def test_the_head_of_a_timm_model_is_its_classifier(pool):
    x, y, cue = images()
    model = LikeTimm(pool=pool).eval()
    head = find_head(model, x)
    assert dict(model.named_modules())[head.name] is model.get_classifier()
    features, _ = features_and_outputs(model, x)
    pre_logits = model.forward_head(model.forward_features(x), pre_logits=True).flatten(1)
    assert torch.allclose(features, pre_logits, atol=1e-6)
    fixed = fc.fix(model, (x, y, cue), "erase", (x, y, cue))
    assert isinstance(fixed.model.get_classifier(), type(model.get_classifier()))


def test_a_timm_model_whose_classifier_was_taken_off_is_refused():
    x, y, cue = images()
    model = LikeTimm().eval()
    model.reset_classifier(0)
    with pytest.raises(ValueError, match=r"4 outputs but the labels have 2 classes|no linear layer"):
        fc.audit(model, (x, y, cue))


# Hugging Face --------------------------------------------------------------------------------------------------------


def test_an_image_model_of_hugging_face_is_repaired_in_place_of_its_classifier():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=1, num_labels=2,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    x, y, cue = images()
    fixed = fc.fix(model, (x, y, cue), "last-layer", (x, y, cue))
    assert fixed.changes["layer"] == "classifier"
    assert fixed.model(x).logits.shape == (200, 2) and not torch.equal(fixed.model(x).logits, model(x).logits)


def test_a_text_model_of_hugging_face_takes_token_ids():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.randint(1, 50, (60, 12), generator=torch.Generator().manual_seed(0))
    assert find_head(model, ids).name == "classifier"
    assert torch.allclose(predict(model, ids), model(ids).logits.detach(), atol=1e-5)
    fixed = fc.fix(model, (ids, torch.arange(60) % 3, torch.arange(60) // 3 % 2), "erase", trained_on=False)
    assert fixed.before.overall.n > 0


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        return self.head(input_ids * attention_mask)


def test_a_model_of_several_inputs_is_told_how_to_be_audited():
    with pytest.raises(ValueError, match=r"missing 1 required positional argument.*\n.*module of one input"):
        predict(Two(), torch.zeros(3, 4))


# exported programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decomposed", [False, True])
def test_an_exported_program_gives_the_same_answers_and_has_a_head(decomposed):
    x, _, _ = images()
    model = network()
    program = exported(model, x)
    program = program.run_decompositions() if decomposed else program
    made = as_module(program)
    assert torch.equal(made(x), model(x))
    assert set(made.state_dict()) == set(model.state_dict())
    head = find_head(made, x)
    assert head.name == "6" and torch.equal(head.weight, model[6].weight)
    assert [name for name, m in made.named_modules() if isinstance(m, nn.Linear)] == ["6"]


def test_an_exported_program_is_repaired_as_the_model_that_it_came_from():
    x, y, cue = images()
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mine, theirs = (fc.fix(m, (x, y, cue), "erase", (x, y, cue)) for m in (model, exported(model, x)))
    assert mine.after == theirs.after
    assert torch.equal(mine.model(x), theirs.model(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_heads_of_a_program_without_bias_or_used_twice_are_replaced():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 6), nn.Linear(6, 3, bias=False)

        def forward(self, x):
            return {"logits": self.head(self.body(self.body(x).relu()).relu())}

    x, model = torch.randn(20, 6), Twice().eval()
    made = program_module(exported(model, x))
    head = find_head(made, x)
    assert head.name == "head" and torch.equal(made(x)["logits"], model(x)["logits"])
    changed = with_head(made, "head", 2 * head.weight, head.bias)
    assert torch.allclose(changed(x)["logits"], 2 * model(x)["logits"], atol=1e-6)


def test_a_program_for_one_number_of_rows_is_refused_with_the_remedy():
    x, y, cue = images()
    with pytest.raises(ValueError, match=r"exactly 4 rows.*dynamic_shapes"):
        fc.audit(torch.export.export(network(), (x[:4],)), (x, y, cue))


def test_a_program_of_a_model_in_training_is_refused():
    x, y, cue = images()
    with pytest.raises(ValueError, match=r"call model.eval\(\) before"):
        fc.audit(exported(network().train(), x), (x, y, cue))


def test_a_program_in_a_file_is_not_unpickled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x, _, _ = images()
    torch.export.save(exported(network(), x), tmp_path / "program.pt2")
    monkeypatch.setattr(torch.export, "load", lambda *_, **__: pytest.fail("the file was unpickled"))
    assert main(["audit", "program.pt2", "train.npz"]) == 3
    assert "def model(): return torch.export.load('program.pt2')" in capsys.readouterr().err
