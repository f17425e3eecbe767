"""How a run ends that does not reach its last step: what is said, and from where it can go on."""

import os
import sys
from pathlib import Path

from andon.runs.folder import RunError

ALLOCATION = ("can't allocate memory", "not enough memory", "out of memory")  # in the messages of torch


def verb_of_command() -> str:
    """The verb of this command, with which a stopped run is resumed."""
    words = sys.argv[1:3] if sys.argv[1:2] == ["finetune"] else sys.argv[1:2]
    return " ".join(words) if words and words[0] in ("train", "finetune") else "train"


def require_one_process(verb: str) -> None:
    """Refuse what torchrun starts as several ranks: each would train a copy of its own.

    Raises:
        RunError: this is one of several.
    """
    ranks = os.environ.get("WORLD_SIZE", "1")
    if not ranks.isdigit() or int(ranks) < 2:
        return
    if os.environ.get("RANK", "0") != "0":
        sys.exit(2)  # rank 0 says why
    raise RunError(
        f"torchrun started {ranks} ranks (WORLD_SIZE={ranks}), and `andon {verb}` trains in one process; "
        "start it without torchrun, or with --nproc-per-node 1"
    )


def where_to_go_on(folder: Path, verb: str) -> str:
    """The newest checkpoint, which is finite as any that is saved, and what goes on from it."""
    from andon.core.files.folders import latest_checkpoint

    newest = latest_checkpoint(folder / "checkpoints")
    if newest is None:
        return f"No checkpoint was saved: start a new run with another --out than {folder}"
    return f"The newest finite checkpoint is {newest}: andon {verb} --resume {folder}"


def why_it_ended(error: Exception, folder: Path, *, running: bool) -> str:
    """A message for what the machine refused: the file and the reason, or the memory. Empty for any other error.

    Another one stays as it is. Once the run is `running`, each says from where it can go on.
    """
    going_on = where_to_go_on(folder, verb_of_command()) if running else ""
    if isinstance(error, OSError):
        place = error.filename or folder
        return f"{place}: {error.strerror or error}; free disk space or check permissions. {going_on}".strip()
    own = type(error).__module__.startswith("andon.")
    if not own and (isinstance(error, MemoryError) or any(part in str(error).lower() for part in ALLOCATION)):
        reason = str(error).splitlines()[0] if str(error) else "no memory"
        next_step = "lower training.batch_size or the model's size (andon plan counts)"
        return f"{folder}: {reason}; {next_step}. {going_on}".strip()
    if running:
        error.add_note(going_on)
    return ""
