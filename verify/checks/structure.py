"""How a model is put together: every part is used once, residuals are residuals, and its state is all of it.

Legend: B batch, T time, D dim, V vocab.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from andon.verify.access.calls import gradients, new_model, precise, seeded
from andon.verify.access.larger_weights import fill_zero_parameters, is_drawn_matrix, perturbed_model, rescale
from andon.verify.access.logits import logits_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.additions import Additions, repeats
from andon.verify.observation.answers import (
    Answer,
    answer,
    any_batch,
    apart,
    default_dtype,
    is_cross_entropy,
    loss_rounding,
    reached,
    require_cross_entropy,
    require_same,
    wrong,
)
from andon.verify.observation.blocks import Call, blocks_of, calls
from andon.verify.observation.experts import require_experts
from andon.verify.observation.parameters import norm, trainable
from andon.verify.observation.tolerances import distance
from andon.verify.observation.uses import Uses
from andon.verify.subject import Batch, Subject

DRAWS, UNCHANGED = 32, 6  # models and batches that may reach a parameter, and those in a row that reach no other one
STEP = 1e-3
SETTINGS = ("config", "cfg", "args", "hparams", "settings", "opt")  # attributes that hold a model's settings
DEAD_SHARE = 0.05  # of a matrix's rows or columns; a few dead units of a ReLU are not a fault
DEAD_ROWS = 2
IDENTITY = 1e-5
PASSED_ON = 1e-3  # of the input's rms: what epsilons of norms that follow each other leave
UNIT = 0.03  # of a normed output's rms around 1
FLAGS = ("tie_word_embeddings", "tie_embeddings", "tie_weights", "weight_tying", "tied", "share_embeddings")


def check_parameters(subject: Subject) -> None:
    """Every trainable parameter gets a gradient from the loss, in all but a few rows and columns of a matrix.

    Shown by up to 32 models and batches, as they are drawn and perturbed, in both modes: what no one reaches is idle.
    Rows and columns count of a matrix that is multiplied as a whole. Red where the loss is a language model's and
    depends on what is held; yellow where it may be meant.

    Silent because the rest of the model learns: a skipped layer, unused head or detached branch only costs quality.

    Look at loops that leave out a layer, at slices of heads, at `detach` and `no_grad`, and at unused modules.

    Yellow where the loss does not change with the parameter: it may be left out, or held, on purpose.

    Example:
        # wrong: the trainable projector is computed without a graph, too
        with torch.no_grad():
            features = self.vision_encoder(images)
            prefix = self.projector(features)

        # right
        with torch.no_grad():
            features = self.vision_encoder(images)
        prefix = self.projector(features)

    Reference: PyTorch documentation, torch.no_grad.
    """
    if not trainable(new_model(subject)):
        raise NotApplicable("trainable parameters")
    if subject.mixture_of_experts:
        require_experts(subject)
        return
    idle, same = Idle(), 0
    for draw in range(DRAWS):
        before, idle = idle, idle.after(*_drawn(subject, draw)) if draw else Idle.of(*_drawn(subject, draw))
        same = same + 1 if idle == before else 0
        if same == UNCHANGED or (draw and not idle.parameters and not idle.lines):
            break
    _require_gradients(subject, idle)
    for (name, what), found in idle.lines.items():
        if len(found.idle) >= max(DEAD_ROWS, DEAD_SHARE * found.count):
            raise wrong(
                subject,
                f"{len(found.idle)} of {found.count} {what}s of {name} get no gradient, the first is {min(found.idle)}",
            )


def check_blocks(subject: Subject) -> None:
    """The repeated blocks are different modules, each used as often as the others and given what the last one returned.

    Within one block no part runs twice while another of its type and shapes never runs. Blocks are parts of one type of
    which one is seen to be given what another returned; shared and looped ones are yellow.

    Silent because a model with a layer less, or with one layer used twice, trains well.

    Look at the loop over layers: its bounds, its index, and what it hands on.

    Yellow where a list holds one block several times, or blocks are used unequally often: weights may be shared, and
    blocks may loop. So is all of it where the loss is not shown to be a language model's.

    Example:
        # wrong: one block, n_layers times over
        self.blocks = nn.ModuleList([Block(config)] * config.n_layers)

        # right
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
    """
    model, batch = new_model(subject).eval(), any_batch(subject)
    blocks = blocks_of(model)
    different = len(set(map(id, blocks)))
    if different < len(blocks):
        raise Unusual(
            f"a list of {len(blocks)} blocks holds {different} different ones; unless they are meant to share weights"
        )
    with calls(blocks) as seen, repeats(blocks) as repeated:
        answer(subject, model, batch)
    counts = [len(seen[block]) for block in blocks]
    if not any(counts):
        raise NotApplicable("blocks that take and return states (B, T, D)")
    if repeated:
        twice, never = next(iter(repeated.items()))
        raise wrong(subject, f"within one block {twice} runs 2 times or more, and {never}, which is like it, 0 times")
    if not any(distance(after.states_BTD, one.result_BTD) < IDENTITY for one, after in _steps(blocks, seen)):
        counts = [min(1, count) for count in counts] if all(counts) else [1]  # no chain: parts beside each other
    if 0 in counts:
        raise wrong(subject, f"{len(blocks)} blocks of one type are used {counts} times in one forward pass")
    if len(set(counts)) > 1:
        raise Unusual(f"{len(blocks)} blocks of one type are used {counts} times in one forward pass; unless they loop")
    for index, (block, after) in enumerate(pairwise(blocks)):
        if len(seen[block]) == 1 and seen[block][0].result_BTD.shape == seen[after][0].states_BTD.shape:
            off = distance(seen[after][0].states_BTD, seen[block][0].result_BTD)
            is_alone = distance(seen[after][0].states_BTD, seen[block][0].states_BTD) < IDENTITY
            if off > 0.5 and is_alone and not _is_reached(subject, index, batch):
                raise CheckFailed(
                    f"block {index + 1} is given what block {index} was given, not what it returned ({off:.2g} apart)"
                )


def check_residual(subject: Subject) -> None:
    """A block whose matrices and biases are zero passes its input on: as it is, or normed where norms come last.

    Asked of blocks that are seen to add to the very numbers that they are given, or to attend, and whose products then
    all vanish; a constant part of the input, as where branches are averaged, is passed on, too.

    Silent because the loss falls all the same: added twice, states grow with depth; not added, depth is lost.

    Look at each `x + f(x)`: what is added, how often, and to what.

    Yellow where the loss is not shown to be a language model's: blocks of other models need not pass on what they are
    given.

    Example:
        # wrong: the residual carries the normed states
        x = self.norm1(x)
        x = x + self.attention(x)
        x = self.norm2(x)
        x = x + self.mlp(x)

        # right
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))

    Reference: He et al. 2016, arXiv:1603.05027.
    """
    model, batch = precise(subject, new_model(subject)).eval(), any_batch(subject)
    blocks = blocks_of(model)
    inside = nn.ModuleList(blocks)
    if any(tensor.dtype in (torch.uint8, torch.int8) for tensor in inside.state_dict().values()):
        raise NotApplicable("blocks whose matrices are not quantized")
    rescale(inside, vectors=False)
    with calls(blocks) as seen, Additions(blocks) as additions:
        answer(subject, model, batch)
    live = {block: seen[block] for block in blocks}
    if not any(distance(after.states_BTD, one.result_BTD) < IDENTITY for one, after in _steps(blocks, seen)):
        raise NotApplicable("blocks of which one is given what another returns")
    if not additions.adding and not additions.attending:
        raise NotApplicable("blocks that add to what they are given")
    with Uses(inside) as uses:
        answer(subject, model, batch)
    multiplied = uses.multiplied()
    _empty(each for name, each in inside.named_parameters() if name in multiplied)
    with calls(blocks) as seen, Additions(blocks) as left:
        answer(subject, model, batch)
    limit = max(PASSED_ON, 0.1 * loss_rounding(subject, model, batch))
    alike = {type(block) for block in additions.adding}  # who does not add beside others of its kind has lost it
    judged = {block for block in blocks if block in additions.adding | additions.attending or type(block) in alike}
    judged -= left.multiplying
    if not judged:
        raise NotApplicable("blocks whose products all vanish with their matrices, and finite ones")
    for index, block in enumerate(blocks):
        if block not in judged:
            continue
        for call, whole in zip(seen[block], live[block], strict=True):
            _require_passed_on(subject, f"block {index}", call, whole, limit)


def check_state(subject: Subject) -> None:
    """The state dict is the whole model: loaded into another, it returns the same; and so does a copy.

    So it is after a step of training, and for a model that was built while torch's default dtype was another; these two
    are yellow. Random numbers within a pass are seeded alike.

    Silent because nothing is missing until a run resumes or a model is exported.

    Look at weights in plain lists or attributes, at buffers that are not persistent, and at tied weights.

    Yellow where only a step of training makes what is not in the state dict: it may be meant to be forgotten.

    Example:
        # wrong: modules in a plain list are not in state_dict() (nor in parameters())
        self.heads = [nn.Linear(dim, vocab_size) for _ in range(n_heads)]

        # right
        self.heads = nn.ModuleList([nn.Linear(dim, vocab_size) for _ in range(n_heads)])

    Reference: PyTorch documentation, torch.nn.ModuleList.
    """
    model, batch = perturbed_model(subject), any_batch(subject)
    state = _state_of(model)  # before a pass, which may add caches
    before, shared = answer(subject, model, batch), _shared(model)
    tolerance = loss_rounding(subject, model, batch)
    other = _loaded(subject, state)
    _require_same_model(answer(subject, other, batch), before, tolerance, "of a model and of one given its state")
    copied = _copied(model)
    _require_same_model(answer(subject, copied, batch), before, tolerance, "of a model and of its copy")
    _empty(copied.parameters())
    _require_same_model(answer(subject, model, batch), before, tolerance, "before and after its copy was emptied")
    for name, moved in {"a copy": copied, "one that was given its state": other}.items():
        if _shared(moved) != shared:
            raise CheckFailed(
                f"the model shares {len(shared)} pairs of parameters and {name} {len(_shared(moved))}: {shared[:2]}"
            )
    _require_no_default(subject, state, batch, before, tolerance)
    _train_a_step(subject, model, batch)
    trained, loaded = answer(subject, model.eval(), batch), _loaded(subject, _state_of(model))
    moved = apart(answer(subject, loaded, batch)._replace(loss=trained.loss), trained)
    if trained.outputs and moved > tolerance:
        raise Unusual(
            f"after a step of training, a model that is given the state dict returns something else, {moved:.2g} of "
            f"its rms apart, and rounding explains {tolerance:.0e}; unless what is not in it is meant to be forgotten"
        )


def check_tying(subject: Subject) -> None:
    """Where the configuration ties the head to the embedding they are one tensor; where it does not, they are two.

    Two that begin bit by bit equal are one, whatever it says (yellow). The embedding is what tokens are seen to be
    looked up in, the head what the logits are seen to come from, where the loss is their cross-entropy.

    Silent because an untied head trains too, and is missing from the checkpoint.

    Look at what replaces a parameter after tying: casts, wrappers, `to_empty`, initialization.

    Yellow where two tensors begin with the same numbers: a head may be meant to begin as a copy.

    Example:
        # wrong: a copy, which goes its own way from the first update on
        if config.tie_word_embeddings:
            self.lm_head.weight = nn.Parameter(self.embed_tokens.weight.clone())

        # right
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    Reference: Press and Wolf 2017, arXiv:1608.05859.
    """
    require_cross_entropy(subject)
    model, batch = new_model(subject).eval(), any_batch(subject)
    flag = _tying_flag(model)
    with Uses(model) as uses:
        words = logits_of(subject, model, batch).shape[-1]
    heads = [product.names for product in uses.products if product.width == words]
    tensors = dict(model.named_parameters())
    head = next((name for name in reversed(heads[-1]) if tensors[name].dim() == 2), None) if heads else None
    is_one = head in uses.looked_up
    tables = [name for name in uses.looked_up if head and tensors[name].shape == tensors[head].shape]
    if head is None or not (tables or flag is False):
        raise NotApplicable("an embedding that tokens are looked up in, and a head of its shape that gives the logits")
    if flag is not None and flag != is_one:
        said = "one tensor" if flag else "two tensors"
        count = 1 if is_one else 2
        raise CheckFailed(
            f"the configuration says {said} for embedding and head; there are {count}: {sorted({*tables, head})}"
        )
    twin = next((name for name in tables if not is_one and torch.equal(tensors[name], tensors[head])), None)
    if twin is not None and is_drawn_matrix(tensors[head]):
        raise Unusual(
            f"{twin} and {head} begin with the same {tensors[head].numel()} numbers and are 2 tensors, which part at "
            "the first update; 1 is expected, unless the head is meant to begin as a copy"
        )
    if flag is None and not is_one:
        raise NotApplicable(f"a model whose config, or another attribute, says {FLAGS[0]}")


class Lines(NamedTuple):
    """Rows or columns of a matrix."""

    idle: frozenset[int]  # those without a gradient
    count: int


class Idle(NamedTuple):
    """What got no gradient from any draw so far."""

    parameters: frozenset[str] = frozenset()
    lines: Mapping[tuple[str, str], Lines] = MappingProxyType({})  # of matrices that got some, by name, row or column

    @classmethod
    def of(cls, found: Mapping[str, Tensor], uses: Uses) -> "Idle":
        """What these gradients do not reach.

        Rows and columns count of a matrix that entered a product as a whole: rows that are looked up, and entries
        under a mask, need no gradient; nor do columns for which data itself held nothing.
        """
        lines = {}
        for name in uses.multiplied() & set(found):
            if found[name].dim() != 2 or found[name].layout != torch.strided:
                continue
            given = uses.live_inputs.get(name)
            for dim, what in enumerate(("row", "column")):
                idle = ~found[name].ne(0).any(1 - dim)
                if dim == 1 and given is not None:
                    idle &= given
                if not (dim == 0 and name in uses.looked_up):
                    lines[name, what] = Lines(frozenset(idle.nonzero().flatten().tolist()), len(idle))
        return cls(
            frozenset(name for name, gradient in found.items() if not _any(gradient)),
            {key: each for key, each in lines.items() if each.idle},
        )

    def after(self, found: Mapping[str, Tensor], uses: Uses) -> "Idle":
        """What is idle still, after one more draw."""
        now = Idle.of(found, uses)
        both = {
            key: Lines(each.idle & now.lines[key].idle, each.count)
            for key, each in self.lines.items()
            if key in now.lines
        }
        return Idle(self.parameters & now.parameters, {key: each for key, each in both.items() if each.idle})


def _drawn(subject: Subject, draw: int) -> tuple[dict[str, Tensor], Uses]:
    """Gradients of another model on another batch: perturbed in eval mode, or as it trains, zeros filled, in turn."""
    seed = draw // 2
    model = perturbed_model(subject, seed) if draw % 2 == 0 else fill_zero_parameters(new_model(subject, seed)).train()
    with seeded(draw), Uses(model) as uses:
        return gradients(subject, model, any_batch(subject, draw)), uses


def _require_gradients(subject: Subject, idle: Idle) -> None:
    """Fail where a parameter gets no gradient at all: red where the loss follows it, or a gradient would say so."""
    names = list(trainable(new_model(subject)))
    with_graph = reached(subject, perturbed_model(subject), any_batch(subject)) if idle.parameters else set()
    dead = [
        name
        for name in names
        if name in idle.parameters and (name not in with_graph or _is_used(subject, [name]))  # what cancels is zero
    ]
    if not dead:
        return
    message = f"{len(dead)} of {len(names)} trainable parameters get no gradient from any batch: {listed(dead)}"
    if is_cross_entropy(subject) and _is_used(subject, dead):
        raise CheckFailed(f"{message}; and the loss depends on them")
    raise Unusual(f"{message}; unless they are meant to be left out or held")


def _is_used(subject: Subject, names: list[str]) -> bool:
    """Whether the loss changes with these parameters."""
    model, batch = perturbed_model(subject), any_batch(subject)
    before = answer(subject, model, batch).loss
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).mul_(1.5)
    return distance(answer(subject, model, batch).loss, before) > loss_rounding(subject, model, batch)


def _is_reached(subject: Subject, index: int, batch: Batch) -> bool:
    """Whether the loss has a gradient at this block's parameters."""
    model = perturbed_model(subject)
    inside = {id(parameter) for parameter in blocks_of(model)[index].parameters()}
    found = gradients(subject, model, batch)
    return any(_any(found[name]) for name, parameter in trainable(model).items() if id(parameter) in inside)


