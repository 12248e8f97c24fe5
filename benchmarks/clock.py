"""Commands one after another, of which the memory is measured and the time may be bounded."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any


def parse_and_pass_on(
    parser: argparse.ArgumentParser, arguments: list[str] | None, set_here: Iterable[str] = ()
) -> tuple[argparse.Namespace, list[str]]:
    """Parsed arguments, and those that are not known here, for the trainings.

    What begins like an option of here is none: ``--seed`` is not ``--seeds``. Trainings of several
    seeds are given theirs, which another would replace in all of them.

    Args:
        parser: knows the arguments of here.
        arguments: in place of those of the command line.
        set_here: options that trainings differ in, which nobody else may set.
    """
    parser.allow_abbrev = False
    args, extra = parser.parse_known_args(arguments)
    refuse(parser, extra, ["--seed"], "is given to each training; say with --seeds which there are")
    refuse(parser, extra, set_here, "is what trainings differ in here")
    return args, extra


def refuse(
    parser: argparse.ArgumentParser, given: list[str], options: Iterable[str], why: str
) -> None:
    """Leave the program where one of the options is given, or what argparse takes for one."""
    for text in given:
        name = text.split("=")[0]
        for option in options:
            if len(name) > 2 and option.startswith(name):
                parser.error(f"{option} {why}")


class Clock:
    """Interrupts a process when the time is over, or this one is told to end.

    Args:
        minutes: until then; None for no end.

    Attributes:
        peak: largest resident memory in bytes of the last process, stopped or not.
    """

    def __init__(self, minutes: float | None) -> None:
        self.over = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.peak = 0
        # What Ctrl-C does, to a process that the terminal did not tell. Nothing is raised here: the
        # wait for the process goes on, and ends with it.
        signal.signal(signal.SIGTERM, self._stop)
        if minutes is not None:
            timer = threading.Timer(60 * minutes, self._stop)
            timer.daemon = True
            timer.start()

    def _stop(self, *_: Any) -> None:
        self.over.set()
        process = self.process
        if process is not None:
            # Not by the object, which would look whether the process has ended, and so take from
            # the wait for it what that waits for.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)

    def run(self, command: list[str]) -> int:
        """Run a command; the largest resident memory of its process in bytes.

        Raises:
            KeyboardInterrupt: it was stopped.
            SystemExit: it failed.
        """
        if self.over.is_set():
            raise KeyboardInterrupt
        self.process = subprocess.Popen(
            [sys.executable, *command],
            # Where this one runs in the background of a shell, it inherits an ignored Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        if self.over.is_set():
            self._stop()
        try:
            status = self._wait(self.process)
        except KeyboardInterrupt:
            # The process was told, too, and is writing down how far it came; unless it has ended.
            with contextlib.suppress(ChildProcessError):
                self._wait(self.process)
            raise
        stopped = self.over.is_set() or self.process.returncode == 130
        self.process = None
        if status and stopped:
            raise KeyboardInterrupt
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        return self.peak

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        # Linux counts kilobytes.
        self.peak = usage.ru_maxrss * 1024
        return status
