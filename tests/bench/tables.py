"""`python -m tests.bench.tables [--check]`: the tables of README and docs, from committed measurements and arithmetic.

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`; what stands there is replaced whole. With --check
nothing is written, and the exit code is 1 where a page says something else than the measurements.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from andon.core.config import Config, known_keys
from andon.files import write_whole
from andon.gates.measures.debt.loss import grade
from andon.gates.measures.mutation.plan import read_excuses
from andon.verify.faults.rows import counts, from_json
from andon.verify.subject import documented
from andon.verify.vocabulary import keys_of
from andon.workshop import matrix
from tests.bench.door_tables import (
    DETECTORS,
    DOOR,
    DOOR_COST,
    DOOR_OTHERS,
    FAULTS_DOOR,
    detectors,
    door,
    door_cost,
    door_others,
    faults_door,
)
from tests.bench.markdown import number, table
from tests.bench.marks import TableError, pages, rewrite
from tests.bench.ordinary_tables import FIRST, ORDINARY, REPORTS, first, ordinary, reports
from tests.bench.step_tables import BENCH, adapters, gpu, learned, memory, methods, nf4, plan, speed
from tests.file_fields import FILES, Field
from tests.zoo.triage import FILE as TRIAGE
from tests.zoo.triage import LABELS, NEW, verdict, verdicts

BENCH_GPU = Path("reports/baselines/bench_gpu.json")
BENCH_ADAPTERS = Path("reports/baselines/bench_adapters.json")
LEARN = Path("reports/baselines/learn_adapters.json")
FAULTS = Path("reports/baselines/faults.json")
SELFTEST = Path("reports/baselines/selftest.json")
DEBT = Path("reports/baselines/debt.json")
FUZZ = Path("reports/baselines/fuzz.json")
MUTANTS = Path("reports/baselines/mutation.json")
POWER = Path("reports/baselines/power.json")
FINDINGS = Path("reports/baselines/findings.json")
TRACING = Path("reports/baselines/tracing.json")
NIGHTLY = Path("reports/baselines/nightly.json")
THIRD_PARTY = Path("reports/baselines/third_party.json")
KNOWN_BUGS = Path("reports/baselines/known_bugs.json")
ZOO = Path("reports/baselines/zoo.json")
DIFFERS = "a table differs from its measurements; run `python -m tests.bench.tables`"


def parts() -> str:
    """What a subject can be made of, in its own words, by what each field belongs to."""
    by_group: dict[str, list[str]] = {}
    for each in documented():
        by_group.setdefault(each.group, []).append(f"- `{each.heading}`: {each.what}")
    return "\n\n".join("\n".join([f"**{group.capitalize()}**", "", *lines]) for group, lines in by_group.items())


def file_fields() -> str:
    """What becomes of each field of the files that models are published with."""
    rows = [
        [f"`{name}`", ", ".join(f"`{key}`" for key in keys), fate, note]
        for name, fields in FILES.items()
        for (fate, note), keys in _by_fate(fields).items()
    ]
    return table(["file", "fields", "fate", "how"], rows)


def _by_fate(fields: dict[str, Field]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for key, each in fields.items():
        found.setdefault((each.fate, each.note), []).append(key)
    return found


def vocabulary() -> str:
    """The keys of the mappings that a subject holds or returns."""
    titles = {
        "hyperparameters": "`hyperparameters`",
        "roles": "`roles`",
        "loop": "what `train_step` and `Loop.step` return",
    }
    rows = {name: [[f"`{key}`", said] for key, said in keys_of(name).items()] for name in titles}
    return "\n\n".join(table([titles[name], "meaning"], own) for name, own in rows.items())


def config_keys() -> str:
    """Every key of a run's configuration, with its default."""
    rows = []
    for name, keys in known_keys().items():
        fields = Config.model_fields[name].annotation.model_fields  # ty: ignore[missing-attribute]
        rows += [[f"`{name}.{key}`", _default(fields[key])] for key in keys]
    return table(["key", "default"], rows)


def _default(field: FieldInfo) -> str:
    return (
        "required"
        if field.is_required()
        else f"`{json.dumps(field.default)}`"
        if field.default is not None
        else "not set"
    )


def faults(content: dict[str, Any]) -> str:
    """Injected faults by area, and by how well each is known to have happened, with what found them."""
    header = [
        "bugs injected into Andon's core",
        "live",
        "by checks",
        "only by parity",
        "only by a unit test",
        "unfound",
    ]
    rows = from_json(content)
    said = "".join(f"Of one fault: {each}.\n" for each in matrix.in_order(rows))
    return f"{table(header, matrix.by_area(rows))}\n\n{said}`nox -s faults` injects them again."


