"""Our core as subjects, each presented to verify as any user would present theirs: `SUBJECTS`, by name.

Shapes are tiny, and no two widths are equal, so that what is mixed up is seen.
"""

import atexit
import functools
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor

from andon.core.adapters.lora import add_lora, merge_lora, set_adapter, unmerge_lora
from andon.core.adapters.nf4 import dequantize_nf4, nf4_levels, quantize_model, quantize_nf4
from andon.core.checkpoint import load_checkpoint, save_checkpoint
from andon.core.config import Config, LoraConfig, ModelConfig, parse_config
from andon.core.data.batch import IGNORE, Batch, DataState
from andon.core.data.chat import ChatTemplate, Conversation, Turn, render_turns
from andon.core.data.dataset import Dataset, Split, batches, open_dataset, pack, validation_batches
from andon.core.data.instructions import encode_turns
from andon.core.data.shards import EncodedDocument, open_store, read_tokens, write_store
from andon.core.data.tokenizer import load_tokenizer, text_marks
from andon.core.files.folders import latest_checkpoint
from andon.core.formats.peft import load_adapter, save_adapter
from andon.core.model.generate import generate
from andon.core.model.llama import KVCache, Llama, build_model
from andon.core.training.loop import accumulate_gradients, autocast, initial_state_of, no_span, train, validate
from andon.core.training.loss import loss
from andon.core.training.optimizer import build_optimizer, gradient_norm, step
from andon.core.training.schedule import learning_rate
from andon.core.training.seconds import PhaseSeconds
from andon.core.training.state import TrainState
from andon.verify.subject import Adapters, Documents, Quantizer, Subject
from tests import plain

SHAPE: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-4,
    "rope_theta": 500.0,
}
STEPS, EPOCH_STEPS, WARMUP, MIN_RATIO = 36, 6, 4, 0.2
TABLES: dict[str, dict[str, Any]] = {
    "model": SHAPE,
    "training": {
        "epochs": 9,
        "max_steps": STEPS,
        "batch_size": 6,
        "accumulation_steps": 3,
        "learning_rate": 5e-3,
        "weight_decay": 0.1,
        "beta2": 0.97,
        "grad_clip": 0.7,
    },
    "schedule": {"warmup_steps": WARMUP, "min_ratio": MIN_RATIO},
    "data": {"sequence_length": 24},
    "validation": {"fraction": 0.3},
}
OTHER_SETTINGS: dict[str, Any] = {
    "rope_theta": 2000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "rms_norm_eps": 1e-2,
    "initializer_range": 0.04,
    "tie_word_embeddings": True,
    "num_key_value_heads": 1,
    "num_attention_heads": 6,
    "head_dim": 6,
    "num_hidden_layers": 3,
    "intermediate_size": 56,
    "hidden_size": 32,
    "vocab_size": 320,
}
OTHER_ADAPTERS: dict[str, Any] = {
    "rank": 3,
    "alpha": 5.0,
    "rank_pattern": {"q_proj": 1},
    "alpha_pattern": {"down_proj": 9.0},
    "use_rslora": True,
    "dropout": 0.5,
    "target_modules": ["q_proj", "down_proj"],
}
END = 0  # the first token that a trained tokenizer has
Model = Any  # a Llama, which verify knows as a torch module
ROWS, LENGTH = 3, 24
CHAT = ChatTemplate(
    "{% for each in messages %}{{ each.role }}>{{ each.content }};\n{% endfor %}"
    "{% if add_generation_prompt %}assistant>{% endif %}",
    {},
    "subjects",
)
PIECES = (4, 1, 1, 3)  # in which a sequence is decoded: a prompt, tokens, a few together, tokens again
LORA: dict[str, Any] = {"target_modules": "all-linear", "dropout": 0.25}
NAME, SECOND = "default", "second"


