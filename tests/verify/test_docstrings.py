"""The docstrings of the checks, which `andon verify explain` prints and pages are made of."""

import ast

import pytest

from andon.verify.checks import CHECKS, Check
from andon.verify.run import docstring

pytestmark = pytest.mark.tier2


def told(_: object) -> None:
    """It holds.

    It holds of rows, too.

    Silent because nobody
    looks.

    Look here.

    Yellow where
    two do it.

    Example:
        # wrong: one short
        for i in range(n - 1):
            total += x[i]

        # right
        for i in range(n):
            total += x[i]

    Reference: Somebody 2020, section 1,
    and a page.
    """


def test_a_docstring_is_taken_apart() -> None:
    """Behavior: paragraphs become one line each, and the example keeps its lines and loses its indentation."""
    wrong = "# wrong: one short\nfor i in range(n - 1):\n    total += x[i]"
    right = "# right\nfor i in range(n):\n    total += x[i]"
    assert (
        "It holds.",
        "It holds of rows, too.",
        "Silent because nobody looks.",
        "Look here.",
        "Yellow where two do it.",
        f"{wrong}\n\n{right}",
        "Somebody 2020, section 1, and a page.",
    ) == docstring.explain(Check("a.told", told))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_docstring_has_its_parts(check: Check) -> None:
    """Behavior: a check says what is true, why a fault is silent and where to look, and shows one, and it mended."""
    about = docstring.explain(check)
    assert all((about.title, about.silent, about.look, about.example))
    wrong, found, right = about.example.partition("\n\n# right")
    assert wrong.startswith("# wrong: ")
    assert found
    for half in (wrong, f"# right{right}"):
        assert ast.parse(half).body, half
