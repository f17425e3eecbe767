"""Mutants of one file: a change of one place each, chosen so that every run chooses the same ones.

Left alone: annotations, docstrings, what a `raise` says, and imports. Decorated functions are mutated like any other,
as a whole file is planted; so are the constants and tables of a module, which belong to the function `<module>`.
"""

import ast
import difflib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from importlib import metadata
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.mutators import mutation_operators

from andon.gates.measures.mutation import tensors
from andon.gates.measures.mutation.keys import unmoved

MODULE = "<module>"
TEXT = "operator_string"  # of mutmut's, and taken once a string: letters' case is what a test of the first holds, too
LOUD = {"operator_arg_removal", "operator_assignment"}  # mostly an error at once: last in each turn
OPAQUE = {"cast", "isinstance", "len"}  # calls that say nothing at run time, or fail whatever they are given


class Mutant(NamedTuple):
    """A file with one place changed."""

    id: str  # hash of function and diff: the same wherever the function stands
    file: str
    function: str  # "Cache.store", or "<module>" for tables
    operator: str
    line: int
    diff: str
    text: str  # the whole file, changed


class Place(NamedTuple):
    """One thing that can be put in one place, before it is known to be worth trying."""

    function: str
    operator: str
    start: int  # offsets in the file's text
    end: int
    line: int
    new: str


def mutants(file: str, text: str, per_function: int, only: Collection[str]) -> dict[str, list[Mutant]]:
    """At most `per_function` mutants of each function in `only`.

    Operators take turns, those of tensors first; among what one operator makes, a hash decides. What does not compile,
    or is the program as it was, is none.
    """
    by_function: dict[str, list[Place]] = defaultdict(list)
    for place in places(text):
        if place.function in only:
            by_function[place.function].append(place)
    known = {_tree(text), ""}
    return {name: list(islice(_tried(file, text, some, known), per_function)) for name, some in by_function.items()}


def _tried(file: str, text: str, some: list[Place], known: set[str]) -> Iterator[Mutant]:
    """Mutants in the order in which they are chosen."""
    seen: Counter[str] = Counter()
    for place in _in_turns(text, some):
        changed = text[: place.start] + place.new + text[place.end :]
        tree = _tree(changed)
        if tree in known:
            continue
        known.add(tree)
        diff = difference(text, changed)
        name = hashlib.sha256(f"{place.function}\n{diff}".encode()).hexdigest()[:12]
        seen[name] += 1
        name += f"-{seen[name]}" * (seen[name] > 1)
        yield Mutant(name, file, place.function, place.operator, place.line, diff, changed)


def places(text: str) -> list[Place]:
    """All that the operators make of a file's text."""
    wrapper = MetadataWrapper(cst.parse_module(text), unsafe_skip_copy=True)
    positions: Any = wrapper.resolve(PositionProvider)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    visitor = _Visitor()
    wrapper.module.visit(visitor)
    result = []
    for function, operator, node, new in visitor.found:
        span = positions.get(node)
        if span is None:
            continue
        start, end = (starts[at.line - 1] + at.column for at in (span.start, span.end))
        code = cst.Module([]).code_for_node(_bare(node, new))
        result.append(Place(function, operator, start, end, span.start.line, code))
    return result


def difference(before: str, after: str) -> str:
    """The changed lines with one line around them, without numbers."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def functions(text: str) -> dict[str, str]:
    """The source of each function and method by its qualified name; the rest of the module as `<module>`."""
    lines = text.splitlines()
    found, taken = {}, set()
    for name, node in _definitions(ast.parse(text).body, ""):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        span = range(first - 1, node.end_lineno or first)
        found[name] = "\n".join(lines[number] for number in span)
        taken |= set(span)
    return found | {MODULE: "\n".join(line for number, line in enumerate(lines) if number not in taken)}


@cache
def version() -> str:
    """What made the mutants: mutmut's version, and a hash of these two files."""
    own = "\n".join(unmoved(Path(path).read_text(encoding="utf-8")) for path in (__file__, tensors.__file__))
    return f"mutmut {metadata.version('mutmut')}, operators {hashlib.sha256(own.encode()).hexdigest()[:12]}"


