"""How a watched process ends: by itself, or by us after enough steps; what was found is written in both cases."""

import atexit
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from andon.door.fork import Fork
from andon.door.records import Run


class Enough(SystemExit):
    """Ends a script from within its optimizer's step, through its own `finally` blocks."""


class Ending:
    """The limits of a run, and the file with what came of it."""

    def __init__(self, run: Run, options: dict[str, Any], fork: Fork) -> None:
        self.run, self.options, self.fork = run, options, fork
        self.pid = os.getpid()
        self.begun = time.monotonic()
        self._first_step = 0.0
        self._wall = 0.0
        self._stopped = False

    def install(self) -> None:
        """Be called when the process ends; note when it fails, as a run that was cut short is no whole one."""
        atexit.register(self.finish)
        hook = sys.excepthook

        def failed(kind: type[BaseException], error: BaseException, trace: Any) -> None:
            self.run.ended = False
            hook(kind, error, trace)

        sys.excepthook = failed

    def after_step(self) -> None:
        """End the script if it has done enough."""
        if os.getpid() != self.pid:
            return
        if self._stopped:  # it caught us
            self.finish()
            os._exit(0)
        if not self._first_step:
            self._first_step, self._wall = time.process_time(), time.monotonic()
        steps, budget = self.options.get("steps"), self.options["budget"]
        spent = time.process_time() - self._first_step + self.fork.spent()
        late = spent > budget or time.monotonic() - self._wall > 4 * budget
        if (steps and self.run.steps >= steps) or (not steps and late and self.run.steps >= self.options["least"]):
            self._stopped = True
            self.run.ended = False
            raise Enough(0)

    def kill(self) -> None:
        """End the script as a machine that is taken away does: no `finally` block of its own runs."""
        if os.getpid() == self.pid:
            self.run.ended = False
            self.finish()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def finish(self) -> None:
        """Judge and write, once, and only in the process that was started."""
        if os.getpid() != self.pid or (not self.run.steps and not self.run.backwards and not self.run.modules):
            return
        from andon.door.judge import judged

        self.pid = 0
        target = Path(self.options["out"]) / f"{os.getpid()}.json"
        rough = target.with_suffix(".part")
        rough.write_text(json.dumps(judged(self.run, self.fork.gather())), encoding="utf-8")
        rough.rename(target)
