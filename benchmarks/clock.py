"""Commands one after another, of which the memory is measured and the time may be bounded."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any


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
        signal.signal(signal.SIGTERM, self._terminated)
        if minutes is not None:
            timer = threading.Timer(60 * minutes, self._stop)
            timer.daemon = True
            timer.start()

    def _stop(self) -> None:
        self.over.set()
        process = self.process
        if process is not None:
            process.send_signal(signal.SIGINT)

    def _terminated(self, *_: Any) -> None:
        """What Ctrl-C does, to a process that the terminal did not tell."""
        self._stop()
        raise KeyboardInterrupt

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
            # The process was told, too, and is writing down how far it came.
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
