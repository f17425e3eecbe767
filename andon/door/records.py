"""What a watched run has done so far: steps, windows, passes, schedules; plain facts, no judgment.

A window is what lies between two steps of one optimizer.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from andon.door.births import Births
from andon.door.carrying import Carrying
from andon.door.entry import Entry
from andon.door.flatness import Flatness
from andon.door.growing import Growing
from andon.door.leftovers import Leftovers, Line
from andon.door.loaded import GoesOn, Loaded, Lost, Resumed
from andon.door.loose import LooseParameters
from andon.door.moments import Moments
from andon.door.phrases import Phrases
from andon.door.places import Place
from andon.door.rows import Rows
from andon.door.scaling import Scaling
from andon.door.trail import Trail
from andon.door.turns import Turns
from andon.door.uses import Use
from andon.door.weights import Between

Chain = tuple[Place, ...]


@dataclass
class Clip:
    """One call that clips gradients."""

    place: Place | None
    max_norm: float
    norm: float
    backwards: int  # in this window before it
    scaled: bool  # under a loss scale that was not taken off yet


@dataclass
class Window:
    """What happened since the optimizer's last step."""

    backwards: int = 0
    clips: list[Clip] = field(default_factory=list)
    grown_after_clip: bool = False  # a backward pass added to gradients that had been clipped
    grown_alike: bool = False  # one that began at the same line: a micro-batch of the same loss
    partial: bool = False  # accelerate was told that accumulation goes on
    line: Place | None = None  # of the last backward pass
    added: int = 0  # backward passes that added to the gradients of the one before, at the same line
    dropped: int = 0  # those before which its gradients were thrown away
    gradient: Tensor | None = None  # a sample, after the last of them
    scale: float = float("nan")  # from there to the step, beside what clipping does
    leftovers: Leftovers = field(default_factory=Leftovers)


@dataclass
class Optimizing:
    """One optimizer of the run."""

    optimizer: Any
    made: Place | None
    stepped: Place | None = None
    model: Any = None
    watch: Any = None
    steps: int = 0
    window: Window = field(default_factory=Window)
    backwards: Counter[int] = field(default_factory=Counter)  # windows by their number of backward passes
    kinds: Counter[str] = field(default_factory=Counter)  # windows by what was done in them
    clip: Clip | None = None  # the last that came after a backward pass
    rates: list[tuple[float, ...]] = field(default_factory=list)  # of each step's groups
    last_step: int = 0  # in steps of all optimizers
    said: int = 0  # findings that were printed already
    births: int = 0  # parameters that modules had been given when it was made
    between: Between = field(default_factory=Between)
    idle: dict[int, tuple[Tensor, int]] | None = None  # by id: gradients that were zero, and in how many steps
    mixed: tuple[Line, Line] | None = None  # lines whose gradients a step took, of which another had taken the first's
    empty: int = 0  # steps after backward passes, of which none left any of its tensors a gradient
    gradients_seen: int = 0  # steps in which they were looked at
    unheld: dict[str, tuple[int, Tensor]] = field(default_factory=dict)  # names: steps with a gradient, what it was
    resumed: list[Resumed] = field(default_factory=list)  # where its weights came from files
    goes_on: list[GoesOn] = field(default_factory=list)  # where its state did


def summed(each: Optimizing) -> int:
    """Of how many micro-batches each step so far has summed the gradients, with nothing done to the sum; else 1."""
    counts = list(each.backwards)
    return counts[0] if len(counts) == 1 and each.kinds["summed"] == each.kinds["all"] else 1


@dataclass
class Scheduling:
    """One learning rate schedule of the run."""

    scheduler: Any
    made: Place | None
    optimizer: int  # id
    stepped: Place | None = None
    calls: int = 0
    before_first_step: int = 0  # calls before its optimizer's first step
    per_step: Counter[int] = field(default_factory=Counter)  # optimizer steps by the calls between them
    since_step: int = 0


