"""How this process gets its memory."""

import os


def use_huge_pages() -> None:
    """Let torch ask Linux for pages of 2 MiB, for tensors of at least that size on a CPU.

    Activations are given back and asked for anew in every step. In pages of 4 KiB, handing them out
    takes as long as computing them: ``benchmarks/huge_pages.py``. For commands, before their first
    tensor: torch looks once. What a user has set stays.

    References:
        Transparent Hugepage Support, https://docs.kernel.org/admin-guide/mm/transhuge.html.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
