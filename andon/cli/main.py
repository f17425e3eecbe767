"""The command line: a table of verbs, each imported only when it runs.

A verb lives in `andon/cli/<verb>.py` and calls itself `command`; `import` is a keyword, so that one lives in
`import_.py`. A verb lets our packages' own errors pass: they become one message on stderr and exit code 2 here, and
nowhere else.
"""

import sys
from typing import NamedTuple

import click

from andon import __version__
from andon.text import clean, without_secrets


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
    "trace": Verb("Send a recorded run to an OTLP endpoint such as Jaeger.", "trace"),
    "gate": Verb("Run a tier, judge its evidence, explain what is red."),
    "init": Verb("Write minimal gates for another project: andon.toml, noxfile."),
    "dev": Verb("Measure checks and tests: injected faults, mutants, public names.", "verify"),
}

# Verbs that run no code of a user: what the file system refuses them is about their own files.
OWN_FILES = ("demo", "train", "finetune", "merge", "generate", "plan", "export", "import", "gate", "init")
DEVELOPMENT_TOOLS = ("griffe", "libcst", "pytest")  # the extra `dev` brings these, whichever verb lacks them


def _command(verb: str) -> click.Command:
    """A verb's command; imported only when it is asked for, as most verbs cost an import of torch."""
    return _of_models(verb) or _of_checks(verb)


def _of_models(verb: str) -> click.Command | None:
    """The command of a verb that makes, writes or reads a model; None for another."""
    if verb == "demo":
        from andon.cli.demo import command
    elif verb == "train":
        from andon.cli.train import command
    elif verb == "finetune":
        from andon.cli.finetune import command
    elif verb == "doctor":
        from andon.cli.doctor import command
    elif verb == "merge":
        from andon.cli.merge import command
    elif verb == "generate":
        from andon.cli.generate import command
    elif verb == "plan":
        from andon.cli.plan import command
    elif verb == "export":
        from andon.cli.export import command
    elif verb == "import":
        from andon.cli.import_ import command
    else:
        return None
    return command


def _of_checks(verb: str) -> click.Command:
    """The command of a verb that finds what is wrong."""
    if verb == "verify":
        from andon.cli.verify import command
    elif verb == "watch":
        from andon.cli.door import watch as command
    elif verb == "zoo":
        from andon.cli.zoo import command
    elif verb == "trace":
        from andon.cli.trace import command
    elif verb == "gate":
        from andon.cli.gate import command
    elif verb == "init":
        from andon.cli.init import command
    else:
        from andon.cli.dev import command
    return command


class LazyGroup(click.Group):
    """A group that lists its verbs from the table and imports a verb only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the table's order."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command; None for an unknown verb, which click then explains."""
        del ctx
        return _command(cmd_name) if cmd_name in VERBS else None

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
            message = _explain(error, ctx.invoked_subcommand or "")
            if not message:
                raise
            click.echo(f"andon: {clean(message)}", err=True)
            sys.exit(2)


def _explain(error: Exception, name: str) -> str:
    """The message a user can act on: one of our own, or how to install what the verb lacks. Empty for a bug.

    A builtin error that escapes from our packages is a bug and keeps its traceback. So does an error of user code.
    """
    if type(error).__module__.startswith("andon."):
        return without_secrets(str(error))
    if isinstance(error, OSError) and name in OWN_FILES and not isinstance(error, BrokenPipeError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; free disk space, check permissions, or name another folder"
    if not isinstance(error, ModuleNotFoundError) or name not in VERBS:
        return ""
    missing = (error.name or "").partition(".")[0]
    extra = "dev" if missing in DEVELOPMENT_TOOLS else VERBS[name].extra
    if not extra or missing in ("", "andon"):
        return ""
    return f"andon {name} needs {missing}: pip install 'andon[{extra}]'"


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`andon VERB --help` shows each verb's options and examples.",
)
@click.version_option(version=__version__, prog_name="andon")
def cli() -> None:
    """Find silent bugs in PyTorch training code before the run; run quality gates; train a compact LLaMA."""
