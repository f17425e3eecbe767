"""Mistakes that people make with tensors, as operators on libcst nodes: each takes a node and yields what to put there.

They have the signature of mutmut's own operators, which know numbers, comparisons and calls, but no tensors.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import libcst as cst

REDUCTIONS = {
    *("all", "amax", "amin", "any", "argmax", "cat", "chunk", "cummax", "cumsum", "flatten", "gather", "log_softmax"),
    *("logsumexp", "max", "mean", "min", "prod", "softmax", "squeeze", "stack", "sum", "vector_norm"),
}
KEEP = {"all", "amax", "amin", "any", "mean", "sum", "vector_norm"}
TRANSPOSES = {"t", "transpose", "permute", "movedim", "swapaxes"}
IN_PLACE = {"add", "addmm", "clamp", "cos", "div", "exp", "mul", "neg", "round", "sin", "sqrt", "square", "sub"}
DTYPES = {
    "float32": ("float64", "bfloat16"),
    "float64": ("float32",),
    "bfloat16": ("float32",),
    "float16": ("float32",),
    "uint8": ("int8",),
    "int32": ("int16",),
    "int64": ("int32",),
}
CASTS = {"double": "float", "float": "half", "int": "short", "long": "int"}
SCALES = {"alpha", "eps", "factor", "loss_scale", "scale", "share"}
HIGH = "at_least_fp32"


def transpose_dropped(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`x.t()` and `x.mT` become `x`."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and _name(node) in TRANSPOSES:
        yield node.func.value
    if isinstance(node, cst.Attribute) and node.attr.value in ("T", "mT"):
        yield node.value


def dimension_changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A reduction works along a neighbouring dimension."""
    if not isinstance(node, cst.Call) or _name(node) not in REDUCTIONS:
        return
    for place, argument in enumerate(node.args):
        number = _integer(argument.value)
        if number is not None and (argument.keyword is None or argument.keyword.value == "dim"):
            yield _with_argument(node, place, argument.with_changes(value=_literal(_neighbour(number))))


def keepdim_flipped(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A reduction along a dimension keeps it where it did not, and the other way round."""
    if not isinstance(node, cst.Call) or _name(node) not in KEEP or not node.args:
        return
    for place, argument in enumerate(node.args):
        if argument.keyword and argument.keyword.value == "keepdim":
            yield node.with_changes(args=[*node.args[:place], *node.args[place + 1 :]])
            return
    if any(_integer(argument.value) is not None for argument in node.args):
        keep = cst.Arg(cst.Name("True"), keyword=cst.Name("keepdim"))
        yield node.with_changes(args=[*node.args, keep])


def in_place(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`x.mul(y)` on a named tensor overwrites it, and a statement `x.mul_(y)` no longer does."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and _name(node) in IN_PLACE:
        named = isinstance(node.func.value, cst.Name | cst.Attribute) and _dotted(node.func.value) != "torch"
        yield from [_renamed(node, f"{_name(node)}_")] if named else []
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        name = _name(node.value)
        if name.endswith("_") and not name.endswith("__") and isinstance(node.value.func, cst.Attribute):
            yield node.with_changes(value=node.value.func.value)


def detach(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`x.detach()` becomes `x`."""
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute) and _name(node) == "detach":
        yield node.func.value


