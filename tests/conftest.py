"""Rules for all tests: one tier mark each, derandomized properties, and no file imported that a run leaves out."""

import gc
from pathlib import Path

import pytest

TIERS = ("tier1", "tier2", "tier3", "long", "slow", "browser", "peers", "jaeger")


def pytest_configure(config: pytest.Config) -> None:
    """Make hypothesis repeat itself, but under `--hypothesis-profile night`.

    Tier 1 runs without its plugin, and so without the second its import costs; the plugin alone does not import it.

    No garbage is collected while tests are: what they import stays, and looking through it again costs half a second.
    """
    gc.disable()
    if config.pluginmanager.hasplugin("hypothesispytest"):
        from hypothesis import settings

        settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=25)
        settings.register_profile("night", derandomize=False, deadline=None, database=None, max_examples=100)
        settings.load_profile("repeatable")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m tier1` do not import the files that never say tier1: an import can cost more than all unit tests."""
    mark = config.option.markexpr
    if mark in TIERS and collection_path.suffix == ".py" and f"mark.{mark}" not in collection_path.read_text("utf-8"):
        return True
    return None


def pytest_collection_finish() -> None:
    """Collect garbage again, but not among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test without exactly one tier mark: no tier would run it, or two would."""
    for item in items:
        marks = [mark.name for mark in item.iter_markers() if mark.name in TIERS]
        if len(marks) != 1:
            raise pytest.UsageError(
                f"{item.nodeid} carries {marks or 'no tier mark'}; give it one of {', '.join(TIERS)}"
            )
