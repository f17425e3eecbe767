"""`python -m tests.third_party.worker ENVIRONMENT JOBS RESULTS`: runs jobs in the interpreter of one environment.

A job is {"fault": id or null, "subject": name, "seed": number}; each result is the job with what came of it.
"""

import json
import sys
from pathlib import Path

from andon.verify.faults.jobs import run_jobs
from tests.faults.third_party import FAULTS
from tests.third_party.check import check_subject

LIMIT = 600.0  # seconds of one job


def main(environment: str, jobs_file: str, results_file: str) -> None:
    """Run the jobs two at a time; a line to stderr for each as it ends."""
    faults = {fault.id: fault for fault in FAULTS[environment]}
    jobs = json.loads(Path(jobs_file).read_text(encoding="utf-8"))
    work = [(faults.get(job["fault"]), (job["subject"], job["seed"])) for job in jobs]
    results = []
    for outcome in run_jobs(work, check_subject, workers=2, limit=LIMIT):
        job = jobs[outcome.place]
        results.append(job | {"error": outcome.error} | (outcome.value or {"seconds": outcome.seconds}))
        print(f"{len(results)}/{len(jobs)} {describe(results[-1])}", file=sys.stderr, flush=True)  # noqa: T201 - a command
    Path(results_file).write_text(json.dumps(results), encoding="utf-8")


def describe(result: dict) -> str:
    """A job and its answer, in a line."""
    what = " ".join(str(result[key]) for key in ("fault", "subject") if result[key])
    found = ", ".join(dict.fromkeys(finding["check"] for finding in result.get("findings", ())))
    answer = result["error"] or found or f"nothing, {result['checked']} checked"
    return f"{what} (seed {result['seed']}): {answer} ({result['seconds']:.1f} s)"


if __name__ == "__main__":
    main(*sys.argv[1:])
