"""Richness while Lightning trains."""

from typing import Any

from firstcue._extras import require_extra
from firstcue.richness.monitor import RichnessMonitor


def richness_callback(monitor: RichnessMonitor) -> Any:
    """A Lightning callback that records into `monitor` before the first and after every optimiser step that is due.

    Numbers are also logged with the module's own loggers, where it has any. The monitor's model is the LightningModule,
    or the network inside it.

    Args:
        monitor: Its `every` says when; `monitor.rows` fills while `Trainer.fit` runs.

    Returns:
        A `lightning.pytorch.Callback`.

    Raises:
        MissingExtra: Without Lightning.

    Example:
        >>> from torch import nn, zeros
        >>> callback = richness_callback(RichnessMonitor(nn.Linear(2, 2), zeros(4, 2)))  # doctest: +SKIP
        >>> Trainer(callbacks=[callback]).fit(module, loader)  # doctest: +SKIP
    """
    lightning = require_extra("lightning.pytorch", "lightning", "a Lightning callback")

    class RichnessCallback(lightning.Callback):  # type: ignore[name-defined]
        """Records at the start and whenever the global step moved."""

        def __init__(self) -> None:
            self.last = -1

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._record(trainer, None)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            found = outputs.get("loss") if isinstance(outputs, dict) else outputs
            self._record(trainer, None if found is None else float(found))

        def _record(self, trainer: Any, loss: float | None) -> None:
            if trainer.global_step == self.last:
                return  # gradients were accumulated; the model is the same
            self.last = trainer.global_step
            row = monitor.record(self.last, loss)
            numbers = {key: value for key, value in (row or {}).items() if key.startswith("richness/")}
            for logger in trainer.loggers if numbers else ():
                logger.log_metrics(numbers, step=self.last)

    return RichnessCallback()
