"""Claims: words of a page, a command that exists, a metric that is measured, and a state that only evidence gives."""

from dataclasses import replace
from pathlib import Path
from shlex import split

import pytest

from andon.gates.config import Claims, GateError, Gates, load_gates
from andon.gates.report.claims import judge_claims, read_claims, render_claims
from tests.documents import pages, text_of
from tests.gates.small_project import leave_evidence
from tests.sessions import is_known

pytestmark = pytest.mark.tier2

ROOT = Path(__file__).parents[2]
# Pages that promise nothing of their own.
NO_PROMISE = (
    "CHANGELOG", "CONTRIBUTING", "architecture", "detectors", "door", "index", "known_bugs", "troubleshooting", "zoo",
)  # fmt: skip


def words(text: str) -> str:
    """Text without its line breaks."""
    return " ".join(text.split())


def test_a_page_says_what_is_claimed_and_every_guide_has_a_claim() -> None:
    """Behavior: each claim stands on some page word for word, and each page that promises something has one."""
    claims = read_claims(load_gates()).claims
    texts = {page: words(text_of(page)) for page in pages() if page.parent.name not in ("checks", "decisions")}
    said = "\n".join(texts.values())
    assert [] == [claim.says for claim in claims if words(claim.says) not in said]
    bare = [page.stem for page, text in texts.items() if not any(words(claim.says) in text for claim in claims)]
    assert [] == [name for name in bare if name not in NO_PROMISE]


def test_each_claim_has_a_command_and_a_metric_that_exist() -> None:
    """Behavior: a session or a file of tests; a metric with a threshold, a measure's exit code, a tier's clock."""
    gates = load_gates()
    metrics = {threshold.metric for threshold in gates.thresholds}
    metrics |= {f"{measure.name}.exit_code" for measure in gates.measures}
    metrics |= {f"{tier.name}.wall_seconds" for tier in gates.tiers if tier.budget_seconds}
    for claim in read_claims(gates).claims:
        assert claim.metric in metrics, claim.metric
        program, flag, name, *rest = split(claim.command)
        if program == "nox":
            assert ("-s", ["--"][: len(rest)]) == (flag, rest[:1]), claim.command
            assert is_known(name, *rest[1:]), claim.command
        else:
            assert ("python", "-m", "pytest") == (program, flag, name), claim.command
            assert all((ROOT / path).is_file() for path in rest), claim.command


def test_a_claim_is_met_by_evidence_alone(tmp_path: Path) -> None:
    """Behavior: what is missing or stale is not measured, what misses its bound is red, and the command stands by."""
    row = {"command": "make probe", "operator": ">=", "value": 90.0}
    claims = Claims.model_validate(
        {"claims": [{**row, "says": "fast", "metric": "probe.lines"}, {**row, "says": "small", "metric": "other.x"}]}
    )
    for lines, state, code in ((95.0, "pass", 3), (50.0, "red", 1)):
        leave_evidence(tmp_path, lines=lines)
        verdict = judge_claims(claims, tmp_path)
        assert ([state, "not measured"], code) == ([check.state for check in verdict.checks], verdict.exit_code)
    assert "RED: fast\n    probe.lines: 50 % (must be >= 90)\n    make probe\n" in render_claims(claims, verdict)
    leave_evidence(tmp_path, sources={str(tmp_path / "absent"): "0"})
    lines = render_claims(Claims(claims=claims.claims * 60), replace(verdict, checks=verdict.checks * 60)).splitlines()
    assert lines[0].startswith("claims RED: probe.lines, ")
    assert max(map(len, lines)) <= 100
    assert ["not measured"] * 2 == [check.state for check in judge_claims(claims, tmp_path).checks]


def test_a_project_without_claims_is_told_how_to_have_some() -> None:
    """Behavior: the message names the key."""
    with pytest.raises(GateError, match=r'claims = "configs/claims\.toml"'):
        read_claims(Gates(tiers=[]))
