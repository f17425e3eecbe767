"""GGUF: weights are un-permuted and dequantized, the tokenizer is rebuilt, and the rest is refused by name."""

import re
import struct
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from andon.core.data.tokenizer import EOS, train_tokenizer
from andon.core.formats.gguf_header import GgufError, parse_header
from andon.core.formats.gguf_tokenizer import read_tokenizer
from andon.core.formats.gguf_weights import unpermute_rope
from andon.core.formats.interchange import load_model
from andon.core.model.llama import Llama
from tests.core.foreign import assert_refused, logits, new_model

pytestmark = pytest.mark.tier2

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
}


def pairs_from_halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """What llama.cpp's converter does to q and k, row by row: half i of a head becomes element i of each pair."""
    head_dim = len(weight) // heads
    rows = [
        h * head_dim + half * head_dim // 2 + pair
        for h in range(heads)
        for pair in range(head_dim // 2)
        for half in (0, 1)
    ]
    return weight[rows]


def gguf_name(name: str) -> str:
    """Our name in llama.cpp's words."""
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def write_gguf(
    path: Path, model: Llama, fields: dict[str, Any] | None = None, kind: Any = None, extra: Any = None
) -> Path:
    """A GGUF of a tiny model as llama.cpp's converter writes it; `fields` overrides metadata, None leaves a key out."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    metadata = {
        "llama.block_count": config.num_hidden_layers,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.context_length": config.max_position_embeddings,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": config.rope_theta,
        **(fields or {}),
    }
    for key, value in metadata.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    heads = {"q_proj.weight": config.num_attention_heads, "k_proj.weight": config.num_key_value_heads}
    for name, tensor in {**tensors, **(extra or {})}.items():
        suffix = ".".join(name.split(".")[-2:])
        data = (pairs_from_halves(tensor, heads[suffix]) if suffix in heads else tensor).numpy()
        if data.ndim == 2 and kind is not None:
            writer.add_tensor(gguf_name(name), gguf.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(name), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_permutes_pairs_into_halves() -> None:
    """Reference: two heads of four rows, by hand: the first of each pair, then the second of each."""
    rows = torch.arange(8.0)[:, None] * torch.ones(8, 3)
    assert [0, 2, 1, 3, 4, 6, 5, 7] == unpermute_rope(rows, heads=2)[:, 0].int().tolist()


@pytest.mark.parametrize("tied", [False, True])
def test_reads_gguf(tmp_path: Path, tied: bool) -> None:
    """Reference: fp32 weights in llama.cpp's layout give the logits of the model that they came from."""
    model = new_model(tie_word_embeddings=tied, num_attention_heads=2, num_key_value_heads=1, rope_theta=5e5)
    loaded, tokenizer = load_model(write_gguf(tmp_path / "m.gguf", model))
    assert torch.equal(logits(model), logits(loaded))
    assert tied == loaded.config.tie_word_embeddings
    assert tokenizer is None


def test_dequantizes(tmp_path: Path) -> None:
    """Behavior: half-precision weights are the rounded originals, and `dtype` casts what was read."""
    model = new_model()
    path = write_gguf(tmp_path / "m.gguf", model, kind=gguf.GGMLQuantizationType.F16)
    loaded, _ = load_model(path, torch.float64)
    ours, theirs = model.lm_head.weight, loaded.lm_head.weight
    assert torch.equal(ours.half().double(), theirs)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.block_count": 3}, "model.layers.2.input_layernorm.weight is absent in the file"),
        ({"llama.block_count": 1}, "absent by its metadata"),
        ({"llama.attention.head_count_kv": 4}, "k_proj.weight is (8, 16) in the file and (16, 16) by its metadata"),
        ({"llama.attention.head_count": 3}, "not divisible by num_attention_heads=3"),
        ({"llama.expert_count": 8}, "llama.expert_count=8"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type='yarn'"),
        ({"llama.rope.dimension_count": 2}, "llama.rope.dimension_count=2"),
        ({"general.architecture": "qwen2"}, "general.architecture='qwen2'"),
    ],
)
def test_refuses_gguf_metadata_that_does_not_fit(tmp_path: Path, fields: dict[str, Any], complaint: str) -> None:
    """Behavior: what the metadata asks for and this model or this file does not have is named."""
    if "general.architecture" in fields:
        path = write_gguf(tmp_path / "m.gguf", new_model())
        path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2"))
    else:
        path = write_gguf(tmp_path / "m.gguf", new_model(), fields)
    assert_refused(path, complaint)


def test_refuses_a_gguf_tensor_that_a_plain_llama_lacks(tmp_path: Path) -> None:
    """Behavior: llama 3's frequency factors and biases are named, not dropped."""
    for name in ("rope_freqs.weight", "blk.0.attn_q.bias"):
        path = write_gguf(tmp_path / "m.gguf", new_model(), extra={name: torch.ones(2)})
        assert_refused(path, f"{name} is unexpected in a plain Llama")


def test_refuses_numbers_that_are_not_weights(tmp_path: Path) -> None:
    """Behavior: a tensor of integers cannot be dequantized, and is named with its type."""
    path = write_gguf(tmp_path / "m.gguf", new_model(), extra={"model.norm.weight": torch.ones(16, dtype=torch.int8)})
    assert_refused(path, "output_norm.weight is I8, which is not read")


