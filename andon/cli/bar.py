"""A bar for commands that may take longer than a moment."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

BAR_AFTER_SECONDS = 2.0


@contextmanager
def bar() -> Generator[Callable[[int, int, str], None]]:
    """A progress bar on a terminal, which shows itself only once the work has taken BAR_AFTER_SECONDS."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    progress = Progress(*columns, console=screen, transient=True)
    task = progress.add_task("", total=None)
    timer = threading.Timer(BAR_AFTER_SECONDS, progress.start)
    timer.daemon = True
    if screen.is_terminal:
        timer.start()
    try:
        yield lambda done, total, name: progress.update(task, completed=done, total=total, description=name)
    finally:
        timer.cancel()
        if screen.is_terminal:
            timer.join()  # it may be starting the bar just now
            progress.stop()
