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
from ats.nn import Classifier
from ats.prior import local_contrast

Augmentation = Callable[[Tensor, Images | Tensor, Sequence[torch.Generator]], tuple[Tensor, Images]]
"""From small views, images and a generator for each image to other small views and images."""


def sampling_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :class:`ats.AttentionSampling` that the scripts share."""
    prior: Callable[[Tensor], Tensor] | None = None
    if args.prior == "contrast":
        prior = local_contrast
    design = training_design(args.design, centred=args.centring)
    inference: sampling.DesignLike = args.inference
    if args.inference == "sampled":
        inference = design
    elif args.inference == "peaks":
        inference = sampling.Peaks()
    return {
        "n_patches": args.n_patches,
        "patch_size": args.patch_size,
        "design": design,
        "prior": prior,
        "inference": inference,
    }


def training_design(name: str, *, centred: bool) -> sampling.DesignFunction:
    """A design by name, centred if it can be and shall be; or peaks, which are none."""
    if name == "peaks":
        return sampling.Peaks()
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


def parameter_groups(model: Classifier, weight_decay: float) -> list[dict[str, Any]]:
    """All parameters, in groups for an optimizer.

    Kernels of the attention do not decay, since smaller logits are another attention; nor do
    biases. Other kernels do: features are normalised by what follows them.
    """
    if not weight_decay:
        # An optimizer of one's own may have one.
        return [{"params": list(model.parameters())}]
    attention = {id(parameter) for parameter in model.sampling.attention.parameters()}
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for parameter in model.parameters():
        decays = parameter.dim() > 1 and id(parameter) not in attention
        (decay if decays else keep).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": keep},
        {"params": decay, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def make_optimizer(
    args: argparse.Namespace,
) -> Callable[[Iterable[Any]], Optimizer]:
    """The optimizer that the arguments name, of given parameters or groups of them."""

    def make(parameters: Iterable[Any]) -> Optimizer:
        if args.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=args.lr, momentum=args.momentum)
        kind = torch.optim.AdamW if args.weight_decay else torch.optim.Adam
        # What decays says so in its group.
        optimizer = kind(parameters, lr=args.lr, weight_decay=0.0)
        if args.recipe == "published":
            start_as_keras(optimizer)
        return optimizer

    return make
