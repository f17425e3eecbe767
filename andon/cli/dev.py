"""`andon dev`: measure checks, tests and the public surface themselves."""

import click

from andon.workshop import faults, mutation, surface


@click.group()
def command() -> None:
    """Measure checks by injected faults, tests by mutants of the code, and changes of the public surface."""


command.add_command(faults.command, "faults")
command.add_command(mutation.command, "mutation")
command.add_command(surface.command, "surface")
