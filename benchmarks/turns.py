"""Processes, or functions, that take turns: a machine that slows down does so for all of them."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

MEBIBYTE = 2**20


def add_device(parser: argparse.ArgumentParser, where: str) -> None:
    """``--device``, one that is there.

    Args:
        parser: of the benchmark.
        where: what is there, for its help.
    """
    help_text = f"where {where}: cpu, or cuda for an NVIDIA GPU"
    parser.add_argument("--device", type=_device, default="cpu", help=help_text)


def _device(text: str) -> str:
    import torch

    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"{text!r} must be cpu or cuda")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no NVIDIA GPU here; take cpu")
    return text


def alternate(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    device: str = "cpu",
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each call of some functions, called in turns, after two rounds to warm up.

    Args:
        functions: to call.
        rounds: that count.
        device: to wait for.
        before: called before each of them, outside of its time.
    """
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        # Every other round backwards, so that a steady drift favours none.
        for name in list(functions)[:: -1 if number % 2 else 1]:
            before()
            wait()
            start = time.perf_counter()
            functions[name]()
            wait()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[2:] for name, values in seconds.items()}


def alternate_on_gpu(
    functions: Mapping[str, Callable[[], object]], rounds: int, before: Callable[[], object]
) -> dict[str, list[float]]:
    """Seconds that the device takes for each call, see :func:`alternate`.

    Args:
        functions: to call.
        rounds: that count.
        before: what the device does before each of them. If it takes longer than the host takes to
            call a function, the time is that of the device alone.
    """
    import torch

    make: Any = torch.cuda.Event
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name in list(functions)[:: -1 if number % 2 else 1]:
            start, end = (make(enable_timing=True) for _ in range(2))
            before()
            start.record()
            functions[name]()
            end.record()
            torch.cuda.synchronize()
            seconds[name].append(start.elapsed_time(end) / 1e3)
    return {name: values[2:] for name, values in seconds.items()}


def median_ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Of the first to the second, round by round: what both suffer from drops out."""
    return statistics.median(own / other for own, other in zip(first, second, strict=True))


def report_ratios(
    names: tuple[str, str],
    rows: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    wanted: float,
) -> list[str]:
    """Print a table of ratios of the second to the first, and name those above what is wanted.

    Args:
        names: of what is compared.
        rows: a label, and the seconds of each in the same rounds.
        wanted: bound on the median over rounds of the ratio of the second to the first.
    """
    print(f"| | {names[0]} | {names[1]} | ratio | at most |\n|---|--:|--:|--:|--:|")
    broken = []
    for label, first, second in rows:
        ratio = median_ratio(second, first)
        own, other = (1e3 * statistics.median(values) for values in (first, second))
        print(f"| {label} | {own:.2f} ms | {other:.2f} ms | {ratio:.2f} | {wanted:g} |")
        if ratio > wanted:
            broken.append(f"{label} {ratio:.2f}")
    return broken


class Step(NamedTuple):
    """What one training step took."""

    seconds: float
    cpu_seconds: float


class Memory(NamedTuple):
    """Bytes: once everything was imported, and at the peak."""

    imported: int
    peak: int


def resident_bytes(entry: str) -> int:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process.

    ``getrusage`` would do for the peak, but starts from that of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"entry={entry!r} is not in /proc/self/status; take VmRSS or VmHWM")


def serve(step: Callable[[], Step], memory: Callable[[], Memory], **about: Any) -> None:
    """Say what this process works on, then answer for what standard input asks, line by line."""
    print(json.dumps(about), flush=True)
    answers: dict[str, Callable[[], Step | Memory]] = {"step": step, "memory": memory}
    for command in sys.stdin:
        print(json.dumps(answers[command.strip()]()._asdict()), flush=True)


class Worker:
    """A process that runs :func:`serve`, and takes a step when told to.

    It is not waited for until it is asked: several import what they need at the same time.

    Args:
        command: script and arguments.

    Attributes:
        steps: what its steps took.
    """

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.steps: list[Step] = []

    @cached_property
    def about(self) -> dict[str, Any]:
        """What it says that it works on."""
        answer: dict[str, Any] = self._answer()
        return answer

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The process ends with its input.
        self.process.communicate()

    def step(self) -> None:
        """Take a step and keep its time."""
        self.steps.append(Step(**self._ask("step")))

    def memory(self) -> Memory:
        """Bytes used so far."""
        return Memory(**self._ask("memory"))

    def _ask(self, command: str) -> Any:
        # The first line that it prints.
        _ = self.about
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError("a worker process has ended early; its message stands above")
        return json.loads(line)


def take_turns(workers: list[Worker], rounds: int) -> None:
    """A step of each worker to warm up, and then so many."""
    for number in range(rounds + 1):
        # Every other round backwards, so that a steady drift favours no worker.
        for worker in workers[:: -1 if number % 2 else 1]:
            worker.step()
