"""Interrupting: Ctrl+C at the moment at which a wait for a lock does not notice it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupted_elsewhere(seconds: float = 0.2) -> Iterator[None]:
    """SIGINT comes soon, to another thread: Python runs its handler when the main thread's wait is over.

    As where the signal comes just before that thread waits. For the main thread.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(seconds, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
