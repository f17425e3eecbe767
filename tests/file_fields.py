"""What becomes of each field of the files that models are published with.

A field is honored, refused where its value asks for what is not done here, or of no meaning here: then nothing that is
read depends on it, and it is carried along where its file is. The tests hold each row to the readers.
"""

import json
from typing import Any, NamedTuple

from andon.core.config import ModelConfig
from andon.core.formats.peft_config import ALLOWED_VALUES, INFORMATIONAL_FIELDS, OUR_KEYS

HONORED, REFUSED, NO_MEANING = "honored", "refused", "no meaning"
UNREAD = "a plain Llama in transformers does not read it either"


class Field(NamedTuple):
    """What becomes of a field, why or how, and a value that shows it: refused, or without effect."""

    fate: str
    note: str
    example: Any = None


def _honored(note: str, *names: str) -> dict[str, Field]:
    return {name: Field(HONORED, note) for name in names}


def _unread(note: str, **examples: Any) -> dict[str, Field]:
    return {name: Field(NO_MEANING, note, example) for name, example in examples.items()}


def _refused(note: str, **examples: Any) -> dict[str, Field]:
    return {name: Field(REFUSED, note, example) for name, example in examples.items()}


CONFIG_FIELDS = {
    **_honored("the model's shape, with LlamaConfig's default where absent", *ModelConfig.model_fields),
    **_honored("RoPE's base and scaling, beside the older `rope_theta` and `rope_scaling`", "rope_parameters"),
    **_honored("the dtype of the weights", "dtype", "torch_dtype"),
    **_honored("where generation ends, one id or a list; a generation_config.json goes before it", "eos_token_id"),
    **_honored("written on by import, export and merge", "bos_token_id", "pad_token_id"),
    **_honored("LlamaTokenizer brings its own spaces, where tokenizer_config.json does not say", "tokenizer_class"),
    **_refused("any but a name that ends with ForCausalLM", architectures=["LlamaForSequenceClassification"]),
    **_refused(
        "any value but a plain Llama's",
        model_type="mistral",
        hidden_act="gelu",
        attention_bias=True,
        mlp_bias=True,
        attention_dropout=0.1,
    ),
    **_refused("any but bitsandbytes' NF4", quantization_config={"quant_method": "gptq", "bits": 4}),
    **_unread("how generation goes, not what is learned", use_cache=False, max_length=20, temperature=0.5, top_p=0.9),
    **_unread("a split of the same product", pretraining_tp=2),
    **_unread("names and versions", _name_or_path="a/b", transformers_version="4.40.0"),
    **_unread("code of the file's own is never run", auto_map={"AutoModelForCausalLM": "modeling.Mine"}),
    **_unread(
        UNREAD,
        sliding_window=4096,
        layer_types=["sliding_attention"],
        rope_interleaved=False,
        is_llama_config=True,
        id2label={"0": "LABEL_0"},
        output_attentions=True,
        problem_type="regression",
    ),
}

GENERATION_FIELDS = {
    **_honored("where `andon generate` stops: one id or a list", "eos_token_id"),
    **_unread(
        "`andon generate` samples as its own options say, and names the settings that it leaves; written on",
        do_sample=True,
        temperature=0.6,
        top_p=0.9,
        top_k=50,
        min_p=0.1,
        repetition_penalty=1.1,
        max_new_tokens=10,
        max_length=4096,
        stop_strings=["User:"],
        bos_token_id=1,
        pad_token_id=0,
        transformers_version="4.40.0",
        _from_model_config=True,
    ),
}

TOKENIZER_CONFIG_FIELDS = {
    **_honored(
        "what ends a text, and names that the template writes", "eos_token", "bos_token", "unk_token", "pad_token"
    ),
    **_honored("more names that the template writes", "sep_token", "cls_token", "mask_token", "image_token"),
    **_honored("writes conversations; of several the default, and tool_use where a line has tools", "chat_template"),
    **_honored("LlamaTokenizer puts its own spaces in place of tokenizer.json's", "tokenizer_class"),
    **_honored("LlamaTokenizer's space also after each special token", "legacy"),
    **_honored("false: LlamaTokenizer puts no space before a text", "add_prefix_space"),
    **_refused("a token that tokenizer.json does not have, or under another id", added_tokens_decoder={"999": "<z>"}),
    **_refused("a token that tokenizer.json does not have", additional_special_tokens=["<z>"]),
    **_refused("a token that tokenizer.json does not have", extra_special_tokens={"image_token": "<z>"}),
    **_refused("true", split_special_tokens=True),
    **_unread("tokenizer.json's post-processor says it, as in transformers 5", add_bos_token=False, add_eos_token=True),
    **_unread(
        "rows are packed and never padded or cut on a side",
        model_max_length=2048,
        padding_side="left",
        truncation_side="left",
        max_length=512,
        stride=0,
    ),
    **_unread("how text looks once decoded", clean_up_tokenization_spaces=True, spaces_between_special_tokens=False),
    **_unread("settings of the SentencePiece library, which is not used", sp_model_kwargs={}, errors="replace"),
    **_unread("names", name_or_path="a/b", processor_class=None, use_default_system_prompt=False),
    **_unread("code of the file's own is never run", auto_map={"AutoTokenizer": ["tokenization.Mine", None]}),
}

TOKENIZER_FIELDS = {
    **_honored("the tokenizers library encodes by it", "model", "added_tokens", "normalizer", "pre_tokenizer"),
    **_honored("what stands before a text, of a document, a prompt or a generated text", "post_processor"),
    **_honored("turns ids into text", "decoder"),
    **_unread("switched off: a text is encoded whole, and rows are packed", truncation=None, padding=None),
    **_unread("the format's version", version="1.0"),
}

ADAPTER_FIELDS = {
    **_honored("the adapter", *OUR_KEYS),
    **{
        name: Field(REFUSED, f"any value but {', '.join(f'`{json.dumps(value)}`' for value in values)}", "other")
        for name, values in ALLOWED_VALUES.items()
    },
    **_unread("the caller names the base", **dict.fromkeys(INFORMATIONAL_FIELDS)),
}

INSTRUCTION_FIELDS = {
    **_honored("OpenAI, TRL: a conversation, written by the chat template", "messages"),
    **_honored("ShareGPT: the same, as `from` and `value`", "conversations"),
    **_honored("TRL: two texts, or two lists of messages; the second is learned", "prompt", "completion"),
    **_honored("told to the template, as a list or as JSON in a string", "tools"),
    **_honored("told to the template, such as `enable_thinking`", "chat_template_kwargs"),
    **_honored("0: this answer is read and not learned", "messages[].weight"),
    **_honored("told to the template", "messages[].name", "messages[].tool_calls", "messages[].reasoning_content"),
    **_refused("alpaca: it has no fixed prompt", instruction="Add 1 and 1."),
    **_refused("preferences are not trained on", chosen="yes"),
    **_refused("beside a conversation", functions=[{}], system="Be kind.", images=["a.png"], documents=[{}]),
    **_refused("write `weight`: 0", **{"messages[].train": False}),
}

FILES = {
    "config.json": CONFIG_FIELDS,
    "generation_config.json": GENERATION_FIELDS,
    "tokenizer_config.json": TOKENIZER_CONFIG_FIELDS,
    "tokenizer.json": TOKENIZER_FIELDS,
    "adapter_config.json": ADAPTER_FIELDS,
    "a line of instructions": INSTRUCTION_FIELDS,
}
