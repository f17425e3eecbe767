"""OTLP's JSON, written directly: ids in hexadecimal, 64-bit integers as strings, NaN and infinities by name.

Format: OpenTelemetry protocol 1.x, "JSON Protobuf Encoding". What the SDK's file exporter writes of the same spans is
equal; a test compares them.
"""

import json
import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from math import isfinite

from andon.tracing.conventions import SCHEMA, Attribute

ERROR = 2
FLAGS = 256  # SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK: the parent is of this process
INTERNAL = 1

text = json.JSONEncoder(ensure_ascii=True).encode


def value(key: str, given: Attribute) -> str:
    """One attribute's value. Raises TypeError where OTLP has no such type."""
    if type(given) is float and isfinite(given):  # most are
        return f'{{"doubleValue":{given!r}}}'
    if isinstance(given, bool):
        return '{"boolValue":true}' if given else '{"boolValue":false}'
    if isinstance(given, int):
        return f'{{"intValue":"{int(given)}"}}'
    if isinstance(given, float):
        return f'{{"doubleValue":{number(float(given))}}}'
    if isinstance(given, str):
        return f'{{"stringValue":{text(given)}}}'
    raise TypeError(f"{key}={given!r} is {type(given).__name__}; a span's attribute is a str, bool, int or float")


def number(given: float) -> str:
    """A double in JSON, which has no word for NaN and infinities; protobuf's are these."""
    if math.isfinite(given):
        return repr(given)
    return '"NaN"' if math.isnan(given) else '"Infinity"' if given > 0 else '"-Infinity"'


def attributes(values: Mapping[str, Attribute]) -> str:
    """The items of an `attributes` array."""
    return ",".join([f"{keyed(key)}{value(key, given)}}}" for key, given in values.items()])


@lru_cache(maxsize=1024)
def keyed(key: str) -> str:
    """What stands before an attribute's value."""
    return f'{{"key":{text(key)},"value":'


def event(name: str, time: int, values: Mapping[str, Attribute]) -> str:
    """One item of an `events` array."""
    own = f',"attributes":[{attributes(values)}]' if values else ""
    return f'{{"timeUnixNano":"{time}","name":{text(name)}{own}}}'


def link(trace_id: str, span_id: str, flags: int = FLAGS) -> str:
    """One item of a `links` array."""
    return f'{{"traceId":"{trace_id}","spanId":"{span_id}","flags":{flags}}}'


@lru_cache(maxsize=1024)
def named(name: str, kind: int = INTERNAL) -> str:
    """The part of a span that is the same for all of its name."""
    return f'"flags":{FLAGS},"name":{text(name)},"kind":{kind},'


def span(
    ids: tuple[str, str, str],
    name: str,
    when: tuple[int, int],
    values: str,
    events: Collection[str] = (),
    links: Collection[str] = (),
    *,
    failed: bool = False,
) -> str:
    """One item of a `spans` array; `ids` are trace, span and parent, `name` and `values` from the functions above."""
    trace_id, span_id, parent_id = ids
    parent = f'"parentSpanId":"{parent_id}",' if parent_id else ""
    own = f',"attributes":[{values}]' if values else ""
    happened = f',"events":[{",".join(events)}]' if events else ""
    linked = f',"links":[{",".join(links)}]' if links else ""
    status = f'{{"code":{ERROR}}}' if failed else "{}"
    return (
        f'{{"traceId":"{trace_id}","spanId":"{span_id}",{parent}{name}"startTimeUnixNano":"{when[0]}",'
        f'"endTimeUnixNano":"{when[1]}"{own}{happened}{linked},"status":{status}}}'
    )


def phase(ids: tuple[str, str, str], name: str, when: tuple[int, int], spent: float, code: str) -> str:
    """A span that says nothing but its seconds on processors and its place: most are such, so it is one expression."""
    return (
        f'{{"traceId":"{ids[0]}","spanId":"{ids[1]}","parentSpanId":"{ids[2]}",{name}"startTimeUnixNano":"{when[0]}",'
        f'"endTimeUnixNano":"{when[1]}","attributes":[{{"key":"train.cpu_seconds","value":{{"doubleValue":{spent!r}}}}}'
        f'{code}],"status":{{}}}}'
    )


def frame(resource: Mapping[str, Attribute], scope: str) -> tuple[str, str]:
    """What stands before and after the spans of a line."""
    before = (
        f'{{"resourceSpans":[{{"resource":{{"attributes":[{attributes(resource)}]}},'
        f'"scopeSpans":[{{"scope":{{"name":{text(scope)}}},"spans":['
    )
    return before, f'],"schemaUrl":"{SCHEMA}"}}],"schemaUrl":"{SCHEMA}"}}]}}\n'
