"""A subject: anybody's model and training loop, as a handful of factories.

Three are enough: `model`, `batch` and `loss`. Each further one lets more checks apply; a check whose factory is absent
is reported as not applicable, never as passed. Checks reach a subject only through the functions of `access`.
What each field is given and returns is said once, in its metadata; `documented` reads it.
Legend: B batch, T time, V vocab.
"""

import difflib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.documentation import (
    ADAPTATION,
    DATA,
    MODEL,
    NEEDED,
    TRAINING,
    TRAITS,
    Documented,
    as_text,
    of_field,
    says,
)
from andon.verify.errors import SubjectError
from andon.verify.vocabulary import HYPERPARAMETERS, RENAMED, ROLES, SYNONYMS

CROSS_ENTROPY = "cross_entropy"
Batch = Any  # a mapping, a named tuple, a dataclass, a tuple (tokens, labels) or a tensor of tokens
Documents = Sequence[Sequence[int]]  # token ids


class Loop(Protocol):
    """A training run that a check can drive, a step at a time."""

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """Its optimizer."""
        ...

    def step(self) -> Mapping[str, float]:
        """One optimizer step. Returns what the loop logs, as far as it does: the keys are those of `LOGGED`."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint into an empty folder."""
        ...

    def validate(self) -> float:
        """Evaluate as the loop does between steps; the mean loss."""
        ...


class Adapters(NamedTuple):
    """LoRA or another adapter; each function returns the model to go on with, changed in place or new."""

    add: Callable[[nn.Module, int, float], nn.Module]  # (base, rank, alpha): wrapped, base frozen
    merge: Callable[[nn.Module], nn.Module] | None = None
    unmerge: Callable[[nn.Module], nn.Module] | None = None
    save: Callable[[nn.Module, Path], None] | None = None  # the adapter alone, into an empty folder
    load: Callable[[nn.Module, Path], nn.Module] | None = None  # (base, folder)
    scale: Callable[[int, float], float] | None = lambda rank, alpha: alpha / rank  # of B A; None: it adds no B A
    second: Callable[[nn.Module, int, float], nn.Module] | None = None  # beside the one that `add` made, and active
    switch: Callable[[nn.Module, int], nn.Module] | None = None  # to the one of `add`, 0, or that of `second`, 1
    identity: bool = True  # a fresh adapter changes nothing; False where its authors avoid that
    targets: Sequence[str] = ()  # what `add` is to adapt: modules by name, or by the end of their path; (): not said


