"""The command line: a table of verbs, each imported only when it runs.

A verb lives in `andon/<verb>.py` and calls itself `command`; `import` is a keyword and `verify` a room, so those two
live in `andon/import_.py` and `andon/verify_.py`. A verb lets the rooms' own errors pass: they become one message on
stderr and exit code 2 here, and nowhere else.
"""

import importlib
import keyword
import sys
from typing import NamedTuple

import click

from andon import __version__
from andon.rooms import ROOMS, is_ours


class Verb(NamedTuple):
    """One line of `andon --help`, and the extra that brings what the verb imports."""

    summary: str
    extra: str = ""


VERBS = {
    "demo": Verb("Train a small model on real text, judge it, write a report.", "train"),
    "train": Verb("Train a LLaMA from a TOML configuration; resume it bit for bit.", "train"),
    "finetune": Verb("Train a LoRA or QLoRA adapter on a frozen model; resume it.", "train"),
    "merge": Verb("Fold an adapter into its model, as a Hugging Face directory.", "train"),
    "generate": Verb("Continue a prompt with a trained or a published model.", "train"),
    "plan": Verb("Count parameters and bytes before paying for them.", "train"),
    "export": Verb("Write a model as Hugging Face's directory, an adapter as PEFT's.", "train"),
    "import": Verb("Read Hugging Face or GGUF weights into a directory.", "train"),
    "verify": Verb("Find silent bugs in anybody's model and training loop.", "verify"),
    "zoo": Verb("Sweep every model or adapter of an installed library.", "verify"),
    "trace": Verb("Send a recorded run to an OTLP endpoint such as Jaeger.", "trace"),
    "faults": Verb("Plant known bugs one at a time and see which check finds each.", "verify"),
    "mutation": Verb("Change one place of the code at a time and see which test notices.", "verify"),
    "gate": Verb("Run a tier, judge its evidence, explain what is red."),
    "init": Verb("Write minimal gates for another project: andon.toml, noxfile."),
}


class LazyGroup(click.Group):
    """A group that lists its verbs from the table and imports a verb only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the table's order."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module; None for an unknown verb, which click then explains."""
        del ctx
        if cmd_name not in VERBS:
            return None
        module = cmd_name + "_" * (keyword.iskeyword(cmd_name) or cmd_name in ROOMS)
        return importlib.import_module(f"andon.{module}").command

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
        except Exception as error:
            message = _explain(error, ctx.invoked_subcommand or "")
            if not message:
                raise
            click.echo(f"andon: {message}", err=True)
            sys.exit(2)


def _explain(error: Exception, name: str) -> str:
    """The message a user can act on: a room's own, or how to install what the verb lacks. Empty for a bug."""
    if is_ours(error):
        return str(error)
    if not isinstance(error, ModuleNotFoundError) or name not in VERBS:
        return ""
    missing, extra = (error.name or "").partition(".")[0], VERBS[name].extra
    if not extra or missing in ("", "andon", *ROOMS):
        return ""
    return f"andon {name} needs {missing}: pip install 'andon[{extra}]'"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`andon VERB --help` shows each verb's options and examples.",
)
@click.version_option(version=__version__, prog_name="andon")
def cli() -> None:
    """Turn training bugs red before the GPU hours are spent."""