def dtype_cast(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A dtype one step up or down, a cast to another width, a cast dropped."""
    if isinstance(node, cst.Attribute) and _dotted(node.value) == "torch":
        for other in DTYPES.get(node.attr.value, ()):
            yield node.with_changes(attr=cst.Name(other))
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        yield from _cast_by_method(node, node.func.value)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) and node.func.value == HIGH:
        yield from [node.args[0].value] if len(node.args) == 1 else []


def _cast_by_method(node: cst.Call, tensor: cst.BaseExpression) -> Iterator[cst.CSTNode]:
    """`x.to(y)` is `x`; `x.float()` is `x.half()`."""
    if _name(node) == "to" and len(node.args) == 1:
        yield tensor
    if _name(node) in CASTS and not node.args:
        yield _renamed(node, CASTS[_name(node)])


def axis_moved(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A new axis for broadcasting stands one place further on: `x[:, None]` is `x[None, :]`."""
    if isinstance(node, cst.Call) and _name(node) == "unsqueeze" and len(node.args) == 1:
        number = _integer(node.args[0].value)
        if number is not None:
            yield _with_argument(node, 0, node.args[0].with_changes(value=_literal(_neighbour(number))))
    if isinstance(node, cst.Subscript):
        yield from _new_axis_moved(node)


def _new_axis_moved(node: cst.Subscript) -> Iterator[cst.CSTNode]:
    """Each `None` of a subscript changes places with its neighbour; one that stands alone, with an ellipsis."""
    parts = [element.slice for element in node.slice]
    for place, part in enumerate(parts):
        if isinstance(part, cst.Index) and isinstance(part.value, cst.Name) and part.value.value == "None":
            other = place - 1 if place else 1
            moved = [*parts] if len(parts) > 1 else [*parts, cst.Index(cst.Ellipsis())]
            moved[place], moved[other] = moved[other], moved[place]
            yield node.with_changes(slice=[cst.SubscriptElement(each) for each in moved])


def scale_changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A factor, divisor or addend called scale, eps and the like is left out; a small constant is ten times larger."""
    if isinstance(node, cst.BinaryOperation) and _last(node.right) in SCALES:
        yield node.left
    if isinstance(node, cst.Arg) and node.keyword and node.keyword.value in SCALES and _last(node.value) in SCALES:
        yield node.with_changes(value=cst.Integer("1"))
    if isinstance(node, cst.Float) and 0 < float(node.value) < 1:
        yield node.with_changes(value=repr(10 * float(node.value)))


def table_entry(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """An entry of a module's table is a little off: the sign of a number turned, or a hundredth added."""
    if isinstance(node, cst.Float):
        yield node.with_changes(value=repr(float(node.value) * 1.01 if float(node.value) else 0.01))
    if isinstance(node, cst.Integer):
        yield node.with_changes(value=str(node.evaluated_value + 1))
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        yield node.expression


Operator = Callable[[Any], Iterable[cst.CSTNode]]
OPERATORS: tuple[Operator, ...] = (
    transpose_dropped,
    dimension_changed,
    keepdim_flipped,
    in_place,
    detach,
    dtype_cast,
    axis_moved,
    scale_changed,
)


def detached_return(node: cst.FunctionDef) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """The last statement of a function that returns a tensor, and the same with the tensor detached."""
    body = node.body.body[-1]
    last = body.body[-1] if isinstance(body, cst.SimpleStatementLine) else None
    if not isinstance(last, cst.Return) or not last.value or not _carries_gradients(node):
        return
    inner = last.value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield last, last.with_changes(value=cst.Call(cst.Attribute(inner, cst.Name("detach"))))


def _carries_gradients(node: cst.FunctionDef) -> bool:
    """Whether a tensor goes in and one comes out, but for steps of a `torch.autograd.Function`, which see none."""
    parameters = node.params.params
    written_by_hand = bool(parameters) and parameters[0].name.value == "ctx"
    goes_in = any(parameter.annotation and _is_tensor(parameter.annotation) for parameter in parameters)
    return goes_in and bool(node.returns and _is_tensor(node.returns)) and not written_by_hand


def _is_tensor(annotation: cst.Annotation) -> bool:
    return _last(annotation.annotation) == "Tensor"


def _name(node: cst.Call) -> str:
    """What a call calls: `sum` of `x.sum()` and of `sum(x)`."""
    return _last(node.func)


def _last(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Attribute):
        return node.attr.value
    return node.value if isinstance(node, cst.Name) else ""


def _dotted(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, cst.Name) else ""


def _renamed(node: cst.Call, name: str) -> cst.Call:
    return node.with_changes(func=cst.ensure_type(node.func, cst.Attribute).with_changes(attr=cst.Name(name)))


def _with_argument(node: cst.Call, place: int, argument: cst.Arg) -> cst.Call:
    return node.with_changes(args=[*node.args[:place], argument, *node.args[place + 1 :]])


def _integer(node: cst.CSTNode) -> int | None:
    if isinstance(node, cst.Integer):
        return node.evaluated_value
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Minus):
        number = _integer(node.expression)
        return None if number is None else -number
    return None


def _neighbour(dimension: int) -> int:
    """-1 becomes -2, 0 becomes 1, any other the one nearer to 0 or -1."""
    return {-1: -2, 0: 1}.get(dimension, dimension - 1 if dimension > 0 else dimension + 1)


def _literal(number: int) -> cst.BaseExpression:
    if number >= 0:
        return cst.Integer(str(number))
    return cst.UnaryOperation(cst.Minus(), cst.Integer(str(-number)))
