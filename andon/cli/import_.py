"""`andon import`: published weights as a directory that `--model` takes."""

from pathlib import Path

import click

from andon.cli.export import DTYPES, convert, tell
from andon.runs.choosing import choose_model


@click.command(epilog="Example: andon import --model SmolLM2-135M-Instruct.Q4_1.gguf --out smollm2")
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Hugging Face directory or GGUF file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A new folder.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Cast the weights; by default they stay as they are.")
def command(model: Path, out: Path, dtype: str | None) -> None:
    """Read Hugging Face or GGUF weights, check them, and write one safetensors directory."""
    convert(choose_model(model, best=False, say=tell), out, dtype)
