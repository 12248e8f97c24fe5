"""The Swedish Traffic Signs: their real annotations, and a server that has small archives."""

import hashlib
import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Server, serving
from PIL import Image

from ats.datasets import swedish_signs
from ats.datasets.scenes import Scenes
from ats.datasets.swedish_signs import (
    SwedishSign,
    SwedishSigns,
    fetch_swedish_signs,
    label_of,
    parse_annotations,
)

SHARED = os.environ.get("ATS_SHARED")
needs_shared = pytest.mark.skipif(not SHARED, reason="ATS_SHARED, with the files, is not set")


def read(part: str) -> str:
    return (Path(SHARED or "") / "data" / "sts" / f"{part}_annotations.txt").read_text()


def counted_from_the_raw_text(text: str) -> Counter[str]:
    """The same rule without the parser: nothing but searching and comparing strings."""
    counts: Counter[str] = Counter()
    for line in text.split("\n"):
        body = line.rstrip("\r").replace(" ", "").partition(":")[2].replace("MISC_SIGNS;", "")
        if not line.strip():
            continue
        if body == "":
            counts["EMPTY"] += 1
            continue
        best = None
        for entry in body.split(";"):
            found = re.fullmatch(r"([A-Z_]+),(.+),(.+),(.+),(.+),PROHIBITORY,(\d+)_SIGN", entry)
            if found is None:
                continue
            right, bottom, left, top = (float(found[n].replace("l", "")) for n in range(2, 6))
            order = ["VISIBLE", "BLURRED", "SIDE_ROAD", "OCCLUDED"].index(found[1])
            key = (order, -(right - left) * (bottom - top), found[6], found[1])
            best = key if best is None or key < best else best
        if best is not None and best[3] == "VISIBLE" and best[2] in ("50", "70", "80"):
            counts[best[2]] += 1
    return counts


@needs_shared
@pytest.mark.parametrize(
    ("part", "images", "kept"),
    [
        ("Set1", 1970, {"EMPTY": 486, "50": 79, "70": 123, "80": 59}),  # 747 in the paper
        ("Set2", 1807, {"EMPTY": 451, "50": 86, "70": 83, "80": 64}),  # 684
    ],
)
def test_every_line_of_the_real_annotations(part: str, images: int, kept: dict[str, int]) -> None:
    text = read(part)
    assert (
        hashlib.md5(
            (Path(SHARED or "") / "data" / "sts" / f"{part}_annotations.txt").read_bytes()
        ).hexdigest()
        == swedish_signs.ANNOTATION_MD5[part]
    )
    parsed = parse_annotations(text)
    assert len(parsed) == images == text.count(".jpg:")
    counts = Counter(label_of(signs, ("50", "70", "80")) for signs in parsed.values())
    del counts[None]
    assert counts == counted_from_the_raw_text(text) == kept
    signs = [sign for signs in parsed.values() for sign in signs]
    entries = re.findall(r"(?:VISIBLE|BLURRED|SIDE_ROAD|OCCLUDED),", text)
    assert len(signs) == len(entries)
    for sign in signs:
        top, left, bottom, right = sign.box
        assert top < bottom
        assert left < right
        assert 0 < (top + bottom) / 2 < 960
        assert 0 < (left + right) / 2 < 1280


