"""`package.module:subject`, as a command line or a decorator names it: subjects by name, or what is missing."""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch import nn

from andon.verify.errors import SubjectError
from andon.verify.run.explain import not_a_subject, why
from andon.verify.subject import Subject

KEY = re.compile(r"\[([^\]]*)\]")
NAMED = re.compile(r"([\w.]+)((?:\[[^\]]*\])*)")  # a name in a module, and keys of dicts in it


def load(target: str) -> dict[str, Subject]:
    """Import what a target names: `package.module:subject`, or one of a dict, `package.module:SUBJECTS[key]`.

    Raises:
        SubjectError: there is no such module or name in it, importing it fails, or it is not a subject.
    """
    return subjects(*_resolved(target))


def load_one(target: str, name: str) -> Subject:
    """One of those that `load` finds, by its name there; no other of a dict is made.

    Raises:
        SubjectError: as `load`, or there is none of this name.
    """
    value, own = _resolved(target)
    rest = name
    while rest and isinstance(value, Mapping):
        starts = [str(key) for key in value if f"{rest}.".startswith(f"{key}.")]
        key = max(starts, key=len, default=rest)  # the whole name where it is a key
        value, own, rest = _item(value, key, target), key, rest[len(key) + 1 :]
    found = subjects(value, own)
    if rest in found:
        return found[rest]
    if len(found) == 1 and rest in ("", own):
        return next(iter(found.values()))
    keys = name[: len(name) - len(rest)].removesuffix(".")
    names = found if not keys else [keys] if len(found) == 1 else [f"{keys}.{each}" for each in found]
    raise SubjectError(f"{target}: there is no {name!r}; there are {', '.join(names)}")


def subjects(value: Any, name: str = "subject") -> dict[str, Subject]:
    """A subject, a function that returns one, or a mapping of such: all of them by name, those of mappings in it too.

    Raises:
        SubjectError: it is something else.
    """
    if isinstance(value, Subject):
        return {value.name if value.name != "subject" else name: value}
    if isinstance(value, str):
        return load(value)
    if isinstance(value, Mapping):
        found = {}
        for key, each in value.items():
            own = subjects(each, str(key))
            found |= {str(key) if len(own) == 1 else f"{key}.{name}": subject for name, subject in own.items()}
        return found
    if isinstance(value, nn.Module) or not callable(value):
        raise SubjectError(f"{name}: {not_a_subject(value)}")
    return subjects(_made(value, name), name)


def _resolved(target: str) -> tuple[Any, str]:
    """What a target names, and what it is called."""
    module_name, _, attribute = target.partition(":")
    named = NAMED.fullmatch(attribute)
    if not module_name or not named or module_name.endswith(".py") or "/" in module_name:
        raise SubjectError(
            f"{target!r} does not name a subject; write package.module:subject, such as train.checks:subject, or "
            "package.module:SUBJECTS[key]"
        )
    module = _imported(module_name)
    value: Any = module
    for part in named[1].split("."):
        if not hasattr(value, part):
            raise SubjectError(f"{module_name} has no {named[1]!r}; {_offers(module, named[1])}")
        value = getattr(value, part)
    keys = KEY.findall(named[2])
    for key in keys:
        value = _item(value, key, target)
    return value, keys[-1] if keys else named[1]


def _made(factory: Callable[[], Any], name: str) -> Any:
    """What a function without arguments returns."""
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError) as error:
        raise SubjectError(f"{name} is to return a Subject when called without arguments: {error}") from error
    try:
        made = factory()
    except Exception as error:
        raise SubjectError(f"{name}() gave no subject: {why(error)}") from error
    if callable(made) and not isinstance(made, nn.Module):
        raise SubjectError(f"{name}() returned {type(made).__name__}; return a Subject")
    return made


def _item(value: Any, key: str, target: str) -> Any:
    """One of a dict, or of what a function that returns a dict returns."""
    if callable(value) and not isinstance(value, Mapping | nn.Module):
        value = _made(value, target)
    if not isinstance(value, Mapping):
        raise SubjectError(f"{target}: [{key}] is one of a dict, and this is {type(value).__name__}")
    by_name = {str(each): each for each in value}
    if key not in by_name:
        raise SubjectError(f"{target}: there is no {key!r}; there are {', '.join(by_name)}")
    return value[by_name[key]]


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise SubjectError(
                f"there is no module {error.name!r} in {sys.path[0]!r} or this Python's packages; "
                "run from the folder that holds it"
            ) from error
        raise SubjectError(f"importing {name}: {why(error)}") from error
    except Exception as error:
        raise SubjectError(f"importing {name}: {why(error)}") from error
    except SystemExit as error:
        raise SubjectError(
            f"importing {name} ended the program: put what runs below `if __name__ == '__main__':`"
        ) from error


def _offers(module: ModuleType, wanted: str) -> str:
    """What a module has instead: its subjects, or the names closest."""
    ready = [name for name, value in vars(module).items() if isinstance(value, Subject)]
    close = ready or difflib.get_close_matches(wanted, [name for name in vars(module) if name[0] != "_"])
    return (
        f"it has {', '.join(close)}" if close else "define it there: subject = Subject(model=..., batch=..., loss=...)"
    )
