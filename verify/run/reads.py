"""What a check reads of a batch beyond its loss: tokens, logits; told from the functions that it always calls."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch

from andon.verify.access import logits, targets
from andon.verify.access.calls import new_batch, new_model, seeded
from andon.verify.checks.table import Check
from andon.verify.errors import NotApplicable
from andon.verify.subject import Subject

TOKENS, LOGITS = "tokens", "logits"
# Through these alone is each of them reached.
SOURCES = {targets.tokens_of: (TOKENS,), logits.logits_of: (TOKENS, LOGITS)}
PACKAGE = "andon.verify"
PERHAPS = {(kind, name) for kind in (ast.If, ast.IfExp) for name in ("body", "orelse")}  # not in every call
OF_SIGNATURES = ("defaults", "kw_defaults", "annotation", "returns")


def reads(check: Check) -> tuple[str, ...]:
    """What of a batch a check cannot do without, beyond its loss."""
    found = {each for function in _reached(check.function) for each in SOURCES.get(function, ())}
    return tuple(each for each in (TOKENS, LOGITS) if each in found)


def as_sentence(check: Check) -> str:
    """What it reads, for an explanation; empty where nothing."""
    found = reads(check)
    return {0: "", 1: "Reads tokens of the batch.", 2: "Reads tokens of the batch, and logits of them."}[len(found)]


def unmet(subject: Subject) -> dict[str, str]:
    """Which of them a subject has not, with what a check would say of it: measured, as checks do."""
    lacking = {}
    with seeded(), torch.no_grad():
        model, batch = new_model(subject).eval(), new_batch(subject)
        for name, ask in ((TOKENS, _tokens), (LOGITS, logits.logits_of)):
            try:
                ask(subject, model, batch)
            except NotApplicable as lack:
                lacking[name] = str(lack)
    return lacking


def _tokens(subject: Subject, _: Any, batch: Any) -> None:
    targets.tokens_of(subject, batch)


def _reached(function: Callable[..., Any]) -> set[Callable[..., Any]]:
    """A function, and those of this package that it calls, and so on; up to where a source is reached."""
    waiting, found = [inspect.unwrap(function)], set()
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += [] if each in SOURCES else _called(each)
    return found


@cache
def _called(function: Callable[..., Any]) -> list[Callable[..., Any]]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    names = {node.id for node in _needed(tree) if isinstance(node, ast.Name)}
    values = [inspect.unwrap(value) for name in names if inspect.isfunction(value := _named(function, name))]
    return [value for value in values if value.__module__.startswith((PACKAGE, function.__module__))]


def _named(function: Callable[..., Any], name: str) -> Any:
    return getattr(function, "__globals__", {}).get(name)


def _needed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree that every call evaluates: no branch, no default, nothing that is tried and can fail."""
    yield node
    for name, value in ast.iter_fields(node):
        if (type(node), name) in PERHAPS or name in OF_SIGNATURES:
            continue
        children = value if isinstance(value, list) else [value]
        for child in children[:1] if isinstance(node, ast.BoolOp) else children:
            if isinstance(child, ast.AST) and not _is_tried(child):
                yield from _needed(child)
            if isinstance(child, ast.If) and any(isinstance(each, ast.Return) for each in ast.walk(child)):
                break  # what stands after it is not always reached


def _is_tried(node: ast.AST) -> bool:
    handlers = node.handlers if isinstance(node, ast.Try) else []
    return any("NotApplicable" in ast.unparse(each.type) for each in handlers if each.type)
