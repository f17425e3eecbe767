"""`andon trace`: a run's recorded spans, delivered to an OTLP endpoint such as Jaeger; what they say, in its files."""

import json
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.cli.bar import bar
from andon.cli.trace_diff import diff
from andon.cli.trace_script import EXAMPLES, Trace, drive
from andon.cli.trace_show import show
from andon.cli.trace_top import top

if TYPE_CHECKING:
    from andon.tracing.read import Overview
    from andon.tracing.send import Delivery

OTLP = "OTLP/HTTP endpoint, such as http://localhost:4318 for Jaeger; by default that of OTEL_EXPORTER_OTLP_ENDPOINT."


@click.group(cls=Trace, epilog=EXAMPLES)
def command() -> None:
    """Record a script as it is; say where a recorded run's time went, or send the run to an OTLP endpoint.

    A command after `--` is run and recorded: output and exit code stay its own, and at its end stderr says where the
    time went. The exit code is 3 where nothing was recorded.
    """


command.add_command(drive)

command.add_command(show)
command.add_command(diff)
command.add_command(top)


@command.command()
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--otlp", "url", help=OTLP)
@click.option("--again", is_flag=True, help="Send everything, also what was accepted before.")
@click.option("--check", "query", metavar="URL", help="Read all back from Jaeger's page, http://localhost:16686.")
@click.pass_context
def replay(context: click.Context, run: Path, url: str | None, again: bool, query: str | None) -> None:
    """Send the spans of RUN (a run's folder, or a trace.jsonl) and say what was accepted.

    What was accepted is noted beside the trace, so an interrupted replay goes on where it stopped. Accepted is not
    stored: --check reads every trace back, sends again what is missing, and says how many spans are there.

    \b
    Examples:
      andon trace replay reports/runs/demo --otlp http://localhost:4318
      andon trace replay reports/runs/demo --otlp http://localhost:4318 --again
      andon trace replay reports/runs/demo --otlp http://localhost:4318 --check http://localhost:16686
    """
    from andon.tracing.read import files_of

    failed = [_replay(path, url, query, again=again) for path in files_of(run)]
    if any(failed):
        context.exit(1)


def _replay(path: Path, url: str | None, query: str | None, *, again: bool) -> bool:
    """Send one trace, and print what became of it; whether some of it is not there."""
    from andon.tracing import jaeger, send
    from andon.tracing.endpoint import endpoint
    from andon.tracing.read import Overview

    to = endpoint(url)
    overview = Overview(path)
    with spans_bar(overview.spans) as advance:
        delivery = send.replay(path, url, again=again, progress=advance)
    click.echo("\n".join(summary(overview, delivery, str(to).removesuffix("/v1/traces"))))
    if page := jaeger.view(to):
        click.echo(f"{len(overview.trace_ids)} traces, in Jaeger's view:")
        click.echo("\n".join(f"  {link}" for link in jaeger.links(page, list(overview.trace_ids), overview.run_id)))
    if not query:
        return bool(delivery.rejected)
    with spans_bar(overview.spans) as advance:
        stored = jaeger.check(path, query, to, advance)
    resent = f", {stored.resent} of them sent again" if stored.resent else ""
    click.echo(f"{query} has {stored.found} of {stored.spans} spans{resent}")
    return stored.found < stored.spans


@command.command()
@click.option("--repository", metavar="URL", help="Of the source, by default git's remote `origin`.")
@click.option("--revision", help="Commit or branch of the source, by default the commit checked out.")
@click.option("--reports", default="http://localhost:8000", help="Where `python -m http.server` shows reports/runs.")
@click.option("--output", type=click.Path(path_type=Path), default="jaeger-ui.json", help="The file to write.")
def links(repository: str | None, revision: str | None, reports: str, output: Path) -> None:
    """Write the configuration by which Jaeger's page links spans to their source and runs to their reports.

    \b
    Examples:
      andon trace links
      andon trace links --repository https://github.com/me/my-model --revision main
    """
    from andon.files import write_whole
    from andon.gates import commits
    from andon.tracing.jaeger import page_configuration

    source = repository or commits.remote()
    found = page_configuration(source, revision or commits.head() or "main", reports)
    write_whole(output, json.dumps(found, indent=2) + "\n")
    where = f"to {source}" if source else "to reports alone: git knows no remote `origin`; --repository URL names it"
    click.echo(f"{output}: links {where}")


@contextmanager
def spans_bar(total: int) -> Generator[Callable[[int], None]]:
    """The bar over `total` spans; what it yields takes how many more are done."""
    with bar() as note:
        done = 0

        def advance(spans: int) -> None:
            nonlocal done
            done += spans
            note(done, total, "spans")

        yield advance


def summary(overview: "Overview", delivery: "Delivery", url: str) -> Iterator[str]:
    """What was accepted, and what the trace lacks."""
    if delivery.accepted or delivery.rejected:
        yield f"{url} accepted {delivery.accepted} of {delivery.accepted + delivery.rejected} spans"
    else:
        yield f"nothing new: {url} has all {overview.spans} spans; --again sends them again"
    if delivery.rejected:
        yield f"rejected {delivery.rejected}: {delivery.reason or 'the endpoint did not say why'}"
    if overview.torn_bytes:
        yield f"left out a torn last line of {overview.torn_bytes} bytes: the run was killed while writing it"
    count, steps = overview.orphans()
    if count:
        where = f" (steps {min(steps)} to {max(steps)})" if steps else ""
        yield f"{count} spans{where} have no window: the run ended, or is still, inside it"
