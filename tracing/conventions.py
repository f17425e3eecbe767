"""Attributes under their names in OpenTelemetry's semantic conventions 1.44, and nothing private among them."""

import platform
import uuid
from functools import lru_cache
from pathlib import PurePath
from types import CodeType, FrameType

from opentelemetry.sdk import version as sdk

Attribute = str | bool | int | float


def resource_attributes(run_id: str, service_name: str, service_version: str) -> dict[str, Attribute]:
    """Who recorded: service, run, Python and SDK. No host, user, command line, environment or path."""
    version = {"service.version": service_version} if service_version else {}
    return {
        "service.name": service_name,
        **version,
        "service.instance.id": str(uuid.uuid4()),
        "train.run.id": run_id,
        "process.runtime.name": platform.python_implementation().lower(),
        "process.runtime.version": platform.python_version(),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": sdk.__version__,
    }


def code_attributes(frame: FrameType) -> dict[str, Attribute]:
    """Where the span was opened: function, line, and the source file as far as its package goes."""
    return {
        **function_attributes(frame.f_code, frame.f_globals.get("__name__", "")),
        "code.line.number": frame.f_lineno,
    }


@lru_cache(maxsize=1024)
def function_attributes(code: CodeType, module: str) -> dict[str, Attribute]:
    """The part that is the same for every line of a function."""
    file = PurePath(code.co_filename)
    depth = module.count(".") + (2 if file.stem == "__init__" else 1)
    return {
        "code.function.name": f"{module}.{code.co_qualname}",
        "code.file.path": "/".join(file.parts[-depth:]),
    }
