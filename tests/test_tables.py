"""Tables of README and docs are made from committed measurements, and one that says something else is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.bench import tables

pytestmark = pytest.mark.tier1

ROOT = Path(__file__).parent.parent
SECONDS = {"forward": 0.5, "backward": 1.25, "clip": 0.05, "optimizer": 0.2, "step": 2.0, "products": 1.6}
MEMORY: dict[str, float | None] = {
    "peak": 3.5e9,
    "imported": 0.3e9,
    "weights": 0.6e9,
    "gradients": 0.6e9,
    "optimizer": 1.2e9,
    "own": 0.8e9,
}
BENCH: dict[str, Any] = {
    "workload": {"rows": 2, "length": 256, "threads": 2},
    "machine": {"processor": "Example Processor", "date": "2026-01-02"},
    "torch": "2.13.0",
    "rounds": 8,
    "peers": {"huggingface": "transformers==5.23.0", "litgpt": "litgpt==0.5.13"},
    "over_products": {name: {"ratio": 1.25, "low": 1.2, "high": 1.3} for name in ("ours", "huggingface", "litgpt")},
    "ours_over": {name: {"ratio": 0.9, "low": 0.88, "high": 0.92} for name in ("huggingface", "litgpt")},
    "memory_over": {"huggingface": 0.6, "litgpt": 0.65},
    "seconds": dict.fromkeys(("ours", "huggingface", "litgpt"), SECONDS),
    "memory": dict.fromkeys(("ours", "huggingface", "litgpt"), MEMORY),
}
PLAIN: dict[str, Callable[[], str]] = {"one": lambda: "new", "two": lambda: "second"}


def test_pages_say_what_the_measurements_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table between marks in a page equals what its command makes of the committed measurements. (Behavior)"""
    monkeypatch.chdir(ROOT)
    assert {} == tables.rewritten(), "run `python -m tests.bench.tables`"


def test_every_table_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each table that can be made stands on one page, once. (Behavior)"""
    monkeypatch.chdir(ROOT)
    text = "".join(page.read_text(encoding="utf-8") for page in tables.pages())
    assert dict.fromkeys(tables.tables(), 1) == {
        name: text.count(f"<!-- table: {name} -->") for name in tables.tables()
    }


def test_only_what_stands_between_marks_is_replaced() -> None:
    """Text around the marks, and the marks, stay; their content is rewritten, each from its own table. (Behavior)"""
    before = "a\n<!-- table: one -->\nold\n\nolder\n<!-- /table -->\nb\n<!-- table: two -->\n<!-- /table -->\nc\n"
    after = "a\n<!-- table: one -->\nnew\n<!-- /table -->\nb\n<!-- table: two -->\nsecond\n<!-- /table -->\nc\n"
    assert after == tables.rewrite(before, PLAIN)
    assert after == tables.rewrite(after, PLAIN)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: three -->\n<!-- /table -->\n", "three.*no such table; known are one, two"),
        ("<!-- table: one -->\nold\n", "not closed"),
        ("<!-- table: one -->\n<!-- table: two -->\n<!-- /table -->\n", "one.*not closed"),
        ("<!-- table: one --> <!-- /table -->\n", "not alone on its line"),
    ],
)
def test_marks_that_cannot_be_followed_are_refused(text: str, message: str) -> None:
    """An unknown table or an unclosed mark is an error that names it, so that no table is left to rot. (Behavior)"""
    with pytest.raises(tables.TableError, match=message):
        tables.rewrite(text, PLAIN)


@pytest.mark.parametrize("place", ["README.md", "docs/measured/speed.md"])
def test_check_is_red_where_a_page_differs_and_the_command_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """`--check` names an edited page, exits 1 and writes nothing; without it the table is rewritten. (Behavior)"""
    monkeypatch.chdir(tmp_path)
    Path("docs/measured").mkdir(parents=True)
    Path("README.md").touch()
    page = Path(place)
    page.write_text("<!-- table: gpu -->\n1000% faster\n<!-- /table -->\n", encoding="utf-8")
    red = CliRunner().invoke(tables.main, ["--check"])
    assert (1, True) == (red.exit_code, f"{place}: a table differs" in red.stderr)
    assert "1000% faster" in page.read_text(encoding="utf-8")
    assert 0 == CliRunner().invoke(tables.main, []).exit_code
    assert "Not measured yet: `nox -s bench_gpu`." in page.read_text(encoding="utf-8")
    assert 0 == CliRunner().invoke(tables.main, ["--check"]).exit_code


def test_a_mark_that_cannot_be_followed_is_named_with_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, the page and the mark, and no page is changed. (Behavior)"""
    monkeypatch.chdir(tmp_path)
    Path("docs").mkdir()
    Path("README.md").write_text("<!-- table: gpu -->\nold\n<!-- /table -->\n", encoding="utf-8")
    Path("docs/a.md").write_text("<!-- table: gpuu -->\n<!-- /table -->\n", encoding="utf-8")
    refused = CliRunner().invoke(tables.main, [])
    assert (2, True) == (refused.exit_code, "docs/a.md: <!-- table: gpuu -->: no such table" in refused.stderr)
    assert "old" in Path("README.md").read_text(encoding="utf-8")


def test_a_committed_measurement_changes_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed table is made from reports/baselines/bench.json and nothing else. (Behavior)"""
    monkeypatch.chdir(tmp_path)
    tables.write_baseline(tables.BENCH, BENCH)
    text = tables.tables()["speed"]()
    tables.write_baseline(tables.BENCH, json.loads(json.dumps(BENCH).replace("1.25", "1.75")))
    assert text != tables.tables()["speed"]()


def test_tables_hold_the_measured_figures_within_100_columns() -> None:
    """Phases, tokens per second, ratios and megabytes appear as measured, in at most 100 columns. (Behavior)"""
    speed, memory = tables.speed(BENCH), tables.memory(BENCH)
    row = next(line for line in speed.splitlines() if line.startswith("| Andon"))
    assert ["Andon", "500", "1250", "250", "2000", "256", "1.250"] == [cell.strip() for cell in row.split("|")[1:-1]]
    assert "- Andon over transformers 5.23.0: 0.900 (0.880 to 0.920)" in speed
    row = next(line for line in memory.splitlines() if line.startswith("| litgpt"))
    assert ["litgpt 0.5.13", "3500", "300", "2400", "800", "0.65"] == [cell.strip() for cell in row.split("|")[1:-1]]
    assert 100 >= max(len(line) for line in f"{speed}\n{memory}".splitlines())


def test_memory_that_was_not_measured_says_so() -> None:
    """Where a platform tells no resident memory, the table says "not measured" and shows no number. (Behavior)"""
    blind = BENCH | {
        "memory": dict.fromkeys(BENCH["memory"], dict.fromkeys(MEMORY)),
        "memory_over": dict.fromkeys(BENCH["memory_over"]),
    }
    assert 5 == tables.memory(blind).splitlines()[3].count("not measured")


def test_the_plan_covers_every_shipped_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each configuration in configs/ has a row with its exact number of parameters. (Behavior)"""
    monkeypatch.chdir(ROOT)
    text = tables.plan()
    assert "162,417,408" in text
    assert "6,738,415,616" in text
    shipped = {path.stem for path in Path("configs").glob("*.toml")} - {
        "claims",
        "coverage",
        "gates",
        "mutation_excuses",
        "risk",
        "supply",
    }
    assert shipped == {line.split("|")[1].strip() for line in text.splitlines()[2:-2]}
    assert 100 >= max(map(len, text.splitlines()))
