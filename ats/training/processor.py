"""What the processor of this machine can do."""

import functools
import sys
from pathlib import Path


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether it multiplies numbers of bfloat16, by AVX512-BF16 or AMX on x86, or BF16 on Arm.

    Without, bfloat16 takes several times as long as float32 (``benchmarks/precision.py``).

    Args:
        cpuinfo: where Linux says what it can do.

    Returns:
        None where that is not known.
    """
    if not cpuinfo.exists():
        return None
    words = set(cpuinfo.read_text(encoding="utf-8").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})


@functools.cache
def warn_of_bfloat16() -> None:
    """Say, once, where bfloat16 makes what runs on this processor slower."""
    if multiplies_bfloat16() is False:
        print(
            "precision=bf16: this processor has no instructions for bfloat16 (AVX512-BF16 or AMX, "
            "BF16 on Arm), which then takes several times as long as float32; leave --precision "
            "out, which is float32",
            file=sys.stderr,
            flush=True,
        )
