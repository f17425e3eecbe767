"""The terminal that reports are printed on."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> "Console":
    """A terminal's or a file's; rich honors NO_COLOR and leaves plain text in a file."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
