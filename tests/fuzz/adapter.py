"""PEFT's adapter_config.json, and the modules that it would adapt."""

from andon.core.adapters import targets
from andon.core.adapters.targets import LoraError, plan
from andon.core.formats import huggingface_config, peft_config
from andon.core.formats.peft_config import AdapterError, peft_fields, read_adapter_config
from andon.core.memory.adapter_sizes import modules
from andon.core.memory.sizes import Shape
from tests.fuzz.files import written

REFUSALS = (AdapterError, LoraError)
PARSER = {
    peft_config: ("peft_fields", "read_adapter_config", "_explain", "_read_json"),
    huggingface_config: ("read_json",),
    targets: ("plan", "_targets", "_ends_with", "_endings", "_ends_matching", "_first_matching"),
}
MODULES = modules(Shape(vocab=32, hidden=8, ffn=16, layers=2, heads=2, kv_heads=1, head_size=4, tied=False))


def one(data: bytes) -> None:
    """A file, as it is read for a small model and written again."""
    config, base = read_adapter_config(written("adapter_config.json", data))
    peft_fields(config, base)
    plan(MODULES, config)
