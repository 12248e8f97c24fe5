"""What attention and sampling do while a network is trained."""

import argparse
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor

from ats.datasets.batch import Batch
from ats.nn import AttentionSamplingOutput
from ats.training.advice import advice
from ats.training.history import Row
from ats.training.tasks import cross_entropy


class Diagnosis(lightning.Callback):
    """Measures attention and sampling on the training batches, and advises where they go wrong.

    Logs, over the images of an epoch:

    - ``train_constant_loss``, see :func:`constant_loss`: what a network that sees nothing reaches;
    - the means of :func:`effective_positions`, :func:`largest_weight`, :func:`repeated_patches` and
      :func:`empty_patches`;
    - ``train_estimator_variance``, the sum of :func:`estimator_variance` over that of the squared
      lengths of the estimates: a ratio of sums, since a single estimate may be 0. Not with one
      patch an image, which tells nothing of a variance, nor with peaks, which have none.

    What is measured is what the steps have computed; sums stay on the device until the epoch ends.

    Args:
        args: of the training, for advice that is not followed already.
    """

    measures = (
        "train_constant_loss",
        "train_effective_positions",
        "train_largest_weight",
        "train_repeated_patches",
        "train_empty_patches",
        "train_estimator_variance",
    )
    printed = ()

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.n_patches = self.n_outputs = 0
        self._forget()

    def _forget(self) -> None:
        self.sums: Tensor | float = 0.0
        self.positions = 1
        self.targets: list[Tensor] = []

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Forget the former epoch."""
        self._forget()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Add the images of a batch."""
        seen: AttentionSamplingOutput = outputs["seen"]
        self.sums = self.sums + outputs["quality"]
        self.targets.append(batch.target)
        self.n_patches = seen.weights.shape[1]
        self.n_outputs = outputs["logits"].shape[1]
        # Of maps of several sizes the largest counts: the entropy of a flat one is surely flat.
        self.positions = max(self.positions, seen.attention[0].numel())

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Log the epoch, of all devices."""
        targets = torch.cat(self.targets)
        sums = trainer.strategy.reduce(self.sums, reduce_op="sum").tolist()
        if trainer.world_size > 1:
            # Devices have equal shares.
            targets = trainer.strategy.all_gather(targets).flatten(0, 1)
        module: Any = pl_module
        weights = module.class_weights
        if module.loss is cross_entropy:
            # Many small steps, for which a GPU is slow; a loss of one's own may live on one.
            targets = targets.cpu()
            weights = None if weights is None else weights.cpu()
        constant = constant_loss(module.loss, targets, weights, self.n_outputs)
        *means, variance, length = sums
        values = [constant, *(total / len(targets) for total in means)]
        if self.n_patches > 1 and self.args.design != "peaks":
            values.append(variance / max(length, 1e-30))
        for name, value in zip(self.measures, values, strict=False):
            pl_module.log(name, value, sync_dist=True, rank_zero_only=False)

    def advice(self, rows: Sequence[Row]) -> list[str]:
        """Lines about the last row of the table, see :func:`ats.training.advice.advice`."""
        return advice(rows, self.args, self.positions, self.n_patches)


def constant_loss(loss: Any, targets: Tensor, weights: Tensor | None, n_outputs: int) -> float:
    """The mean loss of the best prediction that is the same for every image.

    Args:
        loss: from logits (n, T), targets and class weights to losses (n,).
        targets: (n, ...).
        weights: of the classes.
        n_outputs: T.
    """
    # Of classes there are few, however many images.
    distinct, counts = torch.unique(targets, return_counts=True, dim=0)
    shares = counts / len(targets)
    logits = torch.zeros(n_outputs, device=targets.device, requires_grad=True)
    search = torch.optim.LBFGS([logits], max_iter=50, line_search_fn="strong_wolfe")

    def mean() -> Tensor:
        losses: Tensor = loss(logits.expand(len(distinct), -1), distinct, weights)
        return torch.sum(losses * shares)

    def evaluate() -> Tensor:
        search.zero_grad()
        found = mean()
        torch.autograd.backward(found)
        return found

    with torch.enable_grad():
        search.step(evaluate)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return float(mean())
