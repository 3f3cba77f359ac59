"""What arrays alone can say: reliance only with outputs that are linear in them, and a warning otherwise."""

import numpy as np
import pytest
import torch
from planted import case, table

import firstcue as fc
from firstcue.auditing.subject import linear_readout
from firstcue.layers import Head


def audit(c, *, outputs=True, unseen=True, **options):
    """The case as arrays, with as much as is asked for."""
    logits = {"outputs": c.head(c.train.x)} if outputs else {}
    held = (c.held.x, c.held.y, c.held.attribute, *([c.head(c.held.x)] if outputs else []))
    extra = {"held_out": held} if unseen else {}
    return fc.audit_embeddings(c.train.x, c.train.y, c.train.attribute, **logits, **extra, remedies=(), **options)


def main(report):
    return next(f for f in report.findings if f.kind == "reliance")


def test_outputs_that_are_linear_in_the_embeddings_allow_the_intervention():
    report = audit(case(table(0.95), seed=0))
    assert report.verdict == "shortcut"
    assert main(report).relies.ci_low > 0.05
    assert main(report).id == "reliance/attribute/embeddings/erasure"


def test_without_outputs_nothing_is_said_of_the_model():
    report = audit(case(table(0.95), seed=0), outputs=False)
    assert report.verdict == "inconclusive"
    assert main(report).relies is None
    assert "nothing is said of your model" in main(report).meaning
    assert any("No model outputs" in note for note in report.notes)


def test_outputs_that_are_not_linear_are_said_to_be_so():
    c = case(table(0.95), seed=0)
    report = fc.audit_embeddings(
        c.train.x,
        c.train.y,
        c.train.attribute,
        c.head(c.train.x).sin(),
        (c.held.x, c.held.y, c.held.attribute, c.head(c.held.x).sin()),
        remedies=(),
    )
    assert main(report).relies is None
    assert any("not linear" in note for note in report.notes)


@pytest.mark.parametrize("outputs", [True, False])
@pytest.mark.parametrize("unseen", [True, False])
def test_an_encoded_attribute_that_is_independent_of_the_label_is_no_shortcut(outputs, unseen):
    c = case(table(0.5), seed=1)
    report = audit(c, outputs=outputs, unseen=unseen)
    assert report.verdict == "no shortcut found"
    assert main(report).encoded.value > 0.9


def test_rows_without_held_out_rows_are_split_when_outputs_are_known_and_crossed_when_not():
    c = case(table(0.8), table(0.8), seed=2)
    assert "half of the given rows" in audit(c, unseen=False).groups.split
    crossed = audit(c, unseen=False, outputs=False)
    assert "did not see it" in crossed.groups.split
    assert crossed.groups.overall.n == len(c.train)


def test_numpy_arrays_strings_and_several_attributes_are_taken():
    c = case(table(0.95), seed=3)
    names = np.array(["sea", "land"])
    noise = np.random.default_rng(0).integers(0, 3, len(c.train))
    report = fc.audit_embeddings(
        c.train.x.numpy().astype(np.float16),
        np.array(["cat", "dog"])[c.train.y],
        {"place": names[c.train.attribute], "noise": noise},
    )
    cues = {f.cue: f for f in report.findings if f.kind == "reliance"}
    assert set(cues) == {"place", "noise"}
    assert cues["noise"].status == "no shortcut found"


def test_without_an_attribute_a_cluster_is_only_inferred():
    c = case(table(0.95), seed=4)
    report = fc.audit_embeddings(c.train.x, c.train.y, outputs=c.head(c.train.x), remedies=())
    assert report.verdict == "no shortcut found"
    assert {f.status for f in report.findings if f.kind == "inferred cluster"} == {"inferred"}


def test_the_head_behind_linear_outputs_is_recovered_and_others_are_not():
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0)) + 100
    head = Head("h", torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), torch.ones(3))
    found = linear_readout(x, head(x))
    assert torch.allclose(found(x), head(x), atol=1e-2)
    assert linear_readout(x, head(x - 100).relu()) is None
    assert linear_readout(x[:9], head(x)[:9]) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.zeros((5, 2, 2)), "y": [0, 1, 0, 1, 0]}, "embeddings are .n, d."),
        ({"x": np.zeros((5, 2)), "y": [0, 1, 0, 1]}, "5 rows but `y` has 4"),
        ({"x": np.zeros((5, 2)), "y": [0] * 5}, "one class only"),
        ({"x": np.full((5, 2), np.inf), "y": [0, 1, 0, 1, 0]}, "NaN or infinite"),
        ({"x": np.array([["a", "b"]] * 5), "y": [0, 1, 0, 1, 0]}, "numbers are needed"),
        ({"x": np.zeros((5, 2)), "y": [0.5, 1, 0, 1, 0]}, "regression target"),
        ({"x": np.zeros((5, 2)), "y": [0, 1, 0, 1, 0], "outputs": np.zeros((4, 2))}, "5 rows but `outputs` has 4"),
        ({"x": np.zeros((5, 2)), "y": [0, 1, 0, 1, 0], "held_out": 3}, "`held_out` is"),
        ({"x": np.zeros((5, 2)), "y": [0, 1, 0, 1, 0], "attribute": [1, 0]}, "5 rows but `attribute` has 2"),
    ],
)
def test_wrong_arrays_get_an_error_that_says_what_was_found(arguments, message):
    with pytest.raises(ValueError, match=message):
        fc.audit_embeddings(**arguments)


def test_few_rows_of_many_dimensions_and_constant_features_are_survived():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 200, generator=generator)
    x[:, 3] = 7.0
    report = fc.audit_embeddings(x, torch.arange(60) % 2, torch.arange(60) // 2 % 2)
    assert report.verdict in ("no shortcut found", "inconclusive")
