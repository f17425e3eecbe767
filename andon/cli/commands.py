"""The command of each verb, imported only when it is asked for."""

import click


def command_of(verb: str) -> click.Command:
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
    elif verb == "doctor":
        from andon.cli.doctor import command
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
