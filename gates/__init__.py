"""Gates for anybody's project: run a tier's measures as commands, read the evidence they leave, judge, report.

    gates = load_gates()
    run("tier1", gates)                  # each measure leaves evidence
    verdict = judge("tier1", gates)      # reads evidence only
    print(render_text(verdict))
    sys.exit(verdict.exit_code)

A measure is any command; `write_evidence` is all it needs to be judged by its metrics and not its exit code alone.
"""

from andon.gates.config import GateError, Gates, find_config, load_gates
from andon.gates.evidence import Evidence, EvidenceError, Metric, digests, read_evidence, write_evidence
from andon.gates.judge import judge
from andon.gates.report.render import render_json, render_markdown, render_text
from andon.gates.report.sarif import render_sarif
from andon.gates.run import run
from andon.gates.verdict import Check, Verdict

__all__ = [
    "Check",
    "Evidence",
    "EvidenceError",
    "GateError",
    "Gates",
    "Metric",
    "Verdict",
    "digests",
    "find_config",
    "judge",
    "load_gates",
    "read_evidence",
    "render_json",
    "render_markdown",
    "render_sarif",
    "render_text",
    "run",
    "write_evidence",
]
