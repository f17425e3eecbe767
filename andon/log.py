"""A run's log: `log.jsonl`, one JSON object per line, each with a `kind` and a `step`."""

from pathlib import Path
from typing import Any

from andon.reading import ReadError, parse_json, read_text

NAME = "log.jsonl"
MAX_LOG_BYTES = 1 << 30
NUMBER = (int, float)
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {  # of each kind, what its values are
    "step": {"loss": NUMBER, "grad_norm": NUMBER, "tokens": int, "skipped": bool, "seconds": dict},
    "validation": {"loss": NUMBER, "bits_per_byte": NUMBER},
}

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
            records.append(_checked(parse_json(line)))
        except (ValueError, KeyError, TypeError) as error:
            raise LogError(f"{path} line {number} is not a record ({error!r}); remove the line to continue") from error
    return records


def _checked(record: Record) -> Record:
    """Raises KeyError, TypeError or ValueError where it is not a record of its kind."""
    kind, step = record["kind"], record["step"]
    if type(step) is not int or step < 0:
        raise ValueError(f"step={step!r:.40}")
    for key, kinds in FIELDS.get(kind, {}).items():
        if key in record and not (record[key] is None or isinstance(record[key], kinds)):
            raise ValueError(f"{key}={record[key]!r:.40}")
    return record


def of_kind(records: list[Record], kind: str) -> list[Record]:
    """The records of one kind: `step` or `validation`."""
    return [record for record in records if record["kind"] == kind]


def timed_steps(records: list[Record]) -> list[Record]:
    """The steps whose times are a step's: a profiled one is slower."""
    return [record for record in of_kind(records, "step") if not record.get("profiled")]
