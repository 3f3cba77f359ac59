"""Models on disk: the same outputs after a round trip, and every mismatch named."""

import json
import textwrap
from itertools import count

import pytest
import torch
from safetensors.torch import save_file
from safetensors.torch import save_model as save_deduplicated
from torch import nn

from firstcue.models import describe, load_model, load_repaired, read_weights, save_model

NUMBER = count()

SOURCE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=5):
            super().__init__()
            self.features = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU())
            self.head = nn.Linear(width, 2)
        def forward(self, x):
            return self.head(self.features(x))

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.Linear(3, 3), nn.Linear(3, 3)
            self.decoder.weight = self.encoder.weight
        def forward(self, x):
            return self.decoder(self.encoder(x))

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = Net()

    def make(): return Net()
    def broken(): raise RuntimeError("no checkpoint on the server")
    def text(): return "a model"
    def needs(width): return Net(width)
    ready = Net()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"users_model_{next(NUMBER)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    return name


def inputs(d: int) -> torch.Tensor:
    return torch.randn(6, d, generator=torch.Generator().manual_seed(0))


def outputs(model: nn.Module, d: int = 4) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(inputs(d))


def test_a_saved_model_gives_the_same_outputs_bit_for_bit(module, tmp_path):
    model = load_model(f"{module}:make")
    model(inputs(4))  # moves the running statistics
    save_model(model, tmp_path / "out", factory=f"{module}:make", changes={"head": "retrained"})

    for again in (load_repaired(tmp_path / "out"), load_model(str(tmp_path / "out"))):
        assert torch.equal(outputs(again), outputs(model))
    by_weights = load_model(f"{module}:make", tmp_path / "out" / "weights.safetensors")
    assert torch.equal(outputs(by_weights), outputs(model))


def test_the_description_says_what_the_model_is_and_what_was_changed(module, tmp_path):
    save_model(
        load_model(f"{module}:make"), tmp_path / "out", factory=f"{module}:make", changes={"head": ["retrained", 2]}
    )

    found = describe(tmp_path / "out")
    assert found["factory"] == f"{module}:make" and found["changes"] == {"head": ["retrained", 2]}
    assert found["layers"]["head.weight"] == [2, 5] and found["layers"]["features.1.num_batches_tracked"] == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "weights.safetensors"]


def test_tied_weights_survive_whoever_wrote_them(module, tmp_path):
    model = load_model(f"{module}:Tied")
    save_model(model, tmp_path / "out", factory=f"{module}:Tied")
    save_deduplicated(model, str(tmp_path / "once.safetensors"))
    assert len(read_weights(tmp_path / "once.safetensors")) == 3

    for again in (load_model(tmp_path / "out"), load_model(f"{module}:Tied", tmp_path / "once.safetensors")):
        assert torch.equal(outputs(again, 3), outputs(model, 3))
        assert again.encoder.weight is again.decoder.weight


def test_a_model_that_exists_already_is_taken_as_it_is(module):
    assert isinstance(load_model(f"{module}:ready"), nn.Module)


def test_a_model_without_a_named_factory_needs_one_handed_over(module, tmp_path):
    model = load_model(f"{module}:make")
    save_model(model, tmp_path / "out")
    with pytest.raises(ValueError, match=r"names no factory; hand one over: load_repaired\(folder, factory="):
        load_repaired(tmp_path / "out")

    again = load_repaired(tmp_path / "out", factory=lambda: load_model(f"{module}:make"))
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "the factory `.*:broken` raised RuntimeError: no checkpoint on the server"),
        ("text", "returned a str that cannot be used: .* a torch.nn.Module that returns logits is needed"),
        ("needs", "raised TypeError: .*width.*It is called without arguments"),
        ("absent", "has no 'absent' for the factory .*make"),
    ],
)
def test_a_factory_that_cannot_be_used_is_named(module, name, message):
    with pytest.raises(ValueError, match=message):
        load_model(f"{module}:{name}")


@pytest.mark.parametrize("spec", ["resnet18", "a b:c", "module:", ":make"])
def test_a_name_of_another_form_is_answered_with_the_right_one(spec):
    with pytest.raises(ValueError, match=r"a factory is named `module:factory`|a factory is named `module:name`"):
        load_model(spec)


