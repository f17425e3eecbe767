"""What CrossHair cannot prove, floats and text, it draws as hypothesis' cases: paths are searched, not guessed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from andon.core.config import ScheduleConfig
from andon.core.data.windows import run_steps, steps_done
from andon.core.training.schedule import learning_rate

pytestmark = pytest.mark.long
CROSSHAIR = settings(backend="crosshair", max_examples=20, deadline=None, derandomize=True, database=None)
SCHEDULES = {
    kind: ScheduleConfig.model_validate({"type": kind, "warmup_steps": 3, "min_ratio": 0.25})
    for kind in ("linear", "constant")
}


@pytest.mark.parametrize("kind", SCHEDULES)
@CROSSHAIR
@given(step=st.integers(0, 40), steps=st.integers(1, 30))
def test_a_rate_is_between_its_minimum_and_its_peak(kind: str, step: int, steps: int) -> None:
    """Invariant: no step has a rate of zero, or above the peak."""
    rate = learning_rate(step, steps, 2.0, SCHEDULES[kind])
    assert 0.5 <= rate <= 2.0


@CROSSHAIR
@given(epoch=st.integers(0, 50), per_epoch=st.integers(1, 50), limit=st.integers(0, 3000))
def test_a_state_beyond_the_run_is_beyond_its_epochs(epoch: int, per_epoch: int, limit: int) -> None:
    """Invariant: a run without a limit ends where its last epoch does."""
    steps = run_steps(per_epoch, 50, limit)
    assert steps <= steps_done(50, 0, per_epoch)
    assert limit or steps == steps_done(epoch, 0, per_epoch) + (50 - epoch) * per_epoch
