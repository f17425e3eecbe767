"""The options of every verb that trains, and the run behind them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from andon.text import clean

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.runs.run import Prepare

FLAGS = ("epochs", "batch_size", "learning_rate", "grad_clip", "seed")
OPTIONS = (
    click.option("--data", multiple=True, help="Text file, JSONL, folder or glob; may be repeated."),
    click.option("--out", type=click.Path(path_type=Path), help="The run's folder, by default reports/runs/<id>."),
    click.option("--resume", type=click.Path(path_type=Path), metavar="RUN", help="Continue the run in this folder."),
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
    click.option(
        "--profile",
        type=click.IntRange(min=3),
        metavar="EVERY",
        help="Profile two steps in so many: `andon trace top` says which lines take the time.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print only the result."),
    click.option("--json", "as_json", is_flag=True, help="Print only the result, as JSON."),
)


class RunOptions(NamedTuple):
    """The options of a run that are not part of its configuration."""

    out: Path | None
    resume: Path | None
    previous: bool
    require: str | None
    device: str | None
    trace: bool
    otlp: str | None
    profile: int | None
    quiet: bool
    as_json: bool


def run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def split_options(given: dict[str, Any]) -> tuple[RunOptions, list[str]]:
    """A run's options, and the others as overrides of its configuration.

    Raises:
        click.UsageError: options that contradict each other.
    """
    options = RunOptions(**{name: given[name] for name in RunOptions._fields})
    if options.resume and options.out:
        raise click.UsageError("--resume continues in the run's own folder; remove --out")
    if options.previous and not options.resume:
        raise click.UsageError("--previous needs --resume RUN")
    changes = [f"training.{key}={given[key]}" for key in FLAGS if given[key] is not None]
    changes += [f"data.paths={json.dumps(given['data'])}"] if given["data"] else []
    return options, [*changes, *given["overrides"]]


def run_and_exit(
    config: "Config", name: str, options: RunOptions, prepare: "Callable[[Path], Prepare] | None" = None
) -> NoReturn:
    """Run in a folder, by default a new one called `name`; print the result and exit with its code.

    `prepare` makes the setup of a run in a folder; by default a model is trained from scratch.
    """
    from andon.report.page import render_report
    from andon.runs import run
    from andon.runs.cord import require_green
    from andon.runs.folder import new_folder
    from andon.runs.terminal import steady_output

    if options.require:
        require_green(options.require)
    folder = options.resume or options.out or new_folder(name)
    silent = options.quiet or options.as_json
    result = run.run(
        config,
        folder,
        prepare=prepare(folder) if prepare else run.from_scratch,
        resume=bool(options.resume),
        previous=options.previous,
        device=options.device or _best_device(),
        traced=options.trace,
        otlp=options.otlp,
        profile=options.profile,
        quiet=silent,
        say=(lambda text: None) if silent else (lambda text: click.echo(clean(text))),
    )
    if prepare:
        render_report(folder, None)
    with steady_output(lambda text: None):  # the result is in the folder
        click.echo(json.dumps(result, indent=2) if options.as_json else clean(summary(result, folder)))
    sys.exit(result["exit"])


def summary(result: dict[str, Any], folder: Path) -> str:
    """A run in one line, a fine-tune in two."""
    complete = "already complete, " if 0 < result["steps"] == result["resumed_at"] else ""
    line = f"{folder}: {complete}{result['steps']} steps, {result['tokens']:,} tokens, validation loss {_nats(result)}"
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
