"""The configuration refuses what cannot work, and says what would."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from andon.core.aliases import ADVICE, ALIASES, TABLE_ALIASES
from andon.core.config import Config, ConfigError, dump_config, known_keys, load_config, parse_config
from tests.core.shapes import LLAMA3, SHAPE

pytestmark = pytest.mark.tier1
CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = ["tiny.toml", "small.toml", "124m.toml", "1b.toml", "7b.toml"]
OTHERS = {
    "claims.toml",
    "coverage.toml",
    "gates.toml",
    "mutation_excuses.toml",
    "risk.toml",
    "supply.toml",
}


def parse(**tables: Any) -> Config:
    """A configuration of the small shape, with these tables laid over it."""
    return parse_config({"model": SHAPE} | tables, "run.toml")


def refusal(**tables: Any) -> str:
    """The message with which it is refused."""
    with pytest.raises(ConfigError) as caught:
        parse(**tables)
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_loads(name: str) -> None:
    """Behavior: strict parsing passes, and what is stored with a run reads back as the same configuration."""
    config = load_config(CONFIGS / name)
    assert config == parse_config(json.loads(dump_config(config)), "stored")
    assert set(SHIPPED) | OTHERS == {path.name for path in CONFIGS.glob("*.toml")}


def test_defaults_are_those_people_know() -> None:
    """Reference: learning rate 3e-4, weight decay 0.01, clip 1.0, 10 epochs, batch 32."""
    training = parse().training
    assert (3e-4, 0.01, 1.0, 10, 32) == (
        training.learning_rate,
        training.weight_decay,
        training.grad_clip,
        training.epochs,
        training.batch_size,
    )


def test_alpha_is_twice_the_rank_where_not_given() -> None:
    """Behavior: in both tables, and what is given counts."""
    config = parse(lora={"rank": 5}, qlora={"alpha": 3})
    assert (10.0, 3.0, 128.0) == (config.lora.resolved_alpha, config.qlora.resolved_alpha, parse().qlora.resolved_alpha)


# table, key, a value that breaks the key's own rule, the rule as the message says it
BROKEN: list[tuple[str, str, Any, str]] = [
    *(
        (table, key, 0, "input should be greater than 0")
        for table, keys in {
            "model": [
                "hidden_size",
                "intermediate_size",
                "num_hidden_layers",
                "num_attention_heads",
                "num_key_value_heads",
                "head_dim",
                "max_position_embeddings",
                "rms_norm_eps",
                "rope_theta",
                "initializer_range",
            ],
            "training": ["epochs", "batch_size", "accumulation_steps", "learning_rate", "eps", "max_skipped_steps"],
            "checkpoint": ["keep_last"],
            "validation": ["fraction"],
        }.items()
        for key in keys
    ),
    *(
        (table, key, -1, "input should be greater than or equal to 0")
        for table, keys in {
            "training": ["max_steps", "weight_decay", "beta1", "beta2", "grad_clip", "seed"],
            "schedule": ["warmup_steps", "min_ratio"],
            "data": ["workers"],
            "validation": ["every_steps", "max_sequences"],
            "checkpoint": ["every_steps"],
        }.items()
        for key in keys
    ),
    ("model", "vocab_size", 1, "input should be greater than or equal to 2"),
    ("data", "sequence_length", 1, "input should be greater than or equal to 2"),
    ("data", "shard_tokens", 1, "input should be greater than or equal to 2"),
    ("training", "beta1", 1.0, "input should be less than 1"),
    ("training", "beta2", 1.0, "input should be less than 1"),
    ("schedule", "min_ratio", 1.5, "input should be less than or equal to 1"),
    ("validation", "fraction", 0.6, "input should be less than or equal to 0.5"),
    ("training", "learning_rate", float("nan"), "input should be"),
    ("training", "learning_rate", float("inf"), "input should be a finite number"),
    ("training", "eps", float("inf"), "input should be a finite number"),
    ("training", "weight_decay", float("nan"), "input should be"),
    ("training", "weight_decay", float("inf"), "input should be"),
    ("training", "grad_clip", float("nan"), "input should be"),
    ("training", "grad_clip", float("inf"), "input should be"),
    ("training", "dtype", "int8", "input should be 'float32', 'bfloat16' or 'float16'"),
    ("schedule", "type", "step", "input should be 'cosine', 'linear' or 'constant'"),
    ("training", "batch_size", "32", "input should be a valid integer"),
    ("training", "batch_size", 32.5, "input should be a valid integer"),
    ("training", "batch_size", True, "input should be a valid integer"),
    ("training", "learning_rate", "3e-4", "input should be a valid number"),
    ("training", "activation_checkpointing", 1, "input should be a valid boolean"),
    ("training", "compile", "yes", "input should be a valid boolean"),
    ("checkpoint", "keep_best", "yes", "input should be a valid boolean"),
    ("model", "tie_word_embeddings", 0, "input should be a valid boolean"),
    ("data", "paths", "corpus.txt", "input should be a valid list"),
    ("data", "text_field", 3, "input should be a valid string"),
    ("data", "tokenizer", 3, "input should be a valid string"),
    *(
        (table, *rule)
        for table in ("lora", "qlora")
        for rule in [
            ("rank", 0, "input should be greater than 0"),
            ("rank", 8.0, "input should be a valid integer"),
            ("alpha", 0, "input should be greater than 0"),
            ("alpha", float("inf"), "input should be a finite number"),
            ("dropout", -0.1, "input should be greater than or equal to 0"),
            ("dropout", 1.0, "input should be less than 1"),
            ("target_modules", 3, "input should be a list of names, or one string"),
            ("target_modules", None, "input should be a list of names, or one string"),
            ("use_rslora", 1, "input should be a valid boolean"),
            ("rank_pattern", 4, "input should be a valid dictionary"),
            ("alpha_pattern", "q_proj", "input should be a valid dictionary"),
        ]
    ),
    ("qlora", "double_quantization", 1, "input should be a valid boolean"),
    ("cord", "after_steps", -1, "input should be greater than or equal to 0"),
    ("cord", "window_steps", 0, "input should be greater than 0"),
    ("cord", "loss_above", 0, "input should be greater than 0"),
    ("cord", "grad_norm_above", float("inf"), "input should be a finite number"),
    ("cord", "tokens_per_second_below", -1, "input should be greater than 0"),
    ("cord", "skipped_above", -1, "input should be greater than or equal to 0"),
    ("cord", "watch_weights", 1, "input should be a valid boolean"),
]


@pytest.mark.parametrize(("table", "key", "value", "rule"), BROKEN, ids=lambda part: str(part)[:24])
def test_each_rule_of_a_key_is_refused_with_file_key_value_and_rule(
    table: str, key: str, value: Any, rule: str
) -> None:
    """Behavior: one line, `file: table.key=value: rule; got type`."""
    base = SHAPE if table == "model" else {}
    message = refusal(**{table: base | {key: value}})
    assert message.startswith(f"run.toml: {table}.{key}={value!r}: {rule}"), message
    assert message.endswith(f"; got {type(value).__name__}")
    assert "\n" not in message


def test_no_key_is_without_a_rule_that_is_tested() -> None:
    """Behavior: each key of the schema is somewhere refused here, so that a new one cannot come without its rule."""
    tested = {(table, key) for table, key, _, _ in BROKEN} | {("model", "rope_scaling")}
    assert {(table, key) for table, keys in known_keys().items() for key in keys} == tested


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"model": SHAPE | {"hidden_size": 18}},
            "model: hidden_size=18 is not divisible by num_attention_heads=4; choose a multiple, or set head_dim",
        ),
        (
            {"model": SHAPE | {"num_key_value_heads": 3}},
            "model: num_key_value_heads=3 does not divide num_attention_heads=4; choose a divisor",
        ),
        (
            {"model": SHAPE | {"head_dim": 5}},
            "model: head_dim=5 is odd and RoPE rotates pairs; choose an even head_dim",
        ),
        (
            {"model": SHAPE | {"hidden_size": 12}},
            "model: head_dim=3 is odd and RoPE rotates pairs; choose an even head_dim",
        ),
        (
            {"model": SHAPE | {"rope_scaling": LLAMA3 | {"high_freq_factor": 1.0}}},
            "model.rope_scaling: high_freq_factor=1.0 must be greater than low_freq_factor=1.0",
        ),
        (
            {"training": {"batch_size": 10, "accumulation_steps": 4}},
            (
                "training: batch_size=10 is not divisible by accumulation_steps=4; "
                "batch_size counts the sequences of one optimizer step, over all its micro-batches"
            ),
        ),
        (
            {"training": {"max_steps": 50}, "schedule": {"warmup_steps": 51}},
            "schedule.warmup_steps=51 is longer than training.max_steps=50; shorten the warm-up or lengthen the run",
        ),
        (
            {"data": {"sequence_length": 4096}},
            "data.sequence_length=4096 is beyond model.max_position_embeddings=2048; lower one or raise the other",
        ),
        (
            {"lora": {"target_modules": []}},
            'lora: target_modules is empty; name modules such as "q_proj", or "all-linear"',
        ),
        (
            {"qlora": {"target_modules": "q_proj("}},
            (
                "qlora: 'q_proj(' is not a valid regular expression "
                "(missing ), unterminated subpattern at position 6); correct the pattern"
            ),
        ),
        (
            {"lora": {"rank_pattern": {"*": 3}}},
            "lora: '*' is not a valid regular expression (nothing to repeat at position 0); correct the pattern",
        ),
        (
            {"lora": {"alpha_pattern": {"[": 3}}},
            (
                "lora: '[' is not a valid regular expression "
                "(unterminated character set at position 0); correct the pattern"
            ),
        ),
    ],
)
def test_impossible_combinations_are_refused_with_both_values_and_a_remedy(
    tables: dict[str, Any], message: str
) -> None:
    """Behavior: file, both keys with their values, the rule, what to do."""
    assert f"run.toml: {message}" == refusal(**tables)


@pytest.mark.parametrize(
    "tables",
    [
        {"model": SHAPE | {"hidden_size": 18, "head_dim": 4}},
        {"model": SHAPE | {"rope_scaling": LLAMA3}},
        {"training": {"batch_size": 12, "accumulation_steps": 4}},
        {"training": {"max_steps": 50}, "schedule": {"warmup_steps": 50}},
        {"training": {"max_steps": 0}, "schedule": {"warmup_steps": 10_000}},
        {"data": {"sequence_length": 2048}},
        {"training": {"learning_rate": 1}},
        {"lora": {"target_modules": ["*"], "rank_pattern": {".*": 1}, "alpha_pattern": {"q_proj": 0.5}}},
        {"qlora": {"target_modules": "all-linear", "alpha": 16}},
    ],
)
def test_what_is_at_a_rules_edge_is_accepted(tables: dict[str, Any]) -> None:
    """Behavior: the rules above refuse nothing that works."""
    parse(**tables)


@pytest.mark.parametrize("spelling", ALIASES)
def test_other_frameworks_spellings_are_refused_with_the_right_key(spelling: str) -> None:
    """Behavior: in whichever table it is written, the message names the key that this project has."""
    only, _, right = ALIASES[spelling].rpartition(".")
    homes = [table for table, keys in known_keys().items() if right in keys and only in ("", table)]
    assert homes, f"{right} is not a key"
    assert spelling not in {key for keys in known_keys().values() for key in keys}
    for table in homes:
        base = SHAPE if table == "model" else {}
        assert f"run.toml: {table}.{spelling}=7: unknown key; the right key is '{table}.{right}'" == refusal(
            **{table: base | {spelling: 7}}
        )
    elsewhere = next(table for table in known_keys() if table not in homes)
    base = SHAPE if elsewhere == "model" else {}
    message = refusal(**{elsewhere: base | {spelling: 7}})
    assert any(message.endswith(f"the right key is '{table}.{right}'") for table in homes), message


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"training": {"learnign_rate": 1e-3}},
            "training.learnign_rate=0.001: unknown key; did you mean 'training.learning_rate'?",
        ),
        ({"model": SHAPE | {"hiden_size": 3}}, "model.hiden_size=3: unknown key; did you mean 'model.hidden_size'?"),
        (
            {"checkpoint": {"every_step": 3}},
            "checkpoint.every_step=3: unknown key; did you mean 'checkpoint.every_steps'?",
        ),
        (
            {"validation": {"every_step": 3}},
            "validation.every_step=3: unknown key; did you mean 'validation.every_steps'?",
        ),
        ({"data": {"epochs": 3}}, "data.epochs=3: unknown key; the right key is 'training.epochs'"),
        (
            {"zzz": {}},
            (
                "zzz={}: unknown key; known here: model, training, schedule, data, validation, checkpoint, "
                "cord, lora, qlora"
            ),
        ),
        ({"trainign": {}}, "trainign={}: unknown key; did you mean 'training'?"),
        ({"schedule": {"zzz": 1}}, "schedule.zzz=1: unknown key; known here: type, warmup_steps, min_ratio"),
        (
            {"model": SHAPE | {"rope_scaling": LLAMA3 | {"factr": 2.0}}},
            "model.rope_scaling.factr=2.0: unknown key; did you mean 'model.rope_scaling.factor'?",
        ),
    ],
)
def test_a_misspelled_key_is_refused_with_the_nearest_one(tables: dict[str, Any], message: str) -> None:
    """Behavior: the key of the same table first, else its right table, else what the table knows."""
    assert f"run.toml: {message}" == refusal(**tables)


# Keys of torchtitan's TOML files in our tables, and the advice for each.
TORCHTITAN = {
    ("training", "max_norm"): "the right key is 'training.grad_clip'",
    ("training", "steps"): "the right key is 'training.max_steps'",
    ("training", "seq_len"): "the right key is 'data.sequence_length'",
    ("training", "global_batch_size"): "the right key is 'training.batch_size'",
    ("training", "local_batch_size"): ADVICE["local_batch_size"],
    ("training", "mixed_precision_param"): "the right key is 'training.dtype'",
    ("training", "gc_freq"): "known here: epochs, ",
    ("schedule", "decay_type"): "the right key is 'schedule.type'",
    ("schedule", "min_lr_factor"): "the right key is 'schedule.min_ratio'",
    ("schedule", "decay_ratio"): "known here: type, ",
    ("checkpoint", "interval"): "the right key is 'checkpoint.every_steps'",
    ("checkpoint", "keep_latest_k"): "the right key is 'checkpoint.keep_last'",
    ("checkpoint", "folder"): "known here: every_steps, ",
    ("model", "dim"): "the right key is 'model.hidden_size'",
    ("model", "norm_eps"): "the right key is 'model.rms_norm_eps'",
    ("model", "ffn_dim_multiplier"): ADVICE["ffn_dim_multiplier"],
}


@pytest.mark.parametrize(("place", "advice"), TORCHTITAN.items(), ids=[".".join(place) for place in TORCHTITAN])
def test_torchtitans_keys_get_the_right_key_or_none(place: tuple[str, str], advice: str) -> None:
    """Behavior: a key is suggested where it means the same or is nearly the same word, and no other one."""
    table, key = place
    base = SHAPE if table == "model" else {}
    assert refusal(**{table: base | {key: 7}}).startswith(f"run.toml: {table}.{key}=7: unknown key; {advice}")


@pytest.mark.parametrize("table", TABLE_ALIASES)
def test_torchtitans_tables_get_the_right_table(table: str) -> None:
    """Behavior: another framework's table is refused with the name that it has here."""
    assert f"run.toml: {table}={{}}: unknown key; the right table is {TABLE_ALIASES[table]!r}" == refusal(**{table: {}})