@dataclass
class Passes:
    """Outermost forward passes from one place of the script: those with gradients on, or those without."""

    chain: Chain
    count: int = 0
    stretches: int = 0  # of them, with no backward pass between
    early: int = 0  # stretches before the run's first step
    moments: Moments = field(default_factory=Moments)  # at which a stretch began
    trained: int = 0  # directly before a backward pass
    training_mode: int = 0
    with_gradients: int = 0
    draws: int = 0  # stretches within which torch's global random numbers moved
    noise: set[str] = field(default_factory=set)  # what drew it between two passes of the first stretch
    rows: Rows = field(default_factory=Rows)
    modules: dict[int, Any] = field(default_factory=dict)
    dropping: int = 0  # passes without gradients in which dropout acted
    autocast: int = 0
    scored: bool = False  # what a pass gave was compared with labels, or went into a loss, as far as that was looked at
    carrying: Carrying = field(default_factory=Carrying)
    phrases: Phrases = field(default_factory=Phrases)
    growing: Growing = field(default_factory=Growing)


class Comparison(NamedTuple):
    """Labels with some of -100 among them, held against another constant while the script evaluates."""

    place: Place | None
    constant: int
    occurs: int  # how often among the labels
    ignored: int  # labels of -100
    count: int


class Crossed(NamedTuple):
    """A vector beside a column, held against each other while the script evaluates."""

    place: Place | None
    one: tuple[int, ...]
    other: tuple[int, ...]
    loss: bool  # in a loss of torch's


class Stale(NamedTuple):
    """A copy of a model that was evaluated, and its batch statistics."""

    kind: str
    place: Place | None
    count: int  # batch norms whose statistics moved in the model
    stale: bool  # whether they are what they began with in the copy
    steps: int


class Merge(NamedTuple):
    """A pass after an adapter was merged, of rows that were seen before it."""

    kind: str
    place: Place | None
    apart: float  # from what was said before, relative to its size
    half: bool  # whether it is computed in half precision


@dataclass
class Run:
    """One process."""

    optimizing: dict[int, Optimizing] = field(default_factory=dict)
    scheduling: dict[int, Scheduling] = field(default_factory=dict)
    passes: dict[tuple[Any, ...], Passes] = field(default_factory=dict)
    modules: dict[int, Any] = field(default_factory=dict)  # called outermost, with gradients
    owners: dict[int, Any] = field(default_factory=dict)  # models that are called by a method of theirs
    inside: str | None = None  # the method whose pass is made now; "" for a module's own call
    loops: set[str] = field(default_factory=set)  # methods that train, and are no pass
    steps: int = 0
    given: int = 0  # passes so far
    begun: int = 0  # of them, those before the first step
    backwards: int = 0
    loss_place: Place | None = None
    saves: int = 0
    trail: Trail | None = None  # where steps are noted one by one
    entry: Entry = field(default_factory=Entry)
    own_states: list[Place | None] = field(default_factory=list)  # put into the modules whose they are
    empty_saves: list[Place | None] = field(default_factory=list)
    over: bool = False  # nothing is noted any more
    broke: str = ""  # the error of ours that ended the watching
    fork: Any = None  # door.fork.Fork, by which copies of the process answer
    ended: bool = True  # by itself: not by us, and not by an error
    scaling: Scaling = field(default_factory=Scaling)
    average_shares: list[float] = field(default_factory=list)  # of the way that copies went to the weights in a step
    aliased: list[tuple[int, ...]] = field(default_factory=list)  # matrices whose average was in their own storage
    merges: list[Merge] = field(default_factory=list)
    evaluated_copies: list[Stale] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    crossed: list[tuple[Place | None, tuple[int, ...], tuple[int, ...], bool]] = field(
        default_factory=list
    )  # in a loss
    samples: list[Any] = field(default_factory=list)  # what children say of micro-batches: door.sampling.Sample
    metrics: list[dict[str, Any]] = field(default_factory=list)  # of a trainer, with other predictions: trainer_metrics
    rehearsed: list[Any] = field(default_factory=list)  # what children saw of evaluations: door.rehearsal.Rehearsed
    cached: list[Any] = field(default_factory=list)  # what children saw of generation: door.whole_row.Cached
    births: Births = field(default_factory=Births)
    turns: Turns = field(default_factory=Turns)
    flatness: Flatness = field(default_factory=Flatness)
    loose: LooseParameters = field(default_factory=LooseParameters)
    loads: list[Loaded] = field(default_factory=list)  # files that were read
    uses: dict[int, Use] = field(default_factory=dict)  # of modules that were called outermost
    lost: list[Lost] = field(default_factory=list)  # states of which modules took nothing
    taken: set[frozenset[str]] = field(default_factory=set)  # names of those of which a module took something
    losses: Counter[tuple[Place | None, str]] = field(default_factory=Counter)  # by line, and what of it is in half
