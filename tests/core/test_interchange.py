"""Hugging Face directories: what is written reads back, shards included, and the rest is refused by name."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from andon.core.data.chat import ChatTemplate
from andon.core.data.tokenizer import EOS, TokenizerError, train_tokenizer
from andon.core.formats.chat_template import load_template
from andon.core.formats.huggingface import INDEX
from andon.core.formats.huggingface_config import InterchangeError
from andon.core.formats.huggingface_export import export_huggingface
from andon.core.formats.interchange import load_model
from tests.core.foreign import assert_refused, logits, new_model, unsealed
from tests.core.shapes import LLAMA3

pytestmark = pytest.mark.tier2


def exported(folder: Path, **keys: Any) -> Path:
    """A directory with a tiny model, to be spoilt."""
    export_huggingface(new_model(**keys), folder / "hf")
    return unsealed(folder / "hf")


def change_config(folder: Path, **keys: Any) -> None:
    """Set keys of `config.json`; None removes one."""
    fields = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps({key: value for key, value in fields.items() if value is not None}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite the weights."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def shard(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index, and return the map."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    names = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(tensors)}
    for file in set(names.values()):
        save_file({name: tensor for name, tensor in tensors.items() if names[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"tie_word_embeddings": True},
        {"head_dim": 6},
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3, "rms_norm_eps": 1e-4},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
)
def test_reads_back_what_it_writes(tmp_path: Path, keys: dict[str, Any]) -> None:
    """Behavior: export and load keep every logit to the bit, whatever the head, head size and RoPE."""
    model = new_model(**keys)
    export_huggingface(model, tmp_path / "hf")
    loaded, tokenizer = load_model(tmp_path / "hf")
    assert tokenizer is None
    assert torch.equal(logits(model), logits(loaded))
    assert dict(model.named_parameters()).keys() == dict(loaded.named_parameters()).keys()
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_tied_head_is_absent_from_the_file_and_tied_when_read(tmp_path: Path) -> None:
    """Behavior: as in `transformers`, the file has no lm_head.weight, and the loaded head is the embedding itself."""
    loaded, _ = load_model(exported(tmp_path, tie_word_embeddings=True))
    assert "lm_head.weight" not in load_file(tmp_path / "hf" / "model.safetensors")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.device("cpu") == loaded.lm_head.weight.device


def test_a_tied_head_that_is_stored_must_be_the_embedding(tmp_path: Path) -> None:
    """Behavior: a redundant copy is accepted, another matrix is a contradiction."""
    folder = exported(tmp_path, tie_word_embeddings=True)
    change_tensors(
        folder, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    )
    assert torch.equal(logits(new_model(tie_word_embeddings=True)), logits(load_model(folder)[0]))
    change_tensors(folder, lambda tensors: tensors["lm_head.weight"][3, 3].add_(1))
    assert_refused(folder, "tie_word_embeddings=True and lm_head.weight is a different matrix")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_keeps_the_declared_dtype_or_casts(tmp_path: Path, dtype: torch.dtype) -> None:
    """Behavior: weights come in the dtype that the file declares, or in the requested one."""
    export_huggingface(new_model().to(dtype), tmp_path / "hf")
    assert {dtype} == {parameter.dtype for parameter in load_model(tmp_path / "hf")[0].parameters()}
    cast, _ = load_model(tmp_path / "hf", torch.bfloat16)
    assert {torch.bfloat16} == {parameter.dtype for parameter in cast.parameters()}


def test_marks_the_file_as_pytorch(tmp_path: Path) -> None:
    """Reference: readers of the format's first years refuse a file whose metadata has no `format`."""
    with safe_open(exported(tmp_path) / "model.safetensors", "pt") as file:
        assert {"format": "pt"} == file.metadata()


def test_reads_shards(tmp_path: Path) -> None:
    """Behavior: two shards with an index give the same model as one file."""
    folder = exported(tmp_path)
    shard(folder)
    assert torch.equal(logits(new_model()), logits(load_model(folder)[0]))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a\\b.safetensors", "..", ".", ""])
def test_never_follows_a_shard_out_of_the_folder(tmp_path: Path, name: str) -> None:
    """Behavior: a shard must be a plain file name, even where the file it points at exists and fits."""
    folder = exported(tmp_path)
    names = shard(folder)
    first = next(iter(names))
    (tmp_path / "secret.safetensors").write_bytes((folder / names[first]).read_bytes())
    (folder / INDEX).write_text(json.dumps({"weight_map": {**names, first: name}}))
    assert_refused(folder, f"weight_map names {name!r}; a shard must be in this folder")


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"lm_head.weight": 1}}])
def test_refuses_a_malformed_index(tmp_path: Path, index: dict[str, Any]) -> None:
    """Behavior: an index without a map of names to names is named."""
    folder = exported(tmp_path)
    shard(folder)
    (folder / INDEX).write_text(json.dumps(index))
    assert_refused(folder, "weight_map must map tensor names to file names")


