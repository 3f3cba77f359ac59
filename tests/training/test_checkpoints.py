"""Checkpoints come back as they were, in the order of training."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from firstcue.training.checkpoints import checkpoints, load_checkpoint, load_checkpoints, save_checkpoint
from firstcue.training.loop import train


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(4)

    def forward(self, ids):
        return self.head(self.norm(self.embedding(ids).mean(1)))


def test_saved_weights_come_back_bit_for_bit_also_when_layers_share_them(tmp_path):
    model, ids = Tied(), torch.arange(20).reshape(10, 2) % 5
    saver = checkpoints(tmp_path / "deep" / "run", every=2)
    states = {}

    def keep(step):
        states[step.number] = {name: value.clone() for name, value in step.model.state_dict().items()}

    train(
        model,
        [(ids, torch.arange(10) % 5)] * 4,
        torch.optim.SGD(model.parameters(), lr=0.1),
        recorders=[saver, keep],
    )
    found = load_checkpoints(tmp_path / "deep" / "run")

    assert [step for step, _ in found] == [0, 2, 4]
    assert found[1][1].name == "step-000002.safetensors"
    for step, path in found:
        restored = load_checkpoint(model, path)
        assert_close(restored.state_dict(), states[step], rtol=0, atol=0)
        assert restored.head.weight is restored.embedding.weight
    assert_close(model.state_dict(), states[4], rtol=0, atol=0)


def test_names_are_those_of_the_model_inside_a_wrapper(tmp_path):
    inner = nn.Linear(2, 2)

    path = save_checkpoint(nn.DataParallel(inner), tmp_path / "step-1.safetensors", 1)

    assert_close(load_checkpoint(inner, path).weight, inner.weight)


def test_steps_are_sorted_as_numbers_and_patterns_pick_files(tmp_path):
    for name in ("a-9.safetensors", "a-10.safetensors", "b-3.safetensors"):
        save_file({"w": torch.ones(1)}, tmp_path / name)

    assert [step for step, _ in load_checkpoints(str(tmp_path / "a-*.safetensors"))] == [9, 10]
    assert [step for step, _ in load_checkpoints(tmp_path)] == [3, 9, 10]


def test_the_step_in_the_file_wins_over_its_name(tmp_path):
    save_checkpoint(nn.Linear(1, 1), tmp_path / "epoch-1.safetensors", step=500)

    assert load_checkpoints(tmp_path)[0][0] == 500


def test_nothing_half_written_stays_behind(tmp_path):
    class Odd(nn.Linear):
        def get_extra_state(self):
            return "text"

        def set_extra_state(self, state):
            pass

    with pytest.raises(ValueError, match="holds '_extra_state', which is not a tensor"):
        save_checkpoint(Odd(1, 1), tmp_path / "step-1.safetensors", 1)
    save_checkpoint(nn.Linear(1, 1), tmp_path / "step-2.safetensors", 2)

    assert [path.name for path in tmp_path.iterdir()] == ["step-2.safetensors"]


def test_unusable_folders_and_files_are_explained(tmp_path):
    with pytest.raises(ValueError, match=r"no \.safetensors checkpoint at"):
        load_checkpoints(tmp_path)
    (tmp_path / "last.pt").write_bytes(b"\x80\x04.")
    with pytest.raises(ValueError, match=r"last.pt, a pickle, which may run code"):
        load_checkpoints(tmp_path)
    (tmp_path / "step-1.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_checkpoints(tmp_path)
    save_file({"w": torch.ones(1)}, tmp_path / "step-1.safetensors")
    with pytest.raises(ValueError, match="do not fit this model"):
        load_checkpoint(nn.Linear(1, 1), tmp_path / "step-1.safetensors")
    save_file({"w": torch.ones(1)}, tmp_path / "other-1.safetensors")
    with pytest.raises(ValueError, match="two checkpoints claim step 1"):
        load_checkpoints(tmp_path)
    save_file({"w": torch.ones(1)}, tmp_path / "final.safetensors")
    with pytest.raises(ValueError, match="does not say its step"):
        load_checkpoints(str(tmp_path / "final.*"))
    with pytest.raises(ValueError, match="cannot be written"):
        save_checkpoint(nn.Linear(1, 1), tmp_path / "final.safetensors" / "x.safetensors", 1)
