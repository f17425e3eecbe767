"""A subject: anybody's model and training loop, as a handful of factories.

Three are enough: `model`, `batch` and `loss`. Each further one lets more checks apply; a check whose factory is absent
is reported as not applicable, never as passed. Checks reach a subject only through the functions of `access`.
Legend: B batch, T time, V vocab.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from andon.verify.errors import SubjectError

Batch = Any  # a mapping, a named tuple, a dataclass, a tuple (tokens, labels) or a tensor of tokens
Documents = Sequence[Sequence[int]]  # token ids


class Loop(Protocol):
    """A training run that a check can drive, a step at a time."""

    model: nn.Module
    optimizer: Optimizer

    def step(self) -> Mapping[str, float]:
        """One optimizer step. Returns what the loop logs: `loss`, and `grad_norm`, `learning_rate` where it does."""
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


class Quantiser(NamedTuple):
    """A weight quantiser: `round_trip` quantises and dequantises a tensor."""

    round_trip: Callable[[Tensor], Tensor]
    floor_db: float = 18.0  # signal to quantisation noise that it must reach on normal weights (NF4: about 20.6 dB)
    levels: Callable[[], Tensor] | None = None  # values it represents exactly in a block whose largest is 1
    block_size: int = 64


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What to check. Factories are called anew for each check, so none may hand out the same module twice.

    `model` and `batch` may also be a module and a batch: each check then gets a copy, and yours stay as they are.
    What each part is given and returns stands beside it in this file, verify/subject.py; so do the names of settings
    (`SETTINGS`) and the keys of a batch that are known (`ROLES`).

    Raises:
        SubjectError: a part is of a type that no check can use, or an unknown setting or role is named.
    """

    # ------------------------------------------------------------------------------------------ always
    model: Callable[[], nn.Module]  # a new model each time, with the same weights where torch's seed is the same
    batch: Callable[[torch.Generator], Batch] | Batch  # a typical training batch, on the model's device
    loss: Callable[[nn.Module, Batch], Tensor]  # a scalar: mean nats a counted token, as the training loop takes it
    name: str = "subject"

    # ----------------------------------------------------------------------------------- of the model
    logits: Callable[[nn.Module, Batch], Tensor] | None = None  # (B, T, V); by default what the model returns
    roles: Mapping[str, str | int] = field(default_factory=dict)  # role to key or position: see `ROLES`
    pad: Callable[[Documents], Batch] | None = None  # the collator: one document a row, padded
    pack: Callable[[Documents], Batch] | None = None  # documents end to end in one row, isolated from each other
    generate: Callable[[nn.Module, Tensor, int], Tensor] | None = None  # greedy: (B, T) and n to (B, T + n)
    decode: Callable[[nn.Module, Tensor], Tensor] | None = None  # (B, T) to logits (B, T, V), token by token, cached
    configure: Callable[..., nn.Module] | None = None  # a model with some settings changed: configure(rope_theta=1e3)
    configuration: Mapping[str, Any] = field(default_factory=dict)  # setting to another valid value, for `configure`
    reference: Callable[[nn.Module, Batch], Tensor] | None = None  # logits of an independent one with these weights
    variants: Mapping[str, "Subject"] = field(default_factory=dict)  # other shapes of the same code

    # -------------------------------------------------------------------------------- of the training
    optimizer: Callable[[nn.Module], Optimizer] | None = None  # a new one for this model
    step: Callable[[nn.Module, Optimizer, list[Batch]], Mapping[str, float] | None] | None = None  # one update
    rate: Callable[[int], float] | None = None  # learning rate of step 0, 1, ...
    schedule: Callable[[Optimizer], Any] | None = None  # torch's kind: `.step()` changes the groups' lr
    validate: Callable[[nn.Module, list[Batch]], float] | None = None  # mean loss over all batches together
    loop: Callable[[], Loop] | None = None  # a new run, seeded
    resume: Callable[[Path], Loop] | None = None  # a new process's run, from what `Loop.save` wrote
    epoch: Callable[[int], Iterable[Batch]] | None = None  # all batches of epoch 0, 1, ...
    held_out: Callable[[], Iterable[Batch]] | None = None  # all validation batches
    instruct: Callable[[str, str], tuple[Sequence[int], Sequence[int]]] | None = None  # prompt, answer: ids, labels
    encode: Callable[[str], Sequence[int]] | None = None  # one whole document, marks included
    text: Callable[[Sequence[int]], str] | None = None  # decode, marks left out
    end: int | None = None  # id of the mark that ends a document or an answer
    padding: int | None = None  # id of padding
    settings: Mapping[str, float] = field(default_factory=dict)  # see `SETTINGS`

    # ---------------------------------------------------------------------------- adapters, quantisation
    adapters: Adapters | None = None  # how LoRA or another is added, merged, saved: see `Adapters`
    quantiser: Quantiser | None = None  # what a tensor is after a round trip: see `Quantiser`

    # ------------------------------------------------------------------------------------------ traits
    causal: bool = True
    mixture: bool = False  # of experts: capacity may be shared, and the loss has a router's part that logs may lack
    recurrent: bool = False  # states are summed up by a recurrence, where attention would average them
    augmented: bool = False  # an example is changed at random each time that it is read
    dtype: torch.dtype | None = None  # where the code runs in this one only

    def __post_init__(self) -> None:
        """Turn instances into factories and refuse what is misspelt."""
        if isinstance(self.model, nn.Module):
            object.__setattr__(self, "model", _copies(self.model))
        if self.batch is not None and not callable(self.batch):
            object.__setattr__(self, "batch", _copies(self.batch))
        for part in fields(self):
            value = getattr(self, part.name)
            optional = value is None and part.default is None
            if "Callable[" in str(part.type) and not optional and not callable(value):
                raise SubjectError(
                    f"Subject.{part.name} is {type(value).__name__}, not a function; give the function that makes it"
                )
        _known("settings", self.settings, SETTINGS)
        _known("roles", self.roles, ROLES)


