"""Imports go one way, as the architecture page of the documentation draws it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ats"

TORCH = {"torch"}
NUMPY = {"torch", "numpy"}
MATHEMATICS = ("sampling", "geometry", "patches", "entropy", "prior")

# Part of the package: what it may import of the others beside itself, and of other distributions.
# None stands for anything.
ALLOWED: dict[str, tuple[set[str] | None, set[str] | None]] = {
    **{part: (set(), TORCH) for part in MATHEMATICS},
    "sampling": ({"kernels"}, TORCH),
    "patches": ({"kernels"}, TORCH),
    "kernels": (set(), {*TORCH, "triton"}),
    # Torch itself needs filelock.
    "files": (set(), {*NUMPY, "filelock"}),
    "threads": (set(), set()),
    "memory": (set(), set()),
    "images": ({"patches", "files", "threads"}, None),
    "ahead": ({"threads"}, TORCH),
    "nn": ({"sampling", "geometry", "images", "prior", "ahead"}, TORCH),
    "exact": ({"geometry", "images", "nn"}, TORCH),
    "nested": ({"sampling", "images", "nn"}, TORCH),
    "votes": ({"nn"}, TORCH),
    "networks": ({"nn"}, TORCH),
    "transforms": ({"nn", "images"}, TORCH),
    "affine": ({"nn", "images", "transforms"}, TORCH),
    "plots": ({"files"}, None),
    "datasets": ({"images", "files"}, None),
    "training": (None, None),
    "cli": (None, None),
    "api": (None, None),
    "__main__": ({"cli"}, set()),
    "__init__": ({*MATHEMATICS, "images", "ahead", "nn", "exact", "nested", "votes"}, set()),
}

# What `import ats` must do without.
OPTIONAL = (
    "lightning",
    "matplotlib",
    "openslide",
    "PIL",
    "pyvips",
    "safetensors",
    "skimage",
    "sklearn",
    "tifffile",
    "tiffslide",
    "torchmetrics",
    "triton",
    "zarr",
)


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names that a file imports, inside functions and for type checking as well.

    Or at its top level alone.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names: set[str] = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def part_of(path: Path) -> str:
    """First name below ``ats`` of a file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(names: set[str]) -> set[str]:
    """Parts of ``ats`` among dotted names; ``__init__`` for names of the package itself."""
    own = [name.split(".") for name in names if name.split(".")[0] == "ats"]
    parts = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    return {name[1] if len(name) > 1 and name[1] in parts else "__init__" for name in own}


def distributions_imported(names: set[str]) -> set[str]:
    """First names of what is neither ours nor of the standard library."""
    return {name.split(".")[0] for name in names} - {"ats"} - set(sys.stdlib_module_names)


FILES = sorted(PACKAGE.rglob("*.py"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in ALLOWED, f"say here and on the architecture page what {part} may import"
    parts, distributions = ALLOWED[part]
    names = imported(path)
    if parts is not None:
        assert parts_imported(names) <= {*parts, part}
    if distributions is not None:
        assert distributions_imported(names) <= distributions


@pytest.mark.parametrize("path", sorted((PACKAGE / "images").glob("*.py")), ids=label)
def test_formats_of_images_are_imported_where_they_are_used(path: Path) -> None:
    assert distributions_imported(imported(path, top_level=True)) <= NUMPY


def test_the_library_does_not_import_the_command_line() -> None:
    for path in FILES:
        if part_of(path) not in ("cli", "api", "__main__"):
            assert not parts_imported(imported(path)) & {"cli", "api", "__main__"}, path


def test_nothing_imports_the_scripts() -> None:
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    for path in FILES:
        assert not {name.split(".")[0] for name in imported(path)} & (scripts | {"scripts"})


def test_import_needs_torch_and_numpy_alone() -> None:
    program = f"import sys, ats; print([m for m in {OPTIONAL!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_architecture_page_names_every_part() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for part in ALLOWED.keys() - {"__init__"}:
        name = f"{part}/" if (PACKAGE / part).is_dir() else f"{part}.py"
        assert f"\n  {name} " in page, name
