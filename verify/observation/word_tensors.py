"""The tensors that tokens are looked up in, and the one that the logits come from; and what settings say of them.

Legend: B batch, T time, V vocab.
"""

from torch import nn

from andon.verify.access.logits import logits_of
from andon.verify.observation.settings import setting, settings_of
from andon.verify.observation.uses import Uses
from andon.verify.subject import Batch, Subject

FLAGS = ("tie_word_embeddings", "tie_embeddings", "tie_weights", "weight_tying", "tied", "share_embeddings")


def head_and_tables(subject: Subject, model: nn.Module, batch: Batch) -> tuple[str | None, list[str]]:
    """By name, the last matrix that makes rows as wide as the logits; and the tables of its shape, itself perhaps."""
    with Uses(model) as uses:
        words = logits_of(subject, model, batch).shape[-1]
    tensors = dict(model.named_parameters())
    products = [product.names for product in uses.products if product.width == words]
    head = next((name for name in reversed(products[-1]) if tensors[name].dim() == 2), None) if products else None
    return head, [name for name in uses.looked_up if head and tensors[name].shape == tensors[head].shape]


def tying_flag(model: nn.Module) -> bool | None:
    """What the settings say of tying, wherever the model keeps them; None where nothing."""
    said = (setting(holder, flag) for holder in (model, *settings_of(model)) for flag in FLAGS)
    return next((value for value in said if isinstance(value, bool)), None)
