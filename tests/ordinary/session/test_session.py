"""The run of the corpus: what it lists, chooses, counts and publishes, and that each of its thresholds goes red."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from andon.gates.config import load_gates
from andon.gates.evidence import Evidence, Metric, write_evidence
from andon.gates.judge import judge
from tests.bench import ordinary_tables
from tests.ordinary.__main__ import is_part
from tests.ordinary.session.job import HALVES, checked, modules
from tests.ordinary.session.results import lights, metrics, packages, report, summary
from tests.ordinary.session.run import Job, Selection, choose, crashed, describe, label
from tests.reports.small import Decoder, draw, loss

ROOT = Path(__file__).parents[3]
FIRST = {"own": (139, 79, 24, 245), "packages": (131, 62, 15, 248)}  # subjects, red or blamed, blamed, findings


def subject(name: str = "one", area: str = "area") -> Job:
    """As a half lists it."""
    return {"half": "own", "area": area, "name": name, "source": "written for this corpus"}


def ran(name: str = "one", seed: int = 0, *said: str) -> Job:
    """A run in which checks said something: "red a.b", "yellow a.b", "blamed a.b"."""
    findings = [
        {
            "check": each.split()[1],
            "light": "yellow" if "yellow" in each else "red",
            "mistake": "blamed" in each,
            "message": "m",
        }
        for each in said
    ]
    return subject(name) | {"seed": seed, "findings": findings, "passed": 10 + seed, "cpu": 1.0 + seed}


@pytest.mark.tier2
def test_every_area_names_its_subjects_and_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: each file of both halves has a table of subjects in plain sight and says whose code they are."""
    monkeypatch.chdir(ROOT)
    for name in (*modules("own"), *modules("packages")):
        tree = ast.parse(Path(*name.split(".")).with_suffix(".py").read_text(encoding="utf-8"))
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
        assert {"SOURCE", "SUBJECTS"} <= {ast.unparse(target) for target in targets}, name
    assert (21, 27) == (len(modules("own")), len(modules("packages")))


@pytest.mark.tier1
def test_the_first_figures_never_change() -> None:
    """Behavior: what each half met at its first run is what was counted then."""
    first = json.loads((ROOT / ordinary_tables.FIRST).read_text(encoding="utf-8"))
    found = {
        half: (len(rows["findings"]), sum(map(bool, rows["findings"].values())), len(rows["blamed"]),
               sum(rows["findings"].values()))
        for half, rows in first.items()
    }  # fmt: skip
    assert found == FIRST


@pytest.mark.tier1
def test_names_and_parts_choose_subjects() -> None:
    """Behavior: names are parts of "area: name"; the parts of a half are disjoint and make it whole."""
    found = [subject(str(number), "even" if number % 2 else "odd") for number in range(10)]
    assert ["3"] == [job["name"] for job in choose(found, Selection(names=("even: 3",)), {})]
    parts = [[label(job) for job in choose(found, Selection(part=f"{part}/3"), {})] for part in (1, 2, 3)]
    assert sorted(map(label, found)) == sorted(name for part in parts for name in part)
    assert [True, False, False, False] == [is_part(text) for text in ("3/3", "4/3", "0/3", "a/3")]


@pytest.mark.tier1
def test_a_sample_fits_into_its_seconds_and_goes_around_with_the_commit() -> None:
    """Behavior: committed costs sum to at most the seconds asked; another commit takes others; one commit, the same."""
    found = [subject(str(number)) for number in range(40)]
    costs = {label(job): 2.0 for job in found}
    costs[label(found[0])] = 50.0
    taken = [
        [label(job) for job in choose(found, Selection(sample=9.0, commit=commit), costs)] for commit in ("a", "b", "a")
    ]
    assert [4, 4] == [len(taken[0]), len(taken[1])]
    assert taken[0] == taken[2] != taken[1]
    assert label(found[0]) not in {
        name
        for commit in range(30)
        for name in map(label, choose(found, Selection(sample=9.0, commit=str(commit)), costs))
    }


