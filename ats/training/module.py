"""A classifier with attention sampling as a Lightning module."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from ats.ahead import Drawn
from ats.datasets.batch import Batch
from ats.entropy import entropy
from ats.images import SparseImages
from ats.nn import AttentionSamplingOutput, Classifier
from ats.sampling import Generators
from ats.training.averaged import Averaged
from ats.training.batches import image_generators
from ats.training.build import Augmentation, parameter_groups
from ats.training.captured import CapturedStep, Terms
from ats.training.guide import guide_loss
from ats.training.pointing import offsets_of_positions
from ats.training.sample_quality import image_sums
from ats.training.tasks import cross_entropy, wrong_class
from ats.transforms import ChangedImages

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""From logits (B, T), targets (B, ...) and class weights (T) to losses (B,)."""

Error = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, T) and targets (B, ...) to errors (B,)."""


class TrainingModule(lightning.LightningModule):
    """A loss minus a share of the attention's entropy, and what a user wants to follow.

    Args:
        model: the network, a plain module that can be used without this one.
        optimizer: makes an optimizer of groups of parameters.
        regularizer_strength: factor of the entropy; keeps attention from collapsing early.
        seed: of the draws of positions.
        class_weights: (n_classes) weights of the training loss, all 1 if None. It is the mean
            of weighted terms, not divided by the weights of a batch, so that it does not depend on
            how a batch is cut up.
        attention_decay: factor of the sum of squares of the attention network's kernels.
        weight_decay: of all other kernels, see :func:`ats.training.build.parameter_groups`.
        learning_rate_factor: on the optimizer's learning rate, of the epochs that are over, with
            the part of the one that is not.
        augment: change of the training images.
        loss: of a single image, by default for one of several classes.
        error: of a single image, the measure to follow.
        average: decay of the averaged weights that are measured and kept, see
            :class:`ats.training.averaged.Averaged`; 0 for the weights of the last step.
        guide: factor of :func:`ats.training.guide.guide_loss`, on images whose objects have known
            places.
    """

    def __init__(
        self,
        model: Classifier,
        *,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        regularizer_strength: float,
        seed: int,
        class_weights: Tensor | None = None,
        attention_decay: float = 0.0,
        weight_decay: float = 0.0,
        learning_rate_factor: Callable[[float], float] | None = None,
        augment: Augmentation | None = None,
        loss: Loss = cross_entropy,
        error: Error = wrong_class,
        average: float = 0.0,
        guide: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.averaged = Averaged(model, average) if average else None
        self.make_optimizer = optimizer
        self.regularizer_strength = regularizer_strength
        self.seed = seed
        self.attention_decay = attention_decay
        self.weight_decay = weight_decay
        self.learning_rate_factor = learning_rate_factor
        self.augment = augment
        self.loss = loss
        self.error = error
        self.guide = guide
        self.captured: CapturedStep | None = None
        self.register_buffer("class_weights", class_weights, persistent=False)

    @property
    def kept(self) -> Classifier:
        """The network that is measured and stored."""
        if self.averaged is None:
            return self.model
        return cast("Classifier", self.averaged.model)

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Change the weights, and then their average."""
        super().optimizer_step(*args, **options)
        if self.averaged is not None:
            self.averaged.follow(self.model)

    def forward(self, batch: Batch) -> tuple[Tensor, AttentionSamplingOutput]:
        """Logits and what was seen; what is random depends on seed, epoch and image alone."""
        return self._look(*self._inputs(batch))

    def _look(self, batch: Batch, generators: Generators) -> tuple[Tensor, AttentionSamplingOutput]:
        model = self.model if self.training else self.kept
        output: tuple[Tensor, AttentionSamplingOutput] = model(
            batch.x_low,
            batch.x_high,
            generator=generators,
            content_shape=batch.content_shape,
            drawn=batch.drawn,
        )
        return output

    def draw(self, batch: Batch) -> Drawn:
        """Draw for a batch that will be trained on later, and begin to read its patches."""
        batch = self.transfer_batch_to_device(batch, self.device, 0)
        batch, generators = self._inputs(batch)
        return self.model.sampling.draw(
            batch.x_low, batch.x_high, generator=generators, content_shape=batch.content_shape
        )

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """All of it but the numbers of the images, which are read on the host in every step."""
        if isinstance(batch.x_high, SparseImages):
            # Lightning would wait for all that the device has to do, unless it moves a tensor.
            images = batch.x_high.to(device, non_blocking=device.type == "cuda")
            batch = batch._replace(x_high=images)
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved._replace(index=batch.index)

    def _inputs(self, batch: Batch) -> tuple[Batch, list[torch.Generator]]:
        """The images, changed in training, and what the positions are drawn with."""
        generators = image_generators(self.seed, self.current_epoch, batch.index.tolist())
        if self.training and self.augment is not None:
            x_low, x_high = self.augment(batch.x_low, batch.x_high, generators)
            batch = batch._replace(x_low=x_low, x_high=x_high)
            if batch.places is not None and isinstance(x_high, ChangedImages):
                pan = x_high.change.pan.to(batch.places, non_blocking=True)
                batch = batch._replace(places=batch.places + pan)
        return batch, generators

    def on_train_start(self) -> None:
        """Capture steps on a GPU that is alone."""
        loader: Any = self.trainer.train_dataloader
        # Worker processes have a thread that takes memory of the host, which spoils a capture.
        alone = self.trainer.world_size == 1 and not getattr(loader, "num_workers", 0)
        if alone and self.device.type == "cuda":
            self.captured = CapturedStep(self.model, self._terms)

    def on_train_end(self) -> None:
        """Free what was captured."""
        self.captured = None

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate, from nothing but the place in the run."""
        if self.learning_rate_factor is None:
            return
        # Counted in steps, of which the middle is taken: the same on any number of devices, and
        # neither nothing at the start of a warm-up nor already that of the next epoch.
        per_step = self.trainer.accumulate_grad_batches
        steps = int(self.trainer.num_training_batches) // per_step
        factor = self.learning_rate_factor(
            self.current_epoch + (batch_idx // per_step + 0.5) / steps
        )
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
                group["lr"] = group["initial_lr"] * factor

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The ``loss`` of a batch, its ``logits``, what was ``seen``, and sums of its quality."""
        terms = self._step(batch, "train")
        return {
            "loss": terms.objective,
            "logits": terms.logits,
            "quality": terms.quality,
            "seen": terms.seen,
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Measure loss and error on the test set; ``logits`` and what was ``seen``."""
        terms = self._step(batch, "test")
        return {"logits": terms.logits, "seen": terms.seen}

    def configure_optimizers(self) -> Optimizer:
        """One optimizer for everything."""
        return self.make_optimizer(parameter_groups(self.model, self.weight_decay))

    def _terms(self, batch: Batch, generators: Generators) -> Terms:
        """What a step computes on the device, without waiting for it."""
        logits, seen = self._look(batch, generators)
        weights: Tensor | None = None
        if self.training:
            weights = self.class_weights  # type: ignore[assignment]
        loss = self.loss(logits.float(), batch.target, weights).mean()
        # The 2019 program's logarithm is shifted by 1e-6, too.
        mean_entropy = entropy(seen.attention, eps=1e-6).mean()
        objective = loss - self.regularizer_strength * mean_entropy
        if self.training:
            objective = objective + self._pull(batch, seen.attention)
            objective = objective + self._penalty(seen.attention)
        wrong = self.error(logits, batch.target).mean()
        quality = logits.new_zeros(0)
        if self.training:
            repeats = not getattr(self.model.sampling.sample.design, "distinct", False)
            quality = image_sums(seen, repeats=repeats)
        return Terms(objective, loss, wrong, mean_entropy, logits, quality, seen)

    def _step(self, batch: Batch, stage: str) -> Terms:
        batch, generators = self._inputs(batch)
        terms = None
        captured = self.captured if stage == "train" else None
        # The gradients of a graph are always in the same place, and cannot be added up.
        if captured is not None and self.trainer.accumulate_grad_batches == 1:
            terms = captured(batch, generators)
        if terms is None:
            terms = self._terms(batch, generators)
        together = torch.distributed.is_available() and torch.distributed.is_initialized()
        devices = torch.distributed.get_world_size() if together else 1
        for name in ("loss", "error", "entropy"):
            self.log(
                f"{stage}_{name}",
                getattr(terms, name).detach(),
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                # Lightning rounds the mean of the devices' counts down to a whole number, which
                # unequal shares of a test set would make wrong. So many times as many it does not.
                batch_size=len(batch.target) * devices,
                prog_bar=stage == "train" and name == "loss",
            )
        if not torch.compiler.is_compiling() and stage == "train":
            self._check_finite(terms.loss)
        return terms

    def _pull(self, batch: Batch, attention: Tensor) -> Tensor | float:
        """The factor times the guide's loss."""
        if not self.guide or batch.places is None:
            return 0.0
        sample = self.model.sampling.sample
        offsets = offsets_of_positions(sample, attention, batch)
        return self.guide * guide_loss(attention, offsets, sample.patch_size, batch.places).mean()

    def _penalty(self, attention: Tensor) -> Tensor | float:
        """The factor times the sum of squares of the attention's kernels, not of its biases."""
        # Of a single position the attention is always 1. The penalty would be the only gradient,
        # which Adam takes for as large as any: all kernels would be 0 after some hundred steps.
        if not self.attention_decay or attention[0].numel() == 1:
            return 0.0
        kernels = [p for p in self.model.sampling.attention.parameters() if p.dim() > 1]
        return self.attention_decay * sum(kernel.square().sum() for kernel in kernels)

    def _check_finite(self, loss: Tensor) -> None:
        """Stop at once where the loss is not a number: every later step would be lost."""
        if loss.device.type == "cpu" and not torch.isfinite(loss):
            raise FloatingPointError(
                f"the training loss is {loss.item()} in epoch {self.current_epoch + 1}; lower --lr "
                "or --clipnorm, or train with --precision 32"
            )