def test_missing_unexpected_and_misshapen_weights_are_all_listed(module, tmp_path):
    state = {k: v.clone() for k, v in load_model(f"{module}:make").state_dict().items()}
    del state["features.0.bias"]
    state["extra"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(3, 5)
    save_file(state, tmp_path / "w.safetensors")

    with pytest.raises(ValueError) as caught:
        load_model(f"{module}:make", tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "missing features.0.bias;" in message and "unexpected extra;" in message
    assert "head.weight (3, 5) instead of (2, 5)" in message


@pytest.mark.parametrize(("wrapped", "plain", "remedy"), [("file", "make", "Remove"), ("model", "Wrapped", "Add")])
def test_a_prefix_left_by_a_wrapper_is_recognised(module, tmp_path, wrapped, plain, remedy):
    prefix = "module." if wrapped == "file" else ""
    state = load_model(f"{module}:make").state_dict()
    save_file({prefix + name: tensor.clone() for name, tensor in state.items()}, tmp_path / "w.safetensors")

    with pytest.raises(ValueError, match=rf"differ by the prefix 'module\.' only\. {remedy} it"):
        load_model(f"{module}:{plain}", tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_pickled_weights_are_refused_with_the_line_that_converts_them(module, tmp_path, suffix):
    model = load_model(f"{module}:make")
    torch.save(model.state_dict(), tmp_path / f"w{suffix}")
    with pytest.raises(ValueError, match="is a pickle, which can run any code") as caught:
        load_model(f"{module}:make", tmp_path / f"w{suffix}")

    # the line in the message does what it promises, on one line as a terminal shows it
    exec(str(caught.value).partition("convert it once in Python: ")[2], {})
    assert torch.equal(outputs(load_model(f"{module}:make", tmp_path / "w.safetensors")), outputs(model))


def test_damaged_weights_are_named(module, tmp_path):
    save_model(load_model(f"{module}:make"), tmp_path / "out", factory=f"{module}:make")
    path = tmp_path / "out" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"weights\.safetensors is not a readable \.safetensors file.*truncated"):
        load_model(tmp_path / "out")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        load_model(tmp_path / "out")
    path.unlink()
    with pytest.raises(ValueError, match=r"there is no file .*weights.safetensors; the folder .* has model.json"):
        load_model(tmp_path / "out")


def test_a_file_where_a_model_belongs_is_explained(tmp_path):
    (tmp_path / "w.safetensors").touch()
    with pytest.raises(ValueError, match="a model is named `module:factory`, and weights are given apart: --weights"):
        load_model(str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "is not a model: it has no model.json"), ("{", "not readable JSON"), ("[1]", "does not describe a model")],
)
def test_a_folder_that_is_no_model_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_a_factory_that_builds_another_network_is_caught(module, tmp_path):
    save_model(load_model(f"{module}:make"), tmp_path / "out", factory=f"{module}:Tied")
    with pytest.raises(ValueError, match=r"does not fit the model: missing encoder.weight"):
        load_model(tmp_path / "out")


def test_an_interrupted_write_leaves_the_old_model(module, tmp_path, monkeypatch):
    model = load_model(f"{module}:make")
    save_model(model, tmp_path / "out", factory=f"{module}:make")

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        save_model(load_model(f"{module}:make"), tmp_path / "out", factory=f"{module}:make")

    assert torch.equal(outputs(load_model(tmp_path / "out")), outputs(model))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model.json", "weights.safetensors"]


def test_weights_may_be_read_by_whoever_may_read_the_description(tmp_path):
    save_model(nn.Linear(1, 1), tmp_path / "out")

    modes = {path.stat().st_mode for path in (tmp_path / "out").iterdir()}
    assert len(modes) == 1


def test_changes_have_to_be_plain(tmp_path):
    with pytest.raises(ValueError, match="`changes` has to be plain JSON"):
        save_model(nn.Linear(1, 1), tmp_path / "out", changes={"weight": torch.zeros(1)})
    assert not (tmp_path / "out").exists()


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"calls": 3}

    with pytest.raises(ValueError, match="keeps '_extra_state', a dict, beside its tensors"):
        save_model(Odd(1, 1), tmp_path / "out")


def test_views_and_half_precision_are_written_as_they_are(tmp_path):
    model = nn.Linear(3, 2).half()
    model.weight.data = torch.arange(6.0).half().reshape(3, 2).T
    save_model(model, tmp_path / "out")

    found = read_weights(tmp_path / "out" / "weights.safetensors")
    assert torch.equal(found["weight"], model.weight) and found["weight"].dtype == torch.float16


def test_the_description_is_json_that_others_can_read(module, tmp_path):
    save_model(load_model(f"{module}:make"), tmp_path / "out", factory=f"{module}:make", changes={"Grund": "Ä <b>"})

    assert json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))["changes"] == {"Grund": "Ä <b>"}
