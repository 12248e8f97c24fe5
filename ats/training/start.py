"""Start a training from the weights of another."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn


def latest_weights(folder: Path) -> Path | None:
    """The weights of the last finished epoch of a run, if there is one."""
    found = folder.glob("weights_*.safetensors")
    return max(found, key=lambda path: int(path.stem.removeprefix("weights_")), default=None)


def check_start(
    path: Path, options: Mapping[str, Any], classes: Sequence[str] | None = None
) -> None:
    """Refuse weights of a run that meant something else by the same numbers.

    What they meant is known where the run's ``parameters.json`` lies beside them.

    Args:
        path: of the weights.
        options: by name, those that change what a network computes and not its weights' shapes.
        classes: names of the classes, in their order, where they are not always the same.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the run had other classes or other such options.
    """
    _check_present(path)
    try:
        former = json.loads((path.parent / "parameters.json").read_text(encoding="utf-8"))
        given = former["arguments"]
        known = _classes_of(former["data"]) if classes is not None else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if classes is not None and known != list(classes):
        raise ValueError(
            f"start={path} tells apart {', '.join(known or [])}, this run {', '.join(classes)}; "
            "give it the same --limits"
        )
    for name, value in options.items():
        if name in given and given[name] != value:
            raise ValueError(
                f"start={path} was trained with --{name} {given[name]}, this run has {value}; "
                "give it the same"
            )


def _classes_of(data: Mapping[str, str]) -> list[str]:
    """Names of the classes of a run, by what it says of its data."""
    return [entry.rpartition(" ")[0] for entry in data["train_images"].split(", ")]


def start_from(model: nn.Module, path: Path) -> None:
    """Load ``weights_EEE.safetensors`` of another run into a model of the same shape.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or the weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_present(path)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"start={path} is damaged or no safetensors file ({error})") from error
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    other = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    differing = [name for name in own.keys() | other.keys() if own.get(name) != other.get(name)]
    if differing:
        name = min(differing)
        raise ValueError(
            f"start={path} holds another network: {name} is {other.get(name, 'missing')} there, "
            f"{own.get(name, 'missing')} here; give the same classes and options as in that run"
        )
    model.load_state_dict(weights)


def _check_present(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"start={path} is no file; give weights_EEE.safetensors of a run")
