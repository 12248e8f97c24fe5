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


def check_start(path: Path, classes: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuse weights of a run that meant something else by the same numbers.

    What they meant is known where the run's ``parameters.json`` lies beside them.

    Args:
        path: of the weights.
        classes: names of the classes, in their order.
        options: by name, those that change what a network computes and not its weights' shapes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the run had other classes or other such options.
    """
    _check_present(path)
    try:
        former = json.loads((path.parent / "parameters.json").read_text(encoding="utf-8"))
        given, counts = former["arguments"], former["data"]["train_images"]
        known = [entry.rpartition(" ")[0] for entry in counts.split(", ")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    if known != list(classes):
        raise ValueError(
            f"start={path} tells apart {', '.join(known)}, this run {', '.join(classes)}; give it "
            "the same --limits"
        )
    for name, value in options.items():
        if name in given and given[name] != value:
            raise ValueError(
                f"start={path} was trained with --{name} {given[name]}, this run has {value}; "
                "give it the same"
            )


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
