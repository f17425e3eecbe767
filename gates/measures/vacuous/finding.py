"""What a vacuous test is accused of."""

from typing import Literal, NamedTuple

Kind = Literal["no assertion", "itself", "empty set", "only mocks", "swallowed", "stubbed"]


class Finding(NamedTuple):
    """A test that cannot fail, and why."""

    path: str
    line: int
    test: str
    kind: Kind
    why: str

    def __str__(self) -> str:
        """The finding as tools print theirs."""
        return f"{self.path}:{self.line}: {self.kind}: {self.test} {self.why}"
