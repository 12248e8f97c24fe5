"""Unpack an archive: every path checked, the folder complete or not there."""

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ats.datasets.progress import progress_bar
from ats.files import atomic_folder

_CHUNK = 1 << 20


def unpack_zip(archive: str | Path, folder: str | Path, *, progress: bool = True) -> Path:
    """The folder with the content of a ZIP archive; nothing, if the archive is there in part only.

    Args:
        archive: ZIP file; the checksum that it holds for each file is checked.
        folder: made here; nothing is done if it exists.
        progress: show a bar with the remaining time, on a terminal.

    Raises:
        ValueError: the archive is damaged or truncated, or a path in it leads out of the folder.
        OSError: the folder cannot be written.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists():
        return folder
    try:
        with zipfile.ZipFile(archive) as source:
            _check_paths(archive, source)
            with atomic_folder(folder) as temporary:
                _extract(source, temporary, archive.name, progress=progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"{archive} is damaged or truncated ({error}); delete it to fetch it again"
        ) from error
    return folder


def _check_paths(archive: Path, source: zipfile.ZipFile) -> None:
    """Refuse the archive as a whole for one path that would lead out of the folder, or a link."""
    for entry in source.infolist():
        # Backslashes separate folders on some systems, where zipfile would not see them.
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        drive = ":" in (path.parts[0] if path.parts else "")
        link = (entry.external_attr >> 28) == 0o12
        if path.is_absolute() or ".." in path.parts or drive or link:
            raise ValueError(
                f"{archive} holds {entry.filename!r}, which leads out of the folder to unpack to; "
                "nothing was unpacked, do not trust this archive"
            )


def _extract(source: zipfile.ZipFile, folder: Path, name: str, *, progress: bool) -> None:
    entries = [entry for entry in source.infolist() if not entry.is_dir()]
    total = sum(entry.file_size for entry in entries)
    with progress_bar(f"unpacking {name}", total, unit="B", shown=progress) as bar:
        for entry in entries:
            target = folder / entry.filename.replace("\\", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open(entry) as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, _CHUNK)
            bar.update(entry.file_size)
