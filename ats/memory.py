"""How this process gets its memory."""

import ctypes
import os
import platform

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let the C library keep what tensors on the CPU give back, for the next ones.

    A training step asks for the same activations again and again. Getting fresh memory from the
    system for each takes longer than computing them (``benchmarks/kept_memory.py``). The price is
    that memory stays in pieces, so that a process may peak higher. For commands, which own their
    process. Does nothing without glibc, or where the user has set how it allocates.

    References:
        mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _SETTINGS):
        return
    library = ctypes.CDLL(None)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(_MMAP_MAX, 0)
