"""Archives as they come from a network: damaged, cut off, or made to do harm."""

import zipfile
from pathlib import Path

import pytest

from ats.datasets.archive import unpack_zip

FILES = {"a.txt": b"first", "deep/er/b.bin": bytes(range(256)) * 400}


def archive(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return path


def test_everything_comes_out(tmp_path: Path) -> None:
    folder = unpack_zip(archive(tmp_path / "x.zip"), tmp_path / "new" / "out", progress=False)
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".out.0123abcd.tmp"
    leftover.mkdir()
    (leftover / "half.jpg").touch()
    (tmp_path / ".out.of-another-program").mkdir()
    unpack_zip(archive(tmp_path / "x.zip"), tmp_path / "out", progress=False)
    assert not leftover.exists()
    assert (tmp_path / ".out.of-another-program").exists()


@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/outside", "..\\outside", "C:\\outside"]
)
def test_a_path_that_leads_out_is_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    harmful = archive(tmp_path / "x.zip", {"good.txt": b"good", name: b"harm"})
    with pytest.raises(ValueError, match=r"leads out of the folder.*nothing was unpacked"):
        unpack_zip(harmful, tmp_path / "in" / "out", progress=False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["x.zip"]
    assert not (tmp_path.parent / "outside").exists()


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr(link, "/etc")
    with pytest.raises(ValueError, match="'link', which leads out"):
        unpack_zip(tmp_path / "x.zip", tmp_path / "out", progress=False)


@pytest.mark.parametrize("damage", ["cut", "middle", "empty"])
def test_a_damaged_archive_leaves_nothing(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path / "x.zip")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "middle":
        content[len(content) // 2] ^= 0xFF
    else:
        content.clear()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.zip is damaged or truncated.*delete it"):
        unpack_zip(path, tmp_path / "out", progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.zip"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    unpack_zip(tmp_path / "no such archive", tmp_path / "out", progress=False)
    assert list((tmp_path / "out").iterdir()) == []