def test_torchtitans_tables_are_answered_key_by_key() -> None:
    """Behavior: a key with a counterpart is told it, the others are told to go; no key is proposed for a table."""
    lines = refusal(
        optimizer={"name": "AdamW", "lr": 3e-4, "eps": 1e-8},
        lr_scheduler={"warmup_steps": 200},
        activation_checkpoint={"mode": "selective"},
        model=SHAPE | {"flavor": "8B"},
    ).splitlines()
    assert [
        f"run.toml: model.flavor='8B': unknown key; {ADVICE['flavor']}",
        "run.toml: optimizer.lr=0.0003: unknown key; the right key is 'training.learning_rate'",
        "run.toml: optimizer.eps=1e-08: unknown key; the right key is 'training.eps'",
        "run.toml: optimizer: unknown table; nothing here is like its name: remove it",
        "run.toml: lr_scheduler.warmup_steps=200: unknown key; the right key is 'schedule.warmup_steps'",
        "run.toml: activation_checkpoint: unknown table; nothing here is like its mode: remove it",
    ] == lines


@pytest.mark.parametrize("name", ["axolotl.yaml", "llama_factory.yml"])
def test_yaml_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    """Behavior: no line of another language is to be corrected; the file that would be read is named."""
    (tmp_path / name).write_text("base_model: a/b\nadapter: lora\n")
    with pytest.raises(ConfigError, match=rf"{name}: is YAML, the language of other trainers; write TOML, such as"):
        load_config(tmp_path / name)


