"""Configuration: TOML tables, and overrides from the command line."""

from andon.core import config
from andon.core.config import ConfigError, load_config
from tests.fuzz.files import parts, written

REFUSALS = (ConfigError,)
PARSER = {
    config: (
        "RopeScaling._bands_are_ordered",
        "ModelConfig._shapes_fit",
        "TrainingConfig._micro_batches_fit",
        "LoraConfig._patterns_compile",
        "Config._tables_fit",
        "load_config",
        "read_tables",
        "parse_config",
        "apply_override",
        "_explain",
        "_suggest",
        "_join",
    )
}


def one(data: bytes) -> None:
    """A file, and what may follow on the command line, a line each."""
    content, overrides = parts(data, 2)
    load_config(written("run.toml", content), overrides.decode(errors="replace").splitlines())
