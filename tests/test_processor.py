"""What the processor of this machine can do, and what is said of it."""

from pathlib import Path

import pytest
from programs import make_digits, run

pytest.importorskip("lightning")
from ats.training.processor import multiplies_bfloat16

SMALL = ("--patch_size", "24x24", "--n_patches", "3", "--batch_size", "8", "--epochs", "1")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2 avx512f\n", False),
        (None, None),
    ],
)
def test_bfloat16_is_found(text: str | None, wanted: bool | None, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert multiplies_bfloat16(path) is wanted


def test_slow_bfloat16_is_said(tmp_path: Path) -> None:
    """Where it is slow; whether a processor with it says nothing, others have to see."""
    data = make_digits(tmp_path / "data", n_train=8, n_test=8)
    for precision in ("bf16", "32"):
        options = (*SMALL, "--precision", precision, "--accelerator", "cpu")
        said = run("mnist.py", data, tmp_path / precision, *options).stderr
        slow = precision == "bf16" and multiplies_bfloat16() is False
        assert ("no instructions for bfloat16" in said) == slow
    # That went on, and has to keep its precision.
    options = (*SMALL, "--precision", "bf16", "--accelerator", "cpu", "--resume")
    assert "no instructions" not in run("mnist.py", data, tmp_path / "bf16", *options).stderr
