"""Run configuration: strict TOML tables; an error names the file, the key, the value, the rule and the right key.

Model keys are those of Hugging Face's `config.json`; the other keys are the names of the command line's flags.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from andon.core.aliases import ADVICE, ALIASES, TABLE_ALIASES
from andon.reading import MAX_PARTS, ReadError, parse_toml, read_json, read_toml

POSITIVE = Field(gt=0)
NON_NEGATIVE = Field(ge=0, allow_inf_nan=False)
MOST = 2**31 - 1  # of a count, so that no product of two leaves 64 bits
PositiveInt = Annotated[int, POSITIVE, Field(le=MOST)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MOST)]
# Of a model's shape: well above any that is published, and low enough to describe it without paying for it.
Width = Annotated[int, POSITIVE, Field(le=1 << 20)]
Layers = Annotated[int, POSITIVE, Field(le=2048)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, POSITIVE, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
ModuleNames = Annotated[
    Annotated[list[str], Tag("list")] | Annotated[str, Tag("str")],
    Discriminator(
        lambda value: type(value).__name__,
        custom_error_type="names",
        custom_error_message="Input should be a list of names, or one string",
    ),
]

YAML = (".yaml", ".yml")  # axolotl's, LLaMA-Factory's, litgpt's
TYPO = 0.8  # difflib's ratio of two keys from which one is a misspelling of the other: `hiden_size`, not `max_norm`


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key, value, rule and next step."""


def suffix_pattern(key: str) -> str:
    """A regular expression for the full module names whose end matches `key`, itself a regular expression."""
    return rf"(.*\.)?({key})"


class Table(BaseModel):
    """One TOML table: no unknown key, no coercion, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RopeScaling(Table):
    """Context extension of RoPE, with Hugging Face's key names.

    `linear` divides positions by `factor` (Chen et al. 2023, arXiv:2306.15595); `llama3` divides the low frequencies
    by `factor` and blends up to the high ones (Llama 3.1 reference code, `apply_scaling`).
    """

    rope_type: Literal["linear", "llama3"]
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)]
    low_freq_factor: PositiveFloat = 1.0
    high_freq_factor: PositiveFloat = 4.0
    original_max_position_embeddings: PositiveInt = 8192

    @model_validator(mode="after")
    def _bands_are_ordered(self) -> Self:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor={self.high_freq_factor} must be greater than low_freq_factor={self.low_freq_factor}"
            )
        return self


class ModelConfig(Table):
    """Shape of a LLaMA (Touvron et al. 2023, arXiv:2302.13971; grouped queries: Ainslie et al. 2023)."""

    vocab_size: Annotated[int, Field(ge=2, le=1 << 26)] = 32000
    hidden_size: Width
    intermediate_size: Annotated[int, POSITIVE, Field(le=1 << 24)]
    num_hidden_layers: Layers
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Annotated[int, POSITIVE, Field(le=1 << 16)] | None = None
    max_position_embeddings: PositiveInt = 2048
    rms_norm_eps: PositiveFloat = 1e-5
    rope_theta: PositiveFloat = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    initializer_range: PositiveFloat = 0.02

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not divisible by num_attention_heads={self.num_attention_heads}; "
                "choose a multiple, or set head_dim"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} does not divide "
                f"num_attention_heads={self.num_attention_heads}; choose a divisor"
            )
        if self.head_size % 2:
            raise ValueError(f"head_dim={self.head_size} is odd and RoPE rotates pairs; choose an even head_dim")
        return self

    @property
    def head_size(self) -> int:
        """Width of one head: `head_dim` where given, else hidden_size / num_attention_heads."""
        return self.head_dim or self.hidden_size // self.num_attention_heads


class TrainingConfig(Table):
    """One run of AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    epochs: PositiveInt = 10
    max_steps: NonNegativeInt = 0
    batch_size: PositiveInt = 32
    accumulation_steps: PositiveInt = 1
    learning_rate: PositiveFloat = 3e-4
    weight_decay: Annotated[float, NON_NEGATIVE] = 0.01
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: PositiveFloat = 1e-8
    grad_clip: Annotated[float, NON_NEGATIVE] = 1.0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    activation_checkpointing: bool = False
    compile: bool = False
    max_skipped_steps: PositiveInt = 10
    seed: Seed = 0

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> Self:
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size={self.batch_size} is not divisible by accumulation_steps={self.accumulation_steps}; "
                "batch_size counts the sequences of one optimizer step, over all its micro-batches"
            )
        return self


