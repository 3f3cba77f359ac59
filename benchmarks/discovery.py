"""Discovery without group labels on 20,000 images, and the exact slice search beside its package; CPU seconds.

claim   20,000 images of 28 x 28, ten classes, with embeddings and three checkpoints given and nothing trained: at most 60 s on
        two cores; the best slices of 20,000 rows of six columns are those of the package sliceline
false   if a line printed below says MISSED
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import firstcue as fc
from firstcue.data import available, shipped
from firstcue.data.builtin import fashion_mnist
from firstcue.spurious.cues import patch

ALLOWED = 120.0
"""60 s on two cores, in CPU seconds."""


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def images(rows: int) -> fc.Batch:
    """Fashion-MNIST where it is installed, else the shipped slice with every image drawn several times."""
    if any(found.name == "fashion-mnist" and found.present for found in available()):
        core = fashion_mnist().rows(slice(0, rows))
    else:
        core = shipped()
        core = core.rows(torch.arange(rows) % len(core))
    core = core.rows(torch.arange(len(core)))
    return fc.overlay(fc.Batch(core.x.float(), core.y, classes=core.classes), patch(len(core.classes)), 0.9, n=rows)


def answers(batch: fc.Batch) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
    """Embeddings by a random layer; outputs that follow the cue early and mostly the class late."""
    generator = torch.Generator().manual_seed(0)
    k = batch.num_classes
    embeddings = (batch.x.flatten(1) @ torch.randn(784, 128, generator=generator) / 28).relu()
    noise = torch.randn(len(batch), k, generator=generator)
    assert batch.attribute is not None
    cue, core = one_hot(batch.attribute, k) * 4.0, one_hot(batch.y, k) * 4.0
    late = 0.4 * cue + core + noise
    return embeddings, late, [(10, cue + 0.3 * noise), (100, 0.7 * cue + 0.7 * core + noise), (1000, late)]


def discovery(rows: int) -> bool:
    batch = images(rows)
    embeddings, outputs, checkpoints = answers(batch)
    meta = {"camera": np.arange(rows) % 3}
    spent, found = seconds(
        lambda: fc.discover(embeddings, batch.x, batch.y, meta, outputs=outputs, checkpoints=checkpoints)
    )
    first, held = found.candidates[0], spent <= ALLOWED
    print(f"{rows} images  {spent:6.1f} CPU s, allowed {ALLOWED:.0f}  {_word(held)}")
    print(f"first candidate: {first.name} ({first.balanced_accuracy:.2f}); agreement {found.groups.agreement:.2f}")
    return held


def slices(rows: int) -> bool:
    try:
        from sliceline.slicefinder import Slicefinder
    except ImportError:
        print("sliceline is not installed: nothing to compare with")
        return True
    rng = np.random.default_rng(0)
    table = {f"c{j}": rng.integers(0, 3 + j, rows).astype(str) for j in range(6)}
    wrong = rng.random(rows) < 0.1 + 0.3 * ((table["c1"] == "1") & (table["c4"] == "0"))
    ours, found = seconds(lambda: fc.slice_line(table, wrong, most=3, depth=3, support=50))
    finder = Slicefinder(alpha=0.95, k=3, max_l=3, min_sup=50, verbose=False)
    columns = np.stack(list(table.values()), axis=1).astype(object)
    theirs, _ = seconds(lambda: finder.fit(columns, wrong.astype(float)))
    best = sorted((s["slice_score"] for s in finder.top_slices_statistics_), reverse=True)
    held = bool(np.allclose([s.score for s in found], best[: len(found)]))
    print(
        f"{rows} rows, 6 columns, 3 conditions: ours {ours:.2f} CPU s, sliceline {theirs:.2f}; same scores  {_word(held)}"
    )
    return held


def _word(held: bool) -> str:
    return "held" if held else "MISSED"


def main(fast: bool = False) -> bool:
    """Print the lines; whether all claims hold."""
    rows = 2000 if fast else 20_000
    return all([discovery(rows), slices(rows)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Discovery on 20,000 images in CPU seconds, and slices beside sliceline."
    )
    parser.add_argument("--fast", action="store_true", help="a tenth of the rows")
    options = parser.parse_args()
    sys.exit(0 if main(options.fast) or options.fast else 1)
