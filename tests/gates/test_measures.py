"""The measures as commands, as sessions, gates files and messages name them."""

import subprocess
import sys

import pytest


@pytest.mark.long
@pytest.mark.parametrize("name", ["coverage", "debt", "fuzz", "supply", "symbolic", "vacuous"])
def test_each_measure_is_a_command_that_says_how_it_is_called(name: str) -> None:
    """Behavior: `python -m` runs it, and its help names that very command."""
    module = f"andon.gates.measures.{name}"
    done = subprocess.run([sys.executable, "-m", module, "--help"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"usage: python -m {module} [-h]")