# ---------------------------------------------------------------------------------------------- model
def new_model(dtype: torch.dtype = torch.float32, **changes: Any) -> Llama:
    """A model of the tables above with some settings changed, drawn from torch's seed."""
    return build_model(ModelConfig.model_validate(SHAPE | changes), torch.initial_seed() % 2**31, dtype=dtype)


def random_batch(generator: torch.Generator) -> Batch:
    """Rows of random tokens, one document each."""
    tokens_BT = torch.randint(1, SHAPE["vocab_size"], (ROWS, LENGTH + 1), generator=generator)
    return Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], None)


def packed_batch(generator: torch.Generator) -> Batch:
    """Windows over random documents that lie end to end, the last one padded."""
    sizes = torch.randint(3, 30, (6,), generator=generator).tolist()
    documents = [torch.randint(1, SHAPE["vocab_size"], (size,), generator=generator).tolist() for size in sizes]
    with split_of([[*ids, END] for ids in documents]) as split:
        return pack(split, np.arange(split.windows(LENGTH)), LENGTH, END)


def plain_loss(model: Model, batch: Batch) -> Tensor:
    """As the training loop takes it."""
    return loss(model, batch)


def logits(model: Model, batch: Batch) -> Tensor:
    """(B, T, V)."""
    return model(batch.tokens_BT, batch.documents_BT)


def reference_logits(model: Model, batch: Batch) -> Tensor:
    """The same, by the plain equations."""
    return plain.logits(model, batch.tokens_BT, batch.documents_BT)


def continued(model: Model, tokens_BT: Tensor, count: int) -> Tensor:
    """Greedy continuation, the prompt included."""
    return torch.cat([tokens_BT, torch.stack([*generate(model, tokens_BT, count, temperature=0)], 1)], 1)


def decoded(model: Model, tokens_BT: Tensor) -> Tensor:
    """Logits of every position, through the cache."""
    rows, length = tokens_BT.shape
    cache = KVCache(model.config, rows, length, model.model.norm.weight)
    sizes = [*PIECES, *[1] * length]
    found: list[Tensor] = []
    with torch.no_grad():
        while cache.length < length:
            piece_BT = tokens_BT[:, cache.length : cache.length + sizes[len(found)]]
            found.append(model(piece_BT, cache=cache))
    return torch.cat(found, 1)


# ---------------------------------------------------------------------------------------------- documents
@contextmanager
def split_of(documents: Documents) -> Generator[Split]:
    """Documents end to end, as the data loader reads them from disk."""
    with TemporaryDirectory() as folder:
        encoded = [EncodedDocument(list(ids), len(ids), number) for number, ids in enumerate(documents)]
        write_store(Path(folder), encoded, 1 << 20, SHAPE["vocab_size"], {})
        store = open_store(Path(folder))
        bounds = np.concatenate([[0], store.ends_D])
        yield Split(store, bounds, np.zeros(len(documents), np.int64), int(store.bytes_D.sum()))


def padded(documents: Documents) -> Batch:
    """One document a row, the shorter ones padded."""
    length, rows = max(map(len, documents)), []
    for ids in documents:
        with split_of([ids]) as split:
            rows.append(pack(split, np.array([0]), length, END))
    return Batch(torch.cat([row.tokens_BT for row in rows]), torch.cat([row.labels_BT for row in rows]), None)


def packed(documents: Documents) -> Batch:
    """All documents in one row."""
    with split_of(documents) as split:
        return pack(split, np.array([0]), split.tokens, END)


# ---------------------------------------------------------------------------------------------- text
@functools.cache
def workplace() -> Path:
    """A folder of this process, with a small corpus of a made-up language in it: a long document, and shorter ones."""
    folder = Path(mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "text").mkdir()
    for number in range(9):
        words = [
            f"{'abcdefghij'[(number * k + k * k) % 10]}{k % (number + 2)}" for k in range(220 if number == 4 else 40)
        ]
        (folder / "text" / f"{number}.txt").write_text(" ".join(words) + "\n", encoding="utf-8")
    return folder


