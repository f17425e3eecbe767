"""Evidence: what a measure found, on what content. Written once, judged apart, stale once the content changed."""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from andon.files import write_whole
from andon.reading import ReadError, file_sha256, parse_json, read_bytes
from andon.sealing import SEAL, seal, unseal

FOLDER = Path("reports/evidence")
EXIT_CODE = "exit_code"


class EvidenceError(ValueError):
    """An evidence file that is missing, incomplete or invalid; the message names it and the next step."""


@dataclass(frozen=True)
class Metric:
    """A value with its unit; None says that it could not be measured."""

    value: float | None
    unit: str = ""


@dataclass(frozen=True)
class Evidence:
    """One measure's result; `sources` maps each measured file or folder to its digest."""

    name: str
    command: str
    seconds: float
    sources: dict[str, str]
    metrics: dict[str, Metric]


def run_record(measure: str) -> str:
    """The name of what the runner writes of a measure, beside the evidence that the measure itself may write."""
    return f"{measure}.run"


def digest(path: str | Path) -> str:
    """SHA-256 of a file, or of a folder's names and contents; "absent" where there is nothing.

    Hidden entries and `__pycache__` are left out: they are made by running, not by editing.
    """
    path = Path(path)
    if path.is_dir():
        inner = [child for child in sorted(path.iterdir()) if child.name[0] != "." and child.name != "__pycache__"]
        listing = "".join(f"{child.name}\0{digest(child)}\n" for child in inner)
        return hashlib.sha256(listing.encode()).hexdigest()
    try:
        return file_sha256(path)
    except FileNotFoundError:
        return "absent"
    except ReadError as error:
        raise EvidenceError(f"{path}: {error}; remove it from the sources") from error


def digests(sources: Iterable[str]) -> dict[str, str]:
    """Each source's digest: taken before measuring, so that an edit meanwhile makes the evidence stale."""
    return {source: digest(source) for source in sources}


def write_evidence(evidence: Evidence, folder: Path = FOLDER) -> Path:
    """Write `<folder>/<name>.json`, whole or not at all; a value that is not finite becomes null."""
    content = asdict(evidence)
    for metric in content["metrics"].values():
        if metric["value"] is not None and not math.isfinite(metric["value"]):
            metric["value"] = None
    path = folder / f"{evidence.name}.json"
    write_whole(path, seal(content).decode(), synced=False)
    return path


def read_evidence(name: str, folder: Path = FOLDER) -> Evidence:
    """Read what `write_evidence` wrote.

    Raises:
        EvidenceError: the file is missing, torn, or holds something else.
    """
    return _read(folder / f"{name}.json", name, unseal)


def seal_evidence(name: str, folder: Path = FOLDER) -> None:
    """Seal what a measure has just written by hand, so that whoever judges it later can believe it.

    What cannot be read, or has a seal already, stays as it is: judging says what is wrong.
    """
    path = folder / f"{name}.json"
    try:
        if SEAL not in parse_json(read_bytes(path)):
            write_evidence(_read(path, name, parse_json), folder)
    except (OSError, ReadError, TypeError, EvidenceError):
        return


def _read(path: Path, name: str, parse: Callable[[bytes], Any]) -> Evidence:
    try:
        content = parse(read_bytes(path))
        metrics = {
            key: Metric(_number(metric["value"]), str(metric["unit"])) for key, metric in content["metrics"].items()
        }
        sources = {str(source): str(value) for source, value in content["sources"].items()}
        evidence = Evidence(content["name"], content["command"], float(content["seconds"]), sources, metrics)
    except FileNotFoundError:
        raise EvidenceError(f"{path} is missing: nothing was measured") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvidenceError(f"{path} is not valid evidence ({error}); measure again") from error
    if evidence.name != name:
        raise EvidenceError(f"{path} holds the evidence of {evidence.name!r}; measure again")
    return evidence


def changed_sources(evidence: Evidence, hashed: Callable[[str], str] = digest) -> list[str]:
    """The sources whose content is no longer what was measured; empty while the evidence holds."""
    return [source for source, value in evidence.sources.items() if hashed(source) != value]


def _number(value: object) -> float | None:
    """A JSON number or null; anything else is refused, as `true` or "97" would compare as they please."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"value={value!r} is neither a finite number nor null")
    return float(value)
