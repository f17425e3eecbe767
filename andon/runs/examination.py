"""What is wrong in a run's folder, and what mends it. Nothing here writes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from andon.files import TEMPORARY
from andon.log import LogError, read_log
from andon.reading import ReadError, file_sha256, read_bytes
from andon.runs.folder import LOG, log_holes
from andon.runs.models import JOB_FILE
from andon.sealing import unseal

ROOM = 1.2  # disk that the next save takes, in sizes of the newest checkpoint


class Ailment(NamedTuple):
    """One thing that is wrong: where, what, and the command or the step that mends it."""

    where: Path
    what: str
    mend: str


def examine(run: Path) -> list[Ailment]:
    """Everything that is wrong in a run's folder, from its checkpoints to the disk that it lies on."""
    resume = f"andon {verb_of(run)} --resume {run}"
    return [
        *_configuration(run),
        *_checkpoints(run, resume),
        *_left_overs(run, resume),
        *_log(run, resume),
        *_result(run, resume),
        *_spans(run),
        *_room(run, resume),
    ]


def verb_of(run: Path) -> str:
    """The verb that resumes a run."""
    if not (run / JOB_FILE).exists():
        return "train"
    try:
        return f"finetune {unseal(read_bytes(run / JOB_FILE))['method']}"
    except (OSError, ReadError, KeyError):
        return "finetune lora"


def _configuration(run: Path) -> Iterator[Ailment]:
    if not (run / "config.json").exists():
        again = f"start it again with the command that it was started with, --out {run}"
        yield Ailment(run, "was killed before it wrote config.json", again)
        return
    from andon.core.config import ConfigError, load_config

    try:
        load_config(run / "config.json")
    except ConfigError as error:
        tuned = (run / JOB_FILE).exists()
        again = (
            "start a new run" if tuned else f"andon train CONFIG --resume {run}, with the file that it was started with"
        )
        yield Ailment(run / "config.json", str(error).removeprefix(f"{run / 'config.json'}: "), again)


def _checkpoints(run: Path, resume: str) -> Iterator[Ailment]:
    """Those that are not whole or not finite, and versions against the newest one that is."""
    from andon.core.files.folders import checkpoints

    found = checkpoints(run / "checkpoints")
    wrong = {folder: why for folder in found if (why := _wrong_with(folder))}
    whole = [folder for folder in found if folder not in wrong]
    for folder, why in wrong.items():
        newer = [each for each in found[: found.index(folder)] if each not in wrong]
        go_back = f"{resume} --previous" if found[0] == folder and whole == found[1:] and whole else f"rm -r {folder}"
        yield Ailment(folder, why, f"rm -r {folder}" if newer else go_back if whole else "start a new run")
    if not found:
        yield Ailment(run / "checkpoints", "holds no checkpoint, so nothing can be resumed", "start a new run")
    if whole:
        yield from _versions(whole[0])


def _wrong_with(folder: Path) -> str:
    """Why a checkpoint cannot be used; empty where it can."""
    from andon.core.files.manifest import ADAPTER, MODEL, OPTIMIZER, CheckpointError, check_files, read_manifest

    try:
        check_files(folder, read_manifest(folder))
    except CheckpointError as error:
        return str(error).rpartition("; ")[0]
    names = [name for name in (MODEL, ADAPTER, OPTIMIZER) if (folder / name).exists()]
    poisoned = next((tensor for name in names if (tensor := _not_finite(folder / name))), "")
    return f"{poisoned} holds NaN or inf" if poisoned else ""


def _not_finite(path: Path) -> str:
    """The first tensor of a file that is not finite."""
    from safetensors import safe_open

    from andon.core.model.finite import not_finite

    with safe_open(path, "pt") as file:
        return not_finite((name, file.get_tensor(name)) for name in file.offset_keys())


def _versions(folder: Path) -> Iterator[Ailment]:
    from importlib.metadata import version

    from andon.core.files.manifest import read_manifest

    saved, here = str(read_manifest(folder).environment.get("torch")), version("torch")
    if saved.partition("+")[0] != here.partition("+")[0]:
        yield Ailment(folder, f"was saved by torch {saved}, and {here} is installed", f"pip install torch=={saved}")


def _left_overs(run: Path, resume: str) -> Iterator[Ailment]:
    found = [*run.glob(f".*{TEMPORARY}"), *run.glob("checkpoints/.step-*"), *run.glob("checkpoints/*.replaced")]
    yield from (Ailment(path, "was left by a killed process", f"{resume}: its start removes it") for path in found)


def _log(run: Path, resume: str) -> Iterator[Ailment]:
    path = run / LOG
    if not path.exists():
        return
    try:
        records = read_log(run)
    except LogError as error:
        yield Ailment(path, str(error), f"remove that line, then {resume}")
        return
    last = max((record["step"] for record in records if record["kind"] == "step"), default=0)
    holes = log_holes(records, last)
    if holes:
        yield Ailment(path, holes, "nothing restores them: totals of this run are not to be believed")


def _result(run: Path, resume: str) -> Iterator[Ailment]:
    path = run / "result.json"
    if not path.exists():
        return
    try:
        wanted = unseal(read_bytes(path)).get("log_sha256")
    except (OSError, ReadError) as error:
        yield Ailment(path, str(error), f"{resume} writes it again")
        return
    if (run / LOG).exists() and wanted != file_sha256(run / LOG):
        yield Ailment(run / LOG, "is not the log that result.json sums up", f"{resume} sums it up again")


def _spans(run: Path) -> Iterator[Ailment]:
    """Spans that an endpoint was to get and did not."""
    from andon.tracing.errors import TraceError
    from andon.tracing.lines import complete_lines, total_bytes
    from andon.tracing.notes import sent_offsets
    from andon.tracing.read import files_of

    for trace in files_of(run):
        try:
            for address, offset in sent_offsets(trace).items():
                if offset < total_bytes(trace) and any(True for _ in complete_lines(trace, offset)):
                    again = f"andon trace replay {run} --otlp {address}"
                    yield Ailment(trace, "has spans that were not delivered", again)
        except TraceError as error:
            what, _, mend = str(error).rpartition("; ")
            yield Ailment(trace, what, mend)


def _room(run: Path, resume: str) -> Iterator[Ailment]:
    from andon.core.files.folders import latest_checkpoint

    newest = latest_checkpoint(run / "checkpoints")
    if newest is None:
        return
    size = sum(path.stat().st_size for path in newest.iterdir() if path.is_file())
    free = shutil.disk_usage(run).free
    if free < ROOM * size:
        told = f"has {free / 1e6:,.0f} MB free, and the next checkpoint takes {size / 1e6:,.0f} MB"
        yield Ailment(run, told, f"free disk space, then {resume}")


def as_json(ailments: list[Ailment]) -> str:
    """For programs."""
    return json.dumps([each._asdict() | {"where": str(each.where)} for each in ailments], indent=2)
