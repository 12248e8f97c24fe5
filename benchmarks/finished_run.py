"""The network and the test set of a finished run, for benchmarks that measure it anew."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any, NamedTuple

import torch

from ats import Classifier
from ats.datasets.megapixel_mnist import MegapixelMNIST
from ats.datasets.scenes import Scenes
from ats.datasets.sources import SOURCES
from ats.files import file_digest
from ats.training.folder import FREE
from ats.training.run import BatchDataset
from ats.training.start import latest_weights, start_from

SCRIPTS = Path(__file__).parent.parent / "scripts"


class Run(NamedTuple):
    """A finished run.

    Attributes:
        args: of its script, but for the place of the data set.
        model: as it was trained, in ``eval()`` mode.
        test: its test set.
        identity: of weights, arguments and test set: another one where results may be others.
    """

    args: argparse.Namespace
    model: Classifier
    test: BatchDataset
    identity: list[Any]


def read_run(folder: Path, dataset: Path | None = None) -> Run:
    """The run in a folder, with its latest weights.

    Args:
        folder: of a run of ``scripts/mnist.py`` or ``scripts/speed_limits.py``.
        dataset: where its data set is now; by default where it was.

    Raises:
        FileNotFoundError: the run or its data set is not there.
        ValueError: the run is another script's, has finished no epoch, or is damaged.
    """
    path = folder / "parameters.json"
    script, values = read_parameters(path)
    weights = latest_weights(folder)
    if weights is None:
        raise ValueError(
            f"run {folder} has no weights_EEE.safetensors, since none of its epochs has finished; "
            f"go on with it by {script} --resume"
        )
    dataset = dataset or Path(values["dataset"])
    if not dataset.is_dir():
        raise FileNotFoundError(
            f"the data set of run {folder} is not in {dataset}; name its folder after that of the "
            "run"
        )
    program = run_path(str(SCRIPTS / script))
    # Runs of former versions lack the options that came later.
    args = program["parse"]([str(dataset), str(folder)])
    vars(args).update({**values, "dataset": dataset})
    try:
        model, test, data = READERS[script](args, program["build_model"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r})") from error
    start_from(model, weights)
    # As in training, where convolutions run faster so.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # What was not given is as if there were no such option, as in runs of former versions.
    fixed = {
        name: value for name, value in values.items() if name not in FREE and value is not None
    }
    return Run(args, model.eval(), test, [file_digest(weights), fixed, data])


def read_parameters(path: Path) -> tuple[str, dict[str, Any]]:
    """The script of a run, and its arguments."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; name the folder of a run")
    try:
        parameters = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    if not isinstance(parameters, dict):
        parameters = {}
    script, arguments = parameters.get("script"), parameters.get("arguments")
    if not isinstance(arguments, dict) or not isinstance(arguments.get("dataset"), str):
        raise ValueError(f"{path} is damaged, or not of a run; name the folder of a run")
    if script not in READERS:
        raise ValueError(f"{path} is of a run of {script}; name one of {' or '.join(READERS)}")
    return script, arguments


def read_digits(
    args: argparse.Namespace, build: Callable[..., Classifier]
) -> tuple[Classifier, BatchDataset, Any]:
    """Network and test set of ``mnist.py``, and what tells the latter from others."""
    test = MegapixelMNIST(args.dataset, train=False)
    return build(args, test.n_classes, test.channels), test, test.parameters


def read_scenes(
    args: argparse.Namespace, build: Callable[..., Classifier]
) -> tuple[Classifier, BatchDataset, Any]:
    """Network and test set of ``speed_limits.py``, and what tells the latter from others."""
    source = SOURCES[args.source](args.dataset, args.limits)
    scenes = source.scenes(train=False)
    max_bytes = int(min(args.cache_gib * 2**30, 2**62))
    test = Scenes(scenes, source.classes, scale=args.scale, cache=args.cache, max_bytes=max_bytes)
    names = [(scene.path.name, scene.label) for scene in scenes]
    return build(args, len(source.classes), test.high_shape), test, [test.high_shape, *names]


READERS = {"mnist.py": read_digits, "speed_limits.py": read_scenes}
