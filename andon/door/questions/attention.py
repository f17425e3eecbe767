"""Attention that a model computes by hand: how its scores are scaled.

Legend: B batch, N heads, T queries, S keys, H head_dim.
"""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from andon.door.questions.question import Question, followed
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import tensors
from andon.verify.errors import NotApplicable, Unusual

PRODUCTS = ("matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum")
FACTORS = ("mul", "mul_", "__mul__", "__rmul__", "__imul__", "div", "div_", "__truediv__", "true_divide", "multiply")
NORMS = ("layer_norm", "rms_norm", "normalize", "rsqrt", "norm", "vector_norm", "linalg_vector_norm")
SPREAD = ("softmax", "_softmax")
LEAST = 4  # numbers of a head


def check_scale(captured: Captured) -> None:
    """Scores of attention are divided by the root of a head's width, or queries and keys are brought to a size.

    Asked of products of two things that a model computed, of which a softmax is taken and a product with a third: what
    they are multiplied by on the way, before and after, is seen. Not missed where queries are smaller than keys, or the
    reverse, by what a scale would do at least halfway (T5 draws their weights so).

    Silent because the softmax only is sharper: gradients are small, and training is slower.

    Look for `/ sqrt(head_dim)`, and for `scale=` of scaled_dot_product_attention.

    Yellow alone: whoever has it in the weights from the beginning does so.
    """
    seen = _Scores()
    followed(captured, seen)
    if not seen.attended:
        raise NotApplicable("attention of queries and keys that the model computes")
    bare = [width for width, scaled in seen.attended if not scaled and width >= LEAST]
    if bare:
        raise Unusual(
            f"in {len(bare)} of {len(seen.attended)} calls of attention nothing scales queries, keys or their product: "
            f"the softmax is of sums over {bare[0]} numbers, usually divided by {math.sqrt(bare[0]):.3g}"
        )


class _Scores(TorchFunctionMode):
    """Follows products of two computed tensors to a softmax, and what scales them on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.scaled, self.product = WeakIdKeyDictionary(), WeakIdKeyDictionary()
        self.spread = WeakIdKeyDictionary()
        self.attended: list[tuple[int, bool]] = []  # head_dim, and whether something scales

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Torch calls this in the place of each of its functions."""
        kwargs = kwargs or {}
        result, name = func(*args, **kwargs), getattr(func, "__name__", "")
        given = tensors((args, kwargs))
        weighs = any(isinstance(each, nn.Parameter) for each in given)
        if name == "scaled_dot_product_attention":
            scale = kwargs.get("scale")
            scaled = scale != 1.0 or any(each in self.scaled for each in given[:2]) or _uneven(*given[:2])
            self.attended.append((given[0].shape[-1], scaled))
        elif name in PRODUCTS and len(given) == 2 and not weighs:
            self._multiply(name, given, result)
        else:
            for made in tensors(result):
                self._follow(name, args, given, made, weighs=weighs)
        return result

    def _multiply(self, name: str, given: list[Tensor], made: Tensor) -> None:
        """Two computed tensors: queries and keys, or what a softmax spreads and values."""
        source = next((self.spread[each] for each in given if each in self.spread), None)
        if source is not None:
            self.attended.append(source)
            return
        width = given[0].shape[-1]
        known = name != "einsum" and made.dim() > 2 and all(each.is_floating_point() for each in given)
        if known:
            self.product[made] = (width, any(each in self.scaled for each in given) or _uneven(*given))

    def _follow(self, name: str, args: tuple[Any, ...], given: list[Tensor], made: Tensor, *, weighs: bool) -> None:
        """What is scaled stays so until parameters make another thing of it."""
        product = next((self.product[each] for each in given if each in self.product), None)
        scales = name in NORMS or (name in FACTORS and _by_constant(args))
        if product is not None:
            width, scaled = product
            scaled = scaled or scales or (name in FACTORS and len(given) > 1)
            if name in SPREAD:
                self.spread[made] = (width, scaled)
            else:
                self.product[made] = (width, scaled)
        for each in given:
            if each in self.spread and name not in SPREAD:
                self.spread[made] = self.spread[each]
        if scales or (not weighs and any(each in self.scaled for each in given)):
            self.scaled[made] = True


def _uneven(queries: Tensor, keys: Tensor) -> bool:
    """Whether one of the two is smaller than the other by the root of what a scale divides by, or more."""
    sizes = sorted(float(each.float().square().mean().sqrt()) for each in (queries, keys))
    return sizes[1] >= queries.shape[-1] ** 0.25 * sizes[0] > 0


def _by_constant(args: tuple[Any, ...]) -> bool:
    """Whether a factor is one number, other than 1."""
    for each in args:
        if isinstance(each, int | float) and each != 1:
            return True
        if isinstance(each, Tensor) and each.numel() == 1 and float(each) != 1:
            return True
    return False


QUESTIONS = (Question("run.attention_scale", check_scale),)
