"""The output folder of a run."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ats.files import locked, remove_leftovers_in, writable_folder
from ats.training.checkpoint import CHECKPOINT
from ats.training.start import latest_weights

# May differ when a run goes on: they change how it runs, not what comes out. The number of epochs
# does where the learning rate follows it.
FREE = {
    "epochs",
    "workers",
    "devices",
    "micro_batch",
    "accelerator",
    "dataset",
    "cache",
    "cache_gib",
}

# Longer than the processes that read data outlive one that was killed.
LOCK_SECONDS = 10.0


@contextlib.contextmanager
def claim(output: Path, *, resume: bool) -> Iterator[None]:
    """Keep other processes from training in the same folder, for as long as this one does.

    Raises:
        ValueError: another one is, or :func:`check_output` refuses it.
        OSError: the folder cannot be written.
    """
    # First, so that a folder that is refused is left as it is.
    check_output(output, resume=resume)
    if not _is_first():
        yield
        return
    held = (
        f"output {output} is in use by another process that trains; wait for it, or choose another "
        "folder"
    )
    with locked(output / ".lock", held, seconds=LOCK_SECONDS):
        yield


def open_run(output: Path, parameters: Mapping[str, Any], *, resume: bool) -> Path | None:
    """The checkpoint to go on from, or None for a fresh start in a writable folder.

    To go on, what the run once started from is put into the parameters.

    Raises:
        ValueError: the folder holds a run and ``resume`` was not asked for, or one that was made
            with other parameters.
        OSError: the folder cannot be written.
    """
    if not _is_first():
        return output / CHECKPOINT if resume and (output / CHECKPOINT).exists() else None
    # Again, since whoever held the folder until now may have finished in it.
    check_output(output, resume=resume)
    for folder in (output, *output.glob("examples/*/")):
        remove_leftovers_in(folder)
    checkpoint = output / CHECKPOINT
    if not checkpoint.exists():
        return None
    former = _read_parameters(output / "parameters.json")
    if "start" in parameters["arguments"]:
        # Its weights are in the checkpoint by now, wherever that file is.
        parameters["arguments"]["start"] = former.get("arguments", {}).get("start")
    epochs = parameters["arguments"]["epochs"]
    if (output / f"weights_{epochs:03d}.safetensors").exists():
        raise ValueError(
            f"epochs={epochs}, but the run in output {output} has finished more of them; raise it"
        )
    differing = _differences(former, parameters)
    if differing:
        raise ValueError(
            f"output {output} holds a run made with other parameters ({'; '.join(differing)}); "
            "repeat them, or choose another folder"
        )
    return checkpoint


def check_output(output: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot be written, or holds a run that is not to go on.

    Raises:
        ValueError: it holds a run and ``resume`` was not asked for, or a data set.
        OSError: the folder cannot be written.
    """
    if not _is_first():
        return
    writable_folder(output)
    if not (output / CHECKPOINT).exists():
        _check_free(output)
    elif not resume:
        raise ValueError(
            f"output {output} holds a run already; pass --resume to go on with it, or choose "
            "another folder"
        )


def weights_to_begin_with(output: Path, start: Path | None) -> Path | None:
    """Those to start from, or None where a run goes on from its checkpoint."""
    return None if (output / CHECKPOINT).exists() else start


def _is_first() -> bool:
    """Whether there is no process that has opened the folder before it started this one."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _check_free(output: Path) -> None:
    """Refuse a folder with anything but a run that finished nothing."""
    latest = latest_weights(output)
    # The first epoch's alone may be those of a run that was killed before its checkpoint.
    if latest is not None and latest.name != "weights_000.safetensors":
        raise ValueError(
            f"output {output} holds {latest.name} of a run without its {CHECKPOINT}, which "
            "would be taken for the new one's; choose another folder"
        )
    path = output / "parameters.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or "arguments" not in found:
        raise ValueError(
            f"output {output} holds a parameters.json that is not of a run, such as that of a data "
            "set; choose another folder"
        )


def _read_parameters(path: Path) -> Mapping[str, Any]:
    try:
        parameters = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        parameters = error
    parts = parameters.values() if isinstance(parameters, dict) else [None]
    if not all(isinstance(part, dict | str) for part in parts):
        raise ValueError(
            f"{path} is missing or damaged, so that the run in it cannot be continued; choose "
            "another folder"
        )
    return dict(parameters)


def _differences(former: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed that changes the result."""
    found = []
    free = FREE - {"epochs"} if now["arguments"].get("schedule") == "cosine" else FREE
    for part in ("arguments", "data"):
        old, new = former.get(part, {}), json.loads(json.dumps(now[part]))
        found += [
            f"{name}: {old.get(name)!r} then, {new.get(name)!r} now"
            for name in sorted(old.keys() | new.keys())
            if name not in free and old.get(name) != new.get(name)
        ]
        if part == "arguments" and "epochs" not in free and old.get("epochs") != new.get("epochs"):
            found.append("with --schedule cosine the learning rate depends on the number of epochs")
    return found