class Quantizer(NamedTuple):
    """A weight quantizer: `round_trip` quantizes and dequantizes a tensor."""

    round_trip: Callable[[Tensor], Tensor]
    floor_db: float = 18.0  # signal to quantization noise that it must reach on normal weights (NF4: about 20.6 dB)
    levels: Callable[[], Tensor] | None = None  # values it represents exactly in a block whose largest is 1
    block_size: int = 64


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What to check: a model, its batches, its loss, and as much of its training code as you like to give.

    Factories are called anew for each check, so none may hand out the same module twice. `model` and `batch` may also
    be a module and a batch: each check then gets a copy, and yours stay as they are.

    Raises:
        SubjectError: a field is of a type that no check can use; a field, hyperparameter or role is unknown or renamed.
    """

    model: Callable[[], nn.Module] = field(
        metadata=says(
            NEEDED, "model() -> torch.nn.Module",
            "A new model each time, with the same weights where torch's seed is the same. Or a module, to be copied.",
        )
    )  # fmt: skip
    batch: Callable[[torch.Generator], Batch] | Batch = field(
        metadata=says(
            NEEDED, "batch(generator: torch.Generator) -> batch",
            "A typical training batch on the model's device: a mapping, named tuple, dataclass, tuple (tokens, labels) "
            "or tensor of token ids (B, T). Or such a batch itself, to be copied.",
        )
    )  # fmt: skip
    loss: Callable[[nn.Module, Batch], Tensor] = field(
        metadata=says(
            NEEDED, "loss(model, batch) -> scalar tensor",
            "The tensor that you call backward() on: of a language model, the mean cross-entropy in nats over labels "
            "that are not ignored.",
        )
    )  # fmt: skip
    name: str = field(default="subject", metadata=says(NEEDED, "a string", "The name shown in reports."))

    logits: Callable[[nn.Module, Batch], Tensor] | None = field(
        default=None,
        metadata=says(MODEL, "logits(model, batch) -> (B, T, V)", "By default what the model returns for the batch."),
    )
    roles: Mapping[str, str | int] = field(
        default_factory=dict,
        metadata=says(
            MODEL, 'a mapping: {"tokens": "my_key"}',
            "Which key or position of a batch plays which role, where its name does not tell.",
        ),
    )  # fmt: skip
    collate_padded: Callable[[Documents], Batch] | None = field(
        default=None,
        metadata=says(
            MODEL, "collate_padded(documents: list of lists of token ids) -> batch", "One document per row, padded."
        ),
    )  # fmt: skip
    collate_packed: Callable[[Documents], Batch] | None = field(
        default=None,
        metadata=says(
            MODEL, "collate_packed(documents: list of lists of token ids) -> batch",
            "Documents end to end, isolated from each other: in one row, or in as many as hold them.",
        ),
    )  # fmt: skip
    generate: Callable[[nn.Module, Tensor, int], Tensor] | None = field(
        default=None,
        metadata=says(
            MODEL, "generate(model, tokens (B, T), n) -> tokens (B, T + n)", "Greedy generation, the prompt included."
        ),
    )  # fmt: skip
    cached_logits: Callable[[nn.Module, Tensor], Tensor] | None = field(
        default=None,
        metadata=says(
            MODEL, "cached_logits(model, tokens (B, T)) -> (B, T, V)",
            "Logits of decoding through the key-value cache, token by token.",
        ),
    )  # fmt: skip
    configure: Callable[..., nn.Module] | None = field(
        default=None,
        metadata=says(
            MODEL, "configure(**changes) -> torch.nn.Module", "A new model with these settings changed."
        ),
    )  # fmt: skip
    resize_vocabulary: Callable[[nn.Module, int], nn.Module] | None = field(
        default=None,
        metadata=says(
            MODEL, "resize_vocabulary(model, size) -> torch.nn.Module",
            "The model to go on with, changed in place or new, with a vocabulary of at least this size.",
        ),
    )  # fmt: skip
    config_alternatives: Mapping[str, Any] = field(
        default_factory=dict,
        metadata=says(
            MODEL, 'a mapping: {"rope_theta": 1e3}', "For settings that `configure` takes, another valid value of each."
        ),
    )  # fmt: skip
    reference_logits: Callable[[nn.Module, Batch], Tensor] | None = field(
        default=None,
        metadata=says(
            MODEL, "reference_logits(model, batch) -> (B, T, V)",
            "Logits of an independent implementation with the weights of this model.",
        ),
    )  # fmt: skip
    variants: Mapping[str, "Subject"] = field(
        default_factory=dict,
        metadata=says(MODEL, "a mapping of names to subjects", "Other shapes of the same code, checked as well."),
    )

    optimizer: Callable[[nn.Module], Optimizer] | None = field(
        default=None,
        metadata=says(TRAINING, "optimizer(model) -> torch.optim.Optimizer", "A new optimizer for this model."),
    )
    train_step: Callable[[nn.Module, Optimizer, list[Batch]], Mapping[str, float] | None] | None = field(
        default=None,
        metadata=says(
            TRAINING, "train_step(model, optimizer, micro_batches: list of batches) -> mapping or None",
            "One update of the weights over these micro-batches; what it logs, if anything.",
        ),
    )  # fmt: skip
    lr_at: Callable[[int], float] | None = field(
        default=None, metadata=says(TRAINING, "lr_at(step) -> float", "The learning rate of update 0, 1, ...")
    )
    lr_scheduler: Callable[[Optimizer], Any] | None = field(
        default=None,
        metadata=says(
            TRAINING, "lr_scheduler(optimizer) -> scheduler",
            "A scheduler of torch's kind: its `step()` changes the `lr` of the optimizer's groups.",
        ),
    )  # fmt: skip
    validate: Callable[[nn.Module, list[Batch]], float] | None = field(
        default=None,
        metadata=says(
            TRAINING, "validate(model, batches: list of batches) -> float",
            "The mean loss in nats over the labels that are not ignored, of all batches together.",
        ),
    )  # fmt: skip
    metrics: Callable[[nn.Module, list[Batch]], Mapping[str, float]] | None = field(
        default=None,
        metadata=says(
            TRAINING, "metrics(model, batches: list of batches) -> mapping",
            "What an evaluation reports of all batches together, beside the loss.",
        ),
    )  # fmt: skip
    loop: Callable[[], Loop] | None = field(
        default=None,
        metadata=says(
            TRAINING, "loop() -> verify.Loop",
            "A new seeded training run: `model`, `optimizer`, `step()`, `save(folder)`, `validate()`.",
        ),
    )  # fmt: skip
    resume: Callable[[Path], Loop] | None = field(
        default=None,
        metadata=says(
            TRAINING, "resume(folder: Path) -> verify.Loop",
            "The run as a new process takes it up, from what `Loop.save` wrote.",
        ),
    )  # fmt: skip
    hyperparameters: Mapping[str, float] = field(
        default_factory=dict,
        metadata=says(
            TRAINING, 'a mapping: {"learning_rate": 3e-4}', "Your declared settings, compared with what happens."
        ),
    )  # fmt: skip

    epoch_batches: Callable[[int], Iterable[Batch]] | None = field(
        default=None, metadata=says(DATA, "epoch_batches(epoch) -> iterable of batches", "All of epoch 0, 1, ...")
    )
    validation_batches: Callable[[], Iterable[Batch]] | None = field(
        default=None, metadata=says(DATA, "validation_batches() -> iterable of batches", "All validation batches.")
    )
    encode: Callable[[str], Sequence[int]] | None = field(
        default=None,
        metadata=says(DATA, "encode(text) -> token ids", "One whole document, begin and end tokens included."),
    )
    decode: Callable[[Sequence[int]], str] | None = field(
        default=None, metadata=says(DATA, "decode(token ids) -> text", "Text without begin, end and padding tokens.")
    )
    encode_instruction: Callable[[str, str], tuple[Sequence[int], Sequence[int]]] | None = field(
        default=None,
        metadata=says(
            DATA, "encode_instruction(prompt, answer) -> (token ids, labels)",
            "An instruction as it is trained on, with a label of -100 where nothing is to be predicted.",
        ),
    )  # fmt: skip
    encode_conversation: Callable[[Sequence[Mapping[str, str]]], tuple[Sequence[int], Sequence[int]]] | None = field(
        default=None,
        metadata=says(
            DATA, "encode_conversation(messages: list of {role, content}) -> (token ids, labels)",
            "A conversation of `user` and `assistant` messages, as it is trained on: labels of -100 but for answers.",
        ),
    )  # fmt: skip
    eos_id: int | None = field(
        default=None, metadata=says(DATA, "a token id", "The token that ends a document or an answer.")
    )
    pad_id: int | None = field(default=None, metadata=says(DATA, "a token id", "The token that pads."))

    adapters: Adapters | None = field(
        default=None,
        metadata=says(
            ADAPTATION, "a verify.Adapters", "How LoRA or another adapter is added, merged, saved and loaded."
        ),
    )
    quantizer: Quantizer | None = field(
        default=None, metadata=says(ADAPTATION, "a verify.Quantizer", "What a tensor is after quantizing and back.")
    )

    objective: str = field(
        default="",
        metadata=says(
            TRAITS, 'a string: "cross_entropy"',
            "The loss is meant to be the mean cross-entropy of the tokens' labels. By default the gradient shows it.",
        ),
    )  # fmt: skip
    causal: bool | None = field(
        default=None,
        metadata=says(
            TRAITS, "True or False",
            "No position sees a later one. By default it is so where labels are shown to be the tokens that follow.",
        ),
    )  # fmt: skip
    mixture_of_experts: bool = field(
        default=False,
        metadata=says(
            TRAITS, "True or False",
            "Tokens are routed to experts: capacity may be shared, and the loss may hold a router's part.",
        ),
    )  # fmt: skip
    recurrent: bool = field(
        default=False,
        metadata=says(
            TRAITS,
            "True or False",
            "State-space models and RNNs: states are summed up, where attention would average them.",
        ),
    )
    random_augmentation: bool = field(
        default=False,
        metadata=says(TRAITS, "True or False", "An example is changed at random each time that it is read."),
    )
    dtype: torch.dtype | None = field(
        default=None,
        metadata=says(TRAITS, "a torch.dtype", "The only dtype that the code runs in, if there is only one."),
    )

    def __post_init__(self) -> None:
        """Turn instances into factories and refuse what is misspelled."""
        if isinstance(self.model, nn.Module):
            object.__setattr__(self, "model", _copies(self.model))
        if self.batch is not None and not callable(self.batch):
            object.__setattr__(self, "batch", _copies(self.batch))
        for each in fields(self):
            value = getattr(self, each.name)
            optional = value is None and each.default is None
            if "Callable[" in str(each.type) and not optional and not callable(value):
                raise SubjectError(
                    f"Subject.{each.name} is {type(value).__name__}, not a function; give the function that makes it"
                )
        if self.objective not in ("", CROSS_ENTROPY):
            raise SubjectError(
                f"Subject.objective is {self.objective!r}; known is {CROSS_ENTROPY!r}; what is not said is measured"
            )
        _require_known("hyperparameters", self.hyperparameters, HYPERPARAMETERS)
        _require_known("roles", self.roles, ROLES)
        _require_text_decoder(self.decode)


def _copies(instance: Any) -> Callable[..., Any]:
    def copied(*_: object) -> Any:
        try:
            return deepcopy(instance)
        except Exception as error:
            raise SubjectError(
                f"{type(instance).__name__} cannot be copied ({error}); give a function that makes a new one"
            ) from error

    return copied


def _require_known(part: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key in given:
        if key not in known:
            close = [SYNONYMS[key]] if key in SYNONYMS else difflib.get_close_matches(key, known, 1)
            hint = f"closest: {close[0]}; " if close and close[0] in known else ""
            raise SubjectError(f"Subject.{part} has an unknown key {key!r}; {hint}known are {', '.join(known)}")


def _require_text_decoder(decode: Callable[..., Any] | None) -> None:
    """Refuse a decoder of logits, which went by this name."""
    try:
        if decode is not None:
            inspect.signature(decode).bind([0])
    except TypeError as error:
        raise SubjectError(
            f"Subject.decode takes token ids alone and returns their text ({error}); a function of (model, tokens) "
            "that returns logits is Subject.cached_logits"
        ) from error
    except ValueError:  # a builtin that shows no signature
        pass


def documented() -> list[Documented]:
    """The fields of `Subject` in their order: group, name, how each is called, what it is."""
    return [of_field(each) for each in fields(Subject)]


def _by_current_names(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor, which takes a field by its name before 0.1 with a warning, and refuses what is misspelled."""
    known = [each.name for each in fields(Subject)]

    @functools.wraps(init)
    def checked(self: Subject, **given: Any) -> None:
        parts: dict[str, Any] = {}
        for name, value in given.items():
            current = RENAMED.get(name, name)
            if current not in known:
                close = difflib.get_close_matches(name, known, 3) or known
                raise SubjectError(f"Subject has no field {name!r}; closest: {', '.join(close)}")
            if current in parts:
                raise SubjectError(f"Subject is given {current!r} twice, once by its old name; give it once")
            if current != name:
                warnings.warn(f"Subject.{name} is {current!r} now; the old name goes in 0.2", FutureWarning, 2)
            parts[current] = value
        init(self, **parts)

    return checked


setattr(Subject, "__init__", _by_current_names(Subject.__init__))  # noqa: B010 - a plain assignment is not a method's
Subject.__doc__ = f"{inspect.cleandoc(Subject.__doc__ or '')}\n{as_text(documented())}"
