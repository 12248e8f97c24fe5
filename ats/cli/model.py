"""A trained network with everything that a prediction needs: built, stored, loaded."""

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ats import AttentionSampling, Classifier
from ats.datasets.file_images import ImageFiles, Reading
from ats.files import write_json
from ats.networks import Standardize, small_attention, small_features
from ats.nn import glorot_uniform_, unit_float
from ats.training.build import sampling_arguments
from ats.training.start import latest_weights, start_from
from ats.training.tasks import TASKS, Numbers, Task

MODEL = "model.json"
_BUILT_IN: dict[str, dict[str, Callable[[int], nn.Module]]] = {
    "attention": {"small": small_attention},
    "feature": {"small": small_features},
}
# What of the settings the network is made of.
_SETTINGS = (
    "attention",
    "feature",
    "patch_size",
    "n_patches",
    "design",
    "centring",
    "prior",
    "inference",
    "feature_scale",
)


class Trained(NamedTuple):
    """A network and what belongs to it.

    Attributes:
        model: the network.
        task: what its outputs mean.
        reading: how images are read for it.
    """

    model: Classifier
    task: Task
    reading: Reading


def network(kind: str, name: str, channels: int) -> nn.Module:
    """An attention or feature network by its name or import path.

    Raises:
        ValueError: there is no such function, or it makes no module.
    """
    if name in _BUILT_IN[kind]:
        # Not the weights of a network of the user's own, which may be trained already.
        return glorot_uniform_(_BUILT_IN[kind][name](channels))
    module, _, function = name.partition(":")
    # As python itself does, but for programs that are installed.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        built: Any = getattr(importlib.import_module(module), function)(channels)
    # A user's code can raise anything.
    except Exception as error:
        raise ValueError(
            f"{kind}={name} is neither {', '.join(_BUILT_IN[kind])} nor package.module:function "
            f"({type(error).__name__}: {error}); the function takes the number of channels and "
            "returns a module"
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{kind}={name} returned {type(built).__name__} and no torch module")
    return built


def build(settings: dict[str, Any], task: Task, reading: Reading, pixels: Any) -> Classifier:
    """The network that settings name.

    Args:
        settings: those of ``_SETTINGS``.
        task: says how many outputs.
        reading: says how many channels.
        pixels: mean and standard deviation of each channel in the training set.
    """
    patch_size = tuple(settings["patch_size"])
    feature = network("feature", settings["feature"], reading.channels)
    feature.eval()
    with torch.no_grad():
        try:
            shape = feature(torch.zeros(1, reading.channels, *patch_size)).shape
        except RuntimeError as error:
            raise ValueError(
                f"feature={settings['feature']} cannot take patches of patch_size={patch_size} "
                f"with {reading.channels} channels ({error})"
            ) from error
    if len(shape) != 2:
        raise ValueError(
            f"feature={settings['feature']} returns {tuple(shape)} for one patch; it must return "
            "(batch, features)"
        )
    feature.train()
    attention = network("attention", settings["attention"], reading.channels)
    check_attention(attention, settings["attention"], reading.channels)
    arguments = argparse.Namespace(**{**settings, "patch_size": patch_size})
    sampling = AttentionSampling(
        nn.Sequential(Standardize(*pixels), attention),
        nn.Sequential(Standardize(*pixels), feature),
        **sampling_arguments(arguments),
    )
    scale = settings["feature_scale"] or None
    return Classifier(sampling, int(shape[1]), len(task.names), scale=scale)


def check_attention(attention: nn.Module, name: str, channels: int) -> None:
    """Whether positions of the attention map lie evenly over the whole small view.

    Raises:
        ValueError: it takes no small views, returns no map, or its convolutions lack padding.
    """
    sides = (128, 256)
    attention.eval()
    try:
        with torch.no_grad():
            shapes = [attention(torch.zeros(1, channels, side, side)).shape for side in sides]
    except RuntimeError as error:
        raise ValueError(
            f"attention={name} cannot take small views with {channels} channels ({error})"
        ) from error
    attention.train()
    if any(len(shape) != 4 or shape[:2] != (1, 1) for shape in shapes):
        raise ValueError(
            f"attention={name} returns {tuple(shapes[0])} for one small view; it must return "
            "(batch, 1, height, width)"
        )
    extents = [shape[2] for shape in shapes]
    if extents[0] == extents[1]:
        # A map of one size, whatever the view, covers all of it.
        return
    step = (sides[1] - sides[0]) / (extents[1] - extents[0])
    lost = sides[0] - step * extents[0]
    if lost > step:
        raise ValueError(
            f"attention={name} has no positions at the border of the small view, of which it loses "
            f"{lost:.0f} pixels, and patches would lie beside what it found; pad its convolutions "
            "(padding='same')"
        )


def pixel_statistics(dataset: ImageFiles) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over the small views, pixels in [0, 1]."""
    totals = torch.zeros(3, dataset.reading.channels, dtype=torch.float64)
    for index in range(len(dataset)):
        pixels = unit_float(dataset.small_view(index)).double().flatten(1)
        totals += torch.stack([torch.ones_like(pixels), pixels, pixels.square()]).sum(2)
    mean = totals[1] / totals[0]
    std = (totals[2] / totals[0] - mean.square()).clamp_min(1e-6).sqrt()
    return mean.tolist(), std.tolist()


def save_model(
    folder: Path, settings: dict[str, Any], task: Task, reading: Reading, pixels: Any
) -> None:
    """Write ``model.json``: all that is needed to build the network again."""
    numbers = {"mean": task.mean, "spread": task.spread} if isinstance(task, Numbers) else {}
    write_json(
        folder / MODEL,
        {
            "settings": {name: settings[name] for name in _SETTINGS},
            "task": {"name": task.name, "names": task.names, **numbers},
            "reading": reading._asdict(),
            "pixels": {"mean": pixels[0], "std": pixels[1]},
        },
    )


def load_model(folder: Path) -> Trained:
    """The network of a run after its last finished epoch, ready to predict.

    Raises:
        ValueError: the folder holds no run, or a damaged one, or one without a finished epoch.
    """
    path = folder / MODEL
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        about = dict(stored["task"])
        kind = TASKS[about.pop("name")]
        task = kind(**about)
        reading = Reading(**stored["reading"])
        pixels = (stored["pixels"]["mean"], stored["pixels"]["std"])
        settings = stored["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"run {folder} has no readable {MODEL} ({error!r}); give the --out folder of ats train"
        ) from error
    weights = latest_weights(folder)
    if weights is None:
        raise ValueError(f"run {folder} has not finished an epoch; go on with ats train --resume")
    model = build(settings, task, reading, pixels)
    start_from(model, weights)
    return Trained(model.eval(), task, reading)
