"""Token ids: which are frequent, and how one is carried over to another row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from firstcue.batch import Batch
from firstcue.spurious.properties import properties_of
from firstcue.spurious.token_properties import frequent_ids, token_properties
from firstcue.spurious.tokens import insert_tokens


def sentences(rows, length, seed, words=12):
    """Ids from 1 to `words`; every sentence has at least two tokens, and zeros behind them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, words + 1, (rows, length), generator=generator)
    used = torch.randint(2, length + 1, (rows, 1), generator=generator)
    return torch.where(torch.arange(length) < used, x, 0)


@given(seed=st.integers(0, 10_000), length=st.integers(2, 9), token=st.integers(1, 12))
def test_a_carried_token_is_there_exactly_where_the_donor_has_it(seed, length, token):
    x, donors = sentences(60, length, seed), sentences(60, length, seed + 1)
    found = {p.name: p for p in token_properties(x.repeat(20, 1))}.get(f"token {token}")
    if found is None:
        return
    before = x.clone()
    changed = found.carry(x, donors)
    # where a donor holds nothing but the token there is nothing to put in its place, so its row loses it for padding
    assert found.measure(changed).tolist() == found.measure(donors).tolist()
    same = torch.from_numpy(found.measure(x) == found.measure(donors))
    assert torch.equal(changed[same], x[same])
    assert torch.equal(x, before)
    added = torch.from_numpy(found.measure(donors) > found.measure(x))
    assert torch.equal((changed != 0)[added], (x != 0)[added]), "no token is put behind the end"
    assert bool(((changed != x).sum(dim=1)[added] == 1).all())


def test_a_token_that_hardly_any_or_nearly_every_row_holds_is_left_out():
    x = torch.full((400, 3), 7)
    x[:200, 1], x[:9, 2], x[9:30, 2] = 4, 5, 6
    slow = [t for t in range(1, 8) if 10 <= int((x == t).any(dim=1).sum()) <= 390]
    assert sorted(frequent_ids(x)) == slow == [4, 6]
    assert frequent_ids(x) == [4, 6], "the most frequent comes first"
    assert frequent_ids(x, most=1) == [4]


def test_a_planted_token_is_exchanged_for_the_other_one():
    texts = Batch.of(sentences(400, 6, 0), torch.arange(400) % 2)
    made = insert_tokens(texts, 0.9, seed=0)
    first = next(p for p in token_properties(made.x) if p.name == "token 13")
    donors = made.x[torch.arange(400).roll(3)]
    changed = first.carry(made.x, donors)
    assert torch.equal(changed[:, 0], donors[:, 0]) and torch.equal(changed[:, 1:], made.x[:, 1:])


@pytest.mark.parametrize("x", [torch.zeros(4, 3), torch.zeros(4, 3, 2, dtype=torch.int64), torch.ones(4, 3) > 0])
def test_what_is_no_token_ids_is_refused(x):
    with pytest.raises(ValueError, match="token ids of shape"):
        properties_of(x, kind="tokens")
