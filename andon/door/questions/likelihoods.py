"""What torch's losses over classes are given: scores, or logarithms of probabilities, each where it is meant."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from andon.door.questions.question import Question
from andon.verify.capturing.micro_batch import Captured
from andon.verify.capturing.torch_calls import Likelihood
from andon.verify.errors import CheckFailed, NotApplicable, Unusual

TAKES = {
    "nll_loss": "logarithms of probabilities",
    "cross_entropy": "scores before a softmax",
    "kl_div": "logarithms of probabilities",
    "ctc_loss": "logarithms of probabilities",
    "binary_cross_entropy_with_logits": "scores before a sigmoid",
}
CLOSE = 1e-3  # to 1, of a row of probabilities in float16
FAR = 0.1  # from 0, of the logarithm of such a row's sum: what is that far is no row of log probabilities
HALF = 0.5
SQUASHED = ("SigmoidBackward0", "SoftmaxBackward0")
PASSED_ON = ("View", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Permute", "Slice", "Select", "ToCopy", "Alias")


def check_classes(captured: Captured) -> None:
    """A loss over classes is given what it takes: nll_loss logarithms of probabilities, cross_entropy scores.

    Asked of each call of these, of kl_div, ctc_loss and binary_cross_entropy_with_logits that the loss depends on,
    within a model or outside.

    Silent because each of them lowers its number when the right class rises; it only cannot become what it says.

    Look for a softmax or sigmoid, where a logarithm of it or none is meant, for its axis, and for arguments exchanged.

    Yellow where scores are picked by nll_loss, where cross_entropy is given weights that do not sum to 1, and where
    kl_div is one that some want: divided by all numbers, from what is learned, or over the rows.
    """
    calls = [each for each in captured.likelihoods if is_learned_from(captured.loss, each)]
    if not calls:
        raise NotApplicable("a call of one of torch's losses over classes")
    for each in calls:
        ASKED[each.name](
            each, f"{each.name}, which takes {TAKES[each.name]}, is given {tuple(each.given.shape)} numbers"
        )


def _scores(call: Likelihood, said: str) -> None:
    """cross_entropy takes scores (N, C, ...)."""
    _refuse_probabilities(call.given, 1, said)
    target = call.arguments["target"]
    if target.is_floating_point() and target.dim() > 1:
        sums = target.double().sum(1)
        if bool(((sums - 1).abs() > FAR).any()):
            raise Unusual(
                f"cross_entropy is given targets that are no class and no probabilities of classes: they sum to "
                f"{float(sums.min()):.3g} to {float(sums.max()):.3g} in a row"
            )


def _logarithms(call: Likelihood, said: str) -> None:
    """nll_loss takes logarithms of probabilities (N, C, ...)."""
    _refuse_probabilities(call.given, 1, said)
    if _are_pairs(call):
        return
    _refuse_other_axis(call.given, 1, said)
    away = _away(call.given, min(1, call.given.dim() - 1))
    if float((away > FAR).double().mean()) > HALF:
        raise Unusual(f"{said} whose exponentials sum, over the classes, to {_mean_sum(call.given, 1):.4g}")


def _frames(call: Likelihood, said: str) -> None:
    """ctc_loss takes logarithms of probabilities (T, N, C), and no target that is the blank."""
    _refuse_other_axis(call.given, -1, said)
    given = call.given
    if given.dim() == 3:  # what lies behind a text's last frame is never read
        lengths = torch.as_tensor(call.arguments["input_lengths"]).reshape(-1)
        given = given[torch.arange(len(given))[:, None] < lengths]
    _refuse_probabilities(given, -1, said)
    if float((_away(given, -1) > FAR).double().mean()) > HALF:
        raise CheckFailed(f"{said} whose exponentials sum, over the classes, to {_mean_sum(given, -1):.4g}")
    targets, blank = call.arguments["targets"], call.arguments["blank"]
    lengths = torch.as_tensor(call.arguments["target_lengths"])
    if targets.dim() == 2:
        targets = targets[torch.arange(targets.shape[1])[None] < lengths.reshape(-1, 1)]
    count = int((targets == blank).sum())
    if count:
        raise CheckFailed(f"{count} of {targets.numel()} targets of ctc_loss are {blank}, which is its blank")


def _divergence(call: Likelihood, said: str) -> None:
    """kl_div takes what is learned as logarithms, and what is due as probabilities."""
    given, target = call.given, call.arguments["target"]
    _refuse_probabilities(given, -1, said)
    if target.requires_grad and not given.requires_grad:
        raise Unusual("kl_div is given what is learned as its target, and a constant as its input: it is another one")
    if given.dim() > 1 and _is_normal(given, 0) and not _is_normal(given, -1):
        raise Unusual(f"{said} whose exponentials sum to 1 over the first axis, the rows, and not over the last")
    if call.arguments["reduction"] == "mean" and given.dim() > 1:
        raise Unusual(f"kl_div of {tuple(given.shape)} is divided by all its numbers, classes included: 'batchmean'")


def _yes_or_no(call: Likelihood, said: str) -> None:
    """binary_cross_entropy_with_logits takes scores."""
    made = _maker(call.given)
    if made in SQUASHED:
        raise CheckFailed(f"{said} that a {made.removesuffix('Backward0').lower()} made: it makes another one of them")


ASKED: Mapping[str, Callable[[Likelihood, str], None]] = {
    "cross_entropy": _scores,
    "nll_loss": _logarithms,
    "ctc_loss": _frames,
    "kl_div": _divergence,
    "binary_cross_entropy_with_logits": _yes_or_no,
}


def is_learned_from(loss: Tensor, call: Likelihood) -> bool:
    """Whether a gradient goes from the loss to what a call is given; a figure that is only printed has none."""
    given = [each for each in (call.given, call.arguments.get("target")) if isinstance(each, Tensor)]
    learned = [each for each in given if each.requires_grad]
    if not learned or not call.given.numel() or call.given.dim() == 0:
        return False
    return any(each is not None for each in torch.autograd.grad(loss, learned, retain_graph=True, allow_unused=True))


def _refuse_probabilities(given: Tensor, axis: int, said: str) -> None:
    rows = given.detach().double()
    axis = axis if rows.dim() > 1 else -1
    within = bool(((rows >= 0) & (rows <= 1)).all()) and rows.shape[axis] > 1
    if within and bool(((rows.sum(axis) - 1).abs() < CLOSE).all()):
        raise CheckFailed(f"{said} from 0 to 1, and each row of classes sums to 1: they are probabilities")


def _refuse_other_axis(given: Tensor, axis: int, said: str) -> None:
    """Raises where exponentials sum to 1 over an axis that is not the classes'."""
    others = [each for each in range(given.dim()) if each != axis % given.dim() and given.shape[each] > 1]
    if given.dim() < 2 or _is_normal(given, axis):
        return
    for each in others:
        if _is_normal(given, each):
            raise CheckFailed(f"{said} whose exponentials sum to 1 over axis {each}, where classes are axis {axis}")


def _is_normal(given: Tensor, axis: int) -> bool:
    """Whether the exponentials sum to 1 over an axis."""
    return bool((_away(given, axis) < FAR).all()) and float(_away(given, axis).median()) < CLOSE


def _away(given: Tensor, axis: int) -> Tensor:
    return given.detach().double().logsumexp(axis).abs()


def _mean_sum(given: Tensor, axis: int) -> float:
    return float(given.detach().double().exp().sum(min(axis, given.dim() - 1)).mean())


def _are_pairs(call: Likelihood) -> bool:
    """Whether each row has a class of its own, and each class a row: either axis may be the classes' then."""
    target, count = call.arguments["target"], len(call.given)
    square = call.given.shape == (count, count) and target.shape == (count,)
    return square and torch.equal(target.sort().values, torch.arange(count))


def _maker(given: Tensor) -> str:
    """The name of what made numbers, apart from what only moves them."""
    node = given.grad_fn
    while node is not None and node.name().startswith(PASSED_ON):
        node = node.next_functions[0][0]
    return node.name() if node is not None else ""


QUESTIONS = (Question("run.classes", check_classes),)
