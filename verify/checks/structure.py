"""How a model is put together: every part is used once, residuals are residuals, and its state is all of it.

Legend: B batch, T time, D dim, V vocab.
"""

from collections.abc import Iterable
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn

from andon.verify.access.batches import small_batch
from andon.verify.access.calls import gradients, loss_of, new_model
from andon.verify.access.roles import IGNORE
from andon.verify.access.targets import targets_of, tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.blocks import Call, blocks_of, calls
from andon.verify.observation.experts import require_experts
from andon.verify.observation.parameters import trainable
from andon.verify.observation.perturb import logits_eval, perturbed_model, precise, rescale, rounding_tolerance
from andon.verify.observation.tolerances import distance, require_close
from andon.verify.subject import Subject

BATCHES = 2
DEAD_SHARE = 0.05  # of a matrix's rows or columns; a few dead units of a ReLU are not a fault
DEAD_ROWS = 2
IDENTITY = 1e-5
UNIT = 0.03  # of a normed output's rms around 1
FLAGS = ("tie_word_embeddings", "tie_embeddings", "tie_weights", "weight_tying")


def check_parameters(subject: Subject) -> None:
    """Every trainable parameter gets a gradient from the loss, in all but a few rows and columns of a matrix.

    Silent because the rest of the model learns: a skipped layer, unused head or detached branch only costs quality.

    Look at loops that leave out a layer, at slices of heads, at `detach` and `no_grad`, and at unused modules.

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
    model = perturbed_model(subject)
    found = trainable(model)
    if not found:
        raise NotApplicable("trainable parameters")
    total: dict[str, Tensor] = {}
    used: set[int] = set()
    time = 0
    for seed in range(BATCHES):
        batch = small_batch(subject, seed)
        time = tokens_of(subject, batch).shape[1]
        trained_BT = targets_of(subject, batch) != IGNORE
        used |= set(tokens_of(subject, batch)[trained_BT].unique().tolist())
        for name, gradient in gradients(subject, model, batch).items():
            total[name] = total.get(name, 0.0) + gradient.detach().abs()
    if subject.mixture_of_experts:
        require_experts(subject)
        return
    _require_gradients(found, total)
    tables = _tables(model)
    for name, gradient in total.items():
        if gradient.dim() == 2:
            _require_live(name, gradient, used, time if name in tables or len(gradient) >= 4 * time else 0)


def check_blocks(subject: Subject) -> None:
    """The repeated blocks are different modules, each used as often as the others and given what the last one returned.

    Silent because a model with a layer less, or with one layer used twice, trains well.

    Look at the loop over layers: its bounds, its index, and what it hands on.

    Example:
        # wrong: one block, n_layers times over
        self.blocks = nn.ModuleList([Block(config)] * config.n_layers)

        # right
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
    """
    model, batch = new_model(subject).eval(), small_batch(subject)
    blocks = blocks_of(model)
    different = len(set(map(id, blocks)))
    if different < len(blocks):
        raise CheckFailed(f"a list of {len(blocks)} blocks holds {different} different ones")
    with calls(blocks) as seen:
        loss_of(subject, model, batch)
    counts = [len(seen[block]) for block in blocks]
    if not any(counts):
        raise NotApplicable("blocks that take and return states (B, T, D)")
    if len(set(counts)) > 1:
        raise CheckFailed(f"{len(blocks)} blocks of one type are used {counts} times in one forward pass")
    for index, (block, after) in enumerate(pairwise(blocks)):
        if counts[index] == 1 and seen[block][0].result_BTD.shape == seen[after][0].states_BTD.shape:
            apart = distance(seen[after][0].states_BTD, seen[block][0].result_BTD)
            if apart > 0.5 and distance(seen[after][0].states_BTD, seen[block][0].states_BTD) < IDENTITY:
                raise CheckFailed(
                    f"block {index + 1} is given what block {index} was given, not what it returned ({apart:.2g} apart)"
                )


def check_residual(subject: Subject) -> None:
    """A block whose matrices and biases are zero passes its input on: as it is, or normed where norms come last.

    Silent because the loss falls all the same: added twice, states grow with depth; not added, depth is lost.

    Look at each `x + f(x)`: what is added, how often, and to what.

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
    model, batch = precise(subject, new_model(subject)).eval(), small_batch(subject)
    blocks = blocks_of(model)
    inside = nn.ModuleList(blocks)
    if any(tensor.dtype in (torch.uint8, torch.int8) for tensor in inside.state_dict().values()):
        raise NotApplicable("blocks whose matrices are not quantized")
    rescale(inside, vectors=False)
    with calls(blocks) as seen:
        loss_of(subject, model, batch)
    live = {block: seen[block] for block in blocks}
    if not any(distance(after.states_BTD, one.result_BTD) < IDENTITY for one, after in _steps(blocks, seen)):
        raise NotApplicable("blocks of which one is given what another returns")
    _empty(parameter for parameter in inside.parameters() if not _is_gain(parameter))
    with calls(blocks) as seen:
        loss_of(subject, model, batch)
    limit = max(IDENTITY, 0.1 * rounding_tolerance(subject, model, batch))
    for index, block in enumerate(blocks):
        for call, whole in zip(seen[block], live[block], strict=True):
            _require_passed_on(f"block {index}", call, whole, limit)


