"""A classifier with attention sampling as a Lightning module."""

from collections.abc import Callable, Iterable

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ats.datasets.batch import Batch
from ats.entropy import entropy
from ats.nn import AttentionSamplingOutput, Classifier
from ats.training.batches import image_generators


class Classification(lightning.LightningModule):
    """Cross-entropy minus a share of the attention's entropy, and what a user wants to follow.

    Args:
        model: the network, a plain module that can be used without this one.
        optimizer: makes an optimizer of the parameters.
        regularizer_strength: factor of the entropy; keeps attention from collapsing early.
        seed: of the draws of positions.
        class_weights: (n_classes) weights of the cross-entropy, all 1 if None.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        regularizer_strength: float,
        seed: int,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = optimizer
        self.regularizer_strength = regularizer_strength
        self.seed = seed
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, AttentionSamplingOutput]:
        """Logits and what was seen; what is random depends on seed, epoch and image alone."""
        generators = image_generators(self.seed, self.current_epoch, batch.index.tolist())
        output: tuple[Tensor, AttentionSamplingOutput] = self.model(
            batch.x_low, batch.x_high, generator=generators
        )
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure loss and error on the test set."""
        self._step(batch, "test")

    def configure_optimizers(self) -> Optimizer:
        """One optimizer for everything."""
        return self.make_optimizer(self.model.parameters())

    def _step(self, batch: Batch, stage: str) -> Tensor:
        logits, seen = self(batch)
        weights: Tensor | None = self.class_weights  # type: ignore[assignment]
        loss = F.cross_entropy(logits.float(), batch.target, weight=weights)
        # The 2019 program's logarithm is shifted by 1e-6, too.
        mean_entropy = entropy(seen.attention, eps=1e-6).mean()
        wrong = (logits.argmax(1) != batch.target).float().mean()
        for name, value in (("loss", loss), ("error", wrong), ("entropy", mean_entropy)):
            self.log(
                f"{stage}_{name}",
                value.detach(),
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                batch_size=len(batch.target),
                prog_bar=stage == "train" and name == "loss",
            )
        if not torch.compiler.is_compiling() and stage == "train":
            self._check_finite(loss)
        return loss - self.regularizer_strength * mean_entropy

    def _check_finite(self, loss: Tensor) -> None:
        """Stop at once where the loss is not a number: every later step would be lost."""
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss.item()} in epoch {self.current_epoch}; lower --lr or "
                "--clipnorm, or train with --precision 32"
            )
