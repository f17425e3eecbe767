"""Adapters in PEFT's layout: what is written reads back, and whatever else a file may say is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from andon.core.adapters.lora import LoraError, active_adapter, add_lora, lora_origin, lora_parameters, set_adapter
from andon.core.config import LoraConfig, ModelConfig
from andon.core.formats.peft import load_adapter, save_adapter
from andon.core.formats.peft_config import (
    ALLOWED_VALUES,
    INFORMATIONAL_FIELDS,
    OUR_KEYS,
    AdapterError,
    peft_fields,
    read_adapter_config,
)
from andon.core.model.llama import Llama, build_model
from tests.core.shapes import SHAPE

CONFIG, WEIGHTS, SUMS = "adapter_config.json", "adapter_model.safetensors", "SHA256SUMS"
ADAPTER = LoraConfig(rank=2, alpha=4)
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def llama(seed: int = 0, **keys: Any) -> Llama:
    """A small model, not yet adapted."""
    return build_model(ModelConfig.model_validate(SHAPE | keys), seed)


def adapted(name: str = "default", **keys: Any) -> Llama:
    """A small model with an adapter that has moved."""
    model = llama()
    add_lora(model, LoraConfig.model_validate({"rank": 2} | keys), torch.Generator().manual_seed(1), name)
    for number, factor in enumerate(lora_parameters(model, name).values()):
        torch.nn.init.normal_(factor, std=0.1, generator=torch.Generator().manual_seed(number))
    return model


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder, synced to disk once."""
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    save_adapter(adapted(), folder, "default", "models/small")
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    copy = Path(shutil.copytree(pristine, tmp_path / "adapter"))
    (copy / SUMS).unlink()  # as whoever changes a file himself does
    return copy


def logits(model: Llama) -> Tensor:
    """Of a few tokens, in evaluation."""
    model.eval()
    with torch.no_grad():
        return model(torch.arange(12)[None] % SHAPE["vocab_size"])


def written(folder: Path, **fields: Any) -> Path:
    """An `adapter_config.json` with some fields changed."""
    (folder / CONFIG).write_text(json.dumps(peft_fields(ADAPTER) | fields))
    return folder / CONFIG


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite the factors, without the base's hash."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def refusal(folder: Path, model: Llama | None = None) -> str:
    """The message with which loading is refused; the model is then as it was."""
    model = model or llama()
    before = {name: (id(p), p.requires_grad, p.sum().item()) for name, p in model.named_parameters()}
    with pytest.raises(AdapterError) as caught:
        load_adapter(model, folder)
    assert before == {name: (id(p), p.requires_grad, p.sum().item()) for name, p in model.named_parameters()}
    return str(caught.value)


