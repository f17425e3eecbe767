"""Passes that no backward pass follows: evaluation, as far as it comes now and then."""

from torch import nn

from andon.door.records import Passes, Run
from andon.door.statements.statement import Statement, at, now_and_then
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed

LEAST_ROWS = 16
ONCE = 0.9  # of a stretch's rows that differ: samples of one row are many passes
SHARED = 0.2  # of them that may have been trained on
STANDS = 4  # passes in a row
AGAIN = 2  # stretches of passes: what happens once happens at the end, as a sample does


def check_mode(run: Run) -> None:
    """A model that has dropout, or keeps statistics of batches, is evaluated in eval mode.

    Silent because figures are only a little worse, or noisy.

    Look for `model.eval()` before the evaluation.

    Yellow where samples may be what is wanted, or adapted statistics: red where dropout acted in every pass, on rows
    that were not trained on, each given once and compared with labels other than themselves, of a model that makes no
    pass in eval mode.
    """
    for passes in _evaluations(run):
        if passes.training_mode > passes.count / 2 and any(_differs(module) for module in passes.modules.values()):
            scored = _scores_held_out_rows(run, passes)
            also = "; dropout acted in all of them, and what it left was held against the labels of rows not trained on"
            raise (CheckFailed if scored else Unusual)(
                f"{passes.training_mode} of {passes.count} passes without a backward pass{_where(passes)} were made in "
                f"train mode, by a model with dropout or batch statistics{also if scored else ''}"
            )


def check_gradients(run: Run) -> None:
    """Evaluation keeps no graph.

    Silent because it costs memory and time alone.

    Look for `torch.no_grad()` around it.

    Yellow alone.
    """
    for passes in _evaluations(run):
        if passes.with_gradients > passes.count / 2:
            raise Unusual(
                f"{passes.with_gradients} of {passes.count} passes without a backward pass{_where(passes)} were made "
                "with gradients on"
            )


def check_random(run: Run) -> None:
    """Evaluation draws noise from a generator of its own: figures can be compared, and training does not depend on it.

    Asked where noise, and no choice of rows or tokens, is drawn between its passes.

    Silent because the figures differ by noise alone, and a run by how often it is evaluated.

    Look for draws without `generator=` in what evaluation calls.

    Yellow alone: whoever samples rollouts does so.
    """
    for passes in _evaluations(run):
        if passes.draws >= AGAIN and passes.noise and passes.training_mode < passes.count / 2:
            raise Unusual(
                f"in {passes.draws} of {passes.stretches} stretches of passes without a backward pass{_where(passes)} "
                f"torch's global random numbers went on between two passes: {listed(sorted(passes.noise))} draws them"
            )


def check_counted(run: Run) -> None:
    """What evaluation leaves out of its figures is what the labels mark as not counted.

    Silent because the figure moves as it should; it only counts places at which nothing can be right.

    Look at the constant that labels are compared with.

    Yellow alone: whoever looks for that class does so.
    """
    if not run.comparisons:
        raise NotApplicable("an evaluation that compares labels, -100 among them, with another constant")
    for each in run.comparisons:
        if not each.occurs:
            raise Unusual(
                f"labels are compared with {each.constant}{at(each.place)}, which none of {each.count} is; "
                f"{each.ignored} of them are -100"
            )


def check_pairs(run: Run) -> None:
    """Evaluation holds each row's prediction against that row's own target.

    Asked of comparisons, and of losses of torch's, in the first evaluation.

    Silent because a mean over (B, B) is a number like one over (B,), and moves as it does.

    Look at `squeeze` and `unsqueeze` of what is compared: (B,) beside (B, 1) gives all pairs.

    Yellow where it is no loss: whoever looks for rows that are alike compares all of them.
    """
    _evaluations(run)
    for place, one, other, loss in run.crossed:
        raise (CheckFailed if loss else Unusual)(
            f"{one} and {other} are compared{at(place)}: all {max(one)} x {max(one)} pairs of rows"
        )


def check_same_input(run: Run) -> None:
    """What is generated is given to the model with the tokens that were added last.

    Asked where a model in eval mode is given a text that grows from pass to pass at one line, each time by tokens at
    its end. Not where the text that then stands still would be the same without its oldest tokens.

    Silent because the model goes on to say something, each time what comes after the same words.

    Look at how the context is cut to the longest one that the model takes: it keeps the last tokens.

    Yellow alone: whoever draws several continuations of one text does so.
    """
    grown = [each for each in run.passes.values() if each.growing.grown]
    if not grown:
        raise NotApplicable("passes in eval mode on token ids that grow from pass to pass")
    for passes in grown:
        if passes.growing.stood >= STANDS:
            raise Unusual(
                f"a text that was generated{_where(passes)} grew to {passes.growing.shape} tokens, and then "
                f"{passes.growing.stood} passes in a row were given the same tokens as the pass before"
            )


def _evaluations(run: Run) -> list[Passes]:
    """Passes that no backward pass follows, and that come with few of the steps.

    Raises:
        NotApplicable: there are none.
    """
    learning = {id(each.model) for each in run.optimizing.values() if each.model is not None}
    kinds = {type(run.modules[key]) for key in learning if key in run.modules}
    found = [
        each
        for each in now_and_then(run)
        if any(id(module) in learning or type(module) in kinds for module in each.modules.values())
    ]
    if not found:
        raise NotApplicable("passes of the model that no backward pass follows")
    return found


def _scores_held_out_rows(run: Run, passes: Passes) -> bool:
    """Whether dropout made figures of rows that were not trained on noisy, and nothing is seen that wants them so."""
    noisy = passes.scored and passes.dropping == passes.training_mode == passes.count
    quiet = any(
        each.count > each.training_mode and passes.modules.keys() & each.modules.keys() for each in run.passes.values()
    )
    return noisy and not quiet and passes.stretches >= AGAIN and _are_held_out(run, passes)


def _are_held_out(run: Run, passes: Passes) -> bool:
    """Whether rows are as many as say something, each given once in a stretch, and hardly any was trained on."""
    trained = {row for each in run.passes.values() if each.trained for row in each.rows.seen}
    rows, seen = set(passes.rows.seen), len(passes.rows.seen) / max(passes.stretches, 1)
    return len(rows) >= LEAST_ROWS and len(rows) > ONCE * seen and len(rows & trained) <= SHARED * len(rows)


def _differs(module: nn.Module) -> bool:
    kinds = nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - all of torch's
    return any(isinstance(each, kinds) and getattr(each, "p", 1.0) > 0 for each in module.modules())


def _where(passes: Passes) -> str:
    return f" ({', called from '.join(str(each) for each in passes.chain[:2])})" if passes.chain else ""


STATEMENTS = (
    Statement("run.eval_mode", check_mode),
    Statement("run.eval_gradients", check_gradients),
    Statement("run.eval_random", check_random),
    Statement("run.eval_counted", check_counted),
    Statement("run.eval_pairs", check_pairs),
    Statement("run.same_input", check_same_input),
)