class ScheduleConfig(Table):
    """Learning rate over steps: linear warm-up, then cosine, linear or constant, down to min_ratio of the peak."""

    type: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 100
    min_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1


class DataConfig(Table):
    """Where tokens come from. No paths: the sources of the Python standard library."""

    paths: list[str] = []
    text_field: str = "text"
    tokenizer: str = ""
    sequence_length: Annotated[int, Field(ge=2, le=MOST)] = 512
    shard_tokens: Annotated[int, Field(ge=2, le=MOST)] = 16_777_216
    workers: NonNegativeInt = 0


class ValidationConfig(Table):
    """Held-out documents; measured at each epoch's end and every `every_steps` steps (0: at epochs only)."""

    fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    every_steps: NonNegativeInt = 0
    max_sequences: NonNegativeInt = 0


class CheckpointConfig(Table):
    """Saved at each epoch's end and every `every_steps` steps (0: at epochs only)."""

    every_steps: NonNegativeInt = 0
    keep_last: PositiveInt = 2
    keep_best: bool = True


class CordConfig(Table):
    """Bounds beyond which a run is stopped; none is set unless given.

    Loss and gradient norm (before clipping) are medians, and throughput is the mean, over the last `window_steps`
    steps that were not skipped, so that no single step stops a run; steps up to `after_steps` are ignored.
    Skipped steps are counted since the run was started or resumed. `watch_weights` stops where a frozen weight moves,
    or another finding of `verify.watch` shows that weights are not trained as they should be.
    """

    after_steps: NonNegativeInt = 0
    window_steps: PositiveInt = 10
    loss_above: PositiveFloat | None = None
    grad_norm_above: PositiveFloat | None = None
    tokens_per_second_below: PositiveFloat | None = None
    skipped_above: NonNegativeInt | None = None
    watch_weights: bool = False


class LoraConfig(Table):
    """Low-rank adapters on frozen weights (Hu et al. 2022, arXiv:2106.09685).

    `target_modules` is a list of names, each matching a module of that name or ending in `.name`; a regular expression
    for full names, as one string; or "all-linear", every linear module but the head. `rank_pattern` and `alpha_pattern`
    replace rank and alpha where a module's name ends in a match of the key, a regular expression.
    """

    rank: PositiveInt = 16
    alpha: PositiveFloat | None = None
    dropout: Fraction = 0.0
    target_modules: ModuleNames = ["q_proj", "k_proj", "v_proj", "o_proj"]
    use_rslora: bool = False
    rank_pattern: dict[str, PositiveInt] = {}
    alpha_pattern: dict[str, PositiveFloat] = {}

    @model_validator(mode="after")
    def _patterns_compile(self) -> Self:
        if not self.target_modules:
            raise ValueError('target_modules is empty; name modules such as "q_proj", or "all-linear"')
        full_names = [self.target_modules] if isinstance(self.target_modules, str) else []
        ends = {key: suffix_pattern(key) for key in (*self.rank_pattern, *self.alpha_pattern)}
        for pattern, used in [*zip(full_names, full_names, strict=True), *ends.items()]:
            try:
                re.compile(pattern)  # alone first, so that an error counts its positions
                re.compile(used)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(
                    f"{pattern!r} is not a valid regular expression ({error}); correct the pattern"
                ) from error
        return self

    @property
    def resolved_alpha(self) -> float:
        """`alpha` where given, else twice the rank."""
        return 2.0 * self.rank if self.alpha is None else self.alpha


