"""`andon train`: train a LLaMA, or go on with a run."""

import json
import sys
from pathlib import Path

import click

from andon.rooms import room

FLAGS = ("epochs", "batch_size", "learning_rate", "grad_clip", "seed")


@click.command(
    epilog="""\b
Examples:
  andon train configs/tiny.toml
  andon train configs/tiny.toml --data 'notes/**/*.txt' --epochs 2 --out reports/runs/notes
  andon train configs/tiny.toml --set model.hidden_size=192 --set schedule.type=linear
  andon train --resume reports/runs/notes
  andon train configs/tiny.toml --otlp http://localhost:4318
"""
)
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--data", multiple=True, help="Text file, JSONL, folder or glob; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder, by default reports/runs/<id>.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with the run in this folder.")
@click.option("--previous", is_flag=True, help="With --resume: from the checkpoint before the last one.")
@click.option("--epochs", type=int, help="Passes over the corpus.")
@click.option("--batch-size", type=int, help="Sequences of one optimizer step.")
@click.option("--learning-rate", type=float, help="The schedule's peak.")
@click.option("--grad-clip", type=float, help="Largest gradient norm; 0 for none.")
@click.option("--seed", type=int, help="Of weights and data order.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Any other key; may be repeated.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="By default a GPU where there is one.")
@click.option("--trace/--no-trace", default=True, help="Record spans beside the run (default) or not.")
@click.option("--otlp", metavar="URL", help="Send the spans to this endpoint too, such as http://localhost:4318.")
@click.option("-q", "--quiet", is_flag=True, help="Print the result, no more.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, no more.")
def command(
    config: Path | None,
    data: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    overrides: tuple[str, ...],
    device: str | None,
    otlp: str | None,
    *,
    previous: bool,
    trace: bool,
    quiet: bool,
    as_json: bool,
    **flags: float | None,
) -> None:
    """Train a LLaMA from the TOML file CONFIG; log, trace and checkpoint it in a folder of its own.

    Without --data it trains on the sources of the Python standard library. Exit codes: 0 trained, 2 bad input,
    5 too many steps in a row were not finite, 128+n stopped by signal n, with a checkpoint.
    """
    if not (config or resume):
        raise click.UsageError("name a CONFIG such as configs/tiny.toml, or a run with --resume")
    if resume and out:
        raise click.UsageError("--resume goes on in the run's own folder; leave --out away")
    if previous and not resume:
        raise click.UsageError("--previous needs --resume RUN")
    changes = [f"training.{key}={flags[key]}" for key in FLAGS if flags[key] is not None]
    changes += [f"data.paths={json.dumps(data)}"] if data else []
    source = config or Path(str(resume)) / "config.json"
    resolved = room("core.config").load_config(source, [*changes, *overrides])
    from andon import run

    folder = resume or out or run.new_folder(source.stem)
    result = run.run(
        resolved,
        folder,
        resume=bool(resume),
        previous=previous,
        device=device or _best_device(),
        traced=trace,
        otlp=otlp,
        quiet=quiet or as_json,
        say=(lambda text: None) if quiet or as_json else click.echo,
    )
    click.echo(json.dumps(result, indent=2) if as_json else _summary(result, folder))
    sys.exit(result["exit"])


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _summary(result: dict[str, float | None], folder: Path) -> str:
    loss = "not measured" if result["validation_loss"] is None else f"{result['validation_loss']:.4f}"
    return f"{folder}: {result['steps']} steps, {result['tokens']:,} tokens, validation loss {loss}"