def test_refuses_an_index_that_its_shards_do_not_match(tmp_path: Path) -> None:
    """Behavior: a tensor that is only in the index or only in the shard, and a missing shard, are named."""
    folder = exported(tmp_path)
    names = shard(folder)
    first = next(iter(names))
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {key: value for key, value in names.items() if key != first}})
    )
    assert_refused(folder, f"{first} is in the shard or in {INDEX}")
    (folder / INDEX).write_text(json.dumps({"weight_map": {**names, "ghost": names[first]}}))
    assert_refused(folder, f"ghost is in the shard or in {INDEX}")
    (folder / names[first]).unlink()
    assert_refused(folder, f"{names[first]}: cannot be read")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is missing"),
        (lambda t: t.pop("lm_head.weight"), "lm_head.weight is missing"),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(16)}),
            "model.layers.0.self_attn.q_proj.bias is unexpected",
        ),
        (
            lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(20, 16)}),
            "layers.2.mlp.up_proj.weight is",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(8)}),
            "model.norm.weight has shape (8,); config.json says (16,)",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}), "model.norm.weight is I8"),
    ],
)
def test_refuses_tensors_that_do_not_fit(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], complaint: str
) -> None:
    """Behavior: a missing, unexpected, misshapen or integer tensor is named; nothing is filled in or left out."""
    folder = exported(tmp_path)
    change_tensors(folder, change)
    assert_refused(folder, complaint)


def test_ignores_stored_rope_frequencies(tmp_path: Path) -> None:
    """Behavior: early conversions store inv_freq buffers, which the configuration already determines."""
    folder = exported(tmp_path)
    change_tensors(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(2)}))
    assert torch.equal(logits(new_model()), logits(load_model(folder)[0]))


def test_refuses_a_truncated_file_and_a_folder_without_weights(tmp_path: Path) -> None:
    """Behavior: truncated weights are named, and pickled ones are not read."""
    folder = exported(tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-4])
    assert_refused(folder, "model.safetensors: the tensors take")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert_refused(folder, "pickled weights are not read")


def test_refuses_a_dtype_that_weights_do_not_come_in(tmp_path: Path) -> None:
    """Behavior: the declared dtype is named, unless the caller chooses another."""
    folder = exported(tmp_path)
    change_config(folder, dtype="int8", torch_dtype="int8")
    assert_refused(folder, "dtype='int8' is not one of float32, bfloat16")
    load_model(folder, torch.float32)


def test_refuses_to_write_where_something_is(tmp_path: Path) -> None:
    """Behavior: nothing is overwritten; an empty folder serves."""
    (tmp_path / "empty").mkdir()
    export_huggingface(new_model(), tmp_path / "empty")
    before = (tmp_path / "empty" / "model.safetensors").read_bytes()
    (tmp_path / "file").write_text("mine")
    for taken in ("empty", "file"):
        with pytest.raises(InterchangeError, match="is not an empty folder"):
            export_huggingface(new_model(hidden_size=8), tmp_path / taken)
    assert before == (tmp_path / "empty" / "model.safetensors").read_bytes()


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """Behavior: one clear error, and no folder."""
    model, usual = new_model(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, usual[1]))
    try:
        with pytest.raises(InterchangeError, match="could not be written"):
            export_huggingface(model, tmp_path / "hf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [] == list(tmp_path.iterdir())


def test_the_tokenizer_travels_along(tmp_path: Path) -> None:
    """Behavior: it encodes the same after the round trip, and its end of text is declared for other libraries."""
    tokenizer = train_tokenizer(["a few words of text"], 280)
    export_huggingface(new_model(vocab_size=280), tmp_path / "hf", tokenizer)
    _, loaded = load_model(tmp_path / "hf")
    assert loaded is not None
    assert tokenizer.encode("words of a few").ids == loaded.encode("words of a few").ids
    assert EOS == json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())["eos_token"]
    assert tokenizer.token_to_id(EOS) == json.loads((tmp_path / "hf" / "config.json").read_text())["eos_token_id"]
    (unsealed(tmp_path / "hf") / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        load_model(tmp_path / "hf")


def test_the_chat_template_travels_along(tmp_path: Path) -> None:
    """Behavior: it is found where other libraries look; a tokenizer without an end of text declares none."""
    words = Tokenizer(WordLevel({"a": 0}))
    export_huggingface(new_model(), tmp_path / "hf", words, ChatTemplate("{{ messages }}", {}, "mine.jinja"))
    found = load_template(tmp_path / "hf")
    assert found is not None
    assert "{{ messages }}" == found.source
    assert "eos_token" not in json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())


def test_a_path_to_nothing_is_named(tmp_path: Path) -> None:
    """Behavior: the message says what may be named."""
    assert_refused(tmp_path / "nothing", "name a checkpoint, a Hugging Face directory or a .gguf file")
