"""A classifier with attention sampling as a Lightning module."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ats.datasets.batch import Batch
from ats.entropy import entropy
from ats.images import Images
from ats.nn import AttentionSamplingOutput, Classifier
from ats.training.batches import image_generators

Augmentation = Callable[[Tensor, Images | Tensor, Sequence[torch.Generator]], tuple[Tensor, Images]]
"""From small views, images and a generator for each image to other small views and images."""


class Classification(lightning.LightningModule):
    """Cross-entropy minus a share of the attention's entropy, and what a user wants to follow.

    Args:
        model: the network, a plain module that can be used without this one.
        optimizer: makes an optimizer of the parameters.
        regularizer_strength: factor of the entropy; keeps attention from collapsing early.
        seed: of the draws of positions.
        class_weights: (n_classes) weights of the training loss, all 1 if None. It is the mean
            of weighted terms, not divided by the weights of a batch, so that it does not depend on
            how a batch is cut up.
        attention_decay: factor of the sum of squares of the attention network's kernels.
        learning_rate_factor: of an epoch, on the optimizer's learning rate.
        augment: change of the training images.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        regularizer_strength: float,
        seed: int,
        class_weights: Tensor | None = None,
        attention_decay: float = 0.0,
        learning_rate_factor: Callable[[int], float] | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.make_optimizer = optimizer
        self.regularizer_strength = regularizer_strength
        self.seed = seed
        self.attention_decay = attention_decay
        self.learning_rate_factor = learning_rate_factor
        self.augment = augment
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, AttentionSamplingOutput]:
        """Logits and what was seen; what is random depends on seed, epoch and image alone."""
        generators = image_generators(self.seed, self.current_epoch, batch.index.tolist())
        x_low, x_high = batch.x_low, batch.x_high
        if self.training and self.augment is not None:
            x_low, x_high = self.augment(x_low, x_high, generators)
        output: tuple[Tensor, AttentionSamplingOutput] = self.model(
            x_low, x_high, generator=generators
        )
        return output

    def on_train_epoch_start(self) -> None:
        """Set the learning rate of this epoch, from nothing but the epoch."""
        if self.learning_rate_factor is None:
            return
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * self.learning_rate_factor(self.current_epoch)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss, _ = self._step(batch, "train")
        return loss + self._penalty()

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Measure loss and error on the test set; ``logits`` and what was ``seen``."""
        return self._step(batch, "test")[1]

    def configure_optimizers(self) -> Optimizer:
        """One optimizer for everything."""
        return self.make_optimizer(self.model.parameters())

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, dict[str, Any]]:
        logits, seen = self(batch)
        weights: Tensor | None = None
        if stage == "train":
            weights = self.class_weights  # type: ignore[assignment]
        loss = F.cross_entropy(logits.float(), batch.target, weight=weights, reduction="none")
        loss = loss.mean()
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
        return loss - self.regularizer_strength * mean_entropy, {"logits": logits, "seen": seen}

    def _penalty(self) -> Tensor | float:
        """The factor times the sum of squares of the attention's kernels, not of its biases."""
        if not self.attention_decay:
            return 0.0
        kernels = [p for p in self.model.sampling.attention.parameters() if p.dim() > 1]
        return self.attention_decay * sum(kernel.square().sum() for kernel in kernels)

    def _check_finite(self, loss: Tensor) -> None:
        """Stop at once where the loss is not a number: every later step would be lost."""
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss.item()} in epoch {self.current_epoch}; lower --lr or "
                "--clipnorm, or train with --precision 32"
            )
