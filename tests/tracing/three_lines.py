"""A trace of three lines and four spans."""

import json


def line(*names: str) -> bytes:
    """A recorded line with one span a name."""
    spans = [
        {
            "traceId": "0af7651916cd43dd8448eb211c80319c",
            "spanId": f"{number:016x}",
            "name": name,
            "startTimeUnixNano": "1",
            "endTimeUnixNano": "2",
        }
        for number, name in enumerate(names, start=1)
    ]
    request = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": spans}]}]}
    return json.dumps(request, separators=(",", ":")).encode() + b"\n"


LINES = [line("one"), line("two", "three"), line("four")]