@pytest.mark.parametrize("key", ["quantize_base", "load_in_4bit"])
@pytest.mark.parametrize("table", ["model", "training", "lora", "qlora"])
def test_a_key_for_quantizing_the_base_is_answered_with_the_method(table: str, key: str) -> None:
    """Behavior: whether the base is quantized is the choice of the command, and the message says so."""
    base = SHAPE if table == "model" else {}
    message = refusal(**{table: base | {key: True}})
    assert message.startswith(f"run.toml: {table}.{key}=True: unknown key; there is no key for it: ")
    assert "`andon finetune qlora` quantizes the base model" in message


def test_a_missing_key_or_table_is_named() -> None:
    """Behavior: missing keys without a default are named, one per line."""
    partial = {key: value for key, value in SHAPE.items() if key not in ("hidden_size", "num_attention_heads")}
    rule = "missing; this key has no default, so give it a value"
    assert refusal(model=partial).splitlines() == [
        f"run.toml: model.hidden_size: {rule}",
        f"run.toml: model.num_attention_heads: {rule}",
    ]
    with pytest.raises(ConfigError, match=r"run\.toml: model: missing"):
        parse_config({}, "run.toml")


def test_an_unknown_key_explains_what_is_missing() -> None:
    """Behavior: unknown keys come first, and the key that one of them stands for is not called missing as well."""
    shape = {key: value for key, value in SHAPE.items() if key not in ("hidden_size", "num_attention_heads")}
    first, second = refusal(model={"hiden_size": 64} | shape).splitlines()
    assert "run.toml: model.hiden_size=64: unknown key; did you mean 'model.hidden_size'?" == first
    assert second.startswith("run.toml: model.num_attention_heads: missing")