def config_of(**changes: Mapping[str, Any]) -> Config:
    """The tables above on that corpus, with keys of some tables changed."""
    tables = {
        name: {**table, **changes.get(name, {})} for name, table in {**{k: {} for k in changes}, **TABLES}.items()
    }
    tables["data"] = {"paths": [str(workplace() / "text")], **tables["data"]}
    return parse_config(tables, "tests/subjects.py")


def dataset_of(config: Config) -> Dataset:
    """The corpus as tokens, written once a process."""
    return open_dataset(config, workplace() / "cache")


def epoch_batches(index: int) -> Iterator[Batch]:
    """The micro-batches of one epoch."""
    config = config_of()
    for micro_batches, after in batches(dataset_of(config), config, DataState(index, 0)):
        yield from micro_batches
        if after.epoch != index:
            return


def held_out_batches() -> Iterator[Batch]:
    """The validation split."""
    config = config_of()
    return validation_batches(dataset_of(config), config)


def encode(text: str) -> list[int]:
    """A text's tokens as they lie in the training data, marks included; a long one is several documents there."""
    tokenizer = str(dataset_of(config_of()).tokenizer_file)
    with TemporaryDirectory() as folder:
        paths = [str(Path(folder, name)) for name in ("text.txt", "other.txt")]
        Path(paths[0]).write_text(text, encoding="utf-8", newline="")
        Path(paths[1]).write_text("Nothing that anybody asked for, and long enough to train on.", encoding="utf-8")
        config = config_of(data={"paths": paths, "tokenizer": tokenizer, "sequence_length": 2})
        store = open_dataset(config, Path(folder)).train.store
        end = store.ends_D[-2]  # the other text is one document, and the last
        return read_tokens(store, np.arange(end)).tolist()


def decode(ids: Sequence[int]) -> str:
    """Tokens as text, marks left out."""
    tokenizer = load_tokenizer(dataset_of(config_of()).tokenizer_file)
    return tokenizer.decode([token for token in ids if token != END], skip_special_tokens=False)


