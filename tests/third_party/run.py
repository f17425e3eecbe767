"""Runs jobs in the environments that they belong to, each with an interpreter of its own."""

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench.environments import FOLDER, BenchError, interpreter, worker_variables

HOMES = {"third_party": Path(".nox"), "litgpt": FOLDER}


def run(environment: str, jobs: Sequence[dict[str, Any]], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Each job with what came of it.

    Raises:
        BenchError: the environment cannot be built, or its interpreter ended without an answer.
    """
    python = interpreter(environment, say, HOMES[environment])
    with tempfile.TemporaryDirectory() as scratch:
        jobs_file, results_file = Path(scratch, "jobs.json"), Path(scratch, "results.json")
        jobs_file.write_text(json.dumps(list(jobs)), encoding="utf-8")
        command = [str(python), "-m", "tests.third_party.worker", environment, str(jobs_file), str(results_file)]
        done = subprocess.run(command, check=False, env=worker_variables(1))
        if done.returncode or not results_file.exists():
            raise BenchError(f"{environment}: `{' '.join(command)}` ended with {done.returncode}")
        return json.loads(results_file.read_text(encoding="utf-8"))
