"""`andon merge`: an adapter and its base as one whole model."""

from pathlib import Path

import click

from andon.cli.export import DTYPES, write
from andon.runs.models import ADAPTER, ModelError, load_adapted, newest, read_adapter


@click.command(
    epilog="""\b
Examples:
  andon merge --model reports/runs/lora --out merged
  andon merge --model my-adapter --base my-model --out merged-again --dtype bfloat16
"""
)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Fine-tuning run, or PEFT directory.")
@click.option("--base", type=click.Path(path_type=Path), help="The adapter's model, by default where the adapter says.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast the weights; by default they are as in training.")
def command(model: Path, base: Path | None, out: Path, dtype: str | None) -> None:
    """Fold an adapter into the model that it was trained on, and write a Hugging Face directory.

    A QLoRA adapter goes into the dequantized weights, which are what it has learned on; nothing is quantized again.
    """
    from andon.core.adapters.nf4 import dequantize_model
    from andon.core.formats.huggingface import DTYPES

    folder = newest(model)
    job = read_adapter(folder, base)
    if job is None:
        raise ModelError(f"{model}: is not an adapter, so there is nothing to merge; name a fine-tune's folder")
    loaded, tokenizer = load_adapted(folder, job)
    from andon.core.adapters import lora

    dequantized = lora.merge_lora(loaded, ADAPTER)
    lora.unwrap_lora(loaded)
    into = f"into {job.base}"
    if dequantized:
        dequantize_model(loaded)
        into = f"into the dequantized NF4 weights of {job.base}, which it was trained on, and not into the file's own"
    click.echo(f"merged {folder} {into}; nothing is quantized")
    write(loaded.to(DTYPES[dtype]) if dtype else loaded, out, tokenizer, job.template)