def selftest(rows: list[dict[str, Any]]) -> str:
    """What turned each measure red, and how many thresholds and budgets were seen red at their edges."""
    measures = [row for row in rows if row["kind"] == "measure"]
    seen = [["measure", "tier", "fault injected in", "seen red"]]
    seen += [[row["name"], row["tier"], row["tried"], "yes" if row["red"] else "NO"] for row in measures]
    counts = []
    for kind in ("measure", "threshold", "budget"):
        found = [row["red"] for row in rows if row["kind"] == kind]
        counts.append(f"{sum(found)} of {len(found)} {kind}s")
    return f"{table(seen[0], seen[1:])}\n\nSeen red: {', '.join(counts)} (`nox -s measure -- selftest`)."


def debt(files: dict[str, Any]) -> str:
    """Files, mean and lowest recorded score, a package a row; the mean of all as the project's."""
    rows = []
    packages = {name: re.split("[:/]", name)[0] for name in files}
    for package in sorted(set(packages.values())):
        scores = [files[name]["score"] for name, own in packages.items() if own == package]
        rows.append([package, *_graded(scores)])
    header = ["package", "files", "score", "grade", "lowest file"]
    return table(header, [*rows, ["project", *_graded([file["score"] for file in files.values()])]])


def _graded(scores: list[float]) -> list[str]:
    mean = sum(scores) / len(scores)
    return [str(len(scores)), f"{mean:.2f}", grade(mean), f"{min(scores):.1f}"]


def mutants(content: dict[str, Any]) -> str:
    """How many mutants of each file a test notices, and how many of the others are excused."""
    excused, rows, total = read_excuses(), [], [0, 0, 0]
    for name, file in content["files"].items():
        states = {row[0]: row[3] for function in file["functions"].values() for row in function["rows"]}
        killed = sum(state == "killed" for state in states.values())
        counts = [len(states), killed, sum(name in excused for name in states)]
        total = [one + more for one, more in zip(total, counts, strict=True)]
        rows.append([name, *_killed(counts)])
    header = ["module", "mutants", "killed", "alive", "of these excused", "score"]
    shown = table(header, [*rows, ["all", *_killed(total)]])
    return f"{shown}\n\nEvery survivor with its diff: `andon dev mutation`; all run anew: `nox -s mutation`."


def fuzz(content: dict[str, Any]) -> str:
    """What was executed of each format's fuzz target, over all runs on record, and what crashed."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in content["runs"]:
        runs.setdefault(run["target"], []).append(run)
    rows = [
        [
            target,
            str(len(some)),
            f"{sum(run['executions'] for run in some):,}",
            f"{sum(run['seconds'] for run in some):,.0f}",
            str(max(run["edges"] for run in some)),
            str(sum(run["crashes"] for run in some)),
        ]
        for target, some in sorted(runs.items())
    ]
    return table(["target", "runs", "executions", "seconds", "edges", "crashes"], rows)


def _killed(counts: list[int]) -> list[str]:
    count, killed, excused = counts
    return [str(count), str(killed), str(count - killed), str(excused), f"{100 * killed / count:.1f}%"]


def tracing(content: dict[str, Any]) -> str:
    """What tracing costs a step."""
    names = {
        "step": "the run's own thread, by default",
        "otlp": "all of the process, with `--otlp` to a receiver",
        "watch": "a stranger's thread, for a model of 24 blocks that `watch` follows",
    }
    rows = [
        [names[name], f"{cost['mean']:.3f}", f"{cost['upper']:.3f}", f"{cost['samples']:,} pairs"]
        for name, cost in content["costs"].items()
    ]
    header = ["processor time of", "ms a step", "at most, 95%", "of"]
    return f"{table(header, rows)}\n\n`nox -s bench -- tracing` measures again."


def findings(content: dict[str, Any]) -> str:
    """What tracing finds in synthetic series."""
    rows = [[row["what"], f"{row['found']:,} of {row['of']:,}"] for row in content["rows"]]
    return f"{table(['in synthetic series', 'found'], rows)}\n\n`nox -s bench -- findings` plants them again."


def power(content: dict[str, Any]) -> str:
    """What the gradient check finds of what is injected into a backward, beside a common weaker check."""
    header = ["injected into the backward", "trials", "found", "by single entries within 0.2 (eps 1e-3, fp32)"]
    rows = [
        [row["fault"], str(row["trials"]), *(f"{row[key] / row['trials']:.1%}" for key in ("found", "weaker"))]
        for row in content["rows"]
    ]
    return f"{table(header, rows)}\n\n`nox -s measure -- gradients` injects them again."


def nightly(content: dict[str, Any]) -> str:
    """Runs on clean code, and what was found there, by whose code it is."""
    what = ("subjects", "runs", "verdicts", "alarms")
    rows = [[name, *(str(own[each]) for each in what)] for name, own in content["kinds"].items()]
    totals = [sum(own[each] for own in content["kinds"].values()) for each in what]
    header = ["clean code", "subjects", "runs of the suite", "verdicts", "false alarms"]
    return (
        f"{table(header, [*rows, ['all', *map(str, totals)]])}\n\nWith 95% confidence fewer than "
        f"{content['highest_share']:.1%} of runs on clean code end in a false alarm. `nox -s nightly` runs them again."
    )


def third_party(content: dict[str, Any]) -> str:
    """Other people's packages: checked as they are, and what was found of the faults injected into them."""
    rows = content["rows"]
    missed = [f"`{row['fault']}`" for row in rows if not row["finder"]]
    alarms = sum(map(bool, content["subjects"].values()))
    header = ["third-party libraries", ""]
    lines = [
        ["subjects as they are, and with a finding", f"{len(content['subjects'])}, {alarms}"],
        ["bugs injected, and found", f"{len(rows)}, {len(rows) - len(missed)}"],
        ["different bugs found", str(content["different"])],
    ]
    known = ", ".join(f"`{check}` of {name}" for name, checks in content["known"].items() for check in checks)
    return (
        f"{table(header, lines)}\n\n{', '.join(line.replace('==', ' ') for line in content['packages'])}. "
        f"Not found: {', '.join(missed) or 'none'}.\nLeft out, as reported upstream: {known}. "
        "`nox -s third_party` injects them again."
    )


