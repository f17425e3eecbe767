"""What becomes of a watched command when somebody ends `andon verify`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.door.process import QUIET, ROOT

pytestmark = pytest.mark.long
SCRIPT = """
import os
import torch

print(os.getpid(), flush=True)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
while True:
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_whoever_ends_us_ends_the_command(number: signal.Signals, tmp_path: Path) -> None:
    """Behavior: the script is gone once we are, and the exit code is 128 and the signal's number."""
    (tmp_path / "train.py").write_text(SCRIPT)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    words = ["-m", "andon", "verify", "-q", "--budget", "1000", "--", sys.executable, "train.py"]
    with subprocess.Popen(
        ["env", f"--default-signal={number.name}", sys.executable, *words],  # whoever runs the tests may ignore it
        cwd=tmp_path,
        env=os.environ | QUIET | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        script = int(process.stdout.readline())
        process.send_signal(number)
        process.communicate(timeout=100)
    assert 128 + number == process.returncode
    with pytest.raises(ProcessLookupError):
        os.kill(script, 0)
