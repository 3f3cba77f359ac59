"""Every message quoted in the troubleshooting page is what firstcue says, found by doing the wrong thing and looking."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from firstcue.cli import main

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"
Y = np.arange(40) % 2
X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
CODE = """
from torch import nn
import torch

def make_model():
    return nn.Sequential(nn.Linear(4, 2))

def make_lazy():
    return nn.Sequential(nn.LazyLinear(2))

def make_softmax():
    return nn.Sequential(nn.Linear(4, 2), nn.Softmax(dim=1))

class Headless(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x[:, :2] * self.scale

def make_headless():
    return Headless()

class Pair(nn.Module):
    def forward(self, x):
        return x[:, :2], x[:, 2:]

def make_pair():
    return Pair()

def rows():
    raise KeyError("path")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a model's code, weights and rows."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_code.py").write_text(CODE)
    np.savez("rows.npz", x=X, y=Y, place=(Y + (np.arange(40) % 5 == 0)) % 2)
    np.savez("wide.npz", x=np.zeros((40, 7), np.float32), y=Y)
    np.savez("holes.npz", x=np.where(np.arange(160).reshape(40, 4) == 9, np.nan, X), y=Y)
    np.savez("one.npz", x=X, y=np.zeros(40, int))
    np.savez("three.npz", x=X, y=np.arange(40) % 3)
    np.savez("unlabelled.npz", x=X)
    np.savez("real.npz", x=X, y=np.linspace(0, 1, 40))
    np.savez("uneven.npz", x=X, y=Y[:39])
    np.savez("objects.npz", x=X, y=np.array(["a", 1] * 20, dtype=object))
    np.savez("words.npz", x=np.full((40, 4), "word"), y=Y)
    np.save("x.npy", X)
    (tmp_path / "rows.pkl").write_bytes(b"\x80\x04")
    (tmp_path / "model.pt").write_bytes(b"\x80\x02")
    save_file({"module.0.weight": torch.zeros(2, 4), "module.0.bias": torch.zeros(2)}, "wrapped.safetensors")
    save_file({"0.weight": torch.zeros(2, 4), "0.bias": torch.zeros(2)}, "model.safetensors")
    (tmp_path / "short.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:60])
    (tmp_path / "typo.toml").write_text("min_worst_grop = 0.8\n")
    return tmp_path


COMMANDS = {
    "A pickled file of weights": "audit their_code:make_model rows.npz --weights model.pt",
    "A damaged file of weights": "audit their_code:make_model rows.npz --weights short.safetensors",
    "Weights that do not fit": "audit their_code:make_model rows.npz --weights wrapped.safetensors",
    "A factory that is not found": "audit elsewhere:make_model rows.npz",
    "A factory of another name": "audit their_code:make rows.npz",
    "A loader that raises": "audit their_code:make_model their_code:rows",
    "A file that is not there": "audit their_code:make_model row.npz",
    "A pickled data set": "audit their_code:make_model rows.pkl",
    "Arrays of objects": "audit their_code:make_model objects.npz",
    "No labels": "audit their_code:make_model unlabelled.npz",
    "Labels that are numbers to predict": "audit their_code:make_model real.npz",
    "Text in the inputs": "audit their_code:make_model words.npz",
    "Rows and labels of different length": "audit their_code:make_model uneven.npz",
    "NaN in the inputs": "audit their_code:make_model holes.npz",
    "One class only": "audit their_code:make_model one.npz",
    "A missing column": "audit their_code:make_model rows.npz --attribute background",
    "The cue is missing in the held-out rows": "audit their_code:make_model rows.npz --attribute place --held-out wide.npz",
    "More classes than outputs": "audit their_code:make_model three.npz",
    "Inputs of another shape": "audit their_code:make_model wide.npz",
    "Layers whose shapes are not known": "audit their_code:make_lazy rows.npz",
    "A model that returns several tensors": "audit their_code:make_pair rows.npz",
    "Outputs after a softmax": "fix last-layer their_code:make_softmax rows.npz --attribute place --out fixed",
    "No linear head": "fix last-layer their_code:make_headless rows.npz --attribute place --out fixed",
    "A misspelt gate": "audit their_code:make_model rows.npz --gate typo.toml",
    "A folder that cannot be written": "audit their_code:make_model rows.npz --out rows.npz",
    "A missing extra": "audit their_code:make_model rows.parquet",
    "A verdict that is inconclusive": "audit their_code:make_model rows.npz --weights model.safetensors --attribute place",
}


def sections() -> dict[str, tuple[str, int | None]]:
    """Heading -> what is quoted below it, and the exit code that is named, of sections that quote a message."""
    found = {}
    for part in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        quoted = re.search(r"^```text\n(.*?)^```", part, flags=re.DOTALL | re.MULTILINE)
        code = re.search(r"[Ee]xit code (\d+)", part)
        if quoted:
            found[part.splitlines()[0].strip()] = (quoted[1], int(code[1]) if code else None)
    return found


def says(message: str, quoted: str) -> bool:
    """Whether a message holds the quotation, where `...` stands for anything and spaces and line ends are alike."""
    words = [re.escape(" ".join(piece.split())) for piece in quoted.split("...")]
    return re.search(".*?".join(words), " ".join(message.split())) is not None


def test_every_quoted_message_is_provoked():
    assert set(sections()) == set(COMMANDS)


@pytest.mark.parametrize("heading", COMMANDS)
def test_a_quoted_message_is_what_is_said(heading, folder, capsys, monkeypatch):
    if heading == "A missing extra":
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
        (folder / "rows.parquet").write_bytes(b"PAR1")
    quoted, code = sections()[heading]
    found = main([*COMMANDS[heading].split(), "--quiet"])
    output = capsys.readouterr()
    assert says(output.out + output.err, quoted), f"{COMMANDS[heading]}\nsays: {output.err or output.out}"
    assert found == code, f"{COMMANDS[heading]} ended in {found}"


def test_a_quotation_that_is_not_said_is_noticed():
    assert says("there  is\nno file a.npz here", "there is no file ... here")
    assert not says("there is a file", "there is no file")
