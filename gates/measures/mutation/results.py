"""What became of each mutant: kept from run to run, joined from shards, counted."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from andon.files import write_whole
from andon.gates.config import GateError
from andon.gates.evidence import Metric
from andon.gates.measures.mutation.keys import Covering
from andon.gates.measures.mutation.plan import Excuse

BASELINE = Path("reports/baselines/mutation.json")
STATE = Literal["killed", "survived", "untested", "late", "error"]
KILLED, SURVIVED, UNTESTED, LATE, ERROR = "killed", "survived", "untested", "late", "error"


@dataclass(frozen=True)
class Row:
    """One mutant and what became of it; `late` and `untested` are alive, `error` is not an answer."""

    id: str
    operator: str
    line: int
    state: str
    by: str = ""  # the test that was red, or why there is no answer
    diff: str = ""  # of one that was not killed


@dataclass(frozen=True)
class Function:
    """A function's mutants, the tests that ran, and the key under which the results hold."""

    key: str
    tests: tuple[str, ...]
    rows: tuple[Row, ...]
    mutants: int = -1  # how many there are, with an answer or without; -1 before they were made


@dataclass(frozen=True)
class File:
    """One file: what each test covers of it, as long as `digest` holds, and its functions."""

    digest: str = ""
    covered: tuple[Covering, ...] = ()
    functions: dict[str, Function] = field(default_factory=dict)


Results = dict[str, File]


def read_results(path: Path = BASELINE) -> Results:
    """What was kept; nothing where there is no file.

    Raises:
        GateError: the file is torn or of another shape.
    """
    try:
        return {name: _file(content) for name, content in json.loads(path.read_text("utf-8"))["files"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise GateError(f"{path} holds no results ({error}); delete it and run `andon dev mutation`") from error


def write_results(results: Results, about: Mapping[str, object], path: Path = BASELINE) -> None:
    """Keep results, whole or not at all; a test is named once a file, and a function holds places in that list."""
    files = {name: _flat(file) for name, file in results.items()}
    write_whole(path, _json(about, files))


def join(parts: Iterable[Results]) -> Results:
    """Results of shards as one; a function that two shards share has the mutants of both."""
    whole: Results = {}
    for part in parts:
        for name, file in part.items():
            old = whole.get(name, File())
            functions = dict(old.functions)
            for function, new in file.functions.items():
                rows = {row.id: row for row in (*_rows_under(functions.get(function), new.key), *new.rows)}
                functions[function] = replace(new, rows=tuple(rows[key] for key in sorted(rows)))
            whole[name] = File(file.digest, file.covered, functions)
    return whole


def metrics(results: Results, excuses: Mapping[str, Excuse]) -> dict[str, Metric]:
    """Score in percent, of all and of each file, with excused mutants among the survivors; what is wrong is counted.

    Mutants without an answer that holds are `missing`.
    """
    by_file = {name: _rows(file) for name, file in results.items()}
    rows = [row for some in by_file.values() for row in some]
    states = Counter(row.state for row in rows)
    alive = {row.id for row in rows if row.state in (SURVIVED, LATE)}
    missing = sum(function.mutants for file in results.values() for function in file.functions.values()) - len(rows)
    return {
        **_scores(rows, by_file),
        "mutants": Metric(float(len(rows)), "mutants"),
        **{state: Metric(float(states[state]), "mutants") for state in (KILLED, SURVIVED, UNTESTED, LATE, ERROR)},
        "excused_share": Metric(100 * len(excuses) / len(rows) if rows else None, "%"),
        "excuses_gone": Metric(float(len(set(excuses) - alive)), "excuses"),
        "missing": Metric(float(missing), "mutants"),
    }


def _scores(rows: Sequence[Row], by_file: Mapping[str, Sequence[Row]]) -> dict[str, Metric]:
    """The score of all, of the worst file, and of each; of the worst only where each has one."""
    scores = {name: score(some) for name, some in by_file.items()}
    known = [value for value in scores.values() if value is not None]
    return {
        "score": Metric(score(rows), "%"),
        "score_by_file": Metric(min(known) if len(known) == len(scores) and known else None, "%"),
        **{f"score_by_file {name}": Metric(value, "%") for name, value in scores.items()},
    }


def score(rows: Iterable[Row]) -> float | None:
    """Percent killed; None where there is nothing to kill."""
    states = [row.state for row in rows]
    return 100 * states.count(KILLED) / len(states) if states else None


def _rows(file: File) -> list[Row]:
    return [row for function in file.functions.values() for row in function.rows]


def _rows_under(old: Function | None, key: str) -> tuple[Row, ...]:
    return old.rows if old and old.key == key else ()


def _flat(file: File) -> dict[str, Any]:
    tests = [each.test for each in file.covered]
    names = sorted({name for each in file.covered for name in each.functions})
    return {
        "digest": file.digest,
        "names": names,
        "tests": [
            [each.test, round(each.seconds, 3), [names.index(n) for n in each.functions]] for each in file.covered
        ],
        "functions": {
            name: {
                "key": function.key,
                "mutants": function.mutants,
                "tests": [tests.index(test) if test in tests else test for test in function.tests],
                "rows": [list(asdict(row).values()) for row in function.rows],
            }
            for name, function in sorted(file.functions.items())
        },
    }


def _file(content: Any) -> File:
    names = content["names"]
    covered = tuple(
        Covering(test, seconds, tuple(names[place] for place in places)) for test, seconds, places in content["tests"]
    )
    functions = {
        name: Function(
            each["key"],
            tuple(test if isinstance(test, str) else covered[test].test for test in each["tests"]),
            tuple(Row(*row) for row in each["rows"]),
            each["mutants"],
        )
        for name, each in content["functions"].items()
    }
    return File(content["digest"], covered, functions)


def _json(about: Mapping[str, object], files: Mapping[str, Any]) -> str:
    """One line a list of plain values, so that a changed mutant is a changed line."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in about.items()]
    parts = []
    for name, file in files.items():
        inner = [f'   "{key}": {json.dumps(file[key])},' for key in ("digest", "names")]
        inner.append('   "tests": [\n' + ",\n".join(f"    {json.dumps(test)}" for test in file["tests"]) + "\n   ],")
        functions = []
        for function, each in file["functions"].items():
            rows = ",\n".join(f"     {json.dumps(row)}" for row in each["rows"])
            head = json.dumps({key: each[key] for key in ("key", "mutants", "tests")})[1:-1]
            functions.append(f'    {json.dumps(function)}: {{{head}, "rows": [\n{rows}\n    ]}}')
        inner.append('   "functions": {\n' + ",\n".join(functions) + "\n   }")
        parts.append(f"  {json.dumps(name)}: {{\n" + "\n".join(inner) + "\n  }")
    return "{\n" + "\n".join([*lines, ' "files": {\n' + ",\n".join(parts) + "\n }"]) + "\n}\n"
