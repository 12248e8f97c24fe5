"""One training run, from a model and two data sets to a folder of results."""

import argparse
import contextlib
import importlib.util
import logging
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import ats
from ats.ahead import Drawn
from ats.datasets.batch import Batch, collate
from ats.files import atomic_path, write_json
from ats.nn import Classifier
from ats.sampling import Peaks
from ats.training.batches import (
    AheadLoader,
    EpochBatches,
    PinningLoader,
    default_micro_batch,
    normalises_batches,
)
from ats.training.build import Augmentation, augmentation, make_optimizer
from ats.training.checkpoint import AtomicCheckpointIO, SaveEpoch
from ats.training.diagnosis import Diagnosis
from ats.training.folder import claim, open_run
from ats.training.history import History, read_history
from ats.training.module import TrainingModule
from ats.training.pictures import Pictures, class_and_truth, predict
from ats.training.processor import warn_of_bfloat16
from ats.training.schedule import learning_rate_factor

PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class BatchDataset(Protocol):
    """A data set whose items are batches."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> Batch:
        """One image as a batch."""

    def __getitems__(self, indices: list[int]) -> Batch:
        """Several images as a batch."""


def fit(
    model: Classifier,
    train: BatchDataset,
    test: BatchDataset,
    args: argparse.Namespace,
    data_parameters: Mapping[str, Any],
    classes: list[str],
    *,
    picture: tuple[Batch, Tensor] | None = None,
    describe: Callable[[Tensor, Tensor], str] | None = None,
    callbacks: Sequence[lightning.Callback] = (),
    augment: Augmentation | None = None,
    **objective: Any,
) -> dict[str, float]:
    """Train as the arguments say, write everything to ``args.output``, and return the last row.

    Args:
        model: the network.
        train: training set.
        test: test set, measured after every epoch.
        args: parsed with :func:`ats.training.arguments.add_training_arguments`.
        data_parameters: what the data set was made with.
        classes: names of the classes.
        picture: a test image as a batch of one, and its pixels (C, H, W) to draw on, for pictures
            of every epoch.
        describe: what is written above them, of the logits and the target of the image; by default
            the predicted and the true class.
        callbacks: what an experiment measures and writes besides; those with ``measures``, names
            of the metrics that they log, get columns in the table; ``printed`` says which to print.
        augment: change of the training images beside that of the arguments.
        objective: further arguments of :class:`ats.training.module.TrainingModule`.

    Raises:
        ValueError: the output folder holds another run, is in use, or cannot be written.
    """
    output = Path(args.output)
    accelerator = resolve_accelerator(args)
    micro = args.micro_batch or default_micro_batch(args.batch_size, args.devices, accelerator)
    parameters = run_parameters(args, data_parameters)
    if normalises_batches(model):
        # Statistics of batch norm are those of so many images, and of the first device's or, on
        # GPUs, of all devices' ones. They may not change within a run.
        parameters["data"] |= {
            "micro_batch of batch norm": micro,
            "devices of batch norm": args.devices,
        }
    with _attention_as_it_is(model), claim(output, resume=args.resume):
        checkpoint = open_run(output, parameters, resume=args.resume)
        _quieten()
        module = TrainingModule(
            model,
            optimizer=make_optimizer(args),
            regularizer_strength=args.regularizer_strength,
            weight_decay=args.weight_decay,
            seed=args.seed,
            average=args.average,
            learning_rate_factor=partial(learning_rate_factor, args),
            augment=augmentation(args, augment),
            **objective,
        )
        if picture:
            # A prediction that cannot be made fails now, and not after an epoch.
            predict(module, picture[0])
        draw = module.draw if getattr(args, "read_ahead", False) else None
        loaders = _loaders(train, test, args, micro, accelerator, draw, _first_epoch(checkpoint))
        callbacks = [diagnosis := Diagnosis(args), *callbacks]
        images = len(train) - len(train) % args.batch_size
        history = History(output, images, callbacks, diagnosis.advice)
        say = describe or class_and_truth(classes)
        pictures = [Pictures(output, *picture, say)] if picture else []
        # Convolutions of small patches run a fifth faster with their channels last.
        module.to(memory_format=torch.channels_last)
        # The table needs what the others log, the checkpoint that all of them are done.
        callbacks = [*callbacks, history, *pictures, SaveEpoch(output)]
        trainer = _trainer(args, accelerator, micro, callbacks)
        if trainer.is_global_zero:
            _describe(module, parameters, output)
            # A run that goes on has to keep it.
            if accelerator == "cpu" and args.precision == "bf16" and checkpoint is None:
                warn_of_bfloat16()
        try:
            trainer.fit(module, *loaders, ckpt_path=checkpoint, weights_only=True)
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
    rows = history.rows or read_history(output / "history.csv")
    return rows[-1] if rows else {}


def _trainer(
    args: argparse.Namespace,
    accelerator: str,
    micro: int,
    callbacks: Sequence[lightning.Callback],
) -> lightning.Trainer:
    """Lightning's trainer for these arguments; callbacks act in their order."""
    bar = [TQDMProgressBar(leave=False)] if sys.stderr.isatty() else []
    return lightning.Trainer(
        accelerator=accelerator,
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        precision=PRECISION[args.precision],  # type: ignore[arg-type]
        max_epochs=args.epochs,
        accumulate_grad_batches=args.batch_size // (micro * args.devices),
        gradient_clip_val=args.clipnorm,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=_logger(Path(args.output)),
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=bool(bar),
        callbacks=[*bar, *callbacks],
        sync_batchnorm=args.devices > 1 and accelerator == "gpu",
        plugins=[AtomicCheckpointIO()],
    )


