"""Start a training from the weights of another."""

from pathlib import Path

from torch import nn


def latest_weights(folder: Path) -> Path | None:
    """The weights of the last finished epoch of a run, if there is one."""
    found = folder.glob("weights_*.safetensors")
    return max(found, key=lambda path: int(path.stem.removeprefix("weights_")), default=None)


def start_from(model: nn.Module, path: Path) -> None:
    """Load ``weights_EEE.safetensors`` of another run into a model of the same shape.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or the weights of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"start={path} is no file; give weights_EEE.safetensors of a run")
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
