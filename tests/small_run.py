"""A run that takes a fraction of a second: for tests that need one whole."""

from pathlib import Path
from typing import Any

from andon.core.config import Config, parse_config

TABLES: dict[str, dict[str, Any]] = {
    "model": {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    "training": {"epochs": 2, "batch_size": 6, "accumulation_steps": 3, "learning_rate": 1e-2, "grad_clip": 0.5},
    "schedule": {"warmup_steps": 2},
    "data": {"sequence_length": 16},
    "validation": {"fraction": 0.3},
    "checkpoint": {"every_steps": 2},
}


def write_corpus(folder: Path, documents: int = 8) -> list[str]:
    """Text files, each another stretch of a made-up language, in `folder`; returns `data.paths`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(documents):
        words = [f"{'abcdefghij'[(number * k + k * k) % 10]}{k % (number + 2)}" for k in range(60)]
        (folder / f"{number:02}.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
    return [str(folder)]


def small_config(paths: list[str], *overrides: tuple[str, Any]) -> Config:
    """The run above on these paths, with `("table.key", value)` changed."""
    tables = {name: dict(table) for name, table in TABLES.items()}
    tables["data"]["paths"] = paths
    for dotted, value in overrides:
        table, key = dotted.split(".")
        tables.setdefault(table, {})[key] = value
    return parse_config(tables, "small_run")
