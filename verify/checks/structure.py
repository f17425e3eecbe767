"""How a model is put together: every part is used once, residuals are residuals, and its state is all of it.

Legend: B batch, T time, D dim, V vocab.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from andon.verify.access.calls import new_model, precise
from andon.verify.access.larger_weights import is_drawn_matrix, perturbed_model
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual, listed
from andon.verify.observation.additions import repeats
from andon.verify.observation.answers import (
    Answer,
    answer,
    any_batch,
    apart,
    is_cross_entropy,
    loss_rounding,
    reached,
    require_cross_entropy,
    require_same,
    wrong,
)
from andon.verify.observation.blocks import are_chained, blocks_of, calls, passed_over
from andon.verify.observation.experts import require_experts
from andon.verify.observation.idle_parameters import Idle, idle_after_draws, is_reached, is_used
from andon.verify.observation.model_state import (
    built_narrow,
    copied,
    empty,
    loaded,
    shared_pairs,
    state_of,
    train_a_step,
)
from andon.verify.observation.parameters import trainable
from andon.verify.observation.passing_on import calls_without_matrices, change_of, norms_in_the_first_alone
from andon.verify.observation.word_tensors import FLAGS, head_and_tables, tying_flag
from andon.verify.subject import Batch, Subject

DEAD_SHARE = 0.05  # of a matrix's rows or columns; a few dead units of a ReLU are not a fault
DEAD_ROWS = 2
PASSED_ON = 1e-3  # of the input's rms: what epsilons of norms that follow each other leave


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
    idle = idle_after_draws(subject)
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
    if not any(seen.values()):
        raise NotApplicable("blocks that take and return states (B, T, D)")
    if repeated:
        twice, never = next(iter(repeated.items()))
        raise wrong(subject, f"within one block {twice} runs 2 times or more, and {never}, which is like it, 0 times")
    if are_chained(blocks, seen):  # others are parts beside each other
        _require_even_use(subject, [len(seen[block]) for block in blocks])
    for index, off in passed_over(blocks, seen).items():
        if not is_reached(subject, batch, index):
            raise CheckFailed(
                f"block {index + 1} is given what block {index} was given, not what it returned ({off:.2g} apart)"
            )


def _require_even_use(subject: Subject, counts: list[int]) -> None:
    """Fail where one block of a chain is used more often than another."""
    said = f"{len(counts)} blocks of one type are used {counts} times in one forward pass"
    if 0 in counts:
        raise wrong(subject, said)
    if len(set(counts)) > 1:
        raise Unusual(f"{said}; unless they loop")


def check_residual(subject: Subject) -> None:
    """A block whose matrices and biases are zero passes its input on: as it is, or normed where norms come last.

    Asked of blocks that are seen to add to the very numbers that they are given, or to attend, and whose products then
    all vanish; a constant part of the input, as where branches are averaged, is passed on, too.

    Silent because the loss falls all the same: added twice, states grow with depth; not added, depth is lost.

    Look at each `x + f(x)`: what is added, how often, and to what.

    The first block alone may norm what is embedded, and add to that.

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
    found = calls_without_matrices(subject, model, blocks, batch)
    limit = max(PASSED_ON, 0.1 * loss_rounding(subject, model, batch))
    changes = {index: change for index, pairs in found.items() for pair in pairs if (change := change_of(*pair, limit))}
    if list(changes) == [0] and norms_in_the_first_alone(blocks, found):
        return
    for index, change in changes.items():
        raise wrong(subject, f"block {index} with all its matrices zero returns {change}, and not the input itself")


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
    state = state_of(model)  # before a pass, which may add caches
    before, shared = answer(subject, model, batch), shared_pairs(model)
    tolerance = loss_rounding(subject, model, batch)
    other = loaded(subject, state)
    _require_same_model(answer(subject, other, batch), before, tolerance, "of a model and of one given its state")
    copy = copied(model)
    _require_same_model(answer(subject, copy, batch), before, tolerance, "of a model and of its copy")
    empty(copy.parameters())
    _require_same_model(answer(subject, model, batch), before, tolerance, "before and after its copy was emptied")
    for name, moved in {"a copy": copy, "one that was given its state": other}.items():
        pairs = shared_pairs(moved)
        if pairs != shared:
            raise CheckFailed(
                f"the model shares {len(shared)} pairs of parameters and {name} {len(pairs)}: {shared[:2]}"
            )
    _require_no_default(subject, state, batch, before, tolerance)
    train_a_step(subject, model, batch)
    trained, again = answer(subject, model.eval(), batch), loaded(subject, state_of(model))
    moved = apart(answer(subject, again, batch)._replace(loss=trained.loss), trained)
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
    (head, tables), flag = head_and_tables(subject, model, batch), tying_flag(model)
    if head is None or not (tables or flag is False):
        raise NotApplicable("an embedding that tokens are looked up in, and a head of its shape that gives the logits")
    is_one = head in tables
    if flag is not None and flag != is_one:
        said, count = ("one tensor", 2) if flag else ("two tensors", 1)
        raise CheckFailed(
            f"the configuration says {said} for embedding and head; there are {count}: {sorted({*tables, head})}"
        )
    if not is_one:
        _require_own_numbers(model, head, tables)
    if flag is None and not is_one:
        raise NotApplicable(f"a model whose config, or another attribute, says {FLAGS[0]}")


