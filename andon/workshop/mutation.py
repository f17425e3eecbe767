"""`andon dev mutation`: change one place of the code at a time, and see whether a test turns red."""

import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from andon.gates import evidence
from andon.gates.measures import risk
from andon.gates.measures.mutation import plan as plans
from andon.gates.measures.mutation import results
from andon.gates.measures.mutation.plan import Excuse, Plan
from andon.workshop.mutants import Answers, measure

PARTS = Path("reports/evidence/mutation")
LINE_EVERY_SECONDS = 10.0
SHARE = 0.85  # of a sample's seconds, after which no mutant starts
EXAMPLES = """\b
Examples:
  andon dev mutation
  andon dev mutation --all
  andon dev mutation --sample 60
  andon dev mutation --all --shard 1/4
  andon dev mutation --merge
"""


class ShardError(ValueError):
    """A shard that does not exist, or shards that are incomplete; the message says what to write."""


@click.command(epilog=EXAMPLES)
@click.option("--all", "every", is_flag=True, help="Run every mutant, also those whose result still holds.")
@click.option(
    "--sample",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Run what changed, then some of the rest; keep no result.",
)
@click.option("--shard", metavar="I/N", help="Run one part of the mutants, kept apart until --merge.")
@click.option("--merge", is_flag=True, help="Join the results of all shards.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Mutants at a time.")
@click.option("-q", "--quiet", is_flag=True, help="Print counts without survivors.")
def command(sample: float | None, shard: str | None, workers: int, *, every: bool, merge: bool, quiet: bool) -> None:
    """Mutation testing: change one place of the code at a time, in memory, and print the changes that no test notices.

    configs/risk.toml lists the modules and their tests. A result holds while the function, the tests that cover it, the
    plan and the tools stay the same, wherever they lie; only the rest runs. Exit codes: 0 every mutant has a result, 1
    some have none, 2 usage.
    """
    begun = time.monotonic()
    sys.path.insert(0, str(Path.cwd()))
    plan, part, excuses = plans.read_plan(), parsed(shard), plans.read_excuses()
    sources = evidence.digests(measured_sources(plan))
    if merge:
        answers = Answers(results.join(parts(sources)), 0, 0, 0)
    else:
        deadline = None if sample is None else begun + sample * SHARE
        unfinished = functools.partial(results.write_results, about={"command": "andon dev mutation, interrupted"})
        answers = measure(
            plan,
            results.read_results(),
            every=every,
            part=part,
            workers=workers,
            deadline=deadline,
            note=progress(),
            keep=unfinished if sample is None and not shard else None,
        )
    seconds = time.monotonic() - begun
    if shard:
        path = PARTS / f"{part[0] + 1}-of-{part[1]}.json"
        results.write_results(answers.results, {"sources": sources}, path)
        click.echo(f"{answers.fresh} mutants run, in {path}; {seconds:.0f} s")
        sys.exit(0)
    if sample is None:
        results.write_results(answers.results, {"command": "andon dev mutation", "seconds": round(seconds)})
    sources |= evidence.digests([str(results.BASELINE)])
    metrics = results.metrics(answers.results, excuses)
    metrics |= risk.short_metrics(metrics, risk.read_risks(), "mutation")
    metrics["fresh"] = evidence.Metric(float(answers.fresh), "mutants")
    metrics["disagreeing"] = evidence.Metric(float(answers.disagreeing), "mutants")
    line = shlex.join(["andon", *sys.argv[1:]])
    name = "mutants" if sample is None else "mutation"
    evidence.write_evidence(evidence.Evidence(name, line, seconds, sources, metrics))
    click.echo(summary(answers, metrics, excuses, quiet=quiet))
    click.echo(f"{seconds:.0f} s")
    sys.exit(bool(metrics["missing"].value or metrics["error"].value))


def measured_sources(plan: Plan) -> list[str]:
    """What is measured: files, tests, plan and excuses."""
    names = {name for module in plan.modules for name in (module.file, *module.tests)}
    return sorted({*names, str(plans.DEFAULT), str(plans.EXCUSES)})


def parsed(shard: str | None) -> tuple[int, int]:
    """The index of a shard, from 0, and how many there are.

    Raises:
        ShardError: it is not written as I/N.
    """
    if not shard:
        return 0, 1
    first, _, count = shard.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise ShardError(f"--shard {shard}: write I/N with I from 1 to N, such as 1/4")
    return int(first) - 1, int(count)


def parts(sources: dict[str, str]) -> list[results.Results]:
    """The results of every shard.

    Raises:
        ShardError: one is missing, or was measured on another content.
    """
    found = {path.stem: path for path in PARTS.glob("*-of-*.json")}
    counts = {name.partition("-of-")[2] for name in found}
    if len(counts) != 1:
        raise ShardError(
            f"{PARTS} holds shards of {len(counts)} runs; delete all but one run's, or run --shard 1/N first"
        )
    count = counts.pop()
    missing = [f"{place}/{count}" for place in range(1, int(count) + 1) if f"{place}-of-{count}" not in found]
    if missing:
        raise ShardError(f"shards {', '.join(missing)} are missing; run `andon dev mutation --shard {missing[0]}`")
    for path in found.values():
        if json.loads(path.read_text(encoding="utf-8"))["sources"] != sources:
            raise ShardError(f"{path} was measured on other files; run its shard again")
    return [results.read_results(path) for path in sorted(found.values())]


def progress() -> Callable[[int, int], None]:
    """A line to stderr every so often, with how much time is left."""
    begun = last = time.monotonic()

    def note(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS and done < total:
            last = now
            left = (now - begun) / done * (total - done)
            click.echo(f"  ... {done} of {total}, {left / 60:.0f}:{left % 60:02.0f} left", err=True)

    return note


def alive(answers: Answers, excuses: dict[str, Excuse]) -> Iterator[str]:
    """Every mutant that is alive, its place, and its diff."""
    for file, content in answers.results.items():
        for name, function in content.functions.items():
            for row in function.rows:
                if row.state != "killed":
                    excuse = f", excused: {excuses[row.id].reason}" if row.id in excuses else ""
                    yield f"{row.id} {row.state}: {file}:{row.line} {name}, {row.operator}{excuse}"
                    yield from (f"    {line}" for line in row.diff.splitlines())


def summary(answers: Answers, metrics: dict[str, evidence.Metric], excuses: dict[str, Excuse], *, quiet: bool) -> str:
    """Every mutant that is alive with its diff, each file's score, and the counts."""
    lines = [] if quiet else list(alive(answers, excuses))
    prefix = "score_by_file "
    for key, metric in metrics.items():
        if key.startswith(prefix):
            score = "nothing to kill" if metric.value is None else f"{metric.value:5.1f}%"
            lines.append(f"{key.removeprefix(prefix):<28} {score}")
    count = {key: int(metric.value or 0) for key, metric in metrics.items() if metric.unit == "mutants"}
    carried = count["mutants"] - answers.fresh - answers.again
    score = metrics["score"].value
    lines.append(
        f"{'not measured' if score is None else f'{score:.1f}%'} of {count['mutants']} mutants killed; "
        f"{count['survived']} survived, {count['untested']} untested, {count['late']} timed out, "
        f"{count['error']} errors, {len(excuses)} excused"
    )
    lines.append(
        f"{answers.fresh + answers.again} run now, {carried} from earlier runs, {answers.disagreeing} differ from the "
        f"committed result, {count['missing']} without a result"
    )
    gone = metrics["excuses_gone"].value
    if gone:
        lines.append(f"{gone:.0f} excuses name a mutant that is gone or killed: delete them from {plans.EXCUSES}")
    return "\n".join(lines)