def test_refuses_a_cut_or_foreign_gguf(tmp_path: Path) -> None:
    """Behavior: a file cut at each 1/16, another format and a missing file are one clear error."""
    path = write_gguf(tmp_path / "m.gguf", new_model())
    whole = path.read_bytes()
    for sixteenth in range(16):
        path.write_bytes(whole[: len(whole) * sixteenth // 16])
        assert_refused(path, f"{path}: is not a complete GGUF file")
    path.write_bytes(b"GGML" + whole[4:])
    assert_refused(path, "is not a complete GGUF file")
    path.unlink()
    assert_refused(path, "cannot be read")


def vocabulary(pre: str, **more: Any) -> dict[str, Any]:
    """Tokenizer metadata: the bytes, one merge, one control and one user-defined token."""
    alphabet = train_tokenizer([], 257).get_vocab()
    tokens = [token for token in sorted(alphabet) if token != EOS]
    names = [EOS, *tokens, "12", "he", "<user>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3, *[1] * len(tokens), 1, 1, 4],
        "tokenizer.ggml.merges": ["1 2", "h e"],
        **more,
    }


@pytest.mark.parametrize(("pre", "number"), [("gpt-2", ["12"]), ("smollm", ["1", "2"])])
def test_reads_the_tokenizer_of_a_gguf(pre: str, number: list[str]) -> None:
    """Reference: gpt-2 merges digits, smollm keeps each alone; special tokens are whole; bytes come back."""
    tokenizer = read_tokenizer(vocabulary(pre))
    assert tokenizer is not None
    assert ["he", *number, EOS, "<user>"] == tokenizer.encode(f"he12{EOS}<user>").tokens
    text = "hé 12\n\tñ"
    assert text == tokenizer.decode(tokenizer.encode(text).ids)
    assert "" == tokenizer.decode(tokenizer.encode(EOS).ids)


@pytest.mark.parametrize(
    "fields", [{}, vocabulary("llama-bpe"), vocabulary("smollm", **{"tokenizer.ggml.model": "llama"})]
)
def test_a_tokenizer_that_would_cut_differently_is_left_out(fields: dict[str, Any]) -> None:
    """Behavior: an unknown kind gives no tokenizer rather than a wrong one."""
    assert read_tokenizer(fields) is None
    assert read_tokenizer(vocabulary("smollm")) is not None


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (struct.pack("<IIQ", 9, 0, 1 << 60), f"{1 << 60} bytes at byte 49 reach beyond the end"),
        (struct.pack("<IIQ", 9, 8, 1 << 60), "8 bytes at byte 49 reach beyond the end"),
        (struct.pack("<IIQ", 9, 9, 1), "an array holds values of type 9"),
        (struct.pack("<I", 77), "a value has type 77"),
        (struct.pack("<IQs", 8, 1, b"\xff"), "is not UTF-8"),
        (struct.pack("<IB", 0, 1) + struct.pack("<Qs", 1, b"k") + struct.pack("<IB", 0, 1), "'k' occurs twice"),
    ],
)
def test_believes_no_count_or_type_in_a_gguf_header(value: bytes, complaint: str) -> None:
    """Behavior: what is not there, or not known, is refused before memory is allocated for it."""
    with pytest.raises(GgufError, match=re.escape(complaint)):
        parse_header(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + struct.pack("<Qs", 1, b"k") + value)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("tokens", None, "tokens is missing, or not a list of str"),
        ("token_type", [1], "token_type has 1 entries for 260 tokens"),
        ("merges", ["1 nothing"], "merges do not match the tokens"),
    ],
)
def test_refuses_a_tokenizer_whose_parts_do_not_fit(key: str, value: Any, complaint: str) -> None:
    """Behavior: tokens, their types and merges are compared before a tokenizer is made of them."""
    with pytest.raises(GgufError, match=complaint):
        read_tokenizer(vocabulary("gpt-2", **{f"tokenizer.ggml.{key}": value}))


TENSOR = struct.pack("<Qs", 1, b"t")


@pytest.mark.parametrize(
    ("counts", "table", "complaint"),
    [
        ((1, 0, 0), b"", "version 1 is not read, only 2 and 3 are"),
        ((3, 2, 0), 2 * (TENSOR + struct.pack("<IQIQ", 1, 8, 0, 0)), "'t' occurs twice"),
        ((3, 1, 0), TENSOR + struct.pack("<I", 5), "'t' has 5 dimensions; 4 is the maximum"),
    ],
)
def test_believes_no_version_or_tensor_in_a_gguf_header(
    counts: tuple[int, int, int], table: bytes, complaint: str
) -> None:
    """Behavior: another version, a tensor that is there twice and one of too many dimensions are refused."""
    with pytest.raises(GgufError, match=re.escape(complaint)):
        parse_header(b"GGUF" + struct.pack("<IQQ", *counts) + table)


def test_names_the_file_whose_tokenizer_does_not_fit(tmp_path: Path) -> None:
    """Behavior: what is wrong with the tokens is said of the file, with the next step."""
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2"}
    path = write_gguf(tmp_path / "m.gguf", new_model(), fields)
    assert_refused(path, f"{path}: tokenizer.ggml.tokens is missing, or not a list of str; fetch the file again")
