"""Checkpoints that are whole or absent, and never unpickled."""

import io
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save

from ats.files import atomic_path

CHECKPOINT = "checkpoint.ckpt"
_CONTENT = ("state_dict", "optimizer_states", "epoch", "pytorch-lightning_version")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames; loads tensors and plain containers only."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write all of the checkpoint, or leave the former one."""
        # Of a full disk torch itself says nothing that could be understood.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_path(Path(path)) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint without running any code in it.

        Raises:
            ValueError: the file is damaged.
        """
        location = map_location if map_location is not None else "cpu"
        try:
            state: dict[str, Any] = torch.load(path, map_location=location, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"checkpoint {path} cannot be read ({error}); train from the start in another "
                "folder"
            ) from error
        missing = [name for name in _CONTENT if not isinstance(state, dict) or name not in state]
        if missing:
            raise ValueError(
                f"checkpoint {path} is none of a run (no {', '.join(missing)}); train from the "
                "start in another folder"
            )
        return state


class SaveEpoch(lightning.Callback):
    """After every epoch: one resumable checkpoint, and the weights alone as safetensors.

    Everything random is drawn from the seed, the epoch and the image, so that a run resumed at the
    end of an epoch goes on exactly as the one that was never interrupted.
    """

    def __init__(self, output: Path) -> None:
        self.output = output

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Save both; the checkpoint last, since it is what says that the epoch is done.

        Raises:
            FloatingPointError: a weight or the test loss is not finite; the former checkpoint
                stays.
        """
        values: dict[str, torch.Tensor] = dict(pl_module.named_parameters())
        values["the test loss"] = trainer.callback_metrics["test_loss"]
        for name, tensor in values.items():
            if not bool(torch.isfinite(tensor).all()):
                raise FloatingPointError(
                    f"training has diverged: {name} is not finite after epoch "
                    f"{trainer.current_epoch}; the checkpoint is that of the epoch before. Lower "
                    "--lr or --clipnorm, in another output folder"
                )
        if trainer.is_global_zero:
            weights = pl_module.kept.state_dict()  # type: ignore[union-attr]
            tensors = {name: tensor.contiguous().cpu() for name, tensor in weights.items()}
            name = f"weights_{trainer.current_epoch:03d}.safetensors"
            with atomic_path(self.output / name) as temporary:
                temporary.write_bytes(save(tensors))
        trainer.save_checkpoint(self.output / CHECKPOINT, weights_only=False)