def _any(gradient: Tensor) -> bool:
    """Whether a gradient, which may be sparse, has an entry."""
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).ne(0).any())


def _steps(blocks: list[nn.Module], seen: dict[nn.Module, list[Call]]) -> list[tuple[Call, Call]]:
    """The first calls of neighbors whose states are of one shape."""
    pairs = [(seen[one][0], seen[after][0]) for one, after in pairwise(blocks) if seen[one] and seen[after]]
    return [(one, after) for one, after in pairs if one.result_BTD.shape == after.states_BTD.shape]


@torch.no_grad()
def _empty(parameters: Iterable[nn.Parameter]) -> None:
    """Put zeros into what holds floating numbers, in place."""
    for parameter in parameters:
        if parameter.is_floating_point():
            parameter.zero_()


def _ends(call: Call) -> tuple[Tensor, Tensor]:
    """What a block was given and what it returned.

    Raises:
        NotApplicable: they cannot be compared.
    """
    given, result = call.states_BTD.double(), call.result_BTD.double()
    if given.shape != result.shape or not bool(result.isfinite().all()):
        raise NotApplicable("blocks that return states of the shape they are given, and finite ones")
    return given, result


def _require_passed_on(subject: Subject, name: str, call: Call, whole: Call, limit: float) -> None:
    """Fail where a block without matrices changes its input, other than by a norm that ends the whole block, too.

    A constant part of it is passed on by blocks that average their branches.
    """
    given, result = _ends(call)
    ratio = float((result * given).sum() / given.square().sum().clamp_min(1e-300))
    off = distance(result, given)
    is_part = 0 < ratio <= 1 and distance(result, ratio * given) <= limit
    if off <= limit or is_part or (_is_normed(given, result) and _is_unit(whole.result_BTD.double())):
        return
    raise wrong(
        subject,
        f"{name} with all its matrices zero returns {ratio:.4g} times its input ({off:.2g} of its rms apart), and "
        "not the input itself",
    )


