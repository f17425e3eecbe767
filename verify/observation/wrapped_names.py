"""Names of modules and tensors that an adapter wrapped: other parts stand before and between their own."""

import re


def is_wrapped(path: str, name: str) -> bool:
    """Whether a path has all parts of a name in order, and ends with the last of them."""
    return re.fullmatch(_wrapped(name), path) is not None


def is_within(path: str, owner: str) -> bool:
    """Whether a path goes on below a module's: it has all parts of the module's name in order, and then more."""
    return re.fullmatch(_wrapped(owner) + r"\..*", path) is not None


def _wrapped(name: str) -> str:
    return r"(.*\.)?" + r"\.(.*\.)?".join(map(re.escape, name.split(".")))