@pytest.mark.tier1
def test_lights_are_told_apart() -> None:
    """Behavior: red, yellow and blamed are counted by subject over all its seeds; a process that died is blamed."""
    assert {"red": ["a.b"], "yellow": ["c.d"], "blamed": ["e.f"]} == lights(
        ran("one", 0, "red a.b", "red a.b", "yellow c.d", "blamed e.f")
    )
    died = ran("three") | crashed("exit code -9")
    found = summary([ran(), ran("one", 1, "red a.b"), ran("two", 0, "yellow c.d"), died])
    assert ({"area: one": ["a.b"]}, {"area: three": ["crash"]}) == (found["red"], found["blamed"])
    assert {"area: two": ["c.d"]} == found["yellow"]
    assert (4, 2, 10.5, 1.5) == (
        found["runs"],
        found["alarms"],
        found["passed"]["area: one"],
        found["cpu"]["area: one"],
    )
    assert "1 red, 1 blamed, 1 yellow" in report([ran("one", 1, "red a.b"), ran("two", 0, "yellow c.d"), died])
    assert "nothing, 10 passed" in describe(ran())


@pytest.mark.tier1
def test_sources_are_packages() -> None:
    """Behavior: what an area names as its source counts by package, without versions."""
    rows = [
        subject() | {"source": text}
        for text in ("peft 0.21.2 on transformers 5.24.0", "transformers 5.24.0, trl 1.16.0")
    ]
    assert ["peft", "transformers", "trl"] == packages(rows)


@pytest.mark.tier2
def test_a_subject_is_checked_with_the_seed_s_weights_and_batches() -> None:
    """Behavior: seed 1 draws other weights than seed 0, and a check that passes is counted."""
    from andon.verify import Subject

    drawn = []

    def remembered(generator: Any) -> Any:
        drawn.append(draw(generator))
        return drawn[-1]

    for seed in (0, 1):
        result = checked(lambda: Subject(model=Decoder, batch=remembered, loss=loss), seed, ["loss.precision"])
        assert ([], 1) == (result["findings"], result["passed"])
    halfway = len(drawn) // 2
    assert not drawn[0]["input_ids"].equal(drawn[halfway]["input_ids"])


QUIET = [ran(str(number), seed) for number in range(150) for seed in range(3)]
REDS = {
    "ordinary_all.accused": [ran("0", 0, "red a.b"), *QUIET[1:]],
    "ordinary_all.subjects": [*QUIET[3:]],
    "ordinary_all.fewest_seeds": [run for run in QUIET if run["seed"] < 2] * 2,
    "ordinary_all.yellow_share": [*QUIET[93:], *(ran(str(number), 0, "yellow a.b") for number in range(31))],
    "ordinary_all.highest_share": QUIET[:290],
}


def judged(results: list[Job], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The metrics that are red once this is the evidence of a whole run."""
    gates = load_gates(ROOT / "configs" / "gates.toml")
    monkeypatch.chdir(folder)
    found = metrics({"own": summary(results)})
    write_evidence(Evidence("ordinary_all", "test", 1.0, {}, found))
    return [check.name for check in judge("corpus", gates).checks if check.state != "pass"]


@pytest.mark.tier2
def test_a_quiet_corpus_passes_every_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: 150 subjects, three seeds and no finding are green."""
    assert [] == judged(QUIET, tmp_path, monkeypatch)


@pytest.mark.tier2
@pytest.mark.parametrize("metric", REDS)
def test_each_threshold_goes_red(metric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a bad result turns its own threshold red."""
    assert metric in judged(REDS[metric], tmp_path, monkeypatch)


@pytest.mark.tier1
def test_nothing_that_ran_is_no_pass() -> None:
    """Behavior: a sample without subjects is not measured, which no threshold passes."""
    assert {Metric(None)} == set(metrics({}).values())


@pytest.mark.tier1
def test_the_table_holds_both_halves_and_what_was_said() -> None:
    """Behavior: a row a half and one of all, the bound of all runs, and each accused subject with its check."""
    shown = ordinary_tables.ordinary({half: summary([*QUIET, ran("x", 0, "red a.b")]) for half in HALVES})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines() if line.startswith("|")]
    assert ["all", "1", "302", "902", "2", "0", "0"] == cells[-1][:7]
    assert "2 of 902 runs" in shown
    assert "Red: area: x (`a.b`)." in shown
