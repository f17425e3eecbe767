"""A run's log: `log.jsonl`, one JSON object per line, each with a `kind` and a `step`."""

from pathlib import Path
from typing import Any

from andon.reading import ReadError, parse_json, read_text

NAME = "log.jsonl"
MAX_LOG_BYTES = 1 << 30

Record = dict[str, Any]


class LogError(ValueError):
    """A run's log that cannot be read; the message names the file, the line and the next step."""


def read_log(run: Path) -> list[Record]:
    """The records of a run's folder, in the order written.

    A last line without a newline, which a killed run can leave, is ignored.

    Raises:
        LogError: the file is missing, or another line is not a record.
    """
    path = run / NAME
    if not path.is_file():
        raise LogError(f"{path} does not exist, so {run} is not a run's folder; name one under reports/runs")
    records = []
    try:
        text = read_text(path, MAX_LOG_BYTES)
    except ReadError as error:
        raise LogError(f"{path}: {error}; name another run") from error
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            record = parse_json(line)
            records.append(record | {"kind": record["kind"], "step": record["step"]})
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{path} line {number} is not a record ({error!r}); remove the line to continue") from error
    return records


def of_kind(records: list[Record], kind: str) -> list[Record]:
    """The records of one kind: `step` or `validation`."""
    return [record for record in records if record["kind"] == kind]
