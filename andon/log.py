"""A run's log: `log.jsonl`, one JSON object per line, each with a `kind` and a `step`."""

import json
from pathlib import Path
from typing import Any

NAME = "log.jsonl"

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
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            break
        try:
            record = json.loads(line)
            records.append(record | {"kind": record["kind"], "step": record["step"]})
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{path} line {number} is not a record ({error!r}); remove the line to continue") from error
    return records


def of_kind(records: list[Record], kind: str) -> list[Record]:
    """The records of one kind: `step` or `validation`."""
    return [record for record in records if record["kind"] == kind]
