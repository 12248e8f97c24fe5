"""Threads that a process keeps."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor


class Threads:
    """Some threads of this process, started when they are first asked for.

    A thread does not survive a fork, so that each process has its own.

    Args:
        number: of threads.
        name: of theirs, as debuggers show it.
    """

    def __init__(self, number: int, name: str) -> None:
        self._number = number
        self._name = name
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def executor(self) -> ThreadPoolExecutor:
        """The threads, to give work to."""
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._number, thread_name_prefix=self._name)
            return self._executor
