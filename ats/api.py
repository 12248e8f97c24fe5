"""Train and predict on a user's own images, in a few lines: what the command ``ats`` does."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ats.cli.measure import predict_all
from ats.cli.model import Trained, load_model
from ats.cli.settings import tokens_of, training_parser
from ats.cli.train import train as train_with
from ats.datasets.file_images import ImageFiles
from ats.training.arguments import parse_with_recipe

__all__ = ["Trained", "load", "predict", "train"]


def train(**settings: Any) -> Trained:
    """Train on images with one label each, and give the trained network.

    Args:
        settings: those of ``ats train``, by their names: ``images="slides"``,
            ``labels="labels.csv"``, ``out="runs/slides"``, ``epochs=30``, and so on.

    Raises:
        ValueError: an unknown setting, or ones that do not fit each other or the images.
    """
    parser = training_parser(exit_on_error=False)
    resume = ["--resume"] if settings.pop("resume", False) else []
    tokens = [*tokens_of(settings, parser, "settings"), *resume]
    try:
        args = parse_with_recipe(parser, tokens)
    # argparse leaves the program for some mistakes whatever it was told.
    except (SystemExit, argparse.ArgumentError) as error:
        raise ValueError(f"settings cannot be used: {error}") from error
    train_with(args)
    return load(args.output)


def load(run: str | os.PathLike[str]) -> Trained:
    """The network of a run after its last finished epoch.

    Raises:
        ValueError: there is no such run.
    """
    return load_model(Path(run))


def predict(
    trained: Trained, images: Sequence[str | os.PathLike[str]]
) -> dict[str, dict[str, float]]:
    """For each image the score of every output; images that cannot be read raise.

    The same image always has the same scores, whatever else is asked.

    Raises:
        ImageError: an image cannot be read.
    """
    dataset = ImageFiles(
        images, torch.zeros(len(images)), trained.reading, strict=True, progress=False
    )
    scores = predict_all(trained, dataset, progress=False).scores.tolist()
    return {
        os.fspath(path): dict(zip(trained.task.names, own, strict=True))
        for path, own in zip(images, scores, strict=True)
    }
