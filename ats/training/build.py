"""From parsed arguments to what they name."""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ats import sampling
from ats.prior import local_contrast


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


def make_optimizer(
    args: argparse.Namespace,
) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    """The optimizer that the arguments name, of given parameters."""

    def make(parameters: Iterable[nn.Parameter]) -> Optimizer:
        if args.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=args.lr, momentum=args.momentum)
        # The epsilon of Keras, which the published results were made with.
        return torch.optim.Adam(parameters, lr=args.lr, eps=1e-7)

    return make