def known_bugs(content: dict[str, Any]) -> str:
    """Released libraries with a documented bug, and which check finds it from a clean install."""
    rows = [
        [
            f"[{case['package']} {case['wrong']}]({case['source']})",
            case["fault"],
            ", ".join(case["found"]) or "not found",
        ]
        for case in content["cases"]
    ]
    found = sum(bool(case["found"]) for case in content["cases"])
    header = ["release", "the bug on record", "found by"]
    return f"{table(header, rows)}\n\n{found} of {len(rows)} releases; `nox -s known_bugs` checks them again."


def zoo(content: dict[str, Any]) -> str:
    """What was built of current libraries and checked, and what the red cells are held to be."""
    known = verdicts(TRIAGE.read_text(encoding="utf-8"))
    labels = {
        package: [verdict(known, package, cell["check"], cell["name"]) for cell in found["red"]]
        for package, found in content.items()
    }
    rows = [
        [title, *(str(count(found)) for found in content.values())]
        for title, count in {
            "there are": lambda found: found["models"],
            "built and checked": lambda found: found["built"],
            "checks that passed": lambda found: found["states"].get("green", 0),
            "not run": lambda found: found["states"].get("not run", 0),
            "failed": lambda found: len(found["red"]),
        }.items()
    ]
    rows += [
        [f"- {label}", *(str(sum(each is not None and each.label == label for each in own)) for own in labels.values())]
        for label in LABELS
    ]
    rows.append(["- not judged yet", *(str(own.count(None)) for own in labels.values())])
    rows.append(["minutes, one worker", *(number(found["seconds"], ".1f", 1 / 60) for found in content.values())])
    header = ["`andon zoo`", *(f"{package} {found['version']}" for package, found in content.items())]
    new = [each for each in known if each.label == NEW]
    lines = [f"- {each.package}, {', '.join(each.names)}, `{each.checks[0]}`: {each.measured}." for each in new]
    told = ["Bugs of which we know no report:", "", *lines, ""]
    return "\n".join([table(header, rows), "", *(told if new else []), "`nox -s zoo` runs them again."])


def areas() -> str:
    """The areas that are checked, in groups, with links from README."""
    from tests import pages as checks  # which imports torch

    return checks.groups()


def numbers() -> str:
    """README's four numbers, each with a link to the page that holds the rest."""
    by_checks, live = _found_by_checks(_read(FAULTS))
    releases = _read(KNOWN_BUGS)["cases"]
    quiet, swept = _read(NIGHTLY), _read(ZOO)["transformers"]
    runs, alarms = (sum(kind[key] for kind in quiet["kinds"].values()) for key in ("runs", "alarms"))
    rows = [
        ["bugs injected into Andon's own core, found by the checks alone", f"{by_checks} of {live}", "faults"],
        [
            "library releases with a bug on record, found from a clean install",
            f"{sum(bool(case['found']) for case in releases)} of {len(releases)}",
            "known_bugs",
        ],
        ["false alarms on correct code of many kinds", f"{alarms} in {runs} runs", "false_alarms"],
        [
            f"cost for a tiny model, mean over {swept['built']} architectures",
            f"{swept['seconds'] / swept['built']:.1f} s",
            "zoo",
        ],
    ]
    return table(["measured", ""], [[f"[{said}](docs/measured/{page}.md)", value] for said, value, page in rows])


