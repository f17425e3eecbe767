"""The importance ratios of a policy in a micro-batch's loss: exponentials that are learned from, and clamped."""

from torch import Tensor

from andon.verify.capturing.micro_batch import Captured

CLAMPS = ("clamp", "clip", "clamp_", "clip_")


def ratio_of(captured: Captured) -> float | None:
    """How far the ratios are from 1, at most; None where there are none."""
    clamped = {id(each) for entry in captured.entries if entry.name in CLAMPS for each in entry.args[:1]}
    ratios = [
        entry.result.detach()
        for entry in captured.entries
        if entry.name == "exp" and entry.module is None and isinstance(entry.result, Tensor)
        if id(entry.result) in clamped and entry.result.requires_grad and entry.result.numel() > 1
    ]
    return max((float((each - 1).abs().max()) for each in ratios), default=None)
