"""`andon merge`: an adapter and its base as one full model."""

from pathlib import Path

import click

from andon.cli.export import DTYPES, tell, write
from andon.runs.choosing import choose_model
from andon.runs.models import ADAPTER_NAME, ModelError, adapter_job, load_adapted, resolve_checkpoint


@click.command(
    epilog="""\b
Examples:
  andon merge --model reports/runs/lora --out merged
  andon merge --model my-adapter --base my-model --out merged-again --dtype bfloat16
"""
)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Fine-tuning run, or PEFT directory.")
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="The adapter's base model, by default the one that the adapter names.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast the weights; by default they are as in training.")
@click.option("--best", is_flag=True, help="Of a run: the checkpoint of the lowest validation loss, not the newest.")
def command(model: Path, base: Path | None, out: Path, dtype: str | None, best: bool) -> None:
    """Merge an adapter into the model that it was trained on, and write a Hugging Face directory.

    A QLoRA adapter is merged into the dequantized weights, on which it was trained; nothing is quantized again.
    """
    from andon.core.adapters.nf4 import dequantize_model
    from andon.core.formats.huggingface import DTYPES
    from andon.core.formats.marks import load_marks, marks_beside

    folder = choose_model(model, best=best, say=tell)
    job = adapter_job(folder, base)
    if job is None:
        raise ModelError(f"{model}: is not an adapter, so there is nothing to merge; name a fine-tune's folder")
    loaded, tokenizer = load_adapted(folder, job)
    from andon.core.adapters import lora

    dequantized = lora.merge_lora(loaded, ADAPTER_NAME)
    lora.unwrap_lora(loaded)
    into = f"into {job.base}"
    if dequantized:
        dequantize_model(loaded)
        into = f"into the dequantized NF4 weights of {job.base}, which it was trained on, not into the file's weights"
    click.echo(f"merged {folder} {into}; nothing is quantized")
    base_marks = load_marks(resolve_checkpoint(job.base))
    marks = marks_beside(folder, base_marks)
    template = job.template or marks.template or base_marks.template
    write(loaded.to(DTYPES[dtype]) if dtype else loaded, out, tokenizer, template, marks)
