"""Richness while a Hugging Face Trainer trains."""

from typing import Any

from firstcue._extras import require_extra
from firstcue.richness.monitor import RichnessMonitor


def richness_callback(monitor: RichnessMonitor) -> Any:
    """A `transformers` callback that records into `monitor` before the first and after every step that is due.

    The monitor's data is what the model takes as its first argument (`pixel_values`, `input_ids`).

    Args:
        monitor: Its `every` says when; `monitor.rows` fills while `Trainer.train` runs.

    Returns:
        A `transformers.TrainerCallback`.

    Raises:
        MissingExtra: Without transformers.

    Example:
        >>> Trainer(model=model, callbacks=[richness_callback(monitor)]).train()  # doctest: +SKIP
    """
    library = require_extra("transformers", "hf", "a Hugging Face callback")

    class RichnessCallback(library.TrainerCallback):  # type: ignore[name-defined]
        """Records at the start and at the end of each step."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            monitor.record(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            monitor.record(state.global_step)

    return RichnessCallback()