def _is_unit(result: Tensor) -> bool:
    """Whether each row has rms 1, as after a norm, or 0."""
    size = result.square().mean(-1).sqrt()
    return bool((((size - 1).abs() < UNIT) | (size == 0)).all())


def _is_normed(given: Tensor, result: Tensor) -> bool:
    """Whether each result is its input divided by its own size, as after a last norm, or nothing at all."""
    centered = given - given.mean(-1, keepdim=True)
    along = max(float(nn.functional.cosine_similarity(result, each, dim=-1).min()) for each in (given, centered))
    return _is_unit(result) and along > 0.95


def _copied(model: nn.Module) -> nn.Module:
    try:
        return deepcopy(model)
    except RuntimeError as error:
        raise NotApplicable(f"a model that can be copied ({error})") from error


def _state_of(model: nn.Module) -> dict[str, Any]:
    return {name: each.clone() if isinstance(each, Tensor) else each for name, each in model.state_dict().items()}


def _loaded(subject: Subject, state: Mapping[str, Any]) -> nn.Module:
    """Another new model that was given this state.

    Raises:
        CheckFailed: its keys do not fit.
    """
    other = precise(subject, new_model(subject, 1)).eval()
    missing = other.load_state_dict(state, strict=False)
    unknown = [*missing.unexpected_keys, *(key for key in missing.missing_keys if key not in _aliases(other))]
    if unknown:
        raise CheckFailed(f"{len(unknown)} keys of a state dict do not fit a new model, the first is {unknown[0]!r}")
    return other


