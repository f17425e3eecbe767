"""`package.module:subject`, as a command line or a decorator names it: subjects by name, or what is missing."""

import difflib
import importlib
import inspect
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

from andon.verify.errors import SubjectError
from andon.verify.run.explain import no_subject, why
from andon.verify.subject import Subject


def load(target: str) -> dict[str, Subject]:
    """Import what a target names.

    Raises:
        SubjectError: there is no such module or name in it, importing it fails, or it is no subject.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute or module_name.endswith(".py") or "/" in module_name:
        raise SubjectError(f"{target!r} names no subject; write package.module:subject, such as train.checks:subject")
    module = _imported(module_name)
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise SubjectError(f"{module_name} has no {attribute!r}; {_offers(module, attribute)}")
        value = getattr(value, part)
    return subjects(value, attribute)


def subjects(value: Any, name: str = "subject") -> dict[str, Subject]:
    """A subject, a function that returns one, or a mapping of such: all of them by name.

    Raises:
        SubjectError: it is something else.
    """
    if isinstance(value, Subject):
        return {value.name if value.name != "subject" else name: value}
    if isinstance(value, str):
        return load(value)
    if isinstance(value, Mapping):
        return {str(key): subject for key, each in value.items() for subject in subjects(each, str(key)).values()}
    if isinstance(value, nn.Module) or not callable(value):
        raise SubjectError(f"{name}: {no_subject(value)}")
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError) as error:
        raise SubjectError(f"{name} is to return a Subject when called without arguments: {error}") from error
    try:
        made = value()
    except Exception as error:
        raise SubjectError(f"{name}() gave no subject: {why(error)}") from error
    if callable(made) and not isinstance(made, nn.Module):
        raise SubjectError(f"{name}() returned {type(made).__name__}; return a Subject")
    return subjects(made, name)


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
