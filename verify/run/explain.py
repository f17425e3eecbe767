"""Sentences for what goes wrong outside the checks: whose call raised what, and where."""

import linecache
import re
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from torch import nn

from andon.verify.errors import SubjectError
from andon.verify.subject import documented

HERE = Path(__file__).parents[1]  # verify
LIBRARIES = tuple(sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib"))


def why(error: Exception) -> str:
    """An exception as a sentence: which call of the subject raised it, where, and what it says."""
    if isinstance(error, SubjectError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs {error.name}, which is not installed: pip install {error.name.partition('.')[0]}"
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{said}\nin {error.filename}, line {error.lineno}: {(error.text or '').strip()}".rstrip(": ")
    call, place = _blame(error.__traceback__)
    return f"{call} raised {said}{place or _called_as(call, error)}"


def not_a_subject(value: object) -> str:
    """What is missing where something else stands in a subject's place."""
    if isinstance(value, nn.Module):
        return (
            f"{type(value).__name__} is a model; checks also need a batch and a loss: "
            "Subject(model=model, batch=batch, loss=lambda model, batch: model(**batch).loss)"
        )
    return f"{type(value).__name__} is not a Subject; give Subject(model=..., batch=..., loss=...)"


def _called_as(call: str, error: Exception) -> str:
    """How a field of the subject is called, where that call did not fit it; empty elsewhere."""
    if not isinstance(error, TypeError):
        return ""
    field = call.removeprefix("Subject.")
    headings = [each.heading for each in documented() if each.name == field]
    return f"; it is called as {headings[0]}" if headings else ""


def factory_of(error: Exception) -> str:
    """The field of the subject whose call raised it; empty where none did."""
    frames = traceback.extract_tb(error.__traceback__)
    return _called(frames, _last_of_ours(frames))


def _last_of_ours(frames: Sequence[traceback.FrameSummary]) -> int:
    return max((place for place, frame in enumerate(frames) if HERE in Path(frame.filename).parents), default=-1)


def _called(frames: Sequence[traceback.FrameSummary], place: int) -> str:
    factory = re.search(r"\bsubject\.(\w+)\(", frames[place].line or "") if place >= 0 else None
    return factory[1] if factory else ""


def _blame(trace: TracebackType | None) -> tuple[str, str]:
    """The last call that verify made, and the last line of the user's own code below it."""
    frames = traceback.extract_tb(trace)
    last = _last_of_ours(frames)
    line, factory = (frames[last].line or "") if last >= 0 else "", _called(frames, last)
    call = f"Subject.{factory}" if factory else f"`{line}`" if line else "the subject"
    theirs = [frame for frame in frames[last + 1 :] if not frame.filename.startswith((*LIBRARIES, "<"))]
    if not theirs:
        return call, ""
    frame = theirs[-1]
    code = linecache.getline(frame.filename, frame.lineno or 0).strip()
    return call, f"\nin {frame.filename}, line {frame.lineno}, {frame.name}: {code}".rstrip(": ")
