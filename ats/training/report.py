"""What a training script says to the person who started it."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from ats.memory import keep_freed_memory


def print_parameters(parameters: Mapping[str, Any]) -> None:
    """Print what a data set was made with, a line each."""
    print("Data set:")
    for name, value in parameters.items():
        if not isinstance(value, Mapping):
            print(f"  {name}: {value}")


def exit_status(act: Callable[[], object], *, name: str, stopped: str) -> int:
    """Do what a command does, with an error of the user's as one clear line; the exit status.

    Args:
        act: does it; a whole number that it returns is the status of what went well in part.
        name: of the command, before an error.
        stopped: what to say after Ctrl-C, such as how to go on.
    """
    try:
        done = act()
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        message = f"out of memory ({error}); take fewer or smaller patches or images at a time"
        print(f"{name}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", file=sys.stderr)
        return 130
    return done if isinstance(done, int) else 0


def run_script(name: str, train: Callable[[], Mapping[str, float]]) -> None:
    """Run the training of a script of that name, and print its result."""

    def act() -> None:
        last = train()
        if last:
            print(f"Test loss: {last['test_loss']:.4f}")
            print(f"Test error: {last['test_error']:.4f}")

    keep_freed_memory()
    stopped = "the same command with --resume goes on after the last finished epoch"
    status = exit_status(act, name=name, stopped=stopped)
    if status:
        raise SystemExit(status)
