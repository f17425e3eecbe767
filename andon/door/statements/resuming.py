"""What a run that begins with weights from a file takes from it beside them."""

from andon.door.loaded import Loaded, Saved
from andon.door.records import Optimizing, Run
from andon.door.statements.statement import Statement, at
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.optimizers import tensors_of


def check_resumed(run: Run) -> None:
    """Where weights come from a file that also holds the state of the same optimizer or schedule, that is loaded, too.

    The same: of as many groups and parameters, in an optimizer's first step after its weights were loaded.

    Silent because the moments fill again within some hundred steps, and a rate that begins anew only trains otherwise.

    Look at what is read from the file beside the model's weights.

    Yellow where the file may be a beginning for another training: red where this run has just written it itself, with
    no step since, and goes on with its schedule while the moments begin at zero. Who goes back further may mean to.
    """
    asked = False
    for each in run.optimizing.values():
        for loaded, empty, epoch in each.resumed:
            same = [saved for saved in loaded.optimizers if is_of(saved, each)]
            if same:
                asked = True
                _judge_moments(loaded, each, empty=empty)
            if not empty and loaded.epoch and epoch is not None and not loaded.schedule_used and epoch < loaded.epoch:
                raise Unusual(
                    f"{loaded.name} was read{at(loaded.place)}; the model and the optimizer{at(each.made)} go on from "
                    f"it, and the schedule, which is at {loaded.epoch} in it, began at {epoch}"
                )
    if not asked:
        raise NotApplicable("weights from a file that holds their optimizer's state as well")


def check_loaded(run: Run) -> None:
    """Of a state that is loaded into a module some names are the module's.

    Not where another module takes the same state: it was offered to each of several, as a file of one of them is.

    Silent because `strict=False` minds nothing: the module stays as it was drawn, and learns from there.

    Look at a prefix that a wrapper has added to the names, or one that is cut off in vain: print what it returns.
    """
    for each in (one for one in run.lost if one.names not in run.taken):
        raise CheckFailed(
            f"of {len(each.names)} names in a state that a {each.module} was given{at(each.place)}, it does not have "
            f"{listed(list(each.unknown))}; {each.prefixed} are its own but for a prefix, and {each.missing} of its "
            "names were left as they are"
        )


def check_put_back(run: Run) -> None:
    """Weights that are put back into a module were kept apart from it: they are no tensors of its own.

    Silent because nothing fails: what was kept has gone on with each step, and the last weights stay.

    Look for `state_dict()` that is kept without a copy: `copy.deepcopy(model.state_dict())` is meant.

    Yellow alone.
    """
    if run.own_states:
        raise Unusual(
            f"load_state_dict{at(run.own_states[0])} was given the module's own tensors, {len(run.own_states)} times, "
            "after optimizer steps: it changes nothing"
        )


def check_saved(run: Run) -> None:
    """A mapping that is saved holds something.

    Silent because a file is written; what is missing shows where it is read.

    Look at the names that weights are picked by, as adapters' are.

    Yellow alone.
    """
    if not run.saves:
        raise NotApplicable("a file that torch.save writes")
    if run.empty_saves:
        raise Unusual(f"an empty mapping was saved {len(run.empty_saves)} times{at(run.empty_saves[0])}")


def _judge_moments(loaded: Loaded, each: Optimizing, *, empty: bool) -> None:
    if loaded.optimizer_used or not empty:
        return
    goes_on = loaded.own and loaded.schedule_used
    message = (
        f"{loaded.name} was read{at(loaded.place)}, its weights were loaded, and its state of the optimizer was not: "
        f"{type(each.optimizer).__name__}{at(each.made)} began with no moments"
    )
    if goes_on:
        raise CheckFailed(f"{message}, while the schedule goes on from that file, which this run has just written")
    raise Unusual(message)


def is_of(saved: Saved, each: Optimizing) -> bool:
    """Whether a saved state fits an optimizer, by its groups, parameters, and the shapes of its moments."""
    shapes = [tuple(p.shape) for p in tensors_of(each.optimizer)]
    counts = len(each.optimizer.param_groups), len(shapes)
    return (saved.groups, saved.parameters) == counts and set(saved.shapes) <= set(shapes)


STATEMENTS = (
    Statement("run.resumed", check_resumed),
    Statement("run.loaded", check_loaded),
    Statement("run.put_back", check_put_back),
    Statement("run.saved", check_saved),
)