def _require_same_model(actual: Answer, reference: Answer, tolerance: float, what: str) -> None:
    """Fail where models differ in what they return; a loss may hold a teacher of its own beside them."""
    loss = actual.loss if reference.outputs else reference.loss
    require_same(actual._replace(loss=reference.loss if reference.outputs else loss), reference, tolerance, what)


def _require_no_default(
    subject: Subject, state: Mapping[str, Any], batch: Batch, before: Answer, tolerance: float
) -> None:
    """Find a model that, built while torch's default is bfloat16 and given the same state, says something else.

    Asked where that default decides the dtype of the parameters, and they were float32.
    """
    floating = {parameter.dtype for parameter in new_model(subject).parameters() if parameter.is_floating_point()}
    with default_dtype(torch.bfloat16):
        other = new_model(subject)
    narrow = {parameter.dtype for parameter in other.parameters() if parameter.is_floating_point()}
    if floating != {torch.float32} or narrow != {torch.bfloat16}:
        return
    other = other.float().eval()
    other.load_state_dict(state, strict=False)
    off = apart(answer(subject, other, batch)._replace(loss=before.loss), before)
    if before.outputs and off > tolerance:
        raise Unusual(
            "built while torch's default dtype is bfloat16 and given the same float32 state, the model returns "
            f"something else, {off:.2g} of its rms apart, and rounding explains {tolerance:.0e}: a table that is not "
            "in its state takes its dtype from the default; unless it is never built so"
        )


