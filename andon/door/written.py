"""What the door captured, written as code to go on from: a file that makes the Subject, a line for each trait."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from andon.files import write_whole

WIDTH = 116  # columns of its docstrings
STEP = 3  # whose micro-batch the door captures: `verify.capture` counts alike
FILE = '''\
"""{title}

Correct it a line at a time, and check it in the folder that the command ran in:

    andon verify {name}:subject
"""

import runpy
import sys
from dataclasses import replace

from andon import verify


def train():
    """Run what the command ran; `verify.capture` ends it within the backward pass that it captures."""
{train}


def subject():
    """{seen}"""
    return replace(
        verify.capture(train, step={step}),
{fields}
    )
'''


class Writing(NamedTuple):
    """What became of a file that was to be written."""

    path: Path
    lack: str  # why it was not

    @property
    def target(self) -> str:
        """As `andon verify` takes it."""
        return f"{'.'.join(self.path.with_suffix('').parts)}:subject"

    def __str__(self) -> str:
        """In a line."""
        if self.lack:
            return f"{self.path} is not written, as nothing was captured: {self.lack}"
        return f"written: {self.path}; go on with `andon verify {self.target}`"


def refused(path: Path) -> str:
    """Why a file cannot be written here; empty where it can."""
    if path.is_absolute() or ".." in path.parts or path.suffix != ".py":
        return f"{path} is not a Python file in this folder, from which `andon verify` imports it"
    wrong = next((part for part in path.with_suffix("").parts if not part.isidentifier()), None)
    if wrong is not None:
        return f"{path} cannot be imported: {wrong!r} is no name in Python; write my_checks.py, for one"
    return f"{path} is there already: name another file, or remove it" if path.exists() else ""


def write(path: Path, command: str, results: Sequence[Mapping[str, Any]]) -> Writing:
    """Write the file, of the process that captured most of its steps; nothing where none captured."""
    lack = refused(path)
    result = next((each for each in results if each["traits"] is not None), None)
    if not lack and result is None:
        lack = _why(results)
    if not lack and result is not None:
        lack = result["entry"]["lack"]
    if not lack and result is not None:
        write_whole(path, _rendered(Writing(path, ""), command, result))
    return Writing(path, lack)


def _why(results: Sequence[Mapping[str, Any]]) -> str:
    """Why no process captured anything."""
    said = next((line for each in results for line in each["captured"]), "")
    if said:
        return said.removeprefix("not checked as a Subject: ")
    steps = max((each["steps"] for each in results), default=0)
    return f"an optimizer's step {STEP} on the CPU, in a process that can be forked, was not seen ({steps} steps were)"


def _rendered(writing: Writing, command: str, result: Mapping[str, Any]) -> str:
    captured = next(line for line in result["captured"] if line.startswith("captured"))
    return FILE.format(
        title=_inside(f"A Subject: what `{command}` trains.", ""),
        name=writing.target.removesuffix(":subject"),
        train="\n".join(f"    {line}" for line in _train(result["entry"])),
        seen=_inside(f"{result['seen']}; {captured}.", "    "),
        step=STEP,
        fields="\n".join(f"        {line}" for line in _fields(result)),
    )


def _inside(text: str, indent: str) -> str:
    """A text as it may stand in a docstring."""
    plain = text.replace("\\", "\\\\").replace('"', "'")
    return textwrap.fill(plain, WIDTH, initial_indent=indent, subsequent_indent=indent).strip()


def _train(entry: Mapping[str, Any]) -> list[str]:
    """The body of a function that runs a script or a module as its own command line does."""
    script, module = entry["script"], entry["module"]
    folder = Path(script).parent.as_posix()
    words = f"sys.argv = {_literal([module or script, *entry['arguments']])}"
    if module:
        return [words, f'runpy.run_module({_literal(module)}, run_name="__main__", alter_sys=True)']
    inside = [f"sys.path.insert(0, {_literal(folder)})"] if folder != "." else []
    return [words, *inside, f'runpy.run_path({_literal(script)}, run_name="__main__")']


def _fields(result: Mapping[str, Any]) -> list[str]:
    """A line for each trait that was measured."""
    name = result["entry"]["script"] or result["entry"]["module"]
    found = {"name": name, **result["traits"], "hyperparameters": result["settings"]}
    lines = [f"{field}={_literal(value)}," for field, value in found.items() if value]
    count = result["micro_batches"]
    return [*lines, f"# accumulation: a step makes {count} such backward passes"] if count > 1 else lines


def _literal(value: Any) -> str:
    """In the form that formatters give it."""
    return repr(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
