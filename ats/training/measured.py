"""What is measured on the whole test set, batch by batch."""

from collections.abc import Sequence

import lightning
from torchmetrics import Metric


class Measured(lightning.Callback):
    """Begins the metrics of a test set anew in every epoch, on the device of the network.

    Args:
        metrics: that a subclass updates and reports.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = metrics

    def on_validation_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Forget the former epoch."""
        for metric in self.metrics:
            metric.to(pl_module.device)
            metric.reset()
