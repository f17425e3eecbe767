"""The parts of a subject's batches by role, as its own pass shows them."""

from typing import Any

from torch import Tensor

from andon.verify.access.facts import facts_of
from andon.verify.access.roles import fields, guessed, is_index
from andon.verify.errors import NotApplicable
from andon.verify.subject import Batch, Subject


def find(subject: Subject, batch: Batch) -> dict[str, str | int]:
    """Role to key. Tokens are what looks up an embedding: the part with a usual name, or else the one that it shows.

    What is said in `Subject.roles`, and parts that the subject's own batch does not have, are taken by name.
    """
    found, shown, parts = guessed(batch, subject.roles), facts_of(subject), fields(batch)
    free = {role: key for role, key in shown.roles.items() if key in parts and key not in found.values()}
    shown_tokens, found = free.pop("tokens", None), free | found
    if "tokens" in subject.roles or ("tokens" in found and found["tokens"] not in shown.parts):
        return found
    named = found.pop("tokens", None)
    tables = [key for key in shown.indexed if _can_be_tokens(parts.get(key))]
    tokens = named if named in tables else _only(tables, shown_tokens, set(found.values()))
    return found if tokens is None else {"tokens": tokens} | found


def _can_be_tokens(value: Any) -> bool:
    return isinstance(value, Tensor) and is_index(value)


def _only(tables: list[str | int], shown: str | int | None, taken: set[str | int]) -> str | int | None:
    """The part that looks up a table and is nothing else: the one that is shown, or else the only one."""
    free = [key for key in tables if key not in taken]
    if shown in free:
        return shown
    return free[0] if len(free) == 1 else None


def part(subject: Subject, batch: Batch, role: str) -> Tensor:
    """The tensor of a role.

    Raises:
        NotApplicable: this batch has none.
    """
    found = find(subject, batch)
    if role not in found:
        raise NotApplicable(f"{role} in the batch: name the part with Subject(roles={{{role!r}: ...}})")
    return fields(batch)[found[role]]
