"""Stopping a run from outside: after its current step, with a checkpoint."""

import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager

# Ctrl-C, a request to end, a terminal that closes, and the warning that Slurm sends before its own end.
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def stop_signals() -> Generator[Callable[[], int]]:
    """Yield a function that returns the number of the signal received, one of STOPPING, or 0.

    The run ends its step first; a second Ctrl-C interrupts at once. A signal that is ignored stays so, as under nohup.
    """
    number = 0

    def note(received: int, _: object) -> None:
        nonlocal number
        number = received
        signal.signal(signal.SIGINT, signal.default_int_handler)

    heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    old = {each: signal.signal(each, note) for each in heeded}
    try:
        yield lambda: number
    finally:
        for name, handler in old.items():
            signal.signal(name, handler)
