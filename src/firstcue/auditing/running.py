"""One audit's run of the model: settings, and every pass over rows, each made once and shared by all stages."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from firstcue._progress import Progress
from firstcue.auditing.decodability import layers_to_probe
from firstcue.auditing.edited import edited_input
from firstcue.auditing.effort import Effort
from firstcue.auditing.prepare import Prepared
from firstcue.auditing.seen import Seen, look_through
from firstcue.auditing.splits import some_rows
from firstcue.auditing.subject import Subject
from firstcue.auditing.untrained import Untrained, look_untrained
from firstcue.batch import Batch
from firstcue.layers import Head, find_head, predict


@dataclass(frozen=True)
class Run:
    """What every stage needs: the model, the seed, rows per call, whom to tell, how much to do, and what was run."""

    model: nn.Module
    seed: int
    batch_size: int
    progress: Progress
    effort: Effort
    seen: Seen = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", Seen(self.model, self.batch_size))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameter = next(self.model.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    @property
    def embeds(self) -> bool:
        """Whether the model has a table of embeddings, so that integers are ids."""
        return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in self.model.modules())

    def num_outputs(self, x: Tensor) -> int:
        """Logits that the model returns."""
        return predict(self.model, x, batch_size=self.batch_size).shape[1]

    def head(self, data: Prepared) -> tuple[Head | None, tuple[str, ...]]:
        """The last layer; none, with a note, only where the cue can be edited instead.

        Raises:
            ValueError: If there is no linear head and no editor.
        """
        try:
            return find_head(self.model, data.held.x), ()
        except ValueError as error:
            if data.held.edit is None:
                raise
            return None, (f"The last layer could not be examined or repaired: {error}",)

    def subject(self, data: Prepared, head: Head | None) -> Subject:
        """Logits, features and the activations of some layers on held-out rows, in one pass."""
        self.progress("running the model on held-out rows", 0.02)
        x, batch_size = data.held.x, self.batch_size
        looked = look_through(self.model, head, x, self.layers(head), self.probed(data.held), batch_size)

        def again(inputs: Tensor) -> Tensor:
            return predict(self.model, inputs, batch_size=batch_size)

        def edited(held: Batch, value: int, rows: Tensor) -> Tensor:
            return self.edited(held, value, rows, head)[1]

        return Subject(
            looked.logits, looked.features, head, again, depth=looked.depth, edited=edited, embeds=self.embeds
        )

    def layers(self, head: Head | None) -> list[str]:
        """Names of the layers that are probed besides the penultimate one."""
        return layers_to_probe(self.model, head.name if head else None, self.effort.layers)

    def probed(self, held: Batch) -> Tensor:
        """Held-out rows whose layers are probed."""
        return some_rows(len(held), self.effort.probed_rows, self.seed)

    def described(self, held: Batch) -> Tensor:
        """Held-out rows on which richness is measured."""
        return some_rows(len(held), self.effort.described_rows, self.seed)

    def untrained(self, subject: Subject, held: Batch) -> Untrained | None:
        """The network with fresh weights, run over the rows that are probed or described; None without weights."""
        if next(self.model.parameters(), None) is None:
            return None
        probed, described = self.probed(held), self.described(held)
        layers = list(subject.depth)
        rows = torch.cat([probed, described]).unique()
        return look_untrained(self.model, held.x, rows, probed, layers, seed=self.seed, batch_size=self.batch_size)

    def edited(self, held: Batch, value: int, rows: Tensor, head: Head | None) -> tuple[Tensor | None, Tensor]:
        """Features and logits of held-out rows with their cue set to a value."""

        def inputs(ids: Tensor) -> Tensor:
            return edited_input(held, held.x[ids], value)

        return self.seen.at(f"held out, {held.cue} = {value}", len(held), rows, inputs, head)

    def trained_on(self, train: Batch, rows: Tensor, head: Head | None) -> Tensor | None:
        """`(len(rows), d)` features of training rows."""
        return self.seen.at("training", len(train), rows, lambda ids: train.x[ids], head)[0]
