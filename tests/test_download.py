"""Downloads from a server on this machine that breaks off, ignores ranges, or sends other files."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Server, serving

from ats.datasets.download import download

CONTENT = bytes(range(251)) * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


OTHER = b"another file" * 1000
FILES = {"/file": CONTENT, "/no-ranges": CONTENT, "/wrong-range": CONTENT, "/other": OTHER}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(FILES) as server:
        yield server


@pytest.mark.parametrize("digest", [MD5, SHA256])
def test_the_file_comes_and_nothing_else_stays(server: Server, tmp_path: Path, digest: str) -> None:
    path = download([server.url("/file")], tmp_path / "new" / "file", digest, progress=False)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_an_interrupted_download_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    destination = tmp_path / "file"
    server.breaks_after = 1000
    with pytest.raises(OSError, match=r"closed after 1000 of 251000 bytes.*run the same again"):
        download([server.url("/file")], destination, MD5, progress=False)
    assert not destination.exists()
    assert (tmp_path / "file.part").stat().st_size == 1000
    download([server.url("/file")], destination, MD5, progress=False)
    assert server.asked[-1] == ("/file", "bytes=1000-")
    assert destination.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/no-ranges", CONTENT[:500]),  # a server that starts from the beginning all the same
        ("/file", CONTENT),  # killed after the last byte and before the file was renamed
        ("/file", b"the beginning of another file"),
        ("/file", CONTENT + b"more than there is"),
    ],
)
def test_whatever_was_left_behind_the_file_is_right(
    server: Server, tmp_path: Path, path: str, part: bytes
) -> None:
    (tmp_path / "file.part").write_bytes(part)
    download([server.url(path)], tmp_path / "file", SHA256, progress=False)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_the_next_mirror_continues(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 77
    urls = [server.url(path) for path in ("/file", "/missing", "/file")]
    download(urls, tmp_path / "file", MD5, progress=False)
    assert server.asked == [("/file", None), ("/missing", "bytes=77-"), ("/file", "bytes=77-")]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_mirror_with_another_file_is_passed_over(server: Server, tmp_path: Path) -> None:
    download([server.url("/other"), server.url("/file")], tmp_path / "f", MD5, progress=False)
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_range_that_was_not_asked_for_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT[:10])
    with pytest.raises(OSError, match="another range than the one from byte 10"):
        download([server.url("/wrong-range")], tmp_path / "f", MD5, progress=False)


def test_a_wrong_digest_says_what_was_expected_and_what_came(
    server: Server, tmp_path: Path
) -> None:
    other = hashlib.md5(OTHER).hexdigest()
    with pytest.raises(ValueError, match=f"no mirror of f has .*expected md5 {MD5}, got {other}"):
        download([server.url("/other")], tmp_path / "f", MD5, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_checked_and_not_fetched(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    download([server.url("/file")], tmp_path / "f", MD5, progress=False)
    assert server.asked == []
    (tmp_path / "f").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"f has the wrong digest: expected md5 .*; delete it"):
        download([server.url("/file")], tmp_path / "f", MD5, progress=False)
    assert (tmp_path / "f").read_bytes() == b"damaged"


def test_no_mirror_answers(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not be downloaded .*404.*check the network"):
        download([server.url("/missing")], tmp_path / "f", MD5, progress=False)


def test_a_digest_of_no_known_length(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'abc' is neither an MD5"):
        download([], tmp_path / "f", "abc", progress=False)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot be written .*choose another folder"):
        download(["http://127.0.0.1:9/"], tmp_path / "file" / "f", MD5, progress=False)


def test_without_a_digest_the_length_counts(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 1000
    with pytest.raises(OSError, match="closed after 1000 of 251000 bytes"):
        download([server.url("/file")], tmp_path / "f", None, progress=False)
    download([server.url("/file")], tmp_path / "f", None, progress=False)
    assert server.asked[-1] == ("/file", "bytes=1000-")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_without_a_digest_more_than_the_file_is_begun_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f.part").write_bytes(CONTENT + b"more than there is")
    download([server.url("/file")], tmp_path / "f", None, progress=False)
    assert (tmp_path / "f").read_bytes() == CONTENT