def _require_own_numbers(model: nn.Module, head: str, tables: list[str]) -> None:
    """Find a table that begins with the head's numbers and is another tensor."""
    weight = model.get_parameter(head)
    twin = next((name for name in tables if torch.equal(model.get_parameter(name), weight)), None)
    if twin is not None and is_drawn_matrix(weight):
        raise Unusual(
            f"{twin} and {head} begin with the same {weight.numel()} numbers and are 2 tensors, which part at "
            "the first update; 1 is expected, unless the head is meant to begin as a copy"
        )


def _require_gradients(subject: Subject, idle: Idle) -> None:
    """Fail where a parameter gets no gradient at all: red where the loss follows it, or a gradient would say so."""
    names = list(trainable(new_model(subject)))
    with_graph = reached(subject, perturbed_model(subject), any_batch(subject)) if idle.parameters else set()
    dead = [
        name
        for name in names
        if name in idle.parameters and (name not in with_graph or is_used(subject, [name]))  # what cancels is zero
    ]
    if not dead:
        return
    message = f"{len(dead)} of {len(names)} trainable parameters get no gradient from any batch: {listed(dead)}"
    if is_cross_entropy(subject) and is_used(subject, dead):
        raise CheckFailed(f"{message}; and the loss depends on them")
    raise Unusual(f"{message}; unless they are meant to be left out or held")


def _require_same_model(actual: Answer, reference: Answer, tolerance: float, what: str) -> None:
    """Fail where models differ in what they return; a loss may hold a teacher of its own beside them."""
    loss = actual.loss if reference.outputs else reference.loss
    require_same(actual._replace(loss=reference.loss if reference.outputs else loss), reference, tolerance, what)


def _require_no_default(
    subject: Subject, state: Mapping[str, Any], batch: Batch, before: Answer, tolerance: float
) -> None:
    """Find a model that, built while torch's default is bfloat16 and given the same state, says something else."""
    other = built_narrow(subject, state)
    off = 0.0 if other is None else apart(answer(subject, other, batch)._replace(loss=before.loss), before)
    if before.outputs and off > tolerance:
        raise Unusual(
            "built while torch's default dtype is bfloat16 and given the same float32 state, the model returns "
            f"something else, {off:.2g} of its rms apart, and rounding explains {tolerance:.0e}: a table that is not "
            "in its state takes its dtype from the default; unless it is never built so"
        )


CHECKS = (
    Check("structure.blocks", check_blocks),
    Check("structure.residual", check_residual),
    Check("structure.parameters", check_parameters),
    Check("structure.state", check_state),
    Check("structure.tying", check_tying),
)
