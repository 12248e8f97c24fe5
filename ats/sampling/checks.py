"""What attention and the number of patches must be."""

import torch
from torch import Tensor


def check_attention(attention: Tensor, sums: Tensor | None = None) -> None:
    """Refuse what is no attention.

    Args:
        attention: (B, \\*map).
        sums: (B, T) of parts that make up each map, of float32 or wider, if they are known.

    Raises:
        ValueError: it is not finite, negative, or does not sum to 1 in every image. On a GPU, and
            not at once, a RuntimeError, since the host does not wait for the answer.
    """
    check_type(attention)
    if torch.compiler.is_compiling():
        return
    rows = attention.detach().flatten(1)
    if sums is None:
        sums = rows
    total = sums.sum(1, dtype=torch.promote_types(sums.dtype, torch.float32))
    # The least of each row takes two thirds of the time of the least of all.
    valid = (((total - 1).abs() <= tolerance_of(attention)) & (rows.amin(1) >= 0)).all()
    if valid.device.type == "cuda":
        # Reading the answer would make the host wait for the device in every step.
        torch._assert_async(valid, "attention must be non-negative, finite and sum to 1")
    elif not valid:
        raise ValueError(_attention_fault(rows, total))


def check_type(attention: Tensor) -> None:
    """Refuse with a ValueError what is no tensor, or not of floating point."""
    if not isinstance(attention, Tensor):
        raise ValueError(f"attention must be a torch.Tensor, got {type(attention)}; convert it")
    if not attention.is_floating_point():
        raise ValueError(f"attention must be floating point, got {attention.dtype}")


def check_n_patches(n_patches: int) -> None:
    """Refuse with a ValueError what is no number of patches."""
    if not hasattr(n_patches, "__index__") or n_patches < 1:
        raise ValueError(f"n_patches={n_patches!r} must be a whole number of at least 1")


def tolerance_of(attention: Tensor) -> float:
    """By how much the sum of attention may differ from 1."""
    return 1e-3 if attention.dtype in (torch.float32, torch.float64) else 3e-2


def _attention_fault(rows: Tensor, total: Tensor) -> str:
    if not rows.isfinite().all():
        return (
            "attention contains NaN or infinite values; has training diverged? Lower the learning "
            "rate, or clip the gradient norm"
        )
    if (rows < 0).any():
        return f"attention has negative values (minimum {rows.min():.3g}); apply a softmax first"
    worst = total[(total - 1).abs().argmax()]
    return (
        f"attention must sum to 1 in each image, got {worst:.6g}; apply a softmax over the whole "
        "map (ats.SampleSoftmax)"
    )
