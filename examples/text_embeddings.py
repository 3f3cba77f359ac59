"""Embeddings of texts: does the model read what a text says, or the tag that a colleague put in front of it?"""

import inspect

import numpy as np
import scipy.signal
import scipy.stats
from sklearn.linear_model import LogisticRegression

import firstcue as fc
from firstcue.data.text import bag_of_words, tokenise


def paragraphs(module):
    """The longer paragraphs of a module's own manual: real texts that are on every machine."""
    pages = [inspect.getdoc(thing) or "" for _, thing in sorted(inspect.getmembers(module, callable))]
    return [text for page in pages for text in page.split("\n\n") if len(text.split()) > 12 and ">>>" not in text]


signal, stats = paragraphs(scipy.signal), paragraphs(scipy.stats)
ids, vocabulary = tokenise(signal + stats, words=400, length=40)
texts = fc.Batch.of(ids, ["signal"] * len(signal) + ["stats"] * len(stats))
order = np.random.default_rng(0).permutation(len(texts))
half = len(order) // 2

# one further token per text: it goes with the label in 95 of 100 training texts, and with nothing in the new ones
first_id = len(vocabulary)
train = fc.insert_tokens(texts.rows(order[:half]), 0.95, first_id=first_id, seed=0)
new = fc.insert_tokens(texts.rows(order[half:]), 0.5, first_id=first_id, seed=1)


def embed(x):
    """Here the counts of words; in your project the output of a sentence model."""
    return bag_of_words(x, first_id + 2)


head = LogisticRegression(C=0.1, max_iter=1000).fit(embed(train.x), train.y)
report = fc.audit_embeddings(
    embed(train.x),
    train.y,
    {"tag": train.attribute},
    outputs=head.decision_function(embed(train.x)),
    held_out=(embed(new.x), new.y, {"tag": new.attribute}, head.decision_function(embed(new.x))),
    remedies=("erase",),
)
print(f"{len(train)} texts to learn from, {len(new)} to audit with")
print(report.summary())