def _found_by_checks(content: dict[str, Any]) -> tuple[int, int]:
    found = counts(from_json(content))
    return found["found_by_check"], found["live"]


def unmeasured(command: str) -> str:
    """What stands where no measurement is committed."""
    return f"Not measured yet: `{command}`."


def tables() -> dict[str, Callable[[], str]]:
    """Every table by the name of its mark."""
    return {
        "speed": lambda: _from(BENCH, speed, "nox -s bench"),
        "memory": lambda: _from(BENCH, memory, "nox -s bench"),
        "plan": plan,
        "parts": parts,
        "vocabulary": vocabulary,
        "config-keys": config_keys,
        "file-fields": file_fields,
        "areas": areas,
        "numbers": numbers,
        "adapters": lambda: _from(BENCH_ADAPTERS, adapters, "nox -s bench -- adapters"),
        "four-bits": lambda: _from(BENCH_ADAPTERS, nf4, "nox -s bench -- adapters"),
        "methods": methods,
        "learned": lambda: _from(LEARN, learned, "nox -s bench -- learn adapters"),
        "gpu": lambda: _from(BENCH_GPU, gpu, "nox -s bench_gpu"),
        "power": lambda: _from(POWER, power, "nox -s measure -- gradients"),
        "findings": lambda: _from(FINDINGS, findings, "nox -s bench -- findings"),
        "tracing": lambda: _from(TRACING, tracing, "nox -s bench -- tracing"),
        "faults": lambda: _from(FAULTS, faults, "nox -s faults"),
        "selftest": lambda: _from(SELFTEST, selftest, "nox -s measure -- selftest"),
        "debt": lambda: _from(DEBT, debt, "nox -s measure -- debt --write"),
        "mutants": lambda: _from(MUTANTS, mutants, "nox -s mutation"),
        "fuzz": lambda: _from(FUZZ, fuzz, "nox -s measure -- fuzz"),
        "nightly": lambda: _from(NIGHTLY, nightly, "nox -s nightly"),
        "third-party": lambda: _from(THIRD_PARTY, third_party, "nox -s third_party"),
        "known-bugs": lambda: _from(KNOWN_BUGS, known_bugs, "nox -s known_bugs"),
        "zoo": lambda: _from(ZOO, zoo, "nox -s zoo"),
        "door": lambda: _from(DOOR, door, "nox -s door"),
        "faults-door": lambda: _from(FAULTS_DOOR, faults_door, "nox -s faults -- --door"),
        "door-others": lambda: _from(DOOR_OTHERS, door_others, "python -m tests.door.others"),
        "door-cost": lambda: _from(DOOR_COST, door_cost, "nox -s bench -- door"),
        "detectors": lambda: _from(DETECTORS, detectors, "nox -s detectors"),
        "ordinary": lambda: _from(ORDINARY, ordinary, "python -m tests.ordinary --seeds 3"),
        "ordinary-first": lambda: first(_read(FIRST)),
        "reports": lambda: _from(REPORTS, reports, "python -m tests.reports"),
    }


def rewritten() -> dict[Path, str]:
    """The pages whose tables are not what they would be if made now, with the text that they should have.

    Raises:
        TableError: see `rewrite`; the message begins with the page.
    """
    known, found = tables(), {}
    for page in pages():
        text = page.read_text(encoding="utf-8")
        try:
            new = rewrite(text, known)
        except TableError as error:
            raise TableError(f"{page}: {error}") from error
        if new != text:
            found[page] = new
    return found


def rewrite_pages() -> list[Path]:
    """Make the tables of all pages anew, and return the pages that changed.

    Raises:
        TableError: see `rewrite`; every page is left as it is.
    """
    stale = rewritten()
    for page, text in stale.items():
        page.write_text(text, encoding="utf-8")
    return list(stale)


def write_baseline(path: Path, content: dict[str, Any]) -> None:
    """Write a committed measurement, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Compare only.")
def main(check: bool) -> None:
    """Rewrite the tables, or compare them."""
    try:
        stale = list(rewritten()) if check else rewrite_pages()
    except (TableError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    for page in stale:
        click.echo(f"{page}: {DIFFERS if check else 'rewritten'}", err=check)
    if check and stale:
        sys.exit(1)
    click.echo(f"{len(pages())} pages: every table is what its measurements say")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _from(path: Path, render: Callable[[Any], str], command: str) -> str:
    return render(_read(path)) if path.exists() else unmeasured(command)


if __name__ == "__main__":
    main()