def check_state(subject: Subject) -> None:
    """The state dict is the whole model: loaded into another, it gives the same logits; and so does a copy.

    Silent because nothing is missing until a run resumes or a model is exported.

    Look at weights in plain lists or attributes, at buffers that are not persistent, and at tied weights.

    Example:
        # wrong: modules in a plain list are not in state_dict() (nor in parameters())
        self.heads = [nn.Linear(dim, vocab_size) for _ in range(n_heads)]

        # right
        self.heads = nn.ModuleList([nn.Linear(dim, vocab_size) for _ in range(n_heads)])

    Reference: PyTorch documentation, torch.nn.ModuleList.
    """
    model, batch = perturbed_model(subject), small_batch(subject)
    before = logits_eval(subject, model, batch)
    shared = _shared(model)
    other = precise(subject, new_model(subject, 1)).eval()
    state = {name: value.clone() if isinstance(value, Tensor) else value for name, value in model.state_dict().items()}
    missing = other.load_state_dict(state, strict=False)
    unknown = [*missing.unexpected_keys, *(key for key in missing.missing_keys if key not in _aliases(model))]
    if unknown:
        raise CheckFailed(f"{len(unknown)} keys of a state dict do not fit a new model, the first is {unknown[0]!r}")
    tolerance = rounding_tolerance(subject, model, batch)
    require_close(logits_eval(subject, other, batch), before, tolerance, "logits of a model and of one given its state")
    copied = _copied(model)
    require_close(logits_eval(subject, copied, batch), before, tolerance, "logits of a model and of its copy")
    _empty(copied.parameters())
    require_close(logits_eval(subject, model, batch), before, tolerance, "logits before and after its copy was emptied")
    for name, moved in {"a copy": copied, "one that was given its state": other}.items():
        if _shared(moved) != shared:
            raise CheckFailed(
                f"the model shares {len(shared)} pairs of parameters and {name} {len(_shared(moved))}: {shared[:2]}"
            )


