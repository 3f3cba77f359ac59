"""Richness in an audit: beside the network's own start and its lazy twin, and where class and cue are found."""

import pytest
import torch
from torch import nn

import firstcue as fc
from firstcue.auditing.lenses import look
from firstcue.auditing.rich import directions_for, measure_richness, richness_findings, richness_summary
from firstcue.auditing.subject import Subject
from firstcue.auditing.untrained import Untrained, look_untrained
from firstcue.batch import Batch
from firstcue.layers import features_and_outputs, find_head
from firstcue.training.loop import minibatches


def rows(n: int = 600) -> Batch:
    """The class is the sign of a product, so that features have to be learned; the cue is another feature."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator)
    return Batch.of(x, (x[:, 0] * x[:, 1] > 0).long(), attribute=(x[:, 2] > 0).long())


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


@pytest.fixture(scope="module")
def measured():
    data, model = rows(), network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fc.train(model, minibatches(data, 64, epochs=40), optimizer)
    head = find_head(model, data.x)
    features, logits = features_and_outputs(model, data.x, head=head)
    every = torch.arange(len(data))
    fresh = look_untrained(model, data.x, every, every[:0], (), seed=0, batch_size=512)
    return richness_of(Subject(logits, features, head), data, fresh)


def richness_of(subject: Subject, data: Batch, fresh: Untrained | None = None):
    """Richness on all rows; the lazy twin, where the network has a beginning, is fitted on them too."""
    every = torch.arange(len(data))
    return measure_richness(fresh, subject, data, data, "penultimate", every, seed=0, batch_size=512)


def test_a_network_that_had_to_learn_features_is_richer_than_its_start_and_its_lazy_twin(measured):
    assert measured.trained.dlr < measured.lazy.dlr - 0.05
    assert measured.trained.dlr < measured.untrained.dlr - 0.05
    first = richness_findings(measured)[0]
    assert "training transformed the features" in first.meaning
    assert "nothing of how good" in first.meaning
    assert first.ci_low <= first.value <= first.ci_high
    assert first.baseline == measured.lazy.dlr


def test_the_class_is_among_fewer_directions_than_a_cue_that_was_not_learned(measured):
    place = richness_findings(measured)[1]
    assert place.details["class_half"] <= place.details["cue_half"]
    assert richness_summary(measured)["half_of_the_cue_within"] == place.details["cue_half"]


def test_embeddings_have_no_beginning_to_be_compared_with():
    data, model = rows(), network()
    head = find_head(model, data.x)
    features, logits = features_and_outputs(model, data.x, head=head)
    found = richness_of(Subject(logits, features, head), data)
    assert found.untrained is None
    assert richness_findings(found)[0].baseline is None


def test_constant_features_are_named_instead_of_measured():
    data = rows(50)
    head = find_head(network(), data.x)
    subject = Subject(torch.zeros(50, 2), torch.ones(50, 64), head)
    found = richness_of(subject, data)
    said = richness_findings(found)
    assert "could not be measured" in said[0].meaning
    assert said[0].value is None


def test_without_a_head_nothing_is_said():
    data = rows(50)
    assert richness_of(Subject(torch.zeros(50, 2)), data) is None


def test_half_of_a_curve_is_reached_at_its_first_such_entry():
    assert directions_for([0.1, 0.3, 0.6, 1.0]) == 3
    assert directions_for([float("nan")]) is None


def test_a_lens_that_fails_becomes_a_note():
    def broken():
        raise RuntimeError("hooks are forbidden\nhere")

    assert look("agreement", broken).note == (
        "The agreement lens failed (RuntimeError: hooks are forbidden here); the rest of the report stands."
    )
