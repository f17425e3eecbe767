"""Which checks are meant by names of checks and areas."""

import difflib
from collections.abc import Iterable, Mapping

from andon.verify.checks import CHECKS, Check
from andon.verify.errors import UnknownCheckError
from andon.verify.run.causes import PREMISES

DEEPEST_TIER = 3


def named(name: str, *, beside: Iterable[str] = ()) -> Check:
    """The check of this name; `beside` are names of other statements, of which one may have been meant.

    Raises:
        UnknownCheckError: there is none.
    """
    return _matching(name, exact=True, beside=beside)[0]


def chosen(only: Iterable[str] = (), tier: int = DEEPEST_TIER) -> list[Check]:
    """The checks up to a tier, all of them or those named.

    Raises:
        UnknownCheckError: a name is neither a check's nor an area's.
    """
    if isinstance(only, str):
        only = (only,)
    wanted = {each.name for name in only for each in _matching(name)}
    return sorted(
        (each for each in CHECKS if each.tier <= tier and (not wanted or each.name in wanted)),
        key=lambda each: each.tier,
    )


def ignored(ignore: Mapping[str, str]) -> dict[str, str]:
    """The checks that are left out, by name, with the reason; those of an area where one is named.

    Raises:
        UnknownCheckError: a name is neither a check's nor an area's.
    """
    return {each.name: f"ignored: {reason}" for name, reason in ignore.items() for each in _matching(name)}


def premises() -> list[Check]:
    """The checks whose statement is a premise of others."""
    return [each for each in CHECKS if each.name in PREMISES]


def _matching(name: str, *, exact: bool = False, beside: Iterable[str] = ()) -> list[Check]:
    """Checks by name, or all of an area."""
    found = [each for each in CHECKS if each.name == name or (not exact and _area(each) == name)]
    if found:
        return found
    known = {_area(each) if not exact and "." not in name else each.name: None for each in CHECKS}
    known |= dict.fromkeys(beside)
    close = difflib.get_close_matches(name, known, 3, 0.3)
    raise UnknownCheckError(
        f"{name!r} is {'not a check' if exact else 'neither a check nor an area'}; "
        f"{'closest: ' + ', '.join(close) if close else '`andon verify list` shows all'}"
    )


def _area(check: Check) -> str:
    return check.name.partition(".")[0]
