"""Generation and decoding: with a cache or without, the model is the one that was trained.

Legend: B batch, T time, V vocab.
"""

import torch
from torch import nn

from andon.verify.access.batches import first_positions, rows_of
from andon.verify.access.calls import needed, new_batch
from andon.verify.access.documents import one_document
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.logits import logits_of
from andon.verify.access.targets import tokens_of, with_tokens
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed
from andon.verify.observation.perturb import logits_eval, rounding_tolerance
from andon.verify.observation.tolerances import distance
from andon.verify.subject import Batch, Subject

ROWS = 3
LONGEST = 48
NEW = 6
STEPWISE = 4  # times the rounding of one pass: every product has another shape, in each of many layers


def check_decode(subject: Subject) -> None:
    """Decoding with a cache, token by token, gives the logits of one pass over the whole, at every position.

    Silent in training, which has no cache: evaluation by generation, and everything that users see, is wrong.

    Look at positions that start from 0 again, at masks of one query against many keys, and at the cache's order.

    Example:
        # wrong: with one query, is_causal shows it the first of the cached keys alone
        k = torch.cat([cached_k, k], dim=2)
        v = torch.cat([cached_v, v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)

        # right: a single new token sees all of the cache
        k = torch.cat([cached_k, k], dim=2)
        v = torch.cat([cached_v, v], dim=2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)

    Reference: pytorch/pytorch#108108.
    """
    cached_logits, model, batch = needed(subject, "cached_logits"), perturbed_model(subject), _plain(subject, LONGEST)
    time = tokens_of(subject, batch).shape[1]
    tolerance = STEPWISE * rounding_tolerance(subject, model, batch)
    for length in sorted({1, 2, time // 2 | 1, time}):
        shorter = first_positions(subject, batch, length)
        tokens_BT = tokens_of(subject, shorter)
        with torch.no_grad():
            decoded, expected = cached_logits(model, tokens_BT), logits_eval(subject, model, shorter)
        for position in range(length):
            apart = distance(decoded[:, position], expected[:, position])
            if not apart <= tolerance:
                raise CheckFailed(
                    f"decoded with a cache, the logits at position {position} of {length} are {apart:.2g} of their rms "
                    f"from those of one pass, and rounding explains {tolerance:.0e}"
                )


def check_greedy(subject: Subject) -> None:
    """Greedy generation returns the prompt and, at each step, the token with the largest logit of one full pass.

    Silent because generated text is read, not compared.

    Look at which position's logits are taken, at the cache, at rows that end early, and at the prompt's end.

    Example:
        # wrong: with a cache, every new token is rotated as if it stood at position 0
        T = x.shape[1]
        cos, sin = self.cos[:T], self.sin[:T]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)

        # right
        start, T = cache.length, x.shape[1]
        cos, sin = self.cos[start : start + T], self.sin[start : start + T]
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)

    Reference: thunlp/Seq1F1B#6.
    """
    generate, model, batch = needed(subject, "generate"), perturbed_model(subject), _plain(subject, LONGEST // 2)
    for length in (1, tokens_of(subject, batch).shape[1] // 2 | 1):
        prompt_BT = tokens_of(subject, first_positions(subject, batch, length))
        training = model.training
        with torch.no_grad():
            out = generate(model, prompt_BT.clone(), NEW)
        if model.training != training:
            raise CheckFailed(f"generating leaves the model with training={model.training}, and it was {training}")
        if not torch.equal(out[:, :length], prompt_BT):
            changed = int((out[:, :length] != prompt_BT).sum())
            raise CheckFailed(f"what is generated does not begin with the prompt: {changed} of its tokens differ")
        _compare(subject, model, batch, out, length)


def _compare(subject: Subject, model: nn.Module, batch: Batch, out: torch.Tensor, length: int) -> None:
    ended = torch.zeros(len(out), dtype=torch.bool, device=out.device)
    for position in range(length, out.shape[1]):
        logits = _next(subject, model, batch, out[:, :position])
        spare = rounding_tolerance(subject, model, batch) * float(logits.float().std())
        gap = logits.max(-1).values - logits.gather(-1, out[:, position, None])[:, 0]
        wrong = (gap > spare) & ~ended
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise CheckFailed(
                f"after {position} tokens, {length} of them the prompt, row {row} goes on with "
                f"{int(out[row, position])}, whose logit is {float(gap[row]):.3g} below that of "
                f"{int(logits[row].argmax())}"
            )
        if subject.eos_id is not None:
            ended |= out[:, position] == subject.eos_id


def _next(subject: Subject, model: nn.Module, batch: Batch, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Logits (B, V) that follow these tokens; what else the batch has is cut to their length."""
    time = tokens_of(subject, batch).shape[1]
    if tokens_BT.shape[1] <= time:
        shorter = first_positions(subject, batch, tokens_BT.shape[1])
        return logits_eval(subject, model, with_tokens(subject, shorter, tokens_BT))[:, -1]
    with torch.no_grad():
        return logits_of(subject, model, with_tokens(subject, batch, tokens_BT))[:, -1]


def _plain(subject: Subject, longest: int) -> Batch:
    """Different rows of one document each, without padding."""
    batch = new_batch(subject)
    rows = len(tokens_of(subject, batch))
    chosen = rows_of(subject, batch, [index % rows for index in range(ROWS)])
    return one_document(subject, first_positions(subject, chosen, longest))


CHECKS = (
    Check("generation.decode", check_decode, ("cached_logits",)),
    Check("generation.greedy", check_greedy, ("generate",)),
)
