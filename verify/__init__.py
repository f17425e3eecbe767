"""Checks on anybody's model, training loop or text: this room knows nothing of ours.

    check_gradients(loss, model, batch)                  # one function, no new concept
    check(Subject(model=..., batch=..., loss=...))       # the whole suite
    with watch(model, optimizer): ...                    # around a running loop

Nothing here imports torch until it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import subjects
    from .checks import CHECKS
    from .failure import CheckFailed, NotApplicable, SubjectError
    from .gradients import check_function_gradients, check_gradients
    from .pytest_plugin import parametrize
    from .runner import check
    from .subject import Adapters, Loop, Quantiser, Subject
    from .watcher import watch

__all__ = [
    "CHECKS",
    "Adapters",
    "CheckFailed",
    "Loop",
    "NotApplicable",
    "Quantiser",
    "Subject",
    "SubjectError",
    "check",
    "check_function_gradients",
    "check_gradients",
    "parametrize",
    "subjects",
    "watch",
]

_HOMES = {
    "CHECKS": "checks",
    "Adapters": "subject",
    "CheckFailed": "failure",
    "Loop": "subject",
    "NotApplicable": "failure",
    "Quantiser": "subject",
    "Subject": "subject",
    "SubjectError": "failure",
    "check": "runner",
    "check_function_gradients": "gradients",
    "check_gradients": "gradients",
    "parametrize": "pytest_plugin",
    "watch": "watcher",
}


def __getattr__(name: str) -> Any:
    """Import what is public from its module, on first use."""
    if name == "subjects":
        return importlib.import_module(".subjects", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
