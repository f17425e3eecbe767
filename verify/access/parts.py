"""The parts of a subject's batches by role, as its own pass shows them."""

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
    found = {role: key for role, key in free.items() if role != "tokens"} | found
    if "tokens" in subject.roles or ("tokens" in found and found["tokens"] not in shown.parts):
        return found
    tables = [key for key in shown.indexed if isinstance(parts.get(key), Tensor) and is_index(parts[key])]
    tokens = found.pop("tokens", None)
    if tokens in tables:
        return {"tokens": tokens} | found
    others = [key for key in tables if key not in found.values()]
    chosen = [key for key in others if key == free.get("tokens")] or others
    return {"tokens": chosen[0]} | found if len(chosen) == 1 else found


def part(subject: Subject, batch: Batch, role: str) -> Tensor:
    """The tensor of a role.

    Raises:
        NotApplicable: this batch has none.
    """
    found = find(subject, batch)
    if role not in found:
        raise NotApplicable(f"{role} in the batch: name the part with Subject(roles={{{role!r}: ...}})")
    return fields(batch)[found[role]]