def test_every_mistake_is_named_at_once() -> None:
    """Behavior: a line for each of several mistakes, unknown keys first."""
    lines = refusal(training={"lr": 1, "epochs": 0}, data={"sequence_length": 1}).splitlines()
    assert ["training.lr=1", "training.epochs=0", "data.sequence_length=1"] == [line.split(": ")[1] for line in lines]


def test_a_configuration_cannot_be_changed() -> None:
    """Behavior: what is stored with the run is what ran."""
    with pytest.raises(ValidationError, match="frozen"):
        setattr(parse().training, "epochs", 3)  # noqa: B010 - ty would refuse the plain assignment too


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.epochs=3", 3),
        ("training.learning_rate=1e-3", 1e-3),
        ("training.dtype=bfloat16", "bfloat16"),
        ('training.dtype="bfloat16"', "bfloat16"),
        ("training.compile=true", True),
        ('data.paths=["a.txt", "b.txt"]', ["a.txt", "b.txt"]),
        ("data.tokenizer=a=b.json", "a=b.json"),
        (" schedule.type =linear", "linear"),
    ],
)
def test_overrides_are_written_as_in_toml(tmp_path: Path, override: str, value: Any) -> None:
    """Behavior: `table.key=value` in TOML's spelling, a string without its quotes too."""
    table, key = override.partition("=")[0].strip().split(".")
    assert value == getattr(getattr(load_config(CONFIGS / "tiny.toml", [override]), table), key)
    path = tmp_path / "bare.toml"
    path.write_text("[model]\n" + "\n".join(f"{key} = {value}" for key, value in SHAPE.items()), encoding="utf-8")
    assert value == getattr(getattr(load_config(path, [override]), table), key)  # where the table is not in the file


