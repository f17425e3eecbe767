"""Tiny models in the shapes in which others publish theirs: byte-level with and without bos, SentencePiece's kind."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from andon.core.data.tokenizer import id_count
from andon.core.formats.huggingface_export import export_huggingface
from tests.core.foreign import new_model, unsealed

TEXT = [
    "The sea is wide. What is 3+4? Seven! A word: blue. Say hello.\n user assistant system get_tide [INST] [/INST]"
] * 4
SPECIAL = {
    "llama2": ["<unk>", "<s>", "</s>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
NAMES = {
    "llama2": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "chatml": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
}
TEMPLATES = {
    "llama2": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
TALK = [
    {"role": "user", "content": "Say hello."},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "A word"},
    {"role": "assistant", "content": "blue"},
]


def tokenizer_of(kind: str) -> Tokenizer:
    """A tokenizer of a few hundred ids in the kind's published shape."""
    special = SPECIAL[kind]
    if kind == "llama2":
        made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106 - no password
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(steps)
        more, alphabet = [f"<0x{byte:02X}>" for byte in range(256)], sorted({*"".join(TEXT), "▁"})
    else:
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        more, alphabet = [], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=[*special, *more], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    bos = NAMES[kind].get("bos_token")
    if bos:
        begin = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))])
        trimmed = [processors.ByteLevel(trim_offsets=True)] if kind == "llama3" else []
        made.post_processor = processors.Sequence([*trimmed, begin])
    return made


def directory(folder: Path, kind: str, **files: dict[str, Any]) -> Path:
    """A Hugging Face directory of the kind; `tokenizer`, `config`, `generation`, `special` add keys to its files."""
    tokenizer = tokenizer_of(kind)
    export_huggingface(new_model(vocab_size=id_count(tokenizer)), folder, tokenizer)
    unsealed(folder)
    change(folder / "config.json", {"eos_token_id": 2} | files.get("config", {}))
    named = {"chat_template": TEMPLATES[kind], "tokenizer_class": None} | NAMES[kind] | files.get("tokenizer", {})
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in named.items() if v is not None}))
    for name, file in (("generation", "generation_config.json"), ("special", "special_tokens_map.json")):
        if name in files:
            (folder / file).write_text(json.dumps(files[name]))
    return folder


def change(path: Path, keys: dict[str, Any]) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
