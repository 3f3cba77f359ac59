"""The simplicity lens: bits by class, minimal-bits equivalents, and how much of what survives lies in the cue."""

from functools import cache

import torch
from torch import Tensor, nn

from firstcue._progress import silent
from firstcue.auditing.lenses import simplicity
from firstcue.auditing.simple import Simple, _shares, measure_simplicity, simplicity_findings
from firstcue.batch import Batch
from firstcue.simplicity.density import Uniform
from firstcue.simplicity.explain import explain_simplify


def stamped(x: Tensor, value: int) -> Tensor:
    """A checkerboard in the upper left corner for value 1, grey for value 0."""
    made, board = x.clone(), torch.arange(4)[:, None] + torch.arange(4)
    made[..., :4, :4] = (board % 2).float() if value else 0.5
    return made


def rows(n: int = 60, low: float = 0.0, high: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(0)
    a = (torch.arange(n) % 5 > 0).long()
    x = 0.5 + 0.1 * torch.rand(n, 1, 16, 16, generator=generator)
    x = torch.stack([stamped(row, int(v)) for row, v in zip(x, a, strict=True)])
    y = torch.arange(n) % 2
    return Batch.of(low + (high - low) * x, y, a, cue="stamp", edit=lambda z, v: stamped(z, v))


class Corner(nn.Module):
    """Decides by the checkerboard in the corner alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(16, 4), nn.Linear(4, 2)
        with torch.no_grad():
            board = ((torch.arange(4)[:, None] + torch.arange(4)) % 2 * 2.0 - 1).flatten()
            self.first.weight.copy_(board * torch.tensor([[1.0], [2.0], [-1.0], [0.5]]))
            self.head.weight.copy_(torch.tensor([[-1.0, -1.0, 1.0, 0.0], [1.0, 1.0, -1.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x[:, 0, :4, :4].flatten(1)))


@cache
def measured() -> Simple:
    found = measure_simplicity(Corner().eval(), rows(), 0, silent)
    assert found is not None
    return found


def test_the_share_in_the_cue_is_that_of_its_pixels_where_every_pixel_costs_the_same():
    part, chosen = rows(), torch.tensor([0, 1, 7])
    result = explain_simplify(Corner().eval(), part.x[chosen], Uniform(), steps=1, controls=False)
    shares = _shares(part, chosen, result, Uniform())
    assert shares is not None and torch.allclose(shares, torch.tensor(16 / 256, dtype=torch.float64))


def test_every_finding_has_unit_interval_rows_baseline_and_source_and_accuses_nobody():
    told, survived = simplicity_findings(measured())
    for finding in (told, survived):
        assert None not in (finding.value, finding.ci_low, finding.ci_high, finding.n, finding.baseline)
        assert finding.ci_low <= finding.value <= finding.ci_high and finding.source and not finding.judges
    assert survived.id == "simplicity/stamp/input/surviving" and survived.n == 8
    assert measured().result is not None and bool((measured().result.kl <= 0.1).all())


def test_pictures_have_text_alternatives_and_belong_to_a_finding():
    described = simplicity(Corner().eval(), rows(), 0, silent)
    known = {f.id for f in described.findings}
    assert len(described.pictures) == 2 and all(p.alt and p.finding in known for p in described.pictures)
    assert described.summary is not None and "surviving_bits_in_the_cue" in described.summary


def test_other_ranges_are_rescaled_and_said():
    described = simplicity(Corner().eval(), rows(high=255.0), 0, silent)
    assert "rescaled from [0, 255]" in described.note and described.findings


def test_tables_and_maps_of_many_channels_are_left_alone():
    table = Batch.of(torch.rand(40, 5), torch.arange(40) % 2)
    assert simplicity(nn.Linear(5, 2), table, 0, silent).findings == ()


def test_without_an_editor_the_share_of_bits_saved_is_told():
    plain = Batch.of(rows().x, rows().y)
    found = measure_simplicity(Corner().eval(), plain, 0, silent)
    assert found is not None and found.in_cue is None
    assert simplicity_findings(found)[1].id == "simplicity/model/input/saved"
