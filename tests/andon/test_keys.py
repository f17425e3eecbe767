"""No key is decoration: changing any one changes a loss, a weight, a file, a thread, or whether the run is accepted.

The stored configuration does not count as a change. The table is compared with the schema, so that a new key without
a row here fails.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from andon.core.adapters.lora import add_lora, lora_parameters
from andon.core.adapters.nf4 import quantize_model
from andon.core.config import ModelConfig, QloraConfig, RopeScaling, known_keys
from andon.core.data import dataset as data
from andon.core.formats.interchange import load_model
from andon.core.model import llama as model
from andon.core.training.loop import initial_state_of
from andon.core.training.loss import loss
from andon.log import read_log
from andon.runs.folder import CACHE
from andon.runs.run import run
from tests.small_run import small_config, write_corpus

pytestmark = pytest.mark.long

LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 32}
Changes = list[tuple[str, Any]]
DIVERGING: Changes = [
    ("training.learning_rate", 3.0),
    ("schedule.type", "constant"),
]  # the best checkpoint is an early one
SILENT: Changes = [("training.learning_rate", 1e-30)]  # no weight moves, which a watch tells

# key: (what else is set in both runs, the other value)
ROWS: dict[str, tuple[Changes, Any]] = {
    "model.vocab_size": ([], 310),
    "model.hidden_size": ([], 24),
    "model.intermediate_size": ([], 32),
    "model.num_hidden_layers": ([], 1),
    "model.num_attention_heads": ([("model.head_dim", 4)], 2),
    "model.num_key_value_heads": ([], 4),
    "model.head_dim": ([], 8),
    "model.max_position_embeddings": ([], 8),
    "model.rms_norm_eps": ([], 1e-2),
    "model.rope_theta": ([], 100.0),
    "model.rope_scaling": ([], {"rope_type": "linear", "factor": 2.0}),
    "model.tie_word_embeddings": ([], True),
    "model.initializer_range": ([], 0.1),
    "training.epochs": ([], 1),
    "training.max_steps": ([], 3),
    "training.batch_size": ([], 12),
    "training.accumulation_steps": ([], 2),
    "training.learning_rate": ([], 1e-3),
    "training.weight_decay": ([], 0.3),
    "training.beta1": ([], 0.5),
    "training.beta2": ([], 0.5),
    "training.eps": ([], 1e-2),
    "training.grad_clip": ([], 0.1),
    "training.dtype": ([], "bfloat16"),
    "training.activation_checkpointing": ([], True),
    "training.compile": ([], True),
    "training.max_skipped_steps": ([("training.learning_rate", 1e30), ("training.grad_clip", 0)], 2),
    "training.seed": ([], 1),
    "schedule.type": ([], "linear"),
    "schedule.warmup_steps": ([], 0),
    "schedule.min_ratio": ([], 0.5),
    "data.paths": ([], None),
    "data.text_field": ([], "other"),
    "data.tokenizer": ([], "given"),
    "data.sequence_length": ([], 12),
    "data.shard_tokens": ([], 500),
    "data.workers": ([], 2),
    "validation.fraction": ([], 0.2),
    "validation.every_steps": ([], 3),
    "validation.max_sequences": ([], 4),
    "checkpoint.every_steps": ([("checkpoint.keep_last", 100)], 5),
    "checkpoint.keep_last": ([], 1),
    "cord.after_steps": ([("cord.loss_above", 1.0), ("cord.window_steps", 1)], 2),
    "cord.window_steps": ([("cord.loss_above", 1.0)], 2),
    "cord.loss_above": ([("cord.window_steps", 1)], 1.0),
    "cord.grad_norm_above": ([("cord.window_steps", 1)], 1e-3),
    "cord.tokens_per_second_below": ([("cord.window_steps", 1)], 1e9),
    "cord.skipped_above": ([("training.learning_rate", 1e30), ("training.grad_clip", 0)], 0),
    "cord.watch_weights": (SILENT, True),
    "checkpoint.keep_best": (
        [*DIVERGING, ("validation.every_steps", 2), ("checkpoint.keep_last", 1)],
        False,
    ),
}
# The same for the tables of adapters, which are observed in a few steps of their own.
ADAPTER_ROWS: dict[str, Any] = {
    "rank": 2,
    "alpha": 3.0,
    "dropout": 0.5,
    "target_modules": ["q_proj"],
    "use_rslora": True,
    "rank_pattern": {"q_proj": 1},
    "alpha_pattern": {"q_proj": 1.0},
}
ADAPTER_TABLES = {"lora": ADAPTER_ROWS, "qlora": ADAPTER_ROWS | {"double_quantization": False}}
SCALING_ROWS = {
    "rope_type": {**LLAMA3, "rope_type": "linear"},
    "factor": {**LLAMA3, "factor": 8.0},
    "low_freq_factor": {**LLAMA3, "low_freq_factor": 2.0},
    "high_freq_factor": {**LLAMA3, "high_freq_factor": 8.0},
    "original_max_position_embeddings": {**LLAMA3, "original_max_position_embeddings": 64},
}


@pytest.fixture(scope="module")
def observe(tmp_path_factory: pytest.TempPathFactory) -> Generator[Callable[[Changes], str]]:
    """A function that runs small_run with some keys changed, in a new folder, and returns all it could see, as text."""
    texts = tmp_path_factory.mktemp("texts")
    corpus = write_jsonl(texts)
    seen: dict[str, Any] = {}

    def run_with(changes: Changes) -> str:
        seen.update(blocks=0, compiled=0, threads=set())
        changes = [(key, special(key, value, texts)) for key, value in changes]
        home = tmp_path_factory.mktemp("run")
        patch.chdir(home)
        try:
            config = small_config([str(corpus)], ("checkpoint.keep_last", 3), *changes)
            result = run(config, home / "run", traced=False, quiet=True, say=lambda text: None)
        except ValueError as error:
            return str(error)
        return json.dumps(
            {
                "log": [{k: v for k, v in line.items() if k != "seconds"} for line in read_log(home / "run")],
                "exit": result["exit"],
                "weights": digest_of_weights(home / "run"),
                "checkpoints": sorted(
                    path.name for path in home.glob("run/checkpoints/*")
                ),  # none while steps are skipped
                "shards": len(list((home / CACHE).glob("*/*.bin"))),
                "blocks": seen["blocks"],
                "compiled": seen["compiled"],
                "threads": len(seen["threads"]),
            }
        )

    with pytest.MonkeyPatch.context() as patch:
        watch(patch, seen)
        yield run_with


def plain(observe: Callable[[Changes], str], both: Changes, known: dict[str, str] = {}) -> str:  # noqa: B006 - a memo
    """What the unchanged run looks like; most rows share one."""
    name = repr(both)
    if name not in known:
        known[name] = observe(both)
    return known[name]


def watch(monkeypatch: pytest.MonkeyPatch, seen: dict[str, Any]) -> None:
    """Count block calls and compilations, and note which threads prepare batches."""
    forward, pack = model.Block.forward, data.pack

    def counted(self: Any, *arguments: Any) -> Any:
        seen["blocks"] += 1
        return forward(self, *arguments)

    def compiled(function: Any) -> Any:
        seen["compiled"] += 1
        return function

    def packed(*arguments: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            seen["threads"].add(threading.current_thread().name)
        return pack(*arguments)

    monkeypatch.setattr(model.Block, "forward", counted)
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(data, "pack", packed)


def write_jsonl(folder: Path) -> Path:
    """The small corpus as JSONL whose fields `text` and `other` differ."""
    paths = write_corpus(folder / "texts")
    texts = [path.read_text() for path in sorted(Path(paths[0]).iterdir())]
    lines = [json.dumps({"text": text, "other": text[::-1]}) for text in texts]
    corpus = folder / "corpus.jsonl"
    corpus.write_text("\n".join(lines) + "\n")
    return corpus


def special(key: str, value: Any, folder: Path) -> Any:
    """Values that need a file: another corpus, a given tokenizer."""
    if key == "data.paths":
        return write_corpus(folder / "others", documents=9)
    if key == "data.tokenizer" and value:
        paths = write_corpus(folder / "fewer", documents=5)
        config = small_config(paths)
        return str(data.open_dataset(config, folder / "tokenizer-cache").tokenizer_file)
    return value


def digest_of_weights(folder: Path) -> str:
    """A hash of the newest checkpoint's weights."""
    newest = max(folder.glob("checkpoints/*"), default=None)
    if newest is None:
        return ""
    loaded, _ = load_model(newest)
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in loaded.parameters())).hexdigest()


