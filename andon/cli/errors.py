"""What a user is told of an error: the one place where errors become messages."""

from andon.text import without_secrets

# Verbs that run no code of a user: what the file system refuses them is about their own files.
OWN_FILES = ("demo", "train", "finetune", "merge", "generate", "plan", "export", "import", "gate", "init")
DEVELOPMENT_TOOLS = ("griffe", "libcst", "pytest")  # the extra `dev` brings these, whichever verb lacks them


def explain(error: Exception, verb: str, extra: str) -> str:
    """The message a user can act on: one of our own, or how to install what the verb lacks. Empty for a bug.

    A builtin error that escapes from our packages is a bug and keeps its traceback. So does an error of user code.
    """
    if type(error).__module__.startswith("andon."):
        return without_secrets("\n".join([str(error), *getattr(error, "__notes__", [])]))
    if isinstance(error, OSError):
        return _refused(error) if verb in OWN_FILES and not isinstance(error, BrokenPipeError) else ""
    return _missing(error, verb, extra) if isinstance(error, ModuleNotFoundError) and verb else ""


def _refused(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; free disk space, check permissions, or name another folder"


def _missing(error: ModuleNotFoundError, verb: str, extra: str) -> str:
    module = (error.name or "").partition(".")[0]
    extra = "dev" if module in DEVELOPMENT_TOOLS else extra
    if not extra or module in ("", "andon"):
        return ""
    return f"andon {verb} needs {module}: pip install 'andon[{extra}]'"
