"""The name of the CPU in a run's records."""

from pathlib import Path

import pytest

from andon.core.machine import cpu_model

pytestmark = pytest.mark.tier1


def test_the_model_is_that_of_proc_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the first line that says its name."""
    text = "flags\t: a model name : b\nmodel name\t: Abacus 3\nmodel name: c\n"
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda _, encoding: text)
    assert "Abacus 3" == cpu_model()


@pytest.mark.parametrize(("processor", "expected"), [("", "abacus64"), ("Abacus 4", "Abacus 4")])
def test_without_proc_the_platform_names_it(monkeypatch: pytest.MonkeyPatch, processor: str, expected: str) -> None:
    """Behavior: where there is no /proc/cpuinfo, the platform's processor serves, or its architecture."""
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr("platform.processor", lambda: processor)
    monkeypatch.setattr("platform.machine", lambda: "abacus64")
    assert expected == cpu_model()
