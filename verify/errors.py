"""What a check raises: the subject is wrong, unusual, cannot be asked, or was described wrongly."""


class CheckFailed(AssertionError):  # noqa: N818 - a failure, in the words of assertions
    """What was measured contradicts what is true of any correct implementation; the message holds both numbers."""


class Unusual(CheckFailed):
    """A strong habit of the field is broken, which is right only if its author meant it; the message says both."""


class UnusualWarning(UserWarning):
    """A yellow finding, where a red one would raise."""


class NotApplicable(Exception):  # noqa: N818 - no error: nothing is wrong
    """The check does not apply to this subject; the message says what it would need."""


def left_out_by(field: str, value: object, why: str) -> NotApplicable:
    """What a check raises that does not apply because a field of the subject is set: the field stands first."""
    return NotApplicable(f"{field}={value!r} leaves it out: it needs {why}")


class SubjectError(ValueError):
    """A factory of the subject returned what it must not; the message names the factory, the value and the rule."""


class UnknownCheckError(ValueError):
    """A name that no check has; the message lists the closest."""


def listed(names: list[str]) -> str:
    """A few names, and how many more, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