def _copies(instance: Any) -> Callable[..., Any]:
    def copied(*_: object) -> Any:
        try:
            return deepcopy(instance)
        except Exception as error:
            raise SubjectError(
                f"{type(instance).__name__} cannot be copied ({error}); give a function that makes a new one"
            ) from error

    return copied


def _known(part: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key in given:
        if key not in known:
            raise SubjectError(f"Subject.{part} has an unknown key {key!r}; known are {', '.join(known)}")


# What the training says it does; a check compares it with what happens. Unknown keys are refused.
SETTINGS = {
    "learning_rate": "peak rate",
    "weight_decay": "of matrices",
    "grad_clip": "largest norm of the gradient that an update sees",
    "skips_nonfinite": "1 where a step whose gradient is not finite changes nothing",
    "warmup_steps": "steps of rising rate",
    "warmup_from": "first rate of the warm-up over the peak; 0 has to be said, as that batch is not learned from",
    "steps": "of the whole run, after which the rate stays",
    "min_ratio": "last rate over the peak",
    "epoch_steps": "optimizer steps of an epoch of `loop`",
    "lora_dropout": "of the adapters that `adapters.add` makes",
}

# Part of a batch to the names that it goes by; `Subject.roles` says where no name does.
ROLES = {
    "tokens": ("input_ids", "tokens", "inputs", "input", "idx", "x"),
    "labels": ("labels", "targets", "target", "label", "y"),
    "mask": ("attention_mask", "padding_mask", "pad_mask"),  # 1 where a token is real
    "counted": ("loss_mask", "loss_masks", "label_mask", "target_mask", "completion_mask"),  # 1 where a label counts
    "positions": ("position_ids", "positions", "input_pos"),
    "documents": ("documents", "document_ids", "doc_ids", "segment_ids", "sequence_ids", "seq_idx"),
}