def _train_a_step(subject: Subject, model: nn.Module, batch: Batch) -> None:
    """One small step of plain descent in train mode, so that what moves with training has moved."""
    with seeded(1):
        found = gradients(subject, model.train(), batch)
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.add_(found[name], alpha=-STEP / max(1.0, norm(found)))


def _tying_flag(model: nn.Module) -> bool | None:
    """What the settings say of tying, wherever the model keeps them; None where nothing."""
    for settings in (model, *(getattr(model, each, None) for each in SETTINGS)):
        for flag in FLAGS:
            value = settings.get(flag) if isinstance(settings, Mapping) else getattr(settings, flag, None)
            if isinstance(value, bool):
                return value
    return None


def _shared(model: nn.Module) -> list[tuple[str, str]]:
    """Names of parameters that are one tensor."""
    first: dict[int, str] = {}
    pairs = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            pairs.append((first[id(parameter)], name))
        first.setdefault(id(parameter), name)
    return pairs


def _aliases(model: nn.Module) -> set[str]:
    return {name for pair in _shared(model) for name in pair}


CHECKS = (
    Check("structure.blocks", check_blocks),
    Check("structure.residual", check_residual),
    Check("structure.parameters", check_parameters),
    Check("structure.state", check_state),
    Check("structure.tying", check_tying),
)
