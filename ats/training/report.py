"""What a training script says to the person who started it."""

import sys
from collections.abc import Callable, Mapping
from typing import Any


def print_parameters(parameters: Mapping[str, Any]) -> None:
    """Print what a data set was made with, a line each."""
    print("Data set:")
    for name, value in parameters.items():
        if not isinstance(value, Mapping):
            print(f"  {name}: {value}")


def run_script(train: Callable[[], Mapping[str, float]]) -> None:
    """Run a training, print its result, and turn an error of the user's into one clear line."""
    try:
        last = train()
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print(
            "\nstopped; the same command with --resume goes on after the last finished epoch",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    if last:
        print(f"Test loss: {last['test_loss']:.4f}")
        print(f"Test error: {last['test_error']:.4f}")
