"""The public surface: what others may have written against, as sorted lines of text that a reviewer reads as a diff."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

BASELINE = Path("reports/baselines/surface.txt")


class SurfaceError(ValueError):
    """A package that does not say what is public; the message names it and the next step."""


def public_names(packages: Iterable[str], root: Path = Path()) -> Iterator[str]:
    """What each package exports in its `__all__`: functions with their parameters, classes with their members.

    Nothing is imported: the sources below `root` are read, those alone that what is exported comes from.

    Raises:
        SurfaceError: a package has no `__all__`, or exports what is defined nowhere.
    """
    read = cache(partial(_module, root))
    for package in packages:
        module = read(package)
        if module is None or module.exports is None:
            raise SurfaceError(f"{package} has no `__all__`; list there what its users may write against")
        for name in sorted(map(str, module.exports)):
            member = _found(read, f"{package}.{name}")
            if member is None:
                raise SurfaceError(f"{package}: `__all__` names {name!r}, which is defined nowhere; take it out")
            yield from _lines(f"name {package}.{name}", member)


def _found(read: Callable[[str], Any], path: str) -> Any:
    """What a dotted name means, through the imports of the modules that hand it on; None where it means nothing."""
    package, _, name = path.rpartition(".")
    module = read(package) if package else None
    target = module.imports.get(name, path) if module else path
    if target != path:
        return _found(read, target)
    return read(path) or (module.members.get(name) if module else None)


def _module(root: Path, name: str) -> Any:
    """A module as griffe reads it; None where there is none."""
    from griffe import visit  # late: a development tool

    place = root.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return visit(name, path, path.read_text(encoding="utf-8"))
    return None


def changes(recorded: Iterable[str], today: Iterable[str]) -> list[str]:
    """What is new (`+`) and what is gone (`-`)."""
    lines = difflib.unified_diff(list(recorded), list(today), n=0, lineterm="")
    return [line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---")]


def _lines(shown: str, member: Any) -> Iterator[str]:
    """A name, and what can be reached through it: the members of a class that have no underscore."""
    if member.is_function:
        yield f"{shown}({', '.join(_parameters(member.parameters))})"
        return
    yield f"{shown}({', '.join(map(str, member.bases))})" if member.is_class else shown
    if member.is_class:
        for name, inner in member.members.items():
            if not name.startswith("_") and not inner.is_alias:
                yield from _lines(f"{shown}.{name}", inner)


def _parameters(parameters: Iterable[Any]) -> Iterator[str]:
    """Parameters as a caller sees them: names, `=` where there is a default, `*` before those given by name alone."""
    kinds = [each.kind.name for each in parameters]
    for place, each in enumerate(parameters):
        kind, before = kinds[place], kinds[:place]
        if kind != "positional_only" and "positional_only" in before[-1:]:
            yield "/"
        if kind == "keyword_only" and not {"keyword_only", "var_positional"} & set(before):
            yield "*"
        stars = {"var_positional": "*", "var_keyword": "**"}.get(kind, "")
        yield f"{stars}{each.name}" + "=" * (not each.required and not stars)
    if kinds[-1:] == ["positional_only"]:
        yield "/"