class _Visitor(cst.CSTVisitor):
    """Collects (function, operator, node, what to put there) for every operator that has something to say."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, cst.CSTNode, cst.CSTNode]] = []
        self.stack: list[cst.FunctionDef | cst.ClassDef] = []
        self.table: cst.CSTNode | None = None

    def on_visit(self, node: cst.CSTNode) -> bool:
        """Apply the operators to a node, unless it is none of the program's behaviour."""
        if _is_silent(node):
            return False
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self.stack.append(node)
        elif isinstance(node, cst.Assign | cst.AnnAssign) and not self.stack:
            self.table = node
        if any(isinstance(each, cst.FunctionDef) for each in self.stack):
            self._apply(node)
        elif self.table:
            self._add(MODULE, tensors.table_entry, node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        """Keep track of where we are."""
        if self.stack and original_node is self.stack[-1]:
            self.stack.pop()
        if original_node is self.table:
            self.table = None

    def _apply(self, node: cst.CSTNode) -> None:
        function = self._function()
        for operator in tensors.OPERATORS:
            self._add(function, operator, node)
        for kind, operator in mutation_operators:
            if isinstance(node, kind):
                self._add(function, operator, node)
        if isinstance(node, cst.FunctionDef):
            self.found += [(function, "detach", *pair) for pair in tensors.detached_return(node)]

    def _add(self, function: str, operator: tensors.Operator, node: cst.CSTNode) -> None:
        name = getattr(operator, "__name__", "")
        made = list(operator(node))[: 1 if name == TEXT else None]
        self.found += [(function, name, node, new) for new in made]

    def _function(self) -> str:
        """The outermost function we are in, with its classes; what it defines inside is part of it."""
        first = next(place for place, node in enumerate(self.stack) if isinstance(node, cst.FunctionDef))
        return ".".join(node.name.value for node in self.stack[: first + 1])


def _in_turns(text: str, some: list[Place]) -> list[Place]:
    """One of each operator, then the second of each, and so on."""
    own = [getattr(operator, "__name__", "") for operator in tensors.OPERATORS]
    columns: dict[str, list[Place]] = defaultdict(list)
    for place in sorted(some, key=lambda place: _hash(text[place.start : place.end], place.new)):
        columns[place.operator].append(place)
    order = sorted(columns, key=lambda name: (own.index(name) if name in own else len(own), name in LOUD, name))
    turns = chain.from_iterable(zip_longest(*(columns[name] for name in order)))
    return [place for place in turns if place]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _tree(text: str) -> str:
    """The syntax tree as a hash; empty where this is no Python."""
    try:
        compile(text, "<mutant>", "exec", dont_inherit=True)
    except SyntaxError:
        return ""
    return _hash(ast.dump(ast.parse(text)))


def _definitions(body: Iterable[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in body:
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node.body, f"{prefix}{node.name}.")


def _is_silent(node: cst.CSTNode) -> bool:
    """Whether nothing in this node decides what the program does."""
    if isinstance(node, cst.Annotation | cst.Raise | cst.Import | cst.ImportFrom | cst.Decorator):
        return True
    if isinstance(node, cst.Expr):
        return isinstance(node.value, cst.SimpleString | cst.ConcatenatedString)
    if isinstance(node, cst.If):
        return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
    return isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value in OPAQUE


def _bare(node: cst.CSTNode, new: cst.CSTNode) -> cst.CSTNode:
    """What to put there, without the parentheses that stand around the node already."""
    around = getattr(node, "lpar", ())
    return new.with_changes(lpar=(), rpar=()) if around and getattr(new, "lpar", ()) == around else new
