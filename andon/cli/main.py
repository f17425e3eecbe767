"""The command line: a table of verbs, each imported only when it runs.

A verb lives in `andon/cli/<verb>.py` and calls itself `command`; `import` is a keyword, so that one lives in
`import_.py`. A verb lets our packages' own errors pass: they become one message on stderr and exit code 2 here, and
nowhere else.
"""

import sys
from typing import NamedTuple

import click

from andon import __version__
from andon.cli.commands import command_of
from andon.cli.errors import explain
from andon.text import clean


class Verb(NamedTuple):
    """One line of `andon --help`, and the extra that brings what the verb imports."""

    summary: str
    extra: str = ""


VERBS = {
    "demo": Verb("Train a small model on real text, evaluate it, write a report.", "train"),
    "train": Verb("Train a LLaMA from a TOML configuration; resume it bit for bit.", "train"),
    "finetune": Verb("Train a LoRA or QLoRA adapter on a frozen model; resume it.", "train"),
    "doctor": Verb("Say what is wrong in a run's folder, and what mends it.", "train"),
    "merge": Verb("Merge an adapter into its model, as a Hugging Face directory.", "train"),
    "generate": Verb("Continue a prompt with a trained or a published model.", "train"),
    "plan": Verb("Count parameters and bytes before paying for them.", "train"),
    "export": Verb("Write a model as Hugging Face's directory, an adapter as PEFT's.", "train"),
    "import": Verb("Read Hugging Face or GGUF weights into a directory.", "train"),
    "verify": Verb("Find silent bugs in anybody's model and training loop.", "verify"),
    "watch": Verb("Run a training script as it is; say live what is wrong.", "verify"),
    "zoo": Verb("Sweep every model or adapter of an installed library.", "verify"),
    "trace": Verb("Say where a recorded run's time went; send it to Jaeger."),
    "gate": Verb("Run a tier, judge its evidence, explain what is red."),
    "init": Verb("Write minimal gates for another project: andon.toml, noxfile."),
    "dev": Verb("Measure checks and tests: injected faults, mutants, public names.", "verify"),
}


class LazyGroup(click.Group):
    """A group that lists its verbs from the table and imports a verb only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the table's order."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; None for an unknown verb, which click then explains."""
        del ctx
        return command_of(cmd_name) if cmd_name in VERBS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table as it stands: help must not import what it describes."""
        del ctx
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.summary) for name, verb in VERBS.items()])

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb; a user's mistake is one message on stderr and exit code 2."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("andon: interrupted", err=True)
            sys.exit(128 + 2)
        except click.ClickException as error:
            if clean(error.message) == error.message:
                raise
            raise click.UsageError(clean(error.format_message()), getattr(error, "ctx", None)) from error
        except Exception as error:
            name = ctx.invoked_subcommand or ""
            message = explain(error, name, VERBS[name].extra if name in VERBS else "")
            if not message:
                raise
            click.echo(f"andon: {clean(message)}", err=True)
            sys.exit(2)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`andon VERB --help` shows each verb's options and examples.",
)
@click.version_option(version=__version__, prog_name="andon")
def cli() -> None:
    """Find silent bugs in PyTorch training code before the run; run quality gates; train a compact LLaMA."""
