"""Where the rooms are: `andon.<room>` once installed, `<room>` beside this package in a checkout."""

import importlib
from pathlib import Path
from types import ModuleType

ROOMS = ("core", "gates", "tracing", "verify")
PREFIX = "andon." if Path(__file__).with_name("core").is_dir() else ""


def room(name: str) -> ModuleType:
    """Import a room, or a module of one: `room("gates")`, `room("core.config")`."""
    return importlib.import_module(PREFIX + name)


def is_ours(error: BaseException) -> bool:
    """Whether a room defined this error's class: then its message is written for the user, and no bug is hidden.

    A builtin error that escapes from a room is a bug and keeps its traceback. So does a stranger's error: in a wheel
    only `andon.*` counts, whatever the user's own packages are called.
    """
    module = type(error).__module__
    return module.startswith("andon.") or (not PREFIX and module.partition(".")[0] in ROOMS)
