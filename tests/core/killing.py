"""Runs, kills and resumes in child processes, and prints as JSON what each run left; started by test_resume.py.

Children are forked from here, where no thread has been started, so that each kill costs milliseconds and not the import
of torch.
"""

import hashlib
import json
import os
import random
import signal
import sys
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path

import torch

from andon.core.config import Config
from andon.core.files.folders import latest_checkpoint
from andon.core.training import loop as train
from andon.core.training.loop import OpenSpan
from andon.log import read_log
from andon.runs.run import run
from tests.small_run import small_config, write_corpus

KILLS = 20
SETTINGS = [[], [("training.dtype", "bfloat16")], [("training.dtype", "float16")], [("data.workers", 2)]]


def child(config: Config, folder: Path, *, resume: bool, die_at: int | None) -> list[str]:
    """Run in a forked process that kills itself when it opens its span number `die_at`; the names of the open spans."""
    read_end, write_end = os.pipe()
    process = os.fork()
    if process == 0:
        opened = count()

        def span(name: str, **attributes: object) -> AbstractContextManager[OpenSpan]:
            os.write(write_end, f"{name}\n".encode())
            if next(opened) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return no_span(name, **attributes)

        no_span = train.no_span
        setattr(train, "no_span", span)  # noqa: B010 - a process of its own
        run(config, folder, resume=resume, traced=False, quiet=True, say=lambda text: None)
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as names:
        opened_names = names.read().split()
    _, status = os.waitpid(process, 0)
    assert (-signal.SIGKILL if die_at is not None else 0) == os.waitstatus_to_exitcode(status), status
    return opened_names


def result(folder: Path) -> dict[str, object]:
    """Every logged loss, and a hash of the last checkpoint's tensors."""
    newest = latest_checkpoint(folder / "checkpoints")
    assert newest
    files = [newest / name for name in ("model.safetensors", "optimizer.safetensors")]
    losses = [{key: line[key] for key in ("kind", "step", "loss")} for line in read_log(folder)]
    return {"losses": losses, "tensors": [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]}


def main(home: Path) -> None:
    """Whole runs, then as many runs killed twice and resumed twice, at places drawn from a seed."""
    torch.set_num_threads(1)  # no thread pool, so that forking is safe
    os.chdir(home)
    paths, draw = write_corpus(home / "corpus"), random.Random(0)
    configs = [small_config(paths, *setting) for setting in SETTINGS]
    run(configs[0], home / "warm", traced=False, quiet=True, say=lambda text: None)  # imports all, before forking
    whole, spans = [], []
    for number, config in enumerate(configs):
        spans.append(child(config, home / f"whole-{number}", resume=False, die_at=None))
        whole.append(result(home / f"whole-{number}"))
    kills = []
    for kill in range(KILLS):
        which = kill % len(configs)
        first_save = spans[which].index("checkpoint") + 2
        first = draw.randrange(first_save, len(spans[which]) - 30)
        folder = home / f"killed-{kill}"
        places = [child(configs[which], folder, resume=False, die_at=first)]
        places.append(child(configs[which], folder, resume=True, die_at=draw.randrange(20)))
        child(configs[which], folder, resume=True, die_at=None)
        kills.append({"of": which, "places": [names[-4:] for names in places], **result(folder)})
    json.dump({"whole": whole, "kills": kills}, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