class QloraConfig(LoraConfig):
    """The same, on a base quantized to NF4 (Dettmers et al. 2023, arXiv:2305.14314)."""

    rank: PositiveInt = 64
    double_quantization: bool = True


class Config(Table):
    """Everything that determines a run."""

    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    data: DataConfig = DataConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    cord: CordConfig = CordConfig()
    lora: LoraConfig = LoraConfig()
    qlora: QloraConfig = QloraConfig()

    @model_validator(mode="after")
    def _tables_fit(self) -> Self:
        steps = self.training.max_steps
        if steps and self.schedule.warmup_steps > steps:
            raise ValueError(
                f"schedule.warmup_steps={self.schedule.warmup_steps} is longer than training.max_steps={steps}; "
                "shorten the warm-up or lengthen the run"
            )
        if self.data.sequence_length > self.model.max_position_embeddings:
            raise ValueError(
                f"data.sequence_length={self.data.sequence_length} is beyond "
                f"model.max_position_embeddings={self.model.max_position_embeddings}; lower one or raise the other"
            )
        return self


def load_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read a TOML file, or a run's `config.json`, and apply `table.key=value` overrides (values in TOML's spelling).

    Raises:
        ConfigError: the file is missing, cannot be parsed, or breaks a rule.
    """
    tables = read_tables(path)
    for override in overrides or []:
        apply_override(tables, override)
    return parse_config(tables, str(path))


def read_tables(path: Path) -> dict[str, Any]:
    """A configuration's tables as the file has them, not yet validated.

    Raises:
        ConfigError: the file is missing, or cannot be parsed.
    """
    if path.suffix in YAML:
        raise ConfigError(f"{path}: is YAML, the language of other trainers; write TOML, such as configs/tiny.toml")
    try:
        tables = read_json(path) if path.suffix == ".json" else read_toml(path)
    except OSError as error:
        run, file = "the folder of a run, such as reports/runs/<id>", "a TOML file such as configs/tiny.toml"
        hint = run if path.suffix == ".json" else file
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name {hint}") from error
    except ReadError as error:
        raise ConfigError(f"{path}: {error}; correct that line") from error
    if not isinstance(tables, dict):
        raise ConfigError(f"{path}: holds {type(tables).__name__}, not tables; start with [model]")
    return tables


def parse_config(tables: dict[str, Any], source: str) -> Config:
    """Validate nested tables; `source` is named in errors.

    Raises:
        ConfigError: an unknown key, a wrong type, or a combination that cannot work.
    """
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain_all(source, error.errors(include_url=False)))) from error


def dump_config(config: Config) -> str:
    """The resolved configuration as JSON, with every default written out."""
    return json.dumps(config.model_dump(), indent=2) + "\n"


def apply_override(tables: dict[str, Any], override: str) -> None:
    """Set one `table.key=value`, in place.

    Raises:
        ConfigError: it is not of that form.
    """
    dotted, equals, text = override.partition("=")
    *parents, key = dotted.strip().split(".", maxsplit=MAX_PARTS)
    if not equals or not all([*parents, key]) or not parents:
        raise ConfigError(f"--set {override}: expected table.key=value, for example --set model.rope_theta=500000.0")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ReadError:
        value = text  # an unquoted string, as shells make it natural to write
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {parent!r} is a key, not a table; set {parent}={text} instead")
    table[key] = value


def _explain_all(source: str, details: Sequence[Any]) -> list[str]:
    """A line for each mistake, unknown keys first; a key is not missing where an unknown one stands for it."""
    unknown = [line for each in details if each["type"] == "extra_forbidden" for line in _explain_unknown(source, each)]
    others = [each for each in details if each["type"] != "extra_forbidden"]
    kept = [each for each in others if each["type"] != "missing" or not _stands_for(unknown, each["loc"])]
    return unknown + [_explain(source, each) for each in kept]


def _explain_unknown(source: str, detail: Any) -> list[str]:
    """A line for an unknown key; where it is another trainer's table, one for each key in it that has a name here."""
    table, *inner = (str(part) for part in detail["loc"])
    value, home = detail["input"], TABLE_ALIASES.get(table, "")
    misspelled = not home and difflib.get_close_matches(table, Config.model_fields, 1, TYPO)
    if inner or misspelled or not isinstance(value, dict) or not value:
        return [_explain(source, detail)]
    return _explain_table(f"{source}: {table}", home, value)


