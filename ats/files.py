"""Files that are either complete or not there, and their digests."""

import contextlib
import csv
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The random part of a temporary name, matched in full: a folder may hold temporary files of other
# programs.
_RANDOM = "[0-9a-f]" * 8


class UnwritableError(OSError):
    """A file or folder that cannot be written: which, why, and the remedy."""


def writable_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, made with its parents where missing, after a file could be created in it.

    Raises:
        UnwritableError: it is not a folder, or nothing can be written into it.
    """
    path = Path(folder)
    # A file is really created: permission bits say little for root and on read-only file systems.
    probe = path / f".{secrets.token_hex(8)}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UnwritableError(
            f"folder {path} cannot be written ({error.strerror}); "
            "choose another folder or change its permissions"
        ) from error
    return path


def cache_folder(name: str) -> Path:
    """Where files are kept for later runs: ``$XDG_CACHE_HOME/ats/NAME``, or below ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ats" / name


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside the target, which takes the target's place when the block ends.

    The temporary name keeps the target's suffix, from which many writers infer a format. Nothing
    stays behind when the block raises; the target is then as it was before.

    Raises:
        UnwritableError: the target's folder is missing or cannot be written, or the disk is full.
    """
    path = Path(target)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
    try:
        temporary.touch()
    except OSError as error:
        raise UnwritableError(
            f"{path} cannot be written ({error.strerror}); "
            "choose another folder or change the permissions of this one"
        ) from error
    try:
        with _full_disk_named(path):
            yield temporary
            _flush_to_disk(temporary)
            temporary.replace(path)
            # The new name itself survives a power cut only once the folder is on the disk.
            _flush_to_disk(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """Say of a full disk what there was no room for, and nothing twice."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UnwritableError(
            f"{path} cannot be written ({error.strerror}); make room, or choose another folder"
        ) from error


@contextlib.contextmanager
def locked(path: Path, held: str, *, seconds: float = 0.0) -> Iterator[None]:
    """Keep out other processes that lock the same file until the block ends; the file stays.

    Args:
        path: of the file.
        held: what to say where another process holds it.
        seconds: how long to wait for that.

    Raises:
        ValueError: another process holds it.
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise ValueError(held) from None
    except OSError as error:
        # Some network file systems have no locks.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder beside the target, which becomes the target when the block ends.

    What a killed process left of an earlier attempt is deleted first.

    Raises:
        ValueError: another process is making the target.
        OSError: the target's folder cannot be written.
    """
    path = Path(target)
    writable_folder(path.parent)
    held = f"{path} is being made by another process; wait for it, or choose another folder"
    lock = path.parent / f".{path.name}.lock"
    with locked(lock, held):
        try:
            yield from _made_folder(path)
        finally:
            # Whoever comes now finds the target, or makes another lock and starts anew.
            lock.unlink(missing_ok=True)


def _made_folder(path: Path) -> Iterator[Path]:
    for leftover in path.parent.glob(f".{path.name}.{_RANDOM}.tmp"):
        shutil.rmtree(leftover)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        with _full_disk_named(path):
            yield temporary
            for entry in temporary.rglob("*"):
                _flush_to_disk(entry)
            temporary.replace(path)
            _flush_to_disk(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(target: str | os.PathLike[str]) -> None:
    """Delete what killed processes left beside a target of :func:`atomic_path`."""
    path = Path(target)
    _remove_temporary(path.parent, path.stem, path.suffix)


def remove_leftovers_in(folder: str | os.PathLike[str]) -> None:
    """Delete whatever killed processes left in a folder that no other process is writing to."""
    _remove_temporary(Path(folder), "*", "*")


def _remove_temporary(folder: Path, stem: str, suffix: str) -> None:
    for leftover in folder.glob(f".{stem}.{_RANDOM}.tmp{suffix}"):
        if not leftover.is_dir():
            leftover.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_csv(
    path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Iterable[Any]]
) -> None:
    """Write a table as CSV, atomically."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def write_array(path: str | os.PathLike[str], array: NDArray[Any]) -> None:
    """Write an array as ``.npy``, atomically."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def state_name(path: str | os.PathLike[str]) -> str:
    """A name for what is derived from a file: another one once the file has changed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    state = Path(path).stat()
    key = f"{Path(path).resolve()}\n{state.st_size}\n{state.st_mtime_ns}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def file_digest(path: str | os.PathLike[str], algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes, by an algorithm of :mod:`hashlib`."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def value_digest(value: Any) -> str:
    """A short hexadecimal digest of a value of lists, dictionaries, strings and numbers."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
