"""What a subject is described in: hyperparameters, what steps log, the roles of a batch's parts, renamed fields."""

from collections.abc import Mapping
from typing import NamedTuple


class Role(NamedTuple):
    """What a part of a batch can be."""

    names: tuple[str, ...]  # that it goes by
    what: str


# What the training says it does; a check compares it with what happens. Unknown keys are refused.
HYPERPARAMETERS = {
    "learning_rate": "the peak learning rate",
    "weight_decay": "that of matrices",
    "grad_clip": "the largest norm of the whole gradient that an update sees",
    "skips_nonfinite": "1 where a step whose gradient is not finite changes nothing",
    "warmup_steps": "updates in which the learning rate rises to its peak",
    "warmup_from": "the first learning rate over the peak; say 0 where it is, as that batch teaches nothing",
    "steps": "updates of the whole run, after which the learning rate stays",
    "min_ratio": "the last learning rate over the peak",
    "epoch_steps": "updates of one epoch of `loop`",
    "eval_batches": "how many of the batches an evaluation reads, where it is cut on purpose",
    "lora_dropout": "that of the adapters that `adapters.add` makes",
}

# What a train step or a loop's step may return; a check compares it with what happened.
LOGGED = {
    "loss": "of this step's batches at the weights before it, in nats per label that is not ignored",
    "grad_norm": "2-norm of the whole gradient before clipping",
    "learning_rate": "of this update",
    "tokens": "how many this step was made of: all of its micro-batches' tokens, or those whose labels are not ignored",
}

# What `Subject.metrics` may return beside others; each is held to what it is called.
METRICS = {
    "loss": "mean nats per label that is not ignored",
    "perplexity": "e to the power of the mean nats per label",
    "accuracy": "share of the labels that are not ignored whose token has the largest logit",
    "tokens": "how many: all of the batches' tokens, or those whose labels are not ignored",
}

# Parts of a batch by role; `Subject.roles` says which key or position has a role, where no name does.
ROLES = {
    "tokens": Role(("input_ids", "tokens", "inputs", "input", "idx", "x"), "token ids (B, T)"),
    "labels": Role(
        ("labels", "targets", "target", "label", "y"),
        "(B, T): at their tokens, or one ahead; negative ones do not count",
    ),
    "mask": Role(("attention_mask", "padding_mask", "pad_mask"), "(B, T): 1 where a token is real"),
    "counted": Role(
        ("loss_mask", "loss_masks", "label_mask", "target_mask", "completion_mask"), "(B, T): 1 where a label counts"
    ),
    "positions": Role(("position_ids", "positions", "input_pos"), "(B, T): each token's position in its document"),
    "documents": Role(
        ("documents", "document_ids", "doc_ids", "segment_ids", "sequence_ids", "seq_idx"),
        "(B, T): the number of each token's document",
    ),
}

# What other code calls a hyperparameter or a role.
SYNONYMS = {
    "lr": "learning_rate",
    "max_lr": "learning_rate",
    "peak_lr": "learning_rate",
    "clip": "grad_clip",
    "clip_grad": "grad_clip",
    "max_norm": "grad_clip",
    "max_grad_norm": "grad_clip",
    "gradient_clip_val": "grad_clip",
    "wd": "weight_decay",
    "warmup": "warmup_steps",
    "max_steps": "steps",
    "total_steps": "steps",
    "num_training_steps": "steps",
    "min_lr_ratio": "min_ratio",
    "steps_per_epoch": "epoch_steps",
    "input_ids": "tokens",
    "targets": "labels",
    "attention_mask": "mask",
    "loss_mask": "counted",
    "position_ids": "positions",
    "document_ids": "documents",
}

RENAMED = {
    "pad": "collate_padded",
    "pack": "collate_packed",
    "padding": "pad_id",
    "end": "eos_id",
    "text": "decode",
    "rate": "lr_at",
    "schedule": "lr_scheduler",
    "step": "train_step",
    "epoch": "epoch_batches",
    "held_out": "validation_batches",
    "instruct": "encode_instruction",
    "reference": "reference_logits",
    "configuration": "config_alternatives",
    "settings": "hyperparameters",
    "quantiser": "quantizer",
    "mixture": "mixture_of_experts",
    "augmented": "random_augmentation",
}


def keys_of(name: str) -> Mapping[str, str]:
    """What the mapping of a field, or the one that it returns, can hold, by key; empty where that is not fixed."""
    roles = {role: f"{each.what}; by name {', '.join(each.names)}" for role, each in ROLES.items()}
    known = {"hyperparameters": HYPERPARAMETERS, "roles": roles, "metrics": METRICS}
    return (known | dict.fromkeys(("train_step", "loop"), LOGGED)).get(name, {})
