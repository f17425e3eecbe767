"""Modes that see each of torch's operations, without the compiler, whose import takes longer than most checks."""

from torch.utils._python_dispatch import TorchDispatchMode


class DispatchMode(TorchDispatchMode):
    """What torch's own is, not wrapped for a compiler that is not in use here."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
