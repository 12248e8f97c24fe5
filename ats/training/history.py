"""The table of a run: one row an epoch."""

import csv
import sys
import time
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import lightning
import numpy as np
import torch

from ats.files import atomic_path
from ats.plots import save_learning_curves
from ats.training.sparing import Sparing

COLUMNS = (
    "epoch",
    "train_loss",
    "train_error",
    "train_entropy",
    "test_loss",
    "test_error",
    "test_entropy",
    "learning_rate",
    "seconds",
    "images_per_second",
)

Row = dict[str, float]


def read_history(path: Path) -> list[Row]:
    """Rows of a ``history.csv``; none if there is no such file."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            {
                name: float(row[name])
                for name in dict.fromkeys((*COLUMNS, *row))
                # A measure that came later has no value in former rows.
                if name in COLUMNS or row[name] != ""
            }
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); remove it, and the run goes on without its former rows"
        ) from error


def mean_of(tables: list[list[Row]]) -> list[Row]:
    """The mean of several tables, epoch by epoch."""
    return [
        {
            name: float(np.mean([row[name] for row in rows]))
            for name in rows[0]
            if all(name in row for row in rows)
        }
        for rows in zip(*tables, strict=False)
    ]


def write_history(path: Path, rows: list[Row]) -> None:
    """Write the whole table, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(chain(COLUMNS, *rows))))
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "epoch": int(row["epoch"])})


class History(lightning.Callback):
    """Writes ``history.csv`` and ``curves.png``, and prints a line with the time that is left.

    ``seconds`` and ``images_per_second`` are those of training, without the test.

    Args:
        output: folder to write to.
        images_per_epoch: that are trained on.
        callbacks: those with ``measures``, names of further metrics, get a column for each. They
            are on the line as well, or of a callback with ``printed`` those that it names.
        advise: from the rows so far to what the user shall be told, a line each on stderr.
    """

    def __init__(
        self,
        output: Path,
        images_per_epoch: int,
        callbacks: Sequence[lightning.Callback] = (),
        advise: Callable[[list[Row]], Sequence[str]] = lambda _: (),
    ) -> None:
        self.output = output
        measures = [getattr(callback, "measures", ()) for callback in callbacks]
        self.columns = (*COLUMNS, *chain(*measures))
        self.printed = [
            name
            for callback, names in zip(callbacks, measures, strict=True)
            for name in getattr(callback, "printed", names)
        ]
        self.advise = advise
        self.images_per_epoch = images_per_epoch
        self.rows: list[Row] = []
        self.sparing = Sparing()
        self._started = 0.0
        self._seconds = 0.0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Keep the rows of the epochs that the checkpoint knows."""
        path = self.output / "history.csv"
        self.rows = [row for row in read_history(path) if row["epoch"] < trainer.current_epoch]
        last = self.rows[-1]["epoch"] + 1 if self.rows else 0
        if path.exists() and last != trainer.current_epoch:
            raise ValueError(
                f"{path} is damaged: it ends after {last:.0f} epochs, the checkpoint after "
                f"{trainer.current_epoch}; remove it, and the run goes on without its former rows"
            )

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stop the clock."""
        if pl_module.device.type == "cuda":
            # The host is ahead of it.
            torch.cuda.synchronize()
        self._seconds = time.perf_counter() - self._started

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Add the row of this epoch."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row = {name: metrics[name] for name in self.columns if name in metrics}
        row["epoch"] = trainer.current_epoch
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["seconds"] = round(self._seconds, 3)
        row["images_per_second"] = round(self.images_per_epoch / max(self._seconds, 1e-9), 3)
        self.rows.append(row)
        if trainer.is_global_zero:
            write_history(self.output / "history.csv", self.rows)
            if self.sparing.due(trainer):
                with self.sparing.drawing():
                    save_learning_curves(self.output / "curves.png", {"": self.rows})
            self._print(row, trainer.max_epochs or 0)
            for advice in self.advise(self.rows):
                print(advice, file=sys.stderr, flush=True)

    def _print(self, row: Row, epochs: int) -> None:
        measures = "".join(f"{name}: {row[name]:.3f}, " for name in self.printed)
        left = (epochs - int(row["epoch"]) - 1) * (time.perf_counter() - self._started)
        print(
            f"Epoch {int(row['epoch']) + 1}/{epochs}: loss {row['train_loss']:.4f}, "
            f"test loss {row['test_loss']:.4f}, test error {row['test_error']:.4f}, "
            f"entropy {row['train_entropy']:.2f}, {measures}"
            f"{row['images_per_second']:.1f} images/s, "
            f"{left / 60:.0f} min left",
            flush=True,
        )
