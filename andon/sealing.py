"""JSON sealed with the hash of its own content: a file that differs in any bit is not valid.

The seal finds damage and edits by hand. It keeps out nobody who can run this code.
"""

import hashlib
import json
from typing import Any

from andon.reading import ReadError, parse_json

SEAL = "sha256"


def seal(fields: dict[str, Any]) -> bytes:
    """The canonical bytes of these fields with their own hash."""
    digest = hashlib.sha256(json.dumps(fields).encode()).hexdigest()
    return (json.dumps({**fields, SEAL: digest}, indent=2) + "\n").encode()


def unseal(content: bytes) -> dict[str, Any]:
    """The fields of what `seal` wrote.

    Raises:
        ReadError: it is something else, or differs in any bit.
    """
    try:
        fields = parse_json(content)
        sealed = isinstance(fields, dict) and fields.pop(SEAL, None) is not None and seal(fields) == content
    except (ValueError, RecursionError):  # not JSON, or half of a surrogate pair
        fields, sealed = {}, False
    if not sealed:
        raise ReadError("does not match its own SHA-256: truncated, changed or of another program")
    return fields
