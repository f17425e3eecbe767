"""`andon export`: a model as a directory that other libraries load."""

from pathlib import Path

import click

from andon.models import load
from andon.rooms import room

DTYPES = ("float32", "bfloat16", "float16")


def convert(model: Path, out: Path, dtype: str | None) -> None:
    """Read any model that Andon reads and write it as a Hugging Face directory."""
    huggingface = room("core.huggingface")
    loaded, tokenizer = load(model, huggingface.DTYPES[dtype] if dtype else None)
    huggingface.export_huggingface(loaded, out, tokenizer)
    count = sum(parameter.numel() for parameter in loaded.parameters())
    click.echo(f"{out}: {count:,} parameters in {next(loaded.parameters()).dtype}".replace("torch.", ""))
    if tokenizer is None:
        click.echo("no tokeniser was found, or none that is understood: put the model's tokenizer.json there", err=True)


@click.command(epilog="Example: andon export --model reports/runs/demo --format hf --out my-llama")
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="Run, checkpoint, Hugging Face directory or GGUF."
)
@click.option("--format", "kind", type=click.Choice(["hf"]), default="hf", help="hf: a Hugging Face directory.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast the weights; by default they stay as they are.")
def command(model: Path, kind: str, out: Path, dtype: str | None) -> None:
    """Write a model as a Hugging Face directory, which transformers and others load."""
    del kind
    convert(model, out, dtype)