@pytest.mark.tier2
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"alpha": 3.5, "dropout": 0.25, "use_rslora": True},
        {"target_modules": "all-linear", "rank_pattern": {"up_proj": 3, "0.self_attn.q_proj": 1}},
        {"target_modules": r".*\.[qv]_proj", "alpha_pattern": {"v_proj": 7.0}, "rank": 4},
    ],
)
def test_reads_back_what_it_writes(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Behavior: the logits keep every bit, and what was configured is known again."""
    model, other = adapted(**keys), llama()
    save_adapter(model, tmp_path / "one", "default", "models/small")
    assert list(load_adapter(other, tmp_path / "one", "again")) == [
        name.removesuffix(".lora_A.weight") for name in lora_parameters(model, "default") if "lora_A" in name
    ]
    assert "again" == active_adapter(other)
    assert torch.equal(logits(model), logits(other))
    one, two = lora_origin(model, "default"), lora_origin(other, "again")
    assert one.base == two.base
    assert one.config.model_copy(update={"alpha": one.config.resolved_alpha}) == two.config
    save_adapter(other, tmp_path / "two", "again", "models/small")
    assert (tmp_path / "one" / CONFIG).read_bytes() == (tmp_path / "two" / CONFIG).read_bytes()
    factors, again = (load_file(tmp_path / folder / WEIGHTS) for folder in ("one", "two"))
    assert factors.keys() == again.keys()
    assert all(torch.equal(factors[name], again[name]) for name in factors)


@pytest.mark.tier2
def test_the_folder_is_pefts(tmp_path: Path) -> None:
    """Reference: PEFT's tensor names, shapes and fields; the base is named, and its hash stands in the metadata."""
    model = adapted("mine", target_modules=["q_proj", "down_proj"])
    save_adapter(model, tmp_path / "adapter", "mine", "models/small")
    assert {CONFIG, WEIGHTS, SUMS} == {path.name for path in (tmp_path / "adapter").iterdir()}
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    shapes = {"self_attn.q_proj": ((2, 16), (16, 2)), "mlp.down_proj": ((2, 20), (16, 2))}
    assert {
        f"base_model.model.model.layers.{layer}.{module}.lora_{factor}.weight": shape
        for layer in (0, 1)
        for module, both in shapes.items()
        for factor, shape in zip("AB", both, strict=True)
    } == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fields = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert ("LORA", "CAUSAL_LM", 2, 4, 0.0, "none") == tuple(
        fields[name] for name in ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias")
    )
    assert ["q_proj", "down_proj"] == fields["target_modules"]
    assert "models/small" == fields["base_model_name_or_path"]
    assert "models/small" == read_adapter_config(tmp_path / "adapter" / CONFIG).base
    assert {*ALLOWED_VALUES, *OUR_KEYS, *INFORMATIONAL_FIELDS} - {"peft_version", "runtime_config"} == fields.keys()
    with safe_open(tmp_path / "adapter" / WEIGHTS, "pt") as file:
        assert {"format": "pt", "base_sha256": lora_origin(model, "mine").base} == file.metadata()


@pytest.mark.tier2
def test_several_sit_on_one_base_and_are_switched(tmp_path: Path) -> None:
    """Behavior: each is saved and loaded alone, and gives its own logits again."""
    model = adapted("one")
    expected = {"one": logits(model)}
    add_lora(model, LoraConfig(rank=3, target_modules=["up_proj"]), torch.Generator().manual_seed(5), "two")
    for factor in lora_parameters(model, "two").values():
        torch.nn.init.normal_(factor, std=0.2, generator=torch.Generator().manual_seed(6))
    expected["two"] = logits(model)
    other = llama()
    for name in expected:
        save_adapter(model, tmp_path / name, name, "")
        load_adapter(other, tmp_path / name, name)
    for name, values in expected.items():
        set_adapter(other, name)
        assert torch.equal(values, logits(other))


@pytest.mark.tier2
def test_what_peft_leaves_out_has_pefts_default(tmp_path: Path) -> None:
    """Reference: PEFT's dataclass: rank 8, alpha 8, no dropout, alpha over rank."""
    folder = tmp_path / CONFIG
    folder.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"]}))
    config, base = read_adapter_config(folder)
    assert LoraConfig(rank=8, alpha=8, target_modules=["q_proj"]) == config
    assert base is None


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("inference_mode", False),
        ("revision", "main"),
        ("peft_version", "0.21.0"),
        ("auto_mapping", {"base_model_class": "LlamaForCausalLM"}),
        ("task_type", None),
        ("init_lora_weights", "gaussian"),
        ("modules_to_save", []),
        ("loftq_config", None),
        ("rank_pattern", None),
    ],
)
def test_what_changes_no_number_is_read(tmp_path: Path, field: str, value: Any) -> None:
    """Behavior: notes, and other spellings of "not in use", are read as the adapter that they describe."""
    assert ADAPTER == read_adapter_config(written(tmp_path, **{field: value})).config


UNSUPPORTED: list[tuple[str, Any]] = [
    ("peft_type", "IA3"),
    ("task_type", "SEQ_CLS"),
    ("bias", "all"),
    ("fan_in_fan_out", True),
    ("init_lora_weights", "pissa"),
    ("exclude_modules", ["v_proj"]),
    ("modules_to_save", ["lm_head"]),
    ("layers_to_transform", [0]),
    ("layers_to_transform", 0),
    ("layers_pattern", "layers"),
    ("layer_replication", [[0, 2], [1, 2]]),
    ("target_parameters", ["mlp.experts"]),
    ("trainable_token_indices", [1]),
    ("alora_invocation_tokens", [1, 2]),
    ("megatron_config", {"a": 1}),
    ("megatron_core", "other.core"),
    ("loftq_config", {"loftq_bits": 4}),
    ("eva_config", {"rho": 2.0}),
    ("corda_config", {"corda_method": "ipm"}),
    ("lora_ga_config", {"direction": "ArB2r"}),
    ("velora_config", {}),
    ("monteclora_config", {}),
    ("kasa_config", {}),
    ("arrow_config", {"top_k": 3}),
    ("use_bdlora", {"nblocks": 2}),
    ("use_dora", True),
    ("use_qalora", True),
    ("qalora_group_size", 32),
    ("lora_bias", True),
    ("ensure_weight_tying", True),
    ("runtime_config", {"ephemeral_gpu_offload": True}),
]


