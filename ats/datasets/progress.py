"""A progress bar with the remaining time."""

from typing import Any


def progress_bar(name: str, total: int | None, *, unit: str, start: int = 0, shown: bool) -> Any:
    """A ``tqdm`` bar on standard error, where that is a terminal.

    Args:
        name: what is under way.
        total: units in all, where known.
        unit: ``"B"`` for bytes, which are shown as kB, MB, ...; or what is counted.
        start: units that were done before.
        shown: show it at all.

    Raises:
        ImportError: tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "progress is shown with tqdm: pip install 'attention-sampling[train]'"
        ) from error
    return tqdm(
        desc=name,
        total=total,
        initial=start,
        unit=unit,
        unit_scale=unit == "B",
        disable=None if shown else True,
    )
