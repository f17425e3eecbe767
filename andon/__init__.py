"""Andon: a quality gate for LLM training code.

The rooms are attributes, imported when first asked for: `from andon import verify` works in a checkout, where the
rooms are top-level folders, and installed, where they are `andon.verify` and so on.
"""

from types import ModuleType

from andon.rooms import ROOMS, room

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """Import a room on first use."""
    if name not in ROOMS:
        raise AttributeError(f"module 'andon' has no attribute {name!r}; its rooms are {', '.join(ROOMS)}")
    return room(name)