@pytest.mark.tier2
@pytest.mark.parametrize(("field", "value"), UNSUPPORTED)
def test_a_field_that_is_not_supported_is_refused_when_set(tmp_path: Path, field: str, value: Any) -> None:
    """Behavior: file, field and value are named; nothing is ignored."""
    path = written(tmp_path, **{field: value})
    with pytest.raises(AdapterError) as caught:
        read_adapter_config(path)
    assert str(caught.value).startswith(f"{path}: {field}={value!r} is not supported; it must be ")


@pytest.mark.tier2
def test_no_field_is_without_its_refusal() -> None:
    """Behavior: each field that must be neutral is refused in the test above."""
    assert set(ALLOWED_VALUES) == {field for field, _ in UNSUPPORTED}


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lora_magic": 3}, "lora_magic=3 is not a field of PEFT's LoraConfig"),
        ({"r": 0}, "r=0: input should be greater than 0"),
        ({"r": True}, "r=True: input should be a valid integer"),
        ({"r": "8"}, "r='8': input should be a valid integer"),
        ({"lora_alpha": -1}, "lora_alpha=-1: input should be greater than 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan: input should be"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0: input should be less than 1"),
        ({"use_rslora": 1}, "use_rslora=1: input should be a valid boolean"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj=0: input should be greater than 0"),
        ({"alpha_pattern": 3}, "alpha_pattern=3: input should be a valid dictionary"),
        ({"target_modules": None}, "target_modules is missing"),
        ({"target_modules": 3}, "target_modules=3: input should be a list of names, or one string"),
        ({"target_modules": []}, "target_modules is empty"),
        (
            {
                "target_modules": "(",
            },
            "'(' is not a valid regular expression",
        ),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path=3; expected a name or a path"),
    ],
)
def test_a_field_that_breaks_a_rule_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    """Behavior: with PEFT's name for the field, its value and the rule."""
    path = written(tmp_path, **fields)
    with pytest.raises(AdapterError) as caught:
        read_adapter_config(path)
    assert str(caught.value).startswith(f"{path}: {said}")


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"target_modules": ["query"]}, "target_modules: 'query' matches no module; the linear ones end in down_proj"),
        ({"target_modules": ["lm_head"]}, "target_modules: lm_head is computed inside the chunked loss"),
        ({"r": 99}, "rank=99 is above the smaller side of model.layers.0.self_attn.q_proj (16 x 16)"),
        ({"rank_pattern": {"up_proj": 2}}, "pattern 'up_proj' matches none of the targets"),
    ],
)
def test_a_config_for_other_modules_is_refused(folder: Path, fields: dict[str, Any], said: str) -> None:
    """Behavior: an adapter that does not fit the model is an error that names the file."""
    written(folder, **fields)
    assert refusal(folder).startswith(f"{folder / CONFIG}: {said}")


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); name an adapter's folder"),
        (b"\xff", "is not valid JSON ("),
        (b"{", "is not valid JSON ("),
        (b"[" * 100_000, "is not valid JSON ("),
        (b"[]", "is not a JSON object"),
    ],
)
def test_a_config_that_is_none_is_named(folder: Path, content: bytes | None, said: str) -> None:
    """Behavior: missing, not text, no JSON, no object."""
    (folder / CONFIG).unlink() if content is None else (folder / CONFIG).write_bytes(content)
    assert refusal(folder).startswith(f"{folder / CONFIG}: {said}")


def change_shape(tensors: dict[str, Tensor]) -> None:
    """As many numbers, turned."""
    tensors[FIRST] = tensors[FIRST].t().contiguous()


def change_dtype(tensors: dict[str, Tensor]) -> None:
    """Integers."""
    tensors[FIRST] = tensors[FIRST].to(torch.int8)


def spoil(tensors: dict[str, Tensor]) -> None:
    """One number that is none."""
    tensors[FIRST][1, 3] = torch.nan


