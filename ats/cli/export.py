"""``ats export``: a trained network for other programs, without this library."""

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from ats.cli.model import MODEL, Trained, load_model
from ats.files import atomic_path, writable_folder, write_json
from ats.nn import Classifier
from ats.training.start import latest_weights


class Locate(nn.Module):
    """Where to look: the first half of a prediction.

    Args:
        model: the network.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.sampling = model.sampling

    def forward(self, x_low: Tensor, shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offsets (1, N, 2), weights (1, N) and attention (1, h, w).

        Args:
            x_low: (1, C, h, w) in [0, 1], a small view.
            shape: (1, 2) int64 rows and columns of the image at the level that patches are read at.
        """
        attention = self.sampling.attend(x_low)
        _, weights, offsets = self.sampling.sample.locate(attention, x_low, shape)
        return offsets, weights, attention


class Read(nn.Module):
    """What it shows: the second half.

    Args:
        model: the network.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.feature = model.sampling.feature
        self.expectation = model.sampling.expectation
        self.linear = model.linear
        self.scale = model.scale

    def forward(self, patches: Tensor, weights: Tensor) -> Tensor:
        """Logits (1, T) of patches (1, N, C, h, w) in [0, 1] and weights (1, N)."""
        features = self.feature(patches.flatten(0, 1))
        total = self.expectation(features.reshape(*weights.shape, -1), weights)
        logits: Tensor = self.linear(total if self.scale is None else total * self.scale)
        return logits


def export(args: argparse.Namespace) -> None:
    """Write weights, settings and two programs, after they were compared with the network."""
    run = Path(args.run)
    folder = writable_folder(args.output or run / "export")
    trained = load_model(run)
    low = args.small_shape
    difference = write_programs(folder, trained, low)
    weights = latest_weights(run)
    assert weights is not None
    for source, name in ((weights, "weights.safetensors"), (run / MODEL, MODEL)):
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(source, temporary)
    write_json(
        folder / "programs.json",
        {
            "small_view": [1, trained.reading.channels, *low],
            "patches": [
                1,
                trained.model.sampling.sample.n_patches,
                trained.reading.channels,
                *trained.model.sampling.sample.patch_size,
            ],
            "outputs": trained.task.names,
            "task": trained.task.name,
            "largest_difference": difference,
            "torch": torch.__version__,
        },
    )
    print(f"{folder}: largest difference of the programs from the network {difference:.2g}")


def write_programs(folder: Path, trained: Trained, low: tuple[int, int]) -> float:
    """Write ``locate.pt2`` and ``read.pt2``; their largest difference from the network.

    Raises:
        ValueError: a program does not give what the network gives.
    """
    model, channels = trained.model.eval(), trained.reading.channels
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(1, channels, *low, generator=generator)
    shape = torch.tensor([[low[0] * 8, low[1] * 8]])
    locate, read = Locate(model), Read(model)
    with torch.no_grad():
        first = torch.export.export(locate, (example, shape))
        high = torch.rand(1, channels, low[0] * 8, low[1] * 8, generator=generator)
        seen = model(example, high)
        second = torch.export.export(read, (seen[1].patches, seen[1].weights))
        # Compared on another image than the one that was traced.
        example, high = (torch.rand(x.shape, generator=generator) for x in (example, high))
        wanted, seen_now = model(example, high)
        offsets, weights, _ = first.module()(example, shape)
        logits = second.module()(seen_now.patches, weights)
    if not torch.equal(offsets, seen_now.offsets):
        raise ValueError("the exported program looks at other places than the network")
    difference = float((logits - wanted).abs().max())
    if difference > 1e-4 * max(1.0, float(wanted.abs().max())):
        raise ValueError(f"the exported program differs from the network by {difference:.3g}")
    for program, name in ((first, "locate.pt2"), (second, "read.pt2")):
        with atomic_path(folder / name) as temporary:
            torch.export.save(program, temporary)
    return difference
