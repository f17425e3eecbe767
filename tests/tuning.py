"""`andon finetune` on a model that takes a fraction of a second."""

from click.testing import CliRunner, Result

from andon.cli.main import cli

SHORT = ("--rank", "4", "--batch-size", "4", "--learning-rate", "0.02", "--epochs", "3")


def andon(*arguments: str) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(cli, list(arguments))


def tune(method: str, *arguments: str) -> Result:
    """`andon finetune`, untraced, with a small adapter."""
    return andon("finetune", method, "--no-trace", *SHORT, "--set", "schedule.warmup_steps=1", *arguments)
