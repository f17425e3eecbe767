"""What each field of a subject is, as data beside the field: said once, shown in help, lists and documentation."""

import textwrap
from collections.abc import Iterable
from dataclasses import Field
from typing import NamedTuple

from andon.verify.vocabulary import keys_of

WIDTH = 100  # of help
NEEDED, MODEL, TRAINING, DATA = "always needed", "model", "training", "data and text"
ADAPTATION, TRAITS = "adapters and quantization", "traits"


class Documented(NamedTuple):
    """One field, as help and documentation show it."""

    group: str
    name: str
    call: str  # how it is called and what it returns, or what it holds
    what: str

    @property
    def heading(self) -> str:
        """How it is called, which begins with its name; or its name and what it holds."""
        return self.call if self.call.startswith(f"{self.name}(") else f"{self.name}: {self.call}"


def says(group: str, call: str, what: str) -> dict[str, str]:
    """A field's metadata."""
    return {"group": group, "call": call, "what": what}


def of_field(field: Field[object]) -> Documented:
    """What a field's metadata says."""
    return Documented(field.metadata["group"], field.name, field.metadata["call"], field.metadata["what"])


def as_text(documented: Iterable[Documented]) -> str:
    """Help: fields by group, with what their mappings can hold."""
    lines, group = [], ""
    for each in documented:
        if each.group != group:
            group = each.group
            lines += ["", f"{group.capitalize()}:"]
        lines.append(f"    {each.heading}")
        lines += textwrap.wrap(each.what, WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8)
        lines += [f"{' ' * 12}{key}: {said}" for key, said in keys_of(each.name).items()]
    return "\n".join(lines)