def test_odd_lines() -> None:
    text = (
        "a.jpg:\r\n"
        "b.jpg:MISC_SIGNS;\r\n\r\n"
        "c.jpg:MISC_SIGNS;BLURRED, 478.4376l0, 540.8, 466.8,529.0,PROHIBITORY, 70_SIGN;\r\n"
        "d.jpg:VISIBLE, 20, 40, 10, 30, OTHER;VISIBLE, 20, 40, 10, 30"
    )
    parsed = parse_annotations(text)
    assert parsed["a.jpg"] == parsed["b.jpg"] == []
    box = (529.0, 466.8, 540.8, 478.43760)
    assert parsed["c.jpg"] == [SwedishSign("BLURRED", box, "PROHIBITORY", "70_SIGN")]
    assert [(sign.kind, sign.name) for sign in parsed["d.jpg"]] == [("OTHER", ""), ("", "")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no colon", "line 2 of the annotations has no colon: 'no colon'"),
        ("a.jpg:SEEN, 1, 2, 3, 4, A, B;", "line 2 of the annotations: 'SEEN' is none of VISIBLE"),
        ("a.jpg:VISIBLE, 1, 2;", "line 2 of the annotations: 'VISIBLE, 1, 2' has no box"),
        ("a.jpg:VISIBLE, 1, x, 2, 3;", "line 2 of the annotations: 'x' is no coordinate"),
    ],
)
def test_lines_that_are_none(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_annotations("first.jpg:\n" + line)


def sign(visibility: str, height: float, name: str) -> SwedishSign:
    return SwedishSign(visibility, (0, 0, height, 1), "PROHIBITORY", name)


@pytest.mark.parametrize(
    ("signs", "label"),
    [
        ([], "EMPTY"),
        ([sign("VISIBLE", 5, "STOP")], None),
        ([sign("VISIBLE", 5, "STOP"), sign("VISIBLE", 1, "70_SIGN")], "70"),
        ([sign("BLURRED", 9, "50_SIGN"), sign("VISIBLE", 1, "70_SIGN")], "70"),
        ([sign("VISIBLE", 2, "50_SIGN"), sign("VISIBLE", 1, "70_SIGN")], "50"),
        ([sign("VISIBLE", 2, "110_SIGN"), sign("VISIBLE", 1, "70_SIGN")], None),
        ([sign("BLURRED", 9, "50_SIGN")], None),
        ([sign("OCCLUDED", 9, "50_SIGN"), sign("SIDE_ROAD", 1, "70_SIGN")], None),
    ],
)
def test_the_most_visible_limit_decides(signs: list[SwedishSign], label: str | None) -> None:
    assert label_of(signs, ("50", "70", "80")) == label
    assert label_of(signs[::-1], ("50", "70", "80")) == label


LINES = {
    "Set1": ["a1.jpg:", "b1.jpg:VISIBLE, 30, 25, 10, 5, PROHIBITORY, 50_SIGN;"],
    "Set2": ["a2.jpg:MISC_SIGNS;", "b2.jpg:VISIBLE, 31, 26, 11, 6, PROHIBITORY, 80_SIGN;"],
}


def photograph(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    files = {}
    for part, lines in LINES.items():
        annotations = "\r\n".join(lines).encode()
        files[f"/{part}/annotations.txt"] = annotations
        monkeypatch.setitem(
            swedish_signs.ANNOTATION_MD5, part, hashlib.md5(annotations).hexdigest()
        )
        images = {line.split(":")[0]: photograph(len(files)) for line in lines}
        files[f"/{part}/{part}Part0.zip"] = archive(images)
    with serving(files) as server:
        yield server


def fetch(server: Server, folder: Path) -> SwedishSigns:
    fetch_swedish_signs(folder, mirrors=[server.url("/")], progress=False)
    return SwedishSigns(folder)


def test_one_command_fetches_everything(server: Server, tmp_path: Path) -> None:
    signs = fetch(server, tmp_path)
    assert signs.classes == ["EMPTY", "50", "70", "80"]
    train, test = signs.scenes(train=True), signs.scenes(train=False)
    assert [(scene.path.name, scene.label) for scene in train] == [
        ("a1.jpg", "EMPTY"),
        ("b1.jpg", "50"),
    ]
    assert test[1].boxes == ((6, 11, 26, 31),)
    assert [scene.label for scene in signs.backgrounds()] == ["EMPTY"]
    data = Scenes(train, signs.classes, scale=0.5, cache=tmp_path / "cache", progress=False)
    assert data[1].x_low.shape == (1, 3, 24, 32)
    # Nothing is fetched twice, and no archive stays.
    asked = len(server.asked)
    fetch(server, tmp_path)
    assert len(server.asked) == asked == 4
    assert not list(tmp_path.rglob("*.zip"))


def test_a_broken_download_goes_on(server: Server, tmp_path: Path) -> None:
    download_all = len(server.files["/Set1/Set1Part0.zip"])
    (tmp_path / "Set1").mkdir()
    (tmp_path / "Set1" / "annotations.txt").write_bytes(server.files["/Set1/annotations.txt"])
    server.breaks_after = download_all // 2
    with pytest.raises(OSError, match=r"Set1Part0.zip could not be downloaded .*the same again"):
        fetch(server, tmp_path)
    with pytest.raises(FileNotFoundError, match="lacks 2 of 2 images"):
        SwedishSigns(tmp_path).scenes(train=True)
    assert len(fetch(server, tmp_path).scenes(train=True)) == 2
    assert ("/Set1/Set1Part0.zip", f"bytes={download_all // 2}-") in server.asked


def test_annotations_with_a_wrong_digest(server: Server, tmp_path: Path) -> None:
    server.files["/Set1/annotations.txt"] += b" "
    with pytest.raises(ValueError, match=r"no mirror of annotations.txt has .*wrong digest"):
        fetch(server, tmp_path)
    assert not list(tmp_path.rglob("*.*"))


def test_annotations_that_are_there_are_checked(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    with (tmp_path / "Set2" / "annotations.txt").open("a") as file:
        file.write("\r\nc2.jpg:")
    with pytest.raises(ValueError, match=r"annotations.txt has the wrong digest.*delete it"):
        fetch(server, tmp_path)


def test_an_archive_that_reaches_out_of_its_folder(server: Server, tmp_path: Path) -> None:
    server.files["/Set1/Set1Part0.zip"] = archive({"a1.jpg": b"x", "../../harm.jpg": b"harm"})
    with pytest.raises(ValueError, match=r"'\.\./\.\./harm.jpg', which leads out of the folder"):
        fetch(server, tmp_path / "data")
    assert not list(tmp_path.rglob("*.jpg"))


def test_a_damaged_archive_is_not_unpacked(server: Server, tmp_path: Path) -> None:
    content = server.files["/Set1/Set1Part0.zip"]
    server.files["/Set1/Set1Part0.zip"] = content[: len(content) // 2]
    with pytest.raises(ValueError, match=r"Set1Part0.zip is damaged or truncated"):
        fetch(server, tmp_path)
    assert not list(tmp_path.rglob("*.jpg"))
    # As the error says: delete it, and it is fetched again.
    server.files["/Set1/Set1Part0.zip"] = content
    (tmp_path / "Set1" / "Set1Part0.zip").unlink()
    assert len(fetch(server, tmp_path).scenes(train=True)) == 2


def test_an_archive_of_the_user_s_own_stays(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Set1").mkdir()
    own = tmp_path / "Set1" / "Set1Part0.zip"
    own.write_bytes(server.files["/Set1/Set1Part0.zip"])
    fetch(server, tmp_path)
    assert own.exists()
    assert "/Set1/Set1Part0.zip" not in dict(server.asked)


def test_photographs_may_lie_elsewhere(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path / "data")
    place = tmp_path / "data" / "Set1" / "Set1Part0"
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a1.jpg").rename(tmp_path / "elsewhere" / "a1.JPG")
    asked = len(server.asked)
    assert len(fetch(server, tmp_path / "data").scenes(train=True)) == 2
    assert len(server.asked) == asked


def test_a_truncated_photograph(server: Server, tmp_path: Path) -> None:
    images = {"a1.jpg": photograph(0), "b1.jpg": photograph(1)[:-400]}
    server.files["/Set1/Set1Part0.zip"] = archive(images)
    signs = fetch(server, tmp_path)
    scenes = signs.scenes(train=True)
    with pytest.raises(ValueError, match=r"b1.jpg is truncated or no image .*fetch it again"):
        Scenes(scenes, signs.classes, scale=0.5, cache=tmp_path / "cache", progress=False)


def test_a_missing_photograph(server: Server, tmp_path: Path) -> None:
    server.files["/Set1/Set1Part0.zip"] = archive({"a1.jpg": photograph(0)})
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 2 images, such as b1.jpg; delete"):
        fetch(server, tmp_path).scenes(train=True)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"annotations.txt is missing: give the folder"):
        SwedishSigns(tmp_path / "none").scenes(train=True)