def _explain_table(where: str, home: str, values: dict[str, Any]) -> list[str]:
    """A line for each key of another trainer's table that has a counterpart, and one for all others."""
    rights = {key: _counterpart(home, key) for key in values}
    lines = [f"{where}.{key}={values[key]!r}: unknown key; {right}" for key, right in rights.items() if right]
    others = ", ".join(key for key, right in rights.items() if not right)
    return [*lines, f"{where}: unknown table; nothing here is like its {others}: remove it"] if others else lines


def _counterpart(home: str, key: str) -> str:
    """The sentence that names the counterpart of a key in another trainer's table, where one is known; else empty."""
    tables = known_keys()
    if key in ADVICE:
        return ADVICE[key]
    return _right_key(key, [home, *tables] if home else [*tables], tables) if home or key in ALIASES else ""


def _stands_for(unknown: Sequence[str], location: Sequence[str | int]) -> bool:
    """Whether the line of an unknown key names this one as the right key."""
    right = repr(".".join(str(part) for part in location))
    return any(f" {right}" in line.partition(": unknown key; ")[2] for line in unknown)


def _explain(source: str, detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    value = detail["input"]
    if detail["type"] == "extra_forbidden":
        return f"{source}: {where}={value!r}: unknown key; {_suggest(detail['loc'])}"
    if detail["type"] == "missing":
        return f"{source}: {where}: missing; this key has no default, so give it a value"
    rule = detail["msg"].removeprefix("Value error, ")
    if isinstance(value, BaseModel) or detail["type"] == "value_error":
        return f"{source}: {where + ': ' if where else ''}{rule}"
    return f"{source}: {where}={value!r}: {rule[0].lower() + rule[1:]}; got {type(value).__name__}"


def _suggest(location: tuple[str | int, ...]) -> str:
    """The next step for an unknown key: its name here, a key that it nearly is, or all keys of its table."""
    *parents, key = (str(part) for part in location)
    table = ".".join(parents)
    tables = known_keys() | {"model.rope_scaling": list(RopeScaling.model_fields), "": list(Config.model_fields)}
    homes = [table, *(name for name in tables if name != table)]  # this table first, then the others
    if key in ADVICE:
        return ADVICE[key]
    if not table and key in TABLE_ALIASES:
        return f"the right table is {TABLE_ALIASES[key]!r}"
    return _right_key(key, homes, tables) or _close_key(key, homes, tables) or f"known here: {', '.join(tables[table])}"


def _right_key(key: str, homes: list[str], tables: dict[str, list[str]]) -> str:
    """The sentence that names what another framework's key, or another table's, is called here; empty where none is."""
    only, _, right = ALIASES.get(key, key).rpartition(".")
    found = [_join(home, right) for home in homes if right in tables[home] and only in ("", home)]
    return f"the right key is {found[0]!r}" if found else ""


def _close_key(key: str, homes: list[str], tables: dict[str, list[str]]) -> str:
    """The sentence that names a key that it nearly is; empty where none is close."""
    found = [_join(home, close) for home in homes for close in difflib.get_close_matches(key, tables[home], 1, TYPO)]
    return f"did you mean {found[0]!r}?" if found else ""


def _join(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key


def known_keys() -> dict[str, list[str]]:
    """Each table's keys, in the order of the schema."""
    return {
        name: list(field.annotation.model_fields)
        for name, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table)
    }