def encode_instruction(prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """A sample's tokens as they lie in a row, a place of padding behind them; for each the one to predict after it."""
    tokenizer = load_tokenizer(dataset_of(config_of()).tokenizer_file)
    turns = [Turn(prompt, learned=False), Turn(answer, learned=True)]
    found = encode_turns(tokenizer, turns, text_marks(tokenizer, "subjects"), chat=False)
    return [*found.tokens.tolist(), END], [*found.labels.tolist(), IGNORE]


def encode_conversation(messages: Sequence[Mapping[str, str]]) -> tuple[list[int], list[int]]:
    """The same of a conversation, as a template renders it."""
    tokenizer = load_tokenizer(dataset_of(config_of()).tokenizer_file)
    (turns,) = render_turns(CHAT, [Conversation("subjects", [dict(message) for message in messages])])
    found = encode_turns(tokenizer, turns, text_marks(tokenizer, "subjects"), chat=True)
    return [*found.tokens.tolist(), END], [*found.labels.tolist(), IGNORE]


# ---------------------------------------------------------------------------------------------- training
class Run:
    """A training run, a step at a time."""

    def __init__(self, config: Config, model: Model, folder: Path | None = None) -> None:
        self.config, self.dataset = config, dataset_of(config)
        self.state = initial_state_of(model, config)
        if folder:
            newest = latest_checkpoint(folder)
            assert newest, f"{folder} holds no checkpoint"
            load_checkpoint(newest, self.state, config)
        self.records = train(self.state, self.dataset, config)

    @property
    def model(self) -> Model:
        """What is trained."""
        return self.state.model

    @property
    def optimizer(self) -> Any:
        """By what."""
        return self.state.optimizer

    def step(self) -> dict[str, float]:
        """One optimizer step; what is logged of it."""
        record = next(self.records)
        return {"loss": record.loss, "grad_norm": record.grad_norm, "learning_rate": record.learning_rate}

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(folder, self.state, self.config)

    def validate(self) -> float:
        """Mean loss over the validation split."""
        batches = validation_batches(self.dataset, self.config)
        return validate(self.model, batches, self.config.training.dtype)[0]


def run(make: Callable[[], Model], **changes: Mapping[str, Any]) -> Callable[..., Run]:
    """A factory of runs on the corpus above; with a folder, of ones that go on from the checkpoint there."""

    def started(folder: Path | None = None) -> Run:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = make()
        return Run(config_of(**changes), model, folder)

    return started


def stepped(config: Config) -> Callable[[Model, Any, list[Batch]], dict[str, float]]:
    """A train step over micro-batches, at the peak rate."""

    def one(model: Model, optimizer: Any, micro_batches: list[Batch]) -> dict[str, float]:
        state = TrainState(model, optimizer)
        total, _ = accumulate_gradients(state, micro_batches, config.training, no_span, PhaseSeconds())
        norm, rate = float(gradient_norm(optimizer)), config.training.learning_rate
        step(optimizer, rate, norm, config.training.grad_clip, state.loss_scale)
        return {"loss": total, "grad_norm": norm, "learning_rate": rate}

    return one


# ---------------------------------------------------------------------------------------------- adapters
def adapt(model: Model, rank: int, alpha: float, name: str = NAME, **keys: Any) -> Llama:
    """Adapters on all linear modules, drawn from torch's seed; the rest is frozen."""
    config = LoraConfig.model_validate(LORA | {"rank": rank, "alpha": float(alpha)} | keys)
    add_lora(model, config, torch.Generator().manual_seed(torch.initial_seed() % 2**31), name)
    return model


def adapted(**keys: Any) -> Llama:
    """A model with adapters of which some have a rank or an alpha of their own; other keys, or these, may be given."""
    own: dict[str, Any] = {"rank": 4, "alpha": 8.0, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3.0}}
    return adapt(new_model(), **(own | keys))


def quantized() -> Llama:
    """A model whose matrices are held in four bits."""
    model = new_model()
    quantize_model(model)
    return model


def then(change: Callable[..., object], *arguments: Any) -> Callable[..., Model]:
    """A change in place as a function that returns the model."""

    def changed(model: Model, *more: Any) -> Llama:
        change(model, *more, *arguments)
        return model

    return changed


