"""Attributes under their names in OpenTelemetry's semantic conventions 1.44, and nothing private among them."""

import contextlib
import platform
import uuid
from pathlib import Path
from types import CodeType, FrameType

from andon import __version__

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
ENTER = contextlib._GeneratorContextManager.__enter__.__code__  # noqa: SLF001 - where a generator's `with` begins
ENTERING = ("__enter__", "enter_context")

Attribute = str | bool | int | float


def resource_attributes(run_id: str, service_name: str, service_version: str, rank: int | None) -> dict[str, Attribute]:
    """Who recorded: service, run, rank, Python and recorder. No host, user, command line, environment or path."""
    version = {"service.version": service_version} if service_version else {}
    return {
        "service.name": service_name,
        **version,
        "service.instance.id": str(uuid.uuid4()),
        "train.run.id": run_id,
        **({} if rank is None else {"train.rank": rank}),
        "process.runtime.name": platform.python_implementation().lower(),
        "process.runtime.version": platform.python_version(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "andon.tracing",
        "telemetry.sdk.version": __version__,
    }


def caller(frame: FrameType) -> FrameType:
    """The frame whose `with` opens a span: outside of context managers that open it while they are entered."""
    while back := frame.f_back:
        if back.f_code is not ENTER and frame.f_code.co_name not in ENTERING:
            break
        frame = back
    return frame


def code_attributes(code: CodeType, module: str, line: int) -> dict[str, Attribute]:
    """Where the span was opened: function, line, and the source file as far as its package goes."""
    file = Path(code.co_filename)
    depth = module.count(".") + (2 if file.stem == "__init__" else 1)
    return {
        "code.function.name": f"{module}.{code.co_qualname}",
        "code.file.path": path_within(file, depth),
        "code.line.number": line,
    }


def path_within(file: Path, depth: int) -> str:
    """A file from the folder on that holds its package, as the repository has it: links to folders are followed."""
    above, real = file.parents, file.resolve()
    folder = above[min(depth, len(above)) - 1].resolve()
    if real.is_relative_to(folder) and file.is_absolute():
        return real.relative_to(folder).as_posix()
    return "/".join(file.parts[-depth:])