def _describe(module: TrainingModule, parameters: Mapping[str, Any], output: Path) -> None:
    """Print and write what is trained, and with what."""
    summary = str(ModelSummary(module, max_depth=-1))
    print(summary, flush=True)
    with atomic_path(output / "model.txt") as temporary:
        temporary.write_text(summary + "\n", encoding="utf-8")
    write_json(output / "parameters.json", parameters)


def resolve_accelerator(args: argparse.Namespace) -> str:
    """``cpu`` or ``gpu``, once the machine has what the arguments ask for.

    Raises:
        ValueError: it has not.
    """
    n_gpus = torch.cuda.device_count()
    accelerator: str = args.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if n_gpus else "cpu"
    if accelerator == "gpu" and n_gpus < args.devices:
        raise ValueError(
            f"accelerator=gpu with devices={args.devices}, but PyTorch sees {n_gpus} GPUs; take "
            "--accelerator cpu, or fewer devices"
        )
    if accelerator == "cpu" and args.precision == "16":
        raise ValueError("precision=16 needs a GPU; take --precision bf16 or 32")
    return accelerator


def run_parameters(args: argparse.Namespace, data_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Everything needed to repeat a run."""
    given = {name: value for name, value in vars(args).items() if name not in ("output", "resume")}
    given = {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items()
    }
    return {
        "script": Path(sys.argv[0]).name,
        "arguments": given,
        "data": dict(data_parameters),
        "versions": {
            "ats": ats.__version__,
            "lightning": lightning.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }


@contextlib.contextmanager
def _attention_as_it_is(model: Classifier) -> Iterator[None]:
    """Meanwhile the attention network does not change if the design has no gradient to it.

    Devices would wait for that gradient, and the regulariser alone would undo what was learnt.
    """
    if not isinstance(model.sampling.sample.design, Peaks):
        yield
        return
    attention = model.sampling.attention
    learnt = [parameter for parameter in attention.parameters() if parameter.requires_grad]
    was_training = attention.training
    # Statistics of batch norm stay, too; Lightning asks whether that is intended.
    attention.eval().requires_grad_(False)
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
    try:
        yield
    finally:
        attention.train(was_training)
        for parameter in learnt:
            parameter.requires_grad_(True)


def _first_epoch(checkpoint: Path | None) -> int:
    """The epoch that training begins with."""
    if checkpoint is None:
        return 0
    return int(AtomicCheckpointIO().load_checkpoint(checkpoint)["epoch"]) + 1


def _loaders(
    train: BatchDataset,
    test: BatchDataset,
    args: argparse.Namespace,
    micro: int,
    accelerator: str,
    draw: Callable[[Batch], Drawn] | None,
    first_epoch: int,
) -> tuple[DataLoader[Batch], DataLoader[Batch]]:
    """Loaders of this device's share of both sets."""
    place = {"rank": int(os.environ.get("LOCAL_RANK", "0")), "world_size": args.devices}
    made = []
    for dataset, seed in ((train, args.seed), (test, None)):
        batches = EpochBatches(
            len(dataset), batch_size=args.batch_size, micro_batch=micro, seed=seed, **place
        )
        # Worker processes are given the first batches before the trainer says which epoch it is.
        batches.set_epoch(first_epoch)
        make: Any = DataLoader
        if draw is not None and seed is not None:
            make = partial(AheadLoader, draw=draw)
        elif accelerator == "gpu" and not args.workers:
            make = PinningLoader
        loader: DataLoader[Batch] = make(
            _as_dataset(dataset),
            batch_sampler=batches,
            # The data set fetches whole batches.
            collate_fn=collate,
            num_workers=args.workers,
            persistent_workers=args.workers > 0,
            pin_memory=accelerator == "gpu" and make is not PinningLoader,
        )
        made.append(loader)
    return made[0], made[1]


def _logger(output: Path) -> Any:
    """TensorBoard's, where it is installed; the tables are written in any case."""
    if importlib.util.find_spec("tensorboard") is None:
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(output, name=None, version="tensorboard")


def _as_dataset(dataset: BatchDataset) -> Dataset[Batch]:
    return dataset  # type: ignore[return-value]


def _quieten() -> None:
    """Silence advice of Lightning's that does not apply, or names its makers' products."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*Consider setting `persistent_workers.*")
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*Checkpoint directory.*")
