"""The tools that are asked, as the README of each says, by what a user of it writes.

Kinds: "inside" runs in the program's process (drivers.py), "source" reads the program's files, "log" reads what a run
leaves behind. `lines` counts what its README has a user write, imports and files included, commands not.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tool:
    """One tool."""

    name: str
    kind: str
    lines: int
    alone: bool = False  # raises within the program's own calls, so that no other can be asked in that run
    command: tuple[str, ...] = ()  # of "source" and "log": words after the environment's folder of programs


TOOLS = (
    Tool("torchtest2", "inside", 5),
    Tool("torchtest", "inside", 8),
    Tool("torcheck", "inside", 6, alone=True),
    Tool("guardtower", "inside", 3),
    Tool("torchmortem", "inside", 4),
    Tool("torch-audit", "inside", 6),
    Tool("torchdiag", "inside", 4),
    Tool("trainpulse", "inside", 4),
    Tool("traintools", "inside", 8),
    Tool("gradsnitch", "inside", 4),
    Tool("training-doctor", "inside", 4),
    Tool("nndiagnostics", "inside", 2),
    Tool("anomaly mode", "inside", 1),
    Tool("torch-preflight", "source", 0, command=("torch-preflight", "check", ".")),
    Tool("torchfix", "source", 0, command=("torchfix", "--select=ALL", ".")),
    Tool("runmedic", "log", 0, command=("runmedic", "diagnose", "{log}")),
    Tool("trainproof", "log", 0, command=("trainproof", "epoch", "{log}")),
)
# Tools of the same purpose that this cannot ask, and why.
UNASKED = {
    "traincheck": "its traces of one run hold every call of torch; as it is documented all clean runs raise alarms",
    "preflight-ml": "asks for a data loader and a model as two files; reads images' shapes and class counts alone",
    "deepchecks": "judges tables, images and texts with a finished model; it takes no training loop",
    "Lightning's overfit_batches and sanity validation": "ask for the program to be written anew as a LightningModule",
    "torchtnt": "has loops and profilers, and no check of a loop of one's own",
}
