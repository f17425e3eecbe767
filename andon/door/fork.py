"""A copy of the running script that goes on for a moment, is asked something, and ends: nobody notices."""

import fcntl
import json
import logging
import os
import signal
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

PATIENCE = 10  # times a child's limit, where many share the machine


class Fork:
    """Children of a watched process, each with a file to answer in."""

    def __init__(self, out: Path, limit: float) -> None:
        self.out, self.limit = out, limit
        self.children: dict[int, Path] = {}
        self._running: set[int] = set()
        self._spent = 0.0
        self.answer: Path | None = None  # in a child

    @property
    def possible(self) -> bool:
        """Whether this process can be forked: CUDA's state does not survive it."""
        return hasattr(os, "fork") and not torch.cuda.is_initialized() and self.answer is None

    def begin(self) -> bool:
        """Fork. True in the child, which must end by `end`."""
        target = self.out / f"answer-{os.getpid()}-{len(self.children)}"
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child:
            self.children[child] = target
            self._running.add(child)
            return False
        self.answer = target
        _be_silent()
        _read_apart()
        signal.alarm(max(1, int(self.limit * PATIENCE)))
        torch.set_num_threads(1)
        return True

    def end(self, content: dict[str, Any]) -> None:
        """Answer, and end this child, whatever the script would still do."""
        assert self.answer is not None
        rough = self.answer.with_suffix(".part")
        rough.write_text(json.dumps(content), encoding="utf-8")
        rough.rename(self.answer)
        os._exit(0)

    def spent(self) -> float:
        """CPU seconds of the children that have ended so far."""
        for child in list(self._running):
            try:
                ended, _, used = os.wait4(child, os.WNOHANG)
            except ChildProcessError:  # the script has waited for it
                self._running.discard(child)
                continue
            if ended:
                self._running.discard(child)
                self._spent += used.ru_utime + used.ru_stime
        return self._spent

    def gather(self) -> list[dict[str, Any]]:
        """Wait for all children, each of which its own alarm ends; one that left no answer says so."""
        answers = []
        for child, target in self.children.items():
            with suppress(ChildProcessError):  # the script has waited for it: it is over
                if child in self._running:
                    os.waitpid(child, 0)
            answers.append(
                json.loads(target.read_text(encoding="utf-8")) if target.exists() else {"failed": "no answer"}
            )
        self.children.clear()
        return answers


def _read_apart() -> None:
    """Files that are open are read from where they stand, without a move of the script's own place; none is written."""
    for descriptor in descriptors():
        with suppress(OSError):  # closed since it was listed, or gone
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                continue
            reads = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            place = os.lseek(descriptor, 0, os.SEEK_CUR)
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY) if reads else os.open(os.devnull, os.O_RDWR)
            os.dup2(own, descriptor)
            os.close(own)
            if reads:
                os.lseek(descriptor, place, os.SEEK_SET)


def descriptors() -> list[int]:
    """Of this process, but for its standard streams."""
    folder = Path("/proc/self/fd")
    return [int(each) for each in os.listdir(folder) if int(each) > 2] if folder.exists() else []  # noqa: PTH208 - listed before it is opened


def _be_silent() -> None:
    """Nothing that the script's code does from here on reaches its output, its logs or its signals' handlers."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nothing, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # what is typed is for the script alone
    logging.disable(logging.CRITICAL)
    for each in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
