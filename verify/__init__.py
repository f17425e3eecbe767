"""Checks on anybody's model, training loop or text: nothing here knows our own model.

    check_gradients(loss, model, batch)                  # one function, no new concept
    check(Subject(model=..., batch=..., loss=...))       # the whole suite
    with watch(model, optimizer): ...                    # around a running loop

Nothing here imports torch until it is used.
"""

from typing import TYPE_CHECKING

from andon.lazy import on_first_use

if TYPE_CHECKING:
    from andon.verify import subjects
    from andon.verify.capturing.driving import driven
    from andon.verify.capturing.functions import capture
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
    "capture",
    "check",
    "check_function_gradients",
    "check_gradients",
    "driven",
    "parametrize",
    "subjects",
    "watch",
]

__getattr__, __dir__ = on_first_use(__name__, {"Quantiser": "Quantizer"})
