"""Where in the script a call comes from: the first frames that are neither a library's nor ours."""

import os
import sys
import sysconfig
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

LIBRARIES = ("site-packages", "dist-packages")
DEEP = 6  # script frames that tell one call from another
PACKAGE = Path(__file__).parents[1]
OURS = tuple(f"{each.resolve()}{os.sep}" for each in (PACKAGE, PACKAGE / "verify"))  # the second may be a link
STANDARD = tuple({sysconfig.get_path(each) for each in ("stdlib", "platstdlib")})


class Place(NamedTuple):
    """A line of a script."""

    file: str
    line: int

    def __str__(self) -> str:
        """As compilers write it, the file relative to the folder that the script runs in."""
        path = Path(self.file)
        try:
            return f"{path.relative_to(Path.cwd())}:{self.line}"
        except (ValueError, OSError):
            return f"{path.name}:{self.line}"


def chain(most: int = DEEP) -> tuple[Place, ...]:
    """The script's frames of this call, innermost first."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - how the standard library's logging does it
    found: list[Place] = []
    while frame is not None and len(found) < most:
        if is_script(frame.f_code.co_filename):
            found.append(Place(frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def here() -> Place | None:
    """The script's innermost line of this call."""
    found = chain(1)
    return found[0] if found else None


@cache
def is_script(file: str) -> bool:
    """Whether a file is neither a library's nor ours."""
    if file.startswith("<"):
        return False
    path = str(Path(file).resolve())
    inside = any(f"/{each}/" in path for each in LIBRARIES)
    return not inside and not path.startswith(OURS + STANDARD)
