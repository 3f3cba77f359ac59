"""A token that goes with the label: exact counts, and exchanged without touching the text."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from

from firstcue.batch import Batch
from firstcue.spurious.tokens import embedded_with_tokens, insert_tokens


def texts(n: int = 40, length: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(2, 20, (n, length), generator=generator)
    used = torch.randint(1, length + 1, (n, 1), generator=generator)
    return Batch.of(torch.where(torch.arange(length) < used, x, 0), torch.arange(n) % 2)


@settings(deadline=None, max_examples=30)
@given(place=sampled_from(["start", "end", "random"]), num_values=integers(2, 4), seed=integers(0, 50))
def test_taking_the_token_away_gives_the_text_back(place, num_values, seed):
    plain = texts(seed=seed)
    marked = insert_tokens(plain, 0.75, place=place, num_values=num_values, first_id=100, seed=seed)

    is_cue = marked.x >= 100
    assert is_cue.sum(dim=1).eq(1).all()
    assert torch.equal(marked.x[~is_cue].reshape(len(plain), -1), plain.x)
    assert torch.equal(marked.x[is_cue] - 100, marked.attribute)
    assert int((marked.attribute == marked.y % num_values).sum()) == 30
    swapped = marked.edit(marked.x, 1)
    assert torch.equal(swapped[~is_cue], marked.x[~is_cue]) and (swapped[is_cue] == 101).all()


def test_the_end_is_before_the_padding():
    marked = insert_tokens(Batch.of(torch.tensor([[5, 0, 0], [5, 6, 7]]), [0, 1]), 1.0, place="end", first_id=9)
    assert marked.x.tolist() == [[5, 9, 0, 0], [5, 6, 7, 10]]


def test_embeddings_are_exchanged_by_looking_them_up():
    def embed(sentences):
        return torch.tensor([[float(len(s)), float(s.count("o")), float(ord(s[0]))] for s in sentences])

    words = [f"text number {'o' * i}" for i in range(10)]
    batch = embedded_with_tokens(words, torch.arange(10) % 2, 0.8, embed)

    other = batch.edit(batch.x, 1)
    assert torch.equal(other, embed([f"Frankly, {w}" for w in words])) and int((batch.attribute == batch.y).sum()) == 8
    with pytest.raises(ValueError, match="2 of 2 embeddings are not among"):
        batch.edit(torch.zeros(2, 3), 0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: insert_tokens(Batch.of(torch.rand(2, 3), [0, 1]), 0.5), "token ids of shape"),
        (lambda: insert_tokens(texts(), 0.5, first_id=3), "is in use"),
        (lambda: insert_tokens(texts(), 1.5), "between 0 and 1"),
        (lambda: insert_tokens(texts(), 0.5).edit(texts().x, 0), "exactly one token"),
    ],
)
def test_wrong_input_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()