def add_magnitudes(tensors: dict[str, Tensor]) -> None:
    """What DoRA adds."""
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"] = torch.ones(16)


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(FIRST), f"{FIRST} is missing, though {CONFIG} lists it"),
        (add_magnitudes, "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector has no place"),
        (change_shape, f"{FIRST} has shape (16, 2) where this model needs (2, 16)"),
        (change_dtype, f"{FIRST} is I8; only F32, BF16, F16, F64 are read"),
        (spoil, f"{FIRST} holds NaN or inf"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    folder: Path, change: Callable[[dict[str, Tensor]], object], said: str
) -> None:
    """Behavior: file and tensor are named, and what is wrong with it."""
    change_tensors(folder, change)
    assert refusal(folder).startswith(f"{folder / WEIGHTS}: {said}")


@pytest.mark.tier2
def test_a_truncated_adapter_is_refused(folder: Path) -> None:
    """Behavior: at each sixteenth of its length, and when it is not there at all."""
    whole = (folder / WEIGHTS).read_bytes()
    for sixteenth in range(16):
        (folder / WEIGHTS).write_bytes(whole[: len(whole) * sixteenth // 16])
        assert refusal(folder).startswith(f"{folder / WEIGHTS}: ")
    (folder / WEIGHTS).unlink()
    assert (
        "cannot be read (No such file or directory); name a folder with safetensors: pickled adapters are not read"
        in refusal(folder)
    )


@pytest.mark.tier2
def test_an_adapter_for_another_base_is_refused(folder: Path) -> None:
    """Behavior: of another shape by its first tensor, of other weights by both hashes; without a hash it loads."""
    said = refusal(folder, llama(hidden_size=32))
    assert "k_proj.lora_A.weight has shape (2, 16) where this model needs (2, 32); load the base it was trained" in said
    other = lora_origin(adapted(), "default").base[:12]
    said = refusal(folder, llama(seed=1))
    assert said.startswith(f"{folder / WEIGHTS}: was trained on a base with SHA-256 {other}..., and this one has ")
    change_tensors(folder, lambda tensors: None)
    load_adapter(llama(seed=1), folder)


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_float_is_read_as_fp32(folder: Path, dtype: torch.dtype) -> None:
    """Behavior: the factors are the file's numbers, in full precision."""
    model = llama()
    change_tensors(folder, lambda tensors: tensors.update({n: t.to(dtype) for n, t in tensors.items()}))
    load_adapter(model, folder)
    for name, factor in lora_parameters(model, "default").items():
        assert torch.float32 == factor.dtype
        assert torch.equal(load_file(folder / WEIGHTS)[f"base_model.model.{name}"].float(), factor)


@pytest.mark.tier2
def test_what_was_loaded_does_not_lean_on_the_file(folder: Path) -> None:
    """Behavior: damage to the file does not reach the model."""
    model = llama()
    load_adapter(model, folder)
    expected = logits(model)
    with (folder / WEIGHTS).open("r+b") as file:
        file.write(b"\xff" * (folder / WEIGHTS).stat().st_size)
    assert torch.equal(expected, logits(model))
    assert not torch.equal(expected, logits(llama()))


@pytest.mark.tier2
def test_a_name_that_is_taken_is_refused(folder: Path) -> None:
    """Behavior: the adapter that is there stays."""
    assert "there is an adapter 'default' already; choose another name" in refusal(folder, adapted())


@pytest.mark.tier2
def test_nothing_is_written_over(folder: Path, tmp_path: Path) -> None:
    """Behavior: a folder that is in use is refused, an empty one is used, and an unknown adapter writes nothing."""
    before = (folder / CONFIG).read_bytes()
    with pytest.raises(AdapterError, match=r"adapter: exists and is not an empty folder; choose another for --out"):
        save_adapter(adapted(rank=4), folder, "default", "")
    assert before == (folder / CONFIG).read_bytes()
    (tmp_path / "empty").mkdir()
    save_adapter(adapted(), tmp_path / "empty", "default", "")
    assert {CONFIG, WEIGHTS, SUMS} == {path.name for path in (tmp_path / "empty").iterdir()}
    with pytest.raises(LoraError, match="there is no adapter 'other'; there are: default"):
        save_adapter(adapted(), tmp_path / "none", "other", "")
    with pytest.raises(
        AdapterError, match=r"config\.json.*: could not be written .*; free disk space or choose another folder"
    ):
        save_adapter(adapted(), folder / CONFIG / "below", "default", "")
    assert {folder, tmp_path / "empty"} == set(tmp_path.iterdir())
