"""From the table of a run to what its user had better change."""

import argparse
import math
from collections.abc import Callable, Sequence

from ats.training.history import Row

PATIENCE = 3
"""Epochs in a row before a word is said."""

FLAT_PATIENCE = 5
"""Attention that will find something often stays flat for a few epochs."""

LEARNT = 0.75
"""Training loss relative to the best constant prediction below which attention needs no advice."""

FLAT_LEARNT = 0.95
"""The same for flat attention: the loss falls soon once attention finds something."""


def advice(
    rows: Sequence[Row], args: argparse.Namespace, positions: int, n_patches: int
) -> list[str]:
    """Lines about what has begun to go wrong with the last row; none of what has been said already.

    Nothing is said of attention that does not change, with the design ``peaks``, nor while the loss
    is well below that of the best constant prediction: attention on one position is then what the
    images ask for, and not a collapse.

    - *Collapsed*: for 3 epochs, of several positions an image has fewer than 1.5 effective ones, or
      the largest of several weights has more than 0.9 of the sum.
    - *Flat*: for 5 epochs, after a warm-up, the entropy is above 0.95 of what it is without any
      learning: the logarithm of the number of positions, or with a prior its value in the first
      epoch. Nothing is missed if all positions are seen.
    - *Empty*: for 3 epochs, more than half of the patches have no contrast.

    Args:
        rows: of the table.
        args: of the training.
        positions: of a map, of the largest if they differ.
        n_patches: N.
    """
    if positions == 1 or args.design == "peaks":
        return []

    def collapsed(row: Row) -> bool:
        one_weight = n_patches > 1 and row["train_largest_weight"] > 0.9
        few = one_weight or row["train_effective_positions"] < 1.5
        return few and _stuck(row, LEARNT)

    # The logarithm of the column is shifted as well.
    highest = -math.log(1 / positions + 1e-6)
    if args.prior != "none":
        highest = rows[0]["train_entropy"]

    def flat(row: Row) -> bool:
        spread = row["train_entropy"] > 0.95 * highest
        choice = row["train_effective_positions"] > n_patches
        return spread and choice and _stuck(row, FLAT_LEARNT)

    def empty(row: Row) -> bool:
        return row["train_empty_patches"] > 0.5 and _stuck(row, LEARNT)

    late = rows[math.ceil(args.warmup) :]
    found = []
    if _begins(rows, collapsed, PATIENCE):
        found.append(_collapsed(rows[-1], args))
    if _begins(late, flat, FLAT_PATIENCE):
        found.append(_flat(rows[-1], args))
    if _begins(rows, empty, PATIENCE):
        found.append(_empty(rows[-1], args))
    return found


def _stuck(row: Row, share: float) -> bool:
    return row["train_loss"] > share * row["train_constant_loss"]


def _begins(rows: Sequence[Row], trouble: Callable[[Row], bool], epochs: int) -> bool:
    """Whether so many epochs in a row, and no more, end with the last one and are in trouble."""
    # Rows of a run that was begun before these columns were measured say nothing.
    recent = ["train_constant_loss" in row and trouble(row) for row in rows[-epochs - 1 :]]
    return recent[-epochs:] == [True] * epochs and (len(recent) == epochs or not recent[0])


def _collapsed(row: Row, args: argparse.Namespace) -> str:
    return (
        f"Warning: attention has collapsed: {row['train_effective_positions']:.1f} effective "
        f"positions, {row['train_largest_weight']:.2f} of the weight in the largest patch, while "
        f"{_losses(row)}; raise --regularizer_strength (now {args.regularizer_strength:g}), lower "
        f"--lr (now {args.lr:g}), or take a longer --warmup (now {args.warmup:g})"
    )


def _flat(row: Row, args: argparse.Namespace) -> str:
    given = _not_given(args, prior="contrast", design="systematic", feature_scale=10.0)
    centring = [] if args.centring else ["--centring"]
    more = [f"a higher --lr (now {args.lr:g})", f"more --n_patches (now {args.n_patches})"]
    return (
        f"Warning: attention stays flat: entropy {row['train_entropy']:.2f}, "
        f"{row['train_effective_positions']:.0f} effective positions, while {_losses(row)}; try "
        f"{', '.join([*given, *centring, *more])}"
    )


def _empty(row: Row, args: argparse.Namespace) -> str:
    given = [*_not_given(args, prior="contrast"), "a larger --patch_size"]
    return (
        f"Warning: {row['train_empty_patches']:.0%} of the patches are empty, without any "
        f"contrast, while {_losses(row)}; try {', '.join(given)}"
    )


def _losses(row: Row) -> str:
    return (
        f"the training loss is {row['train_loss']:.3f}, and "
        f"{row['train_constant_loss']:.3f} without looking at the image"
    )


def _not_given(args: argparse.Namespace, **wanted: str | float) -> list[str]:
    """Options that do not have these values yet."""
    return [
        f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"
        for name, value in wanted.items()
        if getattr(args, name) != value
    ]
