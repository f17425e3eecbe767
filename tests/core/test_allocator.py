"""The allocator: only glibc is configured."""

import ctypes

import pytest

from andon.core.training import allocator

pytestmark = pytest.mark.tier2


@pytest.mark.parametrize(("library", "expected"), [("glibc", 2), ("", 0)])
def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch, library: str, expected: int) -> None:
    """Behavior: glibc keeps what is freed, in two settings; another library may have no such function."""
    calls: list[tuple[int, int]] = []
    library_of = type("Library", (), {"mallopt": staticmethod(lambda *given: calls.append(given))})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library_of)
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: (library, "2.36"))
    allocator.keep_freed_memory()
    assert expected == len(calls)
