"""What the processor of this machine can do."""

from pathlib import Path


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether it multiplies numbers of bfloat16, by AVX512-BF16 or AMX on x86, or BF16 on Arm.

    Without, a training in bfloat16 takes up to ten times as long as in float32
    (``benchmarks/precision.py``).

    Args:
        cpuinfo: where Linux says what it can do.

    Returns:
        None where that is not known.
    """
    if not cpuinfo.exists():
        return None
    words = set(cpuinfo.read_text(encoding="utf-8").split())
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
