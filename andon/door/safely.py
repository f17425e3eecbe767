"""What only looks on never ends a script."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from andon.door.records import Run


def safely(run: "Run", note: Callable[..., Any], *args: Any) -> Any:
    """What a note returns. An error of ours ends the watching and is said at the end; the script goes on."""
    try:
        return note(*args)
    except Exception as error:  # noqa: BLE001 - a script must not end of what only looks on
        said = f"{type(error).__name__}: {error}"
        if run.fork is not None and run.fork.answer is not None:
            run.fork.end({"failed": said})
        run.over, run.ended, run.broke = True, False, said
        return None
