"""`andon gate claims` and `explain`: what they print, with which exit code."""

import pytest

from tests.tuning import andon

pytestmark = pytest.mark.tier3


@pytest.mark.usefixtures("small_gates")
def test_claims_and_explain_show_today_s_state() -> None:
    """Behavior: an unmeasured claim is exit code 3; a check is explained by name, and an unknown one is refused."""
    claims = andon("gate", "claims")
    assert (3, True) == (claims.exit_code, claims.output.startswith("claims NOT MEASURED: text.lines"))
    assert "NOT MEASURED: long\n    text.lines: not measured (must be >= 3)\n    make\n" in claims.output
    explained = andon("gate", "explain", "text.lines")
    assert (0, True) == (explained.exit_code, "\n1. " in explained.output)
    unknown = andon("gate", "explain", "text.line")
    assert (2, True) == (unknown.exit_code, "did you mean text.lines" in unknown.output)
