"""The learning rate over a run, from nothing but how far the run has come."""

import argparse
import math


def learning_rate_factor(args: argparse.Namespace, epoch: float) -> float:
    """Factor on the learning rate at a moment of a run.

    It rises linearly over the first ``warmup`` epochs. From there on it is 1, or with the cosine
    schedule (1 + cos(pi t)) / 2, where t is the share of the other epochs that is over. Scripts
    that have ``decrease_lr_at`` divide it by 10 from that epoch on.

    Args:
        args: parsed with :func:`ats.training.arguments.add_training_arguments`.
        epoch: epochs that are over, with the part of the one that is not.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, without
        the restarts.
    """
    factor = min(1.0, epoch / args.warmup) if args.warmup else 1.0
    if args.schedule == "cosine":
        over = max(epoch - args.warmup, 0) / max(args.epochs - args.warmup, 1e-9)
        factor *= (1 + math.cos(math.pi * min(over, 1.0))) / 2
    if epoch >= getattr(args, "decrease_lr_at", math.inf):
        factor *= 0.1
    return factor
