"""Download a file from mirrors: resumed, checked against a digest, complete or not there."""

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ats.datasets.progress import progress_bar
from ats.files import file_digest, writable_folder

_CHUNK = 1 << 16
_TIMEOUT = 30.0  # seconds without a byte before the next mirror is tried


class _WrongDigestError(Exception):
    """What a mirror sent is not the file that was asked for."""


def download(
    urls: Sequence[str],
    destination: str | Path,
    digest: str | None,
    *,
    progress: bool = True,
) -> Path:
    """The destination, fetched from the first mirror that has the file with this digest.

    What an interrupted download left in ``destination + ".part"`` is continued, from whichever
    mirror answers. A destination that exists is checked and not fetched again.

    Args:
        urls: addresses of the same file, tried in turn.
        destination: path of the file.
        digest: hexadecimal MD5 (32 digits) or SHA-256 (64 digits) of the file. None where nobody
            published one: then the length that the server names is checked alone.
        progress: show a bar with the remaining time, on a terminal.

    Raises:
        ValueError: a file that is there already, or what every mirror sent, has another digest.
        OSError: no mirror could be reached, or the folder cannot be written.
    """
    destination = Path(destination)
    if digest is not None:
        _algorithm(digest)
    if destination.exists():
        check_digest(destination, digest, remedy="delete it to download it again")
        return destination
    writable_folder(destination.parent)
    part = destination.with_name(destination.name + ".part")
    failures: list[Exception] = []
    for url in urls:
        try:
            _fetch_checked(url, part, digest, progress=progress)
        # HTTPException: a server that breaks the protocol is as useless as one that is away.
        except (OSError, http.client.HTTPException, _WrongDigestError) as failure:
            failures.append(failure)
            continue
        part.replace(destination)
        return destination
    reasons = "; ".join(f"{url}: {why}" for url, why in zip(urls, failures, strict=True))
    if failures and all(isinstance(failure, _WrongDigestError) for failure in failures):
        raise ValueError(f"no mirror of {destination.name} has the expected file ({reasons})")
    raise OSError(
        f"{destination.name} could not be downloaded ({reasons}); check the network and run the "
        f"same again to continue, or put the file at {destination} yourself"
    )


def check_digest(path: Path, digest: str | None, *, remedy: str) -> None:
    """Raise a ValueError that ends in the remedy unless the file has this digest, if any."""
    if digest is None:
        return
    algorithm = _algorithm(digest)
    found = file_digest(path, algorithm)
    if found != digest:
        raise ValueError(
            f"{path} has the wrong digest: expected {algorithm} {digest}, got {found}; {remedy}"
        )


def _algorithm(digest: str) -> str:
    algorithm = {32: "md5", 64: "sha256"}.get(len(digest))
    if algorithm is None:
        raise ValueError(f"digest={digest!r} is neither an MD5 (32 digits) nor a SHA-256 (64)")
    return algorithm


def _fetch_checked(url: str, part: Path, digest: str | None, *, progress: bool) -> None:
    """Bring the part file to the whole file with this digest."""
    resumed = part.exists() and part.stat().st_size > 0
    _fetch(url, part, progress=progress)
    if digest is None:
        return
    algorithm = _algorithm(digest)
    found = file_digest(part, algorithm)
    if found == digest:
        return
    part.unlink()
    if resumed:
        # The beginning may come from another file of this name: once more, from nothing.
        _fetch_checked(url, part, digest, progress=progress)
        return
    raise _WrongDigestError(f"wrong digest, expected {algorithm} {digest}, got {found}")


def _fetch(url: str, part: Path, *, progress: bool) -> None:
    """Append to the part file what is missing of the file at this address."""
    present = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if present and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range", f"/{present}").endswith(f"/{present}"):
                return  # nothing is missing; the digest decides whether that is the file
            # Longer than the file, so that it is no beginning of it.
            part.unlink()
            _fetch(url, part, progress=progress)
            return
        raise
    with response:
        start = _start_of(response, present)
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        with (
            part.open("ab") as file,
            progress_bar(part.stem, total, unit="B", start=start, shown=progress) as bar,
        ):
            file.truncate(start)
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    came = part.stat().st_size
    if total is not None and came != total:
        raise OSError(f"the connection closed after {came} of {total} bytes")


def _start_of(response: Any, present: int) -> int:
    """First byte that a response holds: a server may ignore the wanted range, or choose another."""
    if response.status != http.client.PARTIAL_CONTENT:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != present:
        raise OSError(f"the server sent another range than the one from byte {present}")
    return present
