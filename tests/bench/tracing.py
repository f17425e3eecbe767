"""`python -m tests.bench.tracing`: what tracing costs a training step in processor time (two minutes).

In milliseconds, each with the upper end of its 95% interval: the main thread's, of steps that are traced in turn with
steps that are not; and with `otlp` the process's, of stretches that are recorded and sent to a receiver in turn with
stretches that are neither; and the main thread's, of steps of a stranger's model of 24 blocks that are watched by hooks
in turn with steps that are not. Leaves reports/evidence/tracing.json, a baseline and a table, and judges by
configs/gates.toml.
"""

import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from torch import nn

from andon.core.config import Config
from andon.core.data.dataset import open_dataset
from andon.core.training.loop import initial_state, no_span, train
from andon.gates.clock import read_clock, usage
from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_text
from andon.tracing.hooks import watch
from andon.tracing.loop import run
from andon.tracing.record import open_trace
from tests.bench import tables
from tests.bench.machine import describe_machine
from tests.small_run import small_config, write_corpus

COMMAND = "python -m tests.bench.tracing"
SOURCES = ["core/training/loop.py", "tests/bench/tracing.py", "tracing"]
WARM_UP = 20
PAIRS = 1000
ROUNDS = 10
STEPS = 200  # of a stretch
RESAMPLES = 2000
WATCHED_PAIRS, BLOCKS = 200, 24


class Cost(NamedTuple):
    """Milliseconds a step, and the upper end of the interval in which 95% of such measurements lie."""

    mean: float
    upper: float
    samples: int


def cost(differences: list[float]) -> Cost:
    """The mean of differences in seconds, with a bootstrap's interval."""
    chance = random.Random(0)
    means = sorted(statistics.fmean(chance.choices(differences, k=len(differences))) for _ in range(RESAMPLES))
    return Cost(1e3 * statistics.fmean(differences), 1e3 * means[int(0.975 * RESAMPLES)], len(differences))


@contextmanager
def steps(span: Callable[..., Any], config: Config, cache: Path) -> Generator[Callable[[], None]]:
    """A function that does the next step of a training run, and logs it as a run does."""
    records = train(initial_state(config), open_dataset(config, cache), config, span=span)

    def one() -> None:
        next(records)
        with span("logging"):
            pass

    yield one


def of_steps(config: Config, folder: Path) -> Cost:
    """Main-thread time of traced steps less that of the untraced ones beside them."""
    on = False

    def span(name: str, **attributes: Any) -> Any:
        return (trace.span if on else no_span)(name, **attributes)

    def seconds(*, traced: bool) -> float:
        nonlocal on
        on = traced
        begun = time.thread_time()
        one()
        return time.thread_time() - begun

    with open_trace(folder / "steps.jsonl", "bench", {}) as trace, steps(span, config, folder / "cache") as one:
        for number in range(WARM_UP):
            seconds(traced=bool(number % 2))
        found = []
        for number in range(PAIRS):
            first = bool(number % 2)  # each comes first in half of the pairs
            both = {traced: seconds(traced=traced) for traced in (first, not first)}
            found.append(both[True] - both[False])
    return cost(found)


def of_sending(config: Config, folder: Path, url: str) -> Cost:
    """Process time a step of stretches that are recorded and sent, less that of untraced stretches."""
    found = []
    for number in range(ROUNDS):
        stretch = {}
        for sent in (True, False) if number % 2 else (False, True):
            stretch[sent] = sending(config, folder, url, number) if sent else untraced(config, folder)
        found.append((stretch[True] - stretch[False]) / STEPS)
    return cost(found)


def sending(config: Config, folder: Path, url: str, number: int) -> float:
    """Process seconds of a stretch, with opening and closing its trace."""
    begun = time.process_time()
    with open_trace(folder / f"sent-{number}.jsonl", "bench", {}, otlp=url) as trace:
        opened = time.process_time()
        with steps(trace.span, config, folder / "cache") as one:
            ready = time.process_time()
            for _ in range(STEPS):
                one()
    assert trace.delivered, trace.notes
    return time.process_time() - ready + (opened - begun)


def untraced(config: Config, folder: Path) -> float:
    """The same without a trace."""
    with steps(no_span, config, folder / "cache") as one:
        begun = time.process_time()
        for _ in range(STEPS):
            one()
        return time.process_time() - begun


def of_watching(folder: Path) -> Cost:
    """Main-thread time of steps of a stranger's model that are recorded and watched, less that of steps beside them."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True) for _ in range(BLOCKS)))
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randn(4, 16, 32)

    def seconds(batches: Iterator[torch.Tensor]) -> float:
        begun = time.thread_time()
        loss = model(next(batches)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.thread_time() - begun

    found = []
    with run(folder / "watched") as t:
        recorded, alone = t.steps(itertools.repeat(batch)), itertools.repeat(batch)

        def watched() -> float:
            end = watch(t.phases, model, (optimizer,))
            taken = seconds(recorded)
            end()
            return taken

        for number in range(WARM_UP + WATCHED_PAIRS):
            both = (watched(), seconds(alone)) if number % 2 else (seconds(alone), watched())[::-1]
            found.append(both[0] - both[1])
        recorded.close()
    return cost(found[WARM_UP:])


@contextmanager
def receiver(folder: Path) -> Generator[str]:
    """The address of a live receiver, in a process of its own."""
    arguments = ["0", str(folder / "received.jsonl"), "0"]
    command = [sys.executable, "-m", "tests.tracing.receiver", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{process.stdout.readline().split()[1]}"
        process.kill()


@click.command(help=__doc__)
def main() -> None:
    """Measure, write, judge."""
    torch.set_num_threads(1)  # with more, OpenMP's waiting counts as work
    gates, sources, begun, clock = load_gates(), digests(SOURCES), time.monotonic(), read_clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        changes = (("training.epochs", 10**6), ("training.batch_size", 2), ("training.accumulation_steps", 1))
        config = small_config(write_corpus(folder / "corpus"), *changes)
        step = of_steps(config, folder)
        with receiver(folder) as url:
            sent = of_sending(config, folder, url)
        strange = of_watching(folder)
    costs = {"step": step, "otlp": sent, "watch": strange}
    metrics = {f"{name}_ms_upper": Metric(each.upper, "ms") for name, each in costs.items()}
    others = usage(clock, read_clock()).others_share
    context = {"command": COMMAND, "machine": describe_machine(), "others_share": others, "sources": sources}
    write_evidence(Evidence("tracing", COMMAND, time.monotonic() - begun, sources, metrics))
    tables.write_baseline(tables.TRACING, {**context, "costs": {name: each._asdict() for name, each in costs.items()}})
    tables.rewrite_pages()
    verdict = judge("tracing", gates)
    click.echo(render_text(verdict), nl=False)
    sys.exit(verdict.exit_code)


if __name__ == "__main__":
    main()
