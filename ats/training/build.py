"""From parsed arguments to what they name."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ats import sampling
from ats.affine import RandomAffine
from ats.images import Images
from ats.prior import local_contrast

Augmentation = Callable[[Tensor, Images | Tensor, Sequence[torch.Generator]], tuple[Tensor, Images]]
"""From small views, images and a generator for each image to other small views and images."""


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :class:`ats.AttentionSampling` that the scripts share."""
    prior: Callable[[Tensor], Tensor] | None = None
    if args.prior == "contrast":
        prior = local_contrast
    design = training_design(args.design, centred=args.centring)
    inference = design if args.inference == "sampled" else args.inference
    return {
        "n_patches": args.n_patches,
        "patch_size": args.patch_size,
        "design": design,
        "prior": prior,
        "inference": inference,
    }


def training_design(name: str, *, centred: bool) -> sampling.DesignFunction:
    """A design by name, centred if it can be and shall be."""
    design = sampling.resolve_design(name)
    if centred and isinstance(design, sampling.Design):
        return replace(design, centred=True)
    return design


def augmentation(args: argparse.Namespace, own: Augmentation | None) -> Augmentation | None:
    """The changes of training images that the arguments name, and then an experiment's own."""
    if args.augment == "none":
        return own
    affine = RandomAffine()

    def change(
        x_low: Tensor, x_high: Images | Tensor, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Images]:
        # In this order an image that is panned outermost says how far.
        x_low, turned = affine(x_low, x_high, generators)
        return (x_low, turned) if own is None else own(x_low, turned, generators)

    return change


def start_as_keras(optimizer: torch.optim.Adam) -> None:
    """Make Adam's first steps those of Keras in 2019: its epsilon, and a step count one ahead.

    The bias correction of the first step is then that of a second one, which shortens it to 0.74.
    """
    for group in optimizer.param_groups:
        group["eps"] = 1e-7
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(1.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def make_optimizer(
    args: argparse.Namespace,
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """The optimizer that the arguments name, of given parameters."""

    def make(parameters: Iterable[nn.Parameter]) -> Optimizer:
        if args.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=args.lr, momentum=args.momentum)
        optimizer = torch.optim.Adam(parameters, lr=args.lr)
        if args.recipe == "published":
            start_as_keras(optimizer)
        return optimizer

    return make
