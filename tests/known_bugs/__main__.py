"""`python -m tests.known_bugs`: releases with documented bugs, and which check finds each from a clean install.

Exit code: 0 all were found and none is seen in the release without the bug, 1 not, 3 some could not be measured.
"""

import json
import sys
from fnmatch import fnmatch
from pathlib import Path

import click

from tests.bench.tables import KNOWN_BUGS, write_baseline
from tests.known_bugs.compare import Result, as_json, compare, from_json
from tests.known_bugs.releases import InstallError, Release, releases, sharded

RESULTS = Path("reports/known_bugs")


@click.command(help=__doc__)
@click.option("--only", multiple=True, metavar="PATTERN", help="Ids such as 'peft-*'; may be repeated.")
@click.option("--shard", default="1/1", show_default=True, metavar="i/n", help="Every n-th release, from the i-th on.")
@click.option("--resume", is_flag=True, help="Keep what an earlier run has.")
@click.option("--list", "listing", is_flag=True, help="Print the ids and what they stand for.")
def main(only: tuple[str, ...], shard: str, *, resume: bool, listing: bool) -> None:
    """Install, check, compare, print."""
    try:
        chosen = sharded(releases(), shard)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    chosen = [each for each in chosen if not only or any(fnmatch(each.id, pattern) for pattern in only)]
    if listing:
        click.echo("\n".join(f"{each.id:<34} {each.package} {each.wrong}: {each.fault}" for each in chosen))
        return
    results, missed, unmeasured = [], 0, 0
    for release in chosen:
        file = RESULTS / f"{release.id}.json"
        try:
            if resume and file.exists():
                result = from_json(json.loads(file.read_text(encoding="utf-8")))
            else:
                result = compare(release, lambda line: click.echo(line, err=True))
                write_baseline(file, as_json(result))
        except InstallError as error:
            click.echo(f"{release.id}: could not be measured: {error}")
            unmeasured += 1
            continue
        results.append((release, result))
        missed += not result.found(release)
        click.echo(line(release, result))
    click.echo(f"{len(results) - missed} of {len(chosen)} found, {missed} not, {unmeasured} not measured")
    if len(chosen) == len(releases()):
        write_baseline(KNOWN_BUGS, {"cases": [row(release, result) for release, result in results]})
    sys.exit(3 if unmeasured else int(missed > 0))


def line(release: Release, result: Result) -> str:
    """A case in a few lines: what found it, with its numbers, and what the release without it says."""
    found, seconds = result.found(release), result.wrong.seconds + (result.right.seconds if result.right else 0)
    said = [f"{release.id}: {release.package} {release.wrong}, {seconds:.0f} s: {'found' if found else 'NOT FOUND'}"]
    said += [f"  {name}: {' '.join(text.split())[:160]}" for name, text in found.items()]
    if result.right:
        said.append(
            f"  gone in {release.right} ({result.right.checked} checks)" if found else f"  {release.right} alike"
        )
    said += [f"  beside it, {name}: {' '.join(text.split())[:120]}" for name, text in result.others(release).items()]
    return "\n".join(said)


def row(release: Release, result: Result) -> dict:
    """A case for the committed baseline."""
    return {
        "id": release.id,
        "package": release.package,
        "wrong": release.wrong,
        "right": release.right,
        "fault": release.fault,
        "source": release.source,
        "found": result.found(release),
        "others": result.others(release),
        "seconds": round(result.wrong.seconds + (result.right.seconds if result.right else 0), 1),
    }


if __name__ == "__main__":
    main()
