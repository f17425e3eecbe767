"""`andon dev`: what only this repository's developers run."""

import click

from andon.workshop import faults, mutation, surface


@click.group()
def command() -> None:
    """Measure Andon itself: faults injected into its core, mutants of its code, its public surface."""


command.add_command(faults.command, "faults")
command.add_command(mutation.command, "mutation")
command.add_command(surface.command, "surface")
