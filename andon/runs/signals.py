"""Stopping a run from outside: after its current step, with a checkpoint."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager


@contextmanager
def stop_signals() -> Generator[Callable[[], int]]:
    """Yield a function that returns the number of the SIGINT or SIGTERM received, or 0.

    The run ends its step first; a second Ctrl-C interrupts at once.
    """
    number = 0

    def note(received: int, _: object) -> None:
        nonlocal number
        number = received
        signal.signal(signal.SIGINT, signal.default_int_handler)

    old = {name: signal.signal(name, note) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: number
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)
