"""What several tests of sending begin with."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.otlp import Endpoint
from tests.otlp import endpoint as running
from tests.tracing.three_lines import LINES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A trace of three lines."""
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join(LINES))
    return path


@pytest.fixture
def server() -> Generator[Endpoint, None, None]:
    """A running endpoint."""
    with running() as server:
        yield server
