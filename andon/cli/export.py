"""`andon export`: a model, or an adapter, as a directory that other libraries load."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.runs.choosing import choose_model
from andon.runs.models import (
    ADAPTER_NAME,
    JOB_FILE,
    ModelError,
    adapter_job,
    dump_job,
    load_adapted,
    load_any_model,
    resolve_checkpoint,
)
from andon.text import clean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from andon.core.data.chat import ChatTemplate
    from andon.core.formats.marks import Marks
    from andon.core.model.llama import Llama

DTYPES = ("float32", "bfloat16", "float16")


def convert(model: Path, out: Path, dtype: str | None) -> None:
    """Read a full model in any supported format and write it as a Hugging Face directory."""
    from andon.core.formats.huggingface import DTYPES
    from andon.core.formats.marks import load_marks

    if adapter_job(resolve_checkpoint(model)):
        raise ModelError(f"{model}: is an adapter; use --format peft, or first: andon merge --model {model}")
    loaded, tokenizer = load_any_model(model, DTYPES[dtype] if dtype else None)
    marks = load_marks(resolve_checkpoint(model))
    write(loaded, out, tokenizer, marks.template, marks)


def write(
    model: "Llama", out: Path, tokenizer: "Tokenizer | None", template: "ChatTemplate | None", marks: "Marks"
) -> None:
    """Write a Hugging Face directory, with its source's small files, and say so."""
    from andon.core.formats.huggingface_export import export_huggingface

    export_huggingface(model, out, tokenizer, template, marks)
    count = sum(parameter.numel() for parameter in model.parameters())
    click.echo(f"{out}: {count:,} parameters in {next(model.parameters()).dtype}".replace("torch.", ""))
    if tokenizer is None:
        click.echo("no supported tokenizer was found: put the model's tokenizer.json there", err=True)


def tell(text: str) -> None:
    """Say something beside the result."""
    click.echo(clean(text), err=True)


def export_peft(model: Path, out: Path) -> None:
    """Write a fine-tune's adapter alone, as `peft` loads it, and its training method beside it."""
    from andon.core.adapters.lora import lora_parameters
    from andon.core.formats.peft import save_adapter

    folder = resolve_checkpoint(model)
    job = adapter_job(folder)
    if job is None:
        raise ModelError(f"{model}: is a full model, not an adapter; use --format hf")
    loaded, _ = load_adapted(folder, job)
    save_adapter(loaded, out, ADAPTER_NAME, str(job.base), {JOB_FILE: dump_job(job)})
    count = sum(factor.numel() for factor in lora_parameters(loaded, ADAPTER_NAME).values())
    click.echo(f"{out}: {count:,} parameters, for the model in {job.base}")


@click.command(
    epilog="""\b
Examples:
  andon export --model reports/runs/demo --format hf --out my-llama
  andon export --model reports/runs/lora --format peft --out my-adapter
"""
)
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="Run, checkpoint, Hugging Face directory or GGUF."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["hf", "peft"]),
    default="hf",
    show_default=True,
    help="hf: a Hugging Face directory. peft: a fine-tune's adapter alone.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast the weights; by default they stay as they are.")
@click.option("--best", is_flag=True, help="Of a run: the checkpoint of the lowest validation loss, not the newest.")
def command(model: Path, kind: str, out: Path, dtype: str | None, best: bool) -> None:
    """Write a model as a Hugging Face directory, or an adapter as PEFT's, which transformers and others load."""
    model = choose_model(model, best=best, say=tell)
    if kind == "hf":
        convert(model, out, dtype)
    elif dtype:
        raise click.UsageError("--dtype is for full models; an adapter stays in float32")
    else:
        export_peft(model, out)
