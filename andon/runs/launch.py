"""What every verb that trains has in common: its options, and the run behind them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.runs.run import Begin

FLAGS = ("epochs", "batch_size", "learning_rate", "grad_clip", "seed")
OPTIONS = (
    click.option("--data", multiple=True, help="Text file, JSONL, folder or glob; may be repeated."),
    click.option("--out", type=click.Path(path_type=Path), help="The run's folder, by default reports/runs/<id>."),
    click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Go on with the run in this folder."),
    click.option("--previous", is_flag=True, help="With --resume: from the checkpoint before the last one."),
    click.option("--epochs", type=int, help="Passes over the corpus."),
    click.option("--batch-size", type=int, help="Sequences of one optimizer step."),
    click.option("--learning-rate", type=float, help="The schedule's peak."),
    click.option("--grad-clip", type=float, help="Largest gradient norm; 0 for none."),
    click.option("--seed", type=int, help="Of weights and data order."),
    click.option(
        "--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Any other key; may be repeated."
    ),
    click.option("--require", metavar="TIER", help="Refuse to start unless this tier's evidence is current and green."),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), help="By default a GPU where there is one."),
    click.option("--trace/--no-trace", default=True, help="Record spans beside the run (default) or not."),
    click.option("--otlp", metavar="URL", help="Send the spans to this endpoint too, such as http://localhost:4318."),
    click.option("-q", "--quiet", is_flag=True, help="Print the result, no more."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, no more."),
)


class Options(NamedTuple):
    """What the options above say of a run, besides its configuration."""

    out: Path | None
    resume: Path | None
    previous: bool
    require: str | None
    device: str | None
    trace: bool
    otlp: str | None
    quiet: bool
    as_json: bool


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def divided(given: dict[str, Any]) -> tuple[Options, list[str]]:
    """The options, and the changes of configuration that the others of them stand for.

    Raises:
        click.UsageError: options that contradict each other.
    """
    options = Options(**{name: given[name] for name in Options._fields})
    if options.resume and options.out:
        raise click.UsageError("--resume goes on in the run's own folder; leave --out away")
    if options.previous and not options.resume:
        raise click.UsageError("--previous needs --resume RUN")
    changes = [f"training.{key}={given[key]}" for key in FLAGS if given[key] is not None]
    changes += [f"data.paths={json.dumps(given['data'])}"] if given["data"] else []
    return options, [*changes, *given["overrides"]]


def launch(config: "Config", name: str, options: Options, begin: "Callable[[Path], Begin] | None" = None) -> NoReturn:
    """Run in a folder, by default a new one called `name`; print the result and exit with its code.

    `begin` makes what the run trains, for a folder; by default it is trained from scratch.
    """
    from andon.report.page import render_report
    from andon.runs import cord, run

    if options.require:
        cord.require(options.require)
    folder = options.resume or options.out or run.new_folder(name)
    silent = options.quiet or options.as_json
    result = run.run(
        config,
        folder,
        begin=begin(folder) if begin else run.from_scratch,
        resume=bool(options.resume),
        previous=options.previous,
        device=options.device or _best_device(),
        traced=options.trace,
        otlp=options.otlp,
        quiet=silent,
        say=(lambda text: None) if silent else click.echo,
    )
    if begin:
        render_report(folder, None)
    click.echo(json.dumps(result, indent=2) if options.as_json else summary(result, folder))
    sys.exit(result["exit"])


def summary(result: dict[str, Any], folder: Path) -> str:
    """A run in a line, a fine-tune in two."""
    line = f"{folder}: {result['steps']} steps, {result['tokens']:,} tokens, validation loss {_nats(result)}"
    tuned = result.get("finetune")
    if not tuned:
        return line
    trained, every, peak = tuned["trained_parameters"], tuned["all_parameters"], result["peak_bytes"]
    share = f"{trained:,} of {every:,} parameters trained ({trained / every:.2%})"
    memory = "memory not measured" if peak is None else f"at most {peak / 1e6:,.1f} MB of tensors"
    before = _nats({"validation_loss": tuned["loss_before"]})
    return f"{line}, {before} before\n{tuned['method']}, rank {tuned['rank']}: {share}, {memory}"


def _nats(result: dict[str, Any]) -> str:
    loss = result["validation_loss"]
    return "not measured" if loss is None else f"{loss:.4f}"


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
