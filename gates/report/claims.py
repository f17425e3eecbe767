"""Claims of the documentation, judged by today's evidence."""

import textwrap
from pathlib import Path

from andon.gates.config import Claims, GateError, Gates, Threshold, Tier, read_table
from andon.gates.evidence import FOLDER
from andon.gates.judge import judge
from andon.gates.report.render import WIDTH, bound
from andon.gates.verdict import Verdict

TIER = Tier(name="claims", summary="claims of the documentation", strict=False)


def read_claims(gates: Gates) -> Claims:
    """The claims of a gates file.

    Raises:
        GateError: it names no file of them, or one that cannot be read.
    """
    if not gates.claims:
        raise GateError(
            'there are no claims: name a file of them in the gates file, such as claims = "configs/claims.toml"'
        )
    return read_table(Path(gates.claims), Claims, "correct `claims` in the gates file")


def judge_claims(claims: Claims, folder: Path = FOLDER) -> Verdict:
    """Each claim as a check on the evidence that lies there; what is stale or missing is not measured."""
    thresholds = [
        Threshold(metric=each.metric, operator=each.operator, value=each.value, tier=TIER.name, why=each.says)
        for each in claims.claims
    ]
    return judge(TIER.name, Gates(tiers=[TIER], thresholds=thresholds), folder)


def render_claims(claims: Claims, verdict: Verdict) -> str:
    """The answer, then for each claim its state, its words, its value and the command that proves it."""
    lines = textwrap.wrap(verdict.headline, WIDTH, break_long_words=False, break_on_hyphens=False)
    for claim, check in zip(claims.claims, verdict.checks, strict=True):
        state = check.state if check.state == "pass" else check.state.upper()
        lines += [f"{state}: {claim.says}", f"    {check.name}: {bound(check)}", f"    {claim.command}"]
    return "\n".join(lines) + "\n"
