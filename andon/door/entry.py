"""How a watched process was started: as code can start it again."""

import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """`python SCRIPT ARGUMENTS` or `python -m MODULE ARGUMENTS`, or why neither says it."""

    script: str = ""  # relative to the folder that it was started in
    module: str = ""
    arguments: tuple[str, ...] = ()
    lack: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the file in which a process says what it saw."""
        return asdict(self)


def entry_now() -> Entry:
    """This process's, before its script has changed anything."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        return Entry(lack="the process was one rank of several: name the command of one, such as `python train.py`")
    if not sys.argv or sys.argv[0] in ("", "-", "-c"):
        return Entry(lack="the program is no file: put it in one, and name `python FILE`")
    spec, arguments = getattr(sys.modules["__main__"], "__spec__", None), tuple(sys.argv[1:])
    if spec is not None:
        return Entry(module=spec.name.removesuffix(".__main__"), arguments=arguments)
    return Entry(script=Path(os.path.relpath(sys.argv[0])).as_posix(), arguments=arguments)
