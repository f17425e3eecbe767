"""The public surface: frozen, and imported only when used."""

import subprocess
import sys

import pytest

from andon import verify

pytestmark = pytest.mark.tier2
SURFACE = {
    "CHECKS",
    "Adapters",
    "CheckFailed",
    "Loop",
    "NotApplicable",
    "Quantizer",
    "Subject",
    "SubjectError",
    "capture",
    "check",
    "check_function_gradients",
    "check_gradients",
    "driven",
    "parametrize",
    "subjects",
    "watch",
}


def test_the_public_surface_is_frozen() -> None:
    """Behavior: a name that comes or goes is a decision, made here too."""
    assert SURFACE == set(verify.__all__)
    for name in SURFACE:
        assert getattr(verify, name).__doc__, name
    with pytest.raises(AttributeError, match=r"'andon\.verify' has no attribute 'chek'; it has CHECKS"):
        _ = verify.chek


def test_an_old_name_is_taken_with_a_warning() -> None:
    """Behaviour: what was public before 0.1 is what it is called now, and the warning points at who wrote it."""
    with pytest.warns(FutureWarning, match=r"verify.Quantiser is 'Quantizer' now; the old name goes in 0\.2") as told:
        old = verify.Quantiser
    assert (verify.Quantizer, [__file__]) == (old, [each.filename for each in told])


def test_nothing_imports_torch_before_it_is_used() -> None:
    """Behavior: the package and its pytest plugin load without torch."""
    code = "import sys, verify, andon.verify.pytest_plugin\nsys.exit('torch' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
