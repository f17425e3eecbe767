"""Any training loop, recorded by two lines of its own, or three.

    with tracing.run("runs/mine") as t:
        t.watch(model, optimizer)
        for batch in t.steps(loader):
            ...

Without `watch` a step is what happens for one batch, and its fetch the one phase. With it a step ends with the
optimizer's, however many batches it takes, and its phases are what torch's hooks can tell apart.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from andon.tracing.conventions import Attribute
from andon.tracing.endpoint import Endpoint
from andon.tracing.hooks import watch
from andon.tracing.phases import Fetch, Phases, their_code
from andon.tracing.record import Trace, open_trace
from andon.tracing.spans import OpenSpan

FILE = "trace.jsonl"
Batch = TypeVar("Batch")


class Loop:
    """A loop that is recorded. `trace` is what records it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.phases = Phases(trace)
        self._watching: list[Callable[[], None]] = []

    def steps(self, loader: Iterable[Batch]) -> Generator[Batch]:
        """The loader's batches; a step begins as one is fetched."""
        phases, moment = self.phases, self.trace.moment
        code, begun = their_code(sys._getframe(1)), moment()  # noqa: SLF001 - as in `spans`
        batches = iter(loader)
        try:
            while True:
                if not self._watching:
                    phases.end_step()
                    begun = moment()
                try:
                    batch = next(batches)
                except StopIteration:
                    phases.end_step()
                    return
                phases.fed(Fetch(begun, moment(), code))
                yield batch
                begun = moment()
        except GeneratorExit:  # the loop was left: by a `break`, or by what `run` will hear of
            phases.ends_here()
            raise
        except Exception as error:
            phases.end_step(type(error).__qualname__)
            raise

    def watch(self, model: Any, *optimizers: Any) -> None:
        """Tell the phases of each step apart, by torch's hooks on a model and the optimizers of its weights."""
        self._watching.append(watch(self.phases, model, optimizers))

    def span(self, name: str, **attributes: Attribute) -> OpenSpan:
        """A span of the loop's own, such as `validation`: below what is open, or between two steps."""
        self.phases.outside()
        return self.trace.span(name, **attributes)

    def note(self, **attributes: str | bool | float) -> None:
        """What the open step says of itself, such as `loss=loss.item()`."""
        self.phases.note(**attributes)

    def close(self, failure: str = "") -> None:
        """End the open step, and leave model and optimizers as they were."""
        self.phases.end_step(failure)
        for end in self._watching:
            end()
        self._watching.clear()


@contextmanager
def run(
    folder: str | Path, *, otlp: str | Endpoint | None = None, attributes: dict[str, Attribute] | None = None
) -> Generator[Loop]:
    """Record a loop into `trace.jsonl` in `folder`, which is made, and to an endpoint if one is named.

    `attributes` go on the run's first span. Raises as `open_trace` does.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    said = {**surroundings(), **(attributes or {})}
    with ExitStack() as stack:
        loop = Loop(stack.enter_context(open_trace(folder / FILE, folder.resolve().name, said, otlp=otlp)))
        try:
            yield loop
        except BaseException as error:
            loop.close(type(error).__qualname__)
            raise
        loop.close()


def surroundings() -> dict[str, Attribute]:
    """What decides how a run's times are read: torch's version, its threads and how they wait."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    return {
        "train.device": "cuda" if torch.cuda.is_initialized() else "cpu",
        "train.threads": torch.get_num_threads(),
        "train.passive_waiting": os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive",
        "train.torch": str(torch.__version__),
    }
