"""Live tensor bytes, measured: every storage that an operation returns counts until it is freed."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from andon.verify.observation.dispatch import DispatchMode


class TensorMemory(DispatchMode):
    """Within `with`, counts the storages that are alive, `existing` ones included; what kernels hide is not seen."""

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = 0  # bytes now
        self.peak = 0  # the most there were at once
        self.largest = 0  # bytes of the largest storage that was made
        self._known: set[int] = set()
        self._count(existing)
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then count what it returned."""
        del types
        result = func(*args, **(kwargs or {}))
        self._count(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors if not tensor.is_meta):
            key, size = storage._cdata, storage.nbytes()  # noqa: SLF001 - a storage's address, also where it is empty
            if key in self._known:
                continue
            self._known.add(key)
            self.live += size
            self.largest = max(self.largest, size)
            weakref.finalize(storage, self._forget, key, size)
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
