"""Open files shared by all readers of a process, of which only so many stay open."""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


class Closable(Protocol):
    """What is open and can be closed."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass
class _Entry:
    handle: Any
    users: int = 0


class Handles:
    """Opens what is asked for, and closes the least recently used beyond a bound.

    What is lent to a thread stays open until it comes back. A forked process begins with none: two
    processes reading through one file description would move each other's place in it.

    Args:
        limit: handles that stay open while nobody uses them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[Hashable, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """Number of open handles."""
        return len(self._open)

    @contextlib.contextmanager
    def lend(self, key: Hashable, opener: Callable[[], Closable]) -> Iterator[Any]:
        """The handle of a key, opened if it is not open, for the length of the block."""
        with self._lock:
            entry = self._open.get(key) or _Entry(opener())
            self._open[key] = entry
            self._open.move_to_end(key)
            entry.users += 1
        try:
            yield entry.handle
        finally:
            with self._lock:
                entry.users -= 1
                self._close_unused()

    def close(self, key: Hashable) -> None:
        """Close the handle of a key if it is open and nobody uses it."""
        with self._lock:
            entry = self._open.get(key)
            if entry is not None and not entry.users:
                del self._open[key]
                entry.handle.close()

    def _close_unused(self) -> None:
        for key, entry in list(self._open.items()):
            if len(self._open) <= self.limit:
                return
            if not entry.users:
                del self._open[key]
                entry.handle.close()


HANDLES = Handles(64)
"""Of this process."""
