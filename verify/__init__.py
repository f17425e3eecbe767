"""Checks on anybody's model, training loop or text: nothing here knows our own model.

    check_gradients(loss, model, batch)                  # one function, no new concept
    check(Subject(model=..., batch=..., loss=...))       # the whole suite
    with watch(model, optimizer): ...                    # around a running loop

Nothing here imports torch until it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from andon.verify import subjects
    from andon.verify.checks import CHECKS
    from andon.verify.errors import CheckFailed, NotApplicable, SubjectError
    from andon.verify.gradients.compare import check_function_gradients, check_gradients
    from andon.verify.pytest_plugin import parametrize
    from andon.verify.run.runner import check
    from andon.verify.subject import Adapters, Loop, Quantizer, Subject
    from andon.verify.watcher import watch

__all__ = [
    "CHECKS",
    "Adapters",
    "CheckFailed",
    "Loop",
    "NotApplicable",
    "Quantizer",
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
    "CheckFailed": "errors",
    "Loop": "subject",
    "NotApplicable": "errors",
    "Quantizer": "subject",
    "Subject": "subject",
    "SubjectError": "errors",
    "check": "run.runner",
    "check_function_gradients": "gradients.compare",
    "check_gradients": "gradients.compare",
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
