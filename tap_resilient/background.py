"""Work beside the main thread: daemon threads that end with the run, whatever they wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

CLOSE_SECONDS = 1.0
"""How long the end of a run waits for requests that nobody wants any more."""


class _EndedError(Exception):
    """The run is over: nobody waits for this work."""


class Background:
    """Threads of one run; not those of a ThreadPoolExecutor, which the exit would join in the middle of a long wait."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], T]) -> Future[T]:
        """Begin `work`; the future gives its result, or raises what it raised."""
        future: Future[T] = Future()
        thread = threading.Thread(target=_work, args=(work, future), daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()
        return future

    def sleep(self, seconds: float) -> None:
        """Wait; in the background no longer than the run lasts."""
        if threading.current_thread() is threading.main_thread():
            time.sleep(seconds)
        elif self._ended.wait(seconds):
            raise _EndedError

    def close(self) -> None:
        """End all waits, and give requests under way a moment."""
        self._ended.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))


def _work(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # raised again where the result is taken
        future.set_exception(error)