def check_tying(subject: Subject) -> None:
    """Where the configuration ties the head to the embedding they are one tensor; where it does not, they are two.

    Silent because an untied head trains too, and is missing from the checkpoint.

    Look at what replaces a parameter after tying: casts, wrappers, `to_empty`, initialization.

    Example:
        # wrong: a copy, which goes its own way from the first update on
        if config.tie_word_embeddings:
            self.lm_head.weight = nn.Parameter(self.embed_tokens.weight.clone())

        # right
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    Reference: Press and Wolf 2017, arXiv:1608.05859.
    """
    model, batch = new_model(subject), small_batch(subject)
    config = getattr(model, "config", None)
    flags = [getattr(config, flag) for flag in FLAGS if isinstance(getattr(config, flag, None), bool)]
    if not flags:
        raise NotApplicable("a model.config that says tie_word_embeddings")
    words = logits_eval(subject, model, batch).shape[-1]
    names, tensors = _of_words(model, words)
    if not flags[0] and not tensors & {id(module.weight) for module in model.modules() if type(module) is nn.Embedding}:
        return  # the embedding has more rows than there are words: it is not a head
    if len(names) in (1, 2) and flags[0] != (len(tensors) == 1):
        said = "one tensor" if flags[0] else "two tensors"
        raise CheckFailed(f"the configuration says {said} for embedding and head; there are {len(tensors)}: {names}")


def _require_gradients(found: Iterable[str], total: dict[str, Tensor]) -> None:
    """Fail where a parameter gets no gradient at all."""
    names = list(found)
    dead = [name for name in names if not total[name].any()]
    if dead:
        raise CheckFailed(
            f"{len(dead)} of {len(names)} trainable parameters get no gradient from {BATCHES} batches: "
            f"{', '.join(dead[:4])}{', ...' if len(dead) > 4 else ''}"
        )


def _tables(model: nn.Module) -> set[str]:
    """Names of the embeddings' weights."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in embeddings}


def _steps(blocks: list[nn.Module], seen: dict[nn.Module, list[Call]]) -> list[tuple[Call, Call]]:
    """The first calls of neighbors whose states are of one shape."""
    pairs = [(seen[one][0], seen[after][0]) for one, after in pairwise(blocks) if seen[one] and seen[after]]
    return [(one, after) for one, after in pairs if one.result_BTD.shape == after.states_BTD.shape]


def _require_live(name: str, gradient: Tensor, used: set[int], places: int) -> None:
    """Fail where many rows or columns have no gradient.

    Rows of words that did not occur need none, nor all but up to `places` neighbors in a table of positions.
    """
    for dim, what in enumerate(("row", "column")):
        idle = (~gradient.any(1 - dim)).nonzero().flatten().tolist()
        lines = gradient.shape[dim]
        words = lines > max(used, default=0) and not used.intersection(idle)
        live = gradient.any(1 - dim).nonzero().flatten().tolist() if places else []
        placed = bool(live) and live[-1] - live[0] < min(places, len(live))
        if dim == 0 and (words or placed):
            continue
        if len(idle) >= max(DEAD_ROWS, DEAD_SHARE * lines):
            raise CheckFailed(f"{len(idle)} of {lines} {what}s of {name} get no gradient, the first is {idle[0]}")


def _is_gain(parameter: Tensor) -> bool:
    """Whether this is a norm's, still at one."""
    return parameter.dim() == 1 and bool((parameter == 1).all())


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


def _require_passed_on(name: str, call: Call, whole: Call, limit: float) -> None:
    """Fail where a block without matrices changes its input, other than by a norm that ends the whole block, too."""
    given, result = _ends(call)
    apart = distance(result, given)
    if apart <= limit or (_is_normed(given, result) and _is_unit(whole.result_BTD.double())):
        return
    ratio = float((result * given).sum() / given.square().sum().clamp_min(1e-300))
    raise CheckFailed(
        f"{name} with all its matrices zero returns {ratio:.4g} times its input ({apart:.2g} of its rms apart), and "
        "not the input itself"
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


def _of_words(model: nn.Module, words: int) -> tuple[list[str], set[int]]:
    """Names of the matrices with a row per word, and which tensors they are."""
    parameters = model.named_parameters(remove_duplicate=False)
    found = {name: id(p) for name, p in parameters if p.dim() == 2 and len(p) == words}
    return list(found), set(found.values())


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