def test_the_last_override_of_a_key_counts() -> None:
    """Behavior: as on any command line."""
    assert load_config(CONFIGS / "tiny.toml", ["training.epochs=3", "training.epochs=4"]).training.epochs == 4


@pytest.mark.parametrize("override", ["training.epochs", "epochs=3", "=3", "training.=3", ".epochs=3"])
def test_an_override_without_table_key_and_value_is_refused(override: str) -> None:
    """Behavior: the message shows the form and an example."""
    with pytest.raises(ConfigError) as caught:
        load_config(CONFIGS / "tiny.toml", [override])
    assert str(caught.value).startswith(f"--set {override}: expected table.key=value, for example --set ")


def test_an_override_below_a_key_is_refused() -> None:
    """Behavior: a key has no keys."""
    with pytest.raises(ConfigError, match=r"--set training.epochs.x=3: 'epochs' is a key, not a table"):
        load_config(CONFIGS / "tiny.toml", ["training.epochs.x=3"])


def test_an_override_obeys_the_rules() -> None:
    """Behavior: it is refused like the file's own value."""
    with pytest.raises(ConfigError, match=r"training.epochs=0: input should be greater than 0"):
        load_config(CONFIGS / "tiny.toml", ["training.epochs=0"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); name a TOML file such as configs/tiny.toml"),
        (b"[model\n", "is not valid TOML ("),
        (b"epochs = 3\nepochs = 4\n", "is not valid TOML ("),
        (b"\xff\xfe", "is not valid TOML ("),
        (b"", "model: missing"),
        (b"model = 3\n", "model=3: input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Behavior: missing, broken, binary, empty, or of another kind: one ConfigError that begins with the file."""
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path)


def test_a_json_file_holds_tables(tmp_path: Path) -> None:
    """Behavior: a list is refused with the file and what to start with."""
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"run\.json: holds list, not tables; start with \[model\]"):
        load_config(tmp_path / "run.json")