def test_every_key_has_a_row() -> None:
    """Behavior: the rows name the schema's keys, each once."""
    keys = {f"{table}.{key}" for table, names in known_keys().items() for key in names}
    adapters = {f"{table}.{key}" for table, rows in ADAPTER_TABLES.items() for key in rows}
    assert keys == set(ROWS) | adapters
    assert set(RopeScaling.model_fields) == set(SCALING_ROWS)


@pytest.mark.parametrize("key", ROWS)
def test_key_changes_something(key: str, observe: Callable[[Changes], str]) -> None:
    """Behavior: two runs that differ in one key differ in what can be seen of them."""
    both, value = ROWS[key]
    assert plain(observe, both) != observe([*both, (key, value)])


def test_equal_runs_look_equal(observe: Callable[[Changes], str]) -> None:
    """Behavior: two runs of one configuration look the same, or the rows above would prove nothing."""
    assert observe([]) == observe([])


def adapted(table: str, *changes: tuple[str, Any]) -> str:
    """What three steps of an adapter look like: losses, and a hash of its factors."""
    config = small_config([], (f"{table}.rank", 4), *((f"{table}.{key}", value) for key, value in changes))
    settings = config.lora if table == "lora" else config.qlora
    base = model.build_model(config.model, config.training.seed)
    if isinstance(settings, QloraConfig):
        quantize_model(base, settings.double_quantization)
    add_lora(base, settings, torch.Generator().manual_seed(1))
    state, tokens_BT, losses = initial_state_of(base, config), torch.arange(24).reshape(2, 12), []
    for _ in range(3):
        value = loss(base, data.Batch(tokens_BT, tokens_BT + 1, None))
        value.backward()
        state.optimizer.step()
        losses.append(value.item())
    factors = b"".join(f.detach().numpy().tobytes() for f in lora_parameters(base, "default").values())
    return f"{losses} {hashlib.sha256(factors).hexdigest()}"


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, rows in ADAPTER_TABLES.items() for key in rows])
def test_adapter_key_changes_something(table: str, key: str) -> None:
    """Behavior: three steps that differ in one key differ in a loss or a factor, and otherwise do not."""
    plain = adapted(table)
    assert plain == adapted(table)
    assert plain != adapted(table, (key, ADAPTER_TABLES[table][key]))


@pytest.mark.parametrize("key", SCALING_ROWS)
def test_scaling_key_changes_frequencies(key: str) -> None:
    """Behavior: each key of rope_scaling changes the angles that attention sees."""

    def frequencies(scaling: dict[str, Any]) -> list[float]:
        shape: dict[str, Any] = {
            "hidden_size": 64,
            "num_attention_heads": 1,
            "num_key_value_heads": 1,
            "rope_theta": 1000.0,
        }
        shape |= {"vocab_size": 9, "intermediate_size": 4, "num_hidden_layers": 1}
        config = ModelConfig(**shape, rope_scaling=RopeScaling(**scaling))
        return model.rotary_frequencies(config)

    assert frequencies(LLAMA3) != frequencies(SCALING_ROWS[key])
