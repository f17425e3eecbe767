"""Where a run's time went, of synthetic series with a planted cause."""

import pytest

from tests.tracing.synthetic import CAUSES, SLOW_FROM, analyzed, plain_steps, planted

pytestmark = pytest.mark.tier1


@pytest.mark.parametrize("share", [0.15, 0.4])
@pytest.mark.parametrize("cause", CAUSES)
def test_a_planted_cause_is_named(cause: str, share: float) -> None:
    """Behavior: each cause is named, with its share of the time; a run without one is bound by its computing."""
    for seed in range(3):
        found = planted(cause, share, seed)
        assert cause == found.cause.name, found.sentence()
        if cause not in ("compute-bound", "not measured"):
            assert share == pytest.approx(found.cause.share, abs=0.03)


def test_what_a_verdict_says() -> None:
    """Behavior: the share, the evidence, file and line of the phase, what else took a tenth, and what to try."""
    found = planted("data-bound", 0.4, 0)
    assert found.sentence().startswith(f"data-bound, 40% of {found.seconds:.3g} s: data took ")
    assert "s (loop.py:7). Next: prepare batches ahead" in found.sentence()
    assert {"cause": "data-bound", "phase": "data"}.items() <= found.attributes().items()


def test_a_slow_down_says_where_it_begins() -> None:
    """Behavior: the step, within a block of twenty, the phase, and by how much."""
    found = planted("slowing down", 0.4, 1).cause
    assert "forward" == found.phase
    step, by = int(found.evidence.split()[2]), found.evidence.split("by ")[1].split("%")[0]
    assert abs(step - SLOW_FROM) <= 20
    assert abs(int(by) - 133) <= 8


def test_nothing_below_a_tenth_is_a_cause() -> None:
    """Behavior: at 8% of the time it is not named."""
    for cause in set(CAUSES) - {"compute-bound", "not measured"}:
        found = planted(cause, 0.08, 0)
        assert ("compute-bound", []) == (found.cause.name, found.others), found.sentence()


def test_no_steps_no_verdict() -> None:
    """Behavior: None, also where the only step is the one in which the run measures itself."""
    assert analyzed([]).verdict() is None
    assert analyzed([plain_steps(1, 0)[0]._replace(measuring=True)]).verdict() is None