ADAPTERS = Adapters(
    add=adapt,
    merge=then(merge_lora, NAME),
    unmerge=then(unmerge_lora, NAME),
    save=lambda model, folder: save_adapter(model, folder / "adapter", NAME, "base"),
    load=lambda model, folder: then(load_adapter, NAME)(model, folder / "adapter"),
    second=lambda model, rank, alpha: adapt(model, rank, alpha, SECOND),
    switch=lambda model, number: then(set_adapter, (NAME, SECOND)[number])(model),
    targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
QUANTIZER = Quantizer(
    round_trip=lambda tensor: dequantize_nf4(quantize_nf4(tensor)),
    levels=lambda: nf4_levels(torch.device("cpu")),
)


# ---------------------------------------------------------------------------------------------- subjects
def answering(
    name: str, make: Callable[..., Model], batch: Callable[[torch.Generator], Batch] = random_batch
) -> Subject:
    """What every model has."""
    return Subject(
        name=name, model=make, batch=batch, loss=plain_loss, logits=logits, collate_padded=padded,
        collate_packed=packed, generate=continued, cached_logits=decoded, eos_id=END, pad_id=END,
        objective="cross_entropy", causal=True,
    )  # fmt: skip


def trained(subject: Subject, **changes: Mapping[str, Any]) -> Subject:
    """What every training run has, too."""
    config = config_of(**changes)
    training = config.training
    started = run(subject.model, **changes)
    return replace(
        subject,
        optimizer=lambda model: build_optimizer(model, training),
        train_step=stepped(config),
        lr_at=lambda number: learning_rate(number, STEPS, training.learning_rate, config.schedule),
        validate=lambda model, held_out: validate(model, held_out, training.dtype)[0],
        loop=started,
        resume=started,
        hyperparameters={
            "learning_rate": training.learning_rate,
            "weight_decay": training.weight_decay,
            "grad_clip": training.grad_clip,
            "warmup_steps": WARMUP,
            "steps": STEPS,
            "min_ratio": MIN_RATIO,
            "epoch_steps": EPOCH_STEPS,
            "lora_dropout": LORA["dropout"],
            "skips_nonfinite": 1.0,
        },
    )


def llama() -> Subject:
    """A small LLaMA with grouped queries, and all that core has around it."""
    return replace(
        trained(answering("llama", new_model)),
        configure=new_model, config_alternatives=OTHER_SETTINGS, reference_logits=reference_logits,
        epoch_batches=epoch_batches, validation_batches=held_out_batches, encode=encode, decode=decode,
        encode_instruction=encode_instruction, encode_conversation=encode_conversation,
        adapters=ADAPTERS, quantizer=QUANTIZER,
    )  # fmt: skip


def packed_rows() -> Subject:
    """The same on rows of several documents."""
    return replace(trained(answering("packed", new_model, packed_batch)), reference_logits=reference_logits)


def tied() -> Subject:
    """The embedding is the head."""
    make = functools.partial(new_model, tie_word_embeddings=True)
    return replace(
        trained(answering("tied", make), model={"tie_word_embeddings": True}), reference_logits=reference_logits
    )


def half() -> Subject:
    """All weights in bfloat16."""
    return replace(answering("half", functools.partial(new_model, torch.bfloat16)), adapters=ADAPTERS)


def mixed(**training: Any) -> Subject:
    """Float32 weights, bfloat16 products."""

    def autocast_loss(model: Model, batch: Batch) -> Tensor:
        with autocast("bfloat16", torch.device("cpu")):
            return loss(model, batch)

    subject = trained(answering("mixed", new_model), training={"dtype": "bfloat16", **training})
    return replace(subject, loss=autocast_loss)


def mixed_late() -> Subject:
    """The same at the small rate of a run's end."""
    return replace(mixed(learning_rate=2e-6), name="mixed late")


def lora() -> Subject:
    """Adapters with dropout are trained, and nothing else."""
    return replace(trained(answering("lora", adapted)), configure=adapted, config_alternatives=OTHER_ADAPTERS)


def half_lora() -> Subject:
    """Adapters on weights in bfloat16, at a rate that bfloat16 adapters would not notice."""
    make = functools.partial(adapt, rank=4, alpha=8.0)
    subject = answering("half lora", lambda: make(new_model(torch.bfloat16)))
    return trained(subject, training={"learning_rate": 2e-5})


def qlora() -> Subject:
    """Adapters on a base of four bits."""
    return replace(trained(answering("qlora", lambda: adapt(quantized(), 4, 8.0))), quantizer=QUANTIZER)


def recomputed() -> Subject:
    """Adapters again, with every layer computed a second time in the backward pass."""

    def make() -> Llama:
        model = adapted()
        model.activation_checkpointing = True
        return model

    return trained(answering("recomputed", make), training={"activation_checkpointing": True})


def four_bits() -> Subject:
    """The base of four bits by itself."""
    return replace(answering("four bits", quantized), adapters=ADAPTERS, quantizer=QUANTIZER)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "llama": llama,
    "packed": packed_rows,
    "tied": tied,
    "half": half,
    "mixed": mixed,
    "mixed late": mixed_late,
    "lora": lora,
    "half lora": half_lora,
    "qlora": qlora,
    "recomputed": recomputed,
    "four bits": four_bits,
}
EXACT = {name: SUBJECTS[name] for name in ("llama", "packed", "tied", "lora", "qlora", "recomputed")}  # run in float64
