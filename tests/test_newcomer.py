"""A newcomer's path: our wheel beside a project that has transformers and peft of its own, five lines, one red line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks
from tests.test_layout import install_wheel

pytestmark = pytest.mark.slow

FIVE_LINES = """\
from transformers import Phi3Config

from andon.verify.subjects import huggingface

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "pad_token_id": 0}
subject = huggingface.causal_lm(Phi3Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
"""
VERSIONS = "import peft, transformers; print(peft.__version__, transformers.__version__, transformers.__file__)"


def test_five_lines_beside_somebody_s_libraries_show_a_red_line(tmp_path: Path) -> None:
    """Behavior: the wheel installs nothing over what is there, and names a setting of Phi-3 that does nothing."""
    before = subprocess.run([sys.executable, "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
    project = tmp_path / "project"
    project.mkdir()
    (project / "my_checks.py").write_text(FIVE_LINES)
    environment = os.environ | {"PYTHONPATH": str(install_wheel(tmp_path / "wheel"))}
    verify = [sys.executable, "-W", "ignore", "-m", "andon", "verify", "my_checks:subject", "--tier", "1"]
    done = subprocess.run(verify, cwd=project, check=False, capture_output=True, text=True, env=environment)
    assert 1 == done.returncode, done.stdout + done.stderr
    red = [line for line in done.stdout.splitlines() if "embd_pdrop" in line]
    assert 1 == len(red), done.stdout
    after = [sys.executable, "-c", VERSIONS]
    assert before == subprocess.run(after, check=True, capture_output=True, text=True, env=environment).stdout


MODEL = """\
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).save_pretrained("my-model")
"""


@pytest.mark.parametrize(("page", "names"), [("README.md", ("model", "run")), ("docs/subject.md", ("run", "lora"))])
def test_shown_subjects_of_libraries_can_be_checked(tmp_path: Path, page: str, names: tuple[str, ...]) -> None:
    """Behavior: the block of a page that presents other libraries runs on a folder of weights, and checks apply."""
    (shown,) = [block for block in blocks(ROOT / page, "python") if "verify.subjects import" in block]
    (tmp_path / "hf_checks.py").write_text(shown)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", MODEL], cwd=tmp_path, check=True, env=environment)
    for name in names:
        only = ("--only", "accumulation", "--only", "adapters.merge", "--only", "attention.causality")
        verify = [sys.executable, "-W", "ignore", "-m", "andon", "verify", f"hf_checks:{name}", *only]
        done = subprocess.run(verify, cwd=tmp_path, check=False, capture_output=True, text=True, env=environment)
        assert 0 == done.returncode, done.stdout + done.stderr
