"""What a forward pass may leave behind: nothing; and what mode changes: dropout alone."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.batches import first_positions, rows_of
from andon.verify.access.calls import loss_of, new_batch, new_model
from andon.verify.access.larger_weights import perturbed_model
from andon.verify.access.roles import fields
from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from andon.verify.observation.answers import (
    Answer,
    answer,
    any_batch,
    apart,
    fresh_twins,
    is_cross_entropy,
    loss_rounding,
    reached,
    require_same,
    wrong,
)
from andon.verify.observation.dropout import Dropouts
from andon.verify.observation.parameters import buffers_of, parameters, put_back
from andon.verify.observation.perturb import dropout_rates, without_dropout
from andon.verify.observation.tolerances import distance
from andon.verify.subject import Batch, Subject


def check_eval(subject: Subject) -> None:
    """In eval mode nothing is dropped, and a model that is given the same returns the same, whatever the seed.

    Seen in a pass: whether torch's dropout acts within the model, whether it draws random numbers (yellow: some route,
    hash or sample on purpose), and what it is given; noise of the loss itself is none of it.

    Silent because dropout in evaluation only makes its loss a little worse, and drawing numbers changes later
    batches.

    Look at functional dropout without `training=self.training`, and at attention's `dropout_p`.

    Yellow where the loss is not shown to be a language model's, or a model draws numbers without dropping any: it may
    sample, route or hash.

    Example:
        # wrong: dropout_p acts in eval mode as well
        q, k, v = self.project(x)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout)

        # right
        q, k, v = self.project(x)
        dropout_p = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout_p)

    Reference: PyTorch documentation, torch.nn.functional.scaled_dot_product_attention; pytorch/torchtune#1803.
    """
    model, batch = perturbed_model(subject), any_batch(subject)
    with Dropouts(model) as dropouts:
        one = answer(subject, model, batch, 1)
    if dropouts.rate > 0:
        raise wrong(subject, f"in eval mode the model drops numbers, at a rate of {dropouts.rate:g}: 0 is expected")
    other = answer(subject, model, batch, 2)
    if not _is_given_the_same(one, other):
        return  # the loss gives the model other inputs: noise, negatives, samples
    if one.drew and is_cross_entropy(subject):
        raise Unusual(
            "the model draws from torch's random numbers in eval mode: 0 draws are expected, unless what is routed, "
            "hashed or sampled is meant to be random there, too"
        )
    if not one.drew:
        require_same(other._replace(loss=one.loss), one, 1e-6, "in eval mode with two seeds")


def check_train(subject: Subject) -> None:
    """In train mode the seed decides the loss: the same seed repeats it, and with dropout another seed changes it.

    Silent because runs are not compared number by number anyway; resuming and debugging then cannot be exact.

    Look at random generators that torch.manual_seed does not reach, at state kept between passes, and at dropout
    that is asked for and not applied.

    Yellow where the loss is not shown to be a language model's.

    Example:
        # wrong: torch.manual_seed does not reach this generator
        rng = np.random.default_rng()
        masked = torch.from_numpy(rng.random(input_ids.shape) < 0.15)
        input_ids = input_ids.masked_fill(masked, mask_id)

        # right
        masked = torch.rand(input_ids.shape) < 0.15
        input_ids = input_ids.masked_fill(masked, mask_id)

    Reference: PyTorch documentation, Reproducibility.
    """
    one, other = fresh_twins(subject)
    batch = any_batch(subject)
    with Dropouts(one.train()) as dropouts:
        first = answer(subject, one, batch, 3)
    require_same(answer(subject, other.train(), batch, 3), first, 1e-6, "in train mode with one seed")
    rates = dropout_rates(one)
    if max(rates, default=0.0) > 0 and dropouts.rate == 0 and not apart(answer(subject, one, batch, 4), first):
        raise wrong(
            subject,
            f"dropout rates go up to {max(rates):g}, and train mode's loss is {float(first.loss):.6g} for 2 seeds",
        )


def check_modes(subject: Subject) -> None:
    """Without dropout, train and eval mode return the same, and have the same loss.

    Asked where train mode is not random, moves no statistics and reaches the same parameters, and the same shapes are
    returned. Red where the loss is a language model's; yellow elsewhere, and where the loss alone differs.

    Silent because the two are never compared: one is trained and the other measured.

    Look at whatever asks `self.training`: shifts, masks, norms, scales, and a separate loss for evaluation.

    Yellow where outputs agree and losses do not, or the loss is not shown to be a language model's: a
    mode may have terms of its own.

    Example:
        # wrong: in eval mode each position is scored on its own token
        def loss(self, logits, labels):
            if self.training:
                logits, labels = logits[:, :-1], labels[:, 1:]
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

        # right
        def loss(self, logits, labels):
            logits, labels = logits[:, :-1], labels[:, 1:]
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    Reference: Lightning-AI/litgpt#419.
    """
    batch = any_batch(subject)
    model = without_dropout(perturbed_model(subject))
    answer(subject, model, batch)  # a first pass may fill caches
    state = _all_state(model)
    evaluated, tolerance = answer(subject, model.eval(), batch), loss_rounding(subject, model, batch)
    trained = [answer(subject, model.train(), batch, seed) for seed in (0, 1)]
    if apart(trained[1], trained[0]) > tolerance:
        raise NotApplicable("a model whose dropout can be set to 0")
    if _moved(state, _all_state(model)):
        raise NotApplicable("a model whose statistics, codebooks and weights are the same in both modes")
    if [each.shape for each in trained[0].outputs] != [each.shape for each in evaluated.outputs]:
        raise NotApplicable("a model that returns the same kinds of things in both modes")
    if reached(subject, model.train(), batch) != reached(subject, model.eval(), batch):
        raise NotApplicable("a model that uses the same weights in both modes")
    _require_alike(subject, trained[0], evaluated, tolerance)


def _require_alike(subject: Subject, trained: Answer, evaluated: Answer, tolerance: float) -> None:
    """Find modes that return something else, or take another loss of the same."""
    off = apart(trained._replace(loss=evaluated.loss), evaluated)
    if off > tolerance:
        raise wrong(
            subject,
            f"what the model returns in train and eval mode, without dropout: {off:.2g} of their rms apart, and "
            f"rounding explains {tolerance:.0e}",
        )
    if apart(trained, evaluated) > tolerance:
        raise Unusual(
            f"the losses of the same outputs in train and eval mode, {float(trained.loss):.6g} and "
            f"{float(evaluated.loss):.6g}, differ by more than the {tolerance:.0e} that rounding explains; unless one "
            "is meant to hold terms that the other leaves out"
        )


def check_purity(subject: Subject) -> None:
    """A forward and backward pass changes no parameter, no mode, no default of torch's and nothing in the batch.

    In eval mode it changes no buffer of floating numbers either. Parameters and buffers are compared after a first
    pass, which may fill caches; the modes of what is frozen are its owner's.

    Silent because nothing fails: the next pass is simply given something else.

    Look at in-place operations, at `eval()` without `train()`, and at global settings that are not put back.

    Example:
        # wrong: writes the masks into the batch itself, which the next epoch reads again
        input_ids = batch["input_ids"]
        input_ids[torch.rand(input_ids.shape) < 0.15] = mask_id
        logits = model(input_ids)

        # right
        input_ids = batch["input_ids"]
        input_ids = input_ids.masked_fill(torch.rand(input_ids.shape) < 0.15, mask_id)
        logits = model(input_ids)
    """
    for training in (True, False):
        model, batch = new_model(subject).train(training), any_batch(subject)
        _require_clean_pass(subject, model, batch)  # may fill caches and set what begins by the first batch
        before = {name: tensor.detach().clone() for name, tensor in _state(model, training)}
        _pass(subject, model, batch)
        for name, tensor in _state(model, training):
            if name in before and _is_changed(tensor, before[name]):
                raise CheckFailed(
                    f"a pass in {_mode(training)} mode changes {name} by {distance(tensor, before[name]):.2g} of its "
                    "rms"
                )


def _require_clean_pass(subject: Subject, model: nn.Module, batch: Batch) -> None:
    """Fail where a pass writes into the batch, switches a module's mode, or changes torch's defaults."""
    modes, said = {module: module.training for module in model.modules()}, f"a pass in {_mode(model.training)} mode"
    parts = {key: value.clone() for key, value in fields(batch).items() if isinstance(value, Tensor)}
    world = _world()
    _pass(subject, model, batch)
    _require_unchanged_batch(fields(batch), parts, said)
    for name, module in model.named_modules():
        if module.training != modes.get(module, module.training) and _learns(module):
            raise CheckFailed(f"{said} leaves {name or 'the model'} in the other")
    if world != _world():
        raise CheckFailed(f"{said} changes torch's defaults from {world} to {_world()}")


def check_history(subject: Subject) -> None:
    """What a model returns does not depend on earlier inputs: not on shorter, longer or narrower batches.

    Buffers that training moves are put back. What a training pass carries over is yellow: recurrences may mean it.

    Silent because the batches of a run are alike; the first odd one, evaluation or generation is computed with old
    state.

    Look at masks, rotations and positions kept from an earlier call, and at caches that are not emptied.

    Yellow where a training pass changes what comes after it: states may be carried from batch to batch.

    Example:
        # wrong: positions go on counting where the last batch ended
        def forward(self, tokens):
            positions = self.seen + torch.arange(tokens.shape[1])
            self.seen += tokens.shape[1]
            return self.blocks(self.wte(tokens) + self.wpe(positions))

        # right
        def forward(self, tokens):
            positions = torch.arange(tokens.shape[1])
            return self.blocks(self.wte(tokens) + self.wpe(positions))
    """
    batch = any_batch(subject)
    short = _another(subject, batch)
    model = perturbed_model(subject)
    state = _all_state(model)
    first = answer(subject, model, batch)
    sets = _moved(state, _all_state(model))
    tolerance = loss_rounding(subject, model, batch)
    kept = buffers_of(model)
    answer(subject, model.train(), short, 4)
    put_back(model, kept)
    carried = apart(answer(subject, model.eval(), batch), first)
    if carried > tolerance:
        raise Unusual(
            f"a training pass with another batch changes what comes after it by {carried:.2g} of its rms, and rounding "
            f"explains {tolerance:.0e}; unless states are meant to be carried from batch to batch"
        )
    if sets:
        return  # the first batch sets something on purpose, so that another first batch makes another model
    after = answer(subject, model, short)
    other = perturbed_model(subject)
    require_same(after, answer(subject, other, short), tolerance, "for a short batch after a long one and first")
    require_same(answer(subject, other, batch), first, tolerance, "for a long batch after a short one and first")


def _is_given_the_same(one: Answer, other: Answer) -> bool:
    """Whether two passes gave the model the same."""
    pairs = zip(one.inputs, other.inputs, strict=False)
    return len(one.inputs) == len(other.inputs) and all(torch.equal(first, second) for first, second in pairs)


def _another(subject: Subject, batch: Batch) -> Batch:
    """The last row of a batch, and of that the first half; another batch where these are no rows of tokens."""
    try:
        rows, time = tokens_of(subject, batch).shape
        return first_positions(subject, rows_of(subject, batch, [rows - 1]), max(2, time // 2))
    except NotApplicable:
        return new_batch(subject, 1)


def _pass(subject: Subject, model: nn.Module, batch: Batch) -> None:
    """Forward, and backward where the loss has a graph: some networks have none in eval mode."""
    loss = loss_of(subject, model, batch)
    if loss.requires_grad:
        loss.backward()


def _require_unchanged_batch(now: Mapping[str | int, Any], parts: Mapping[str | int, Tensor], said: str) -> None:
    """Fail where a part of the batch has other numbers than before."""
    for key, before in parts.items():
        value = now.get(key)
        if isinstance(value, Tensor) and value.shape == before.shape and _is_changed(value, before):
            changed = int((value != before).sum())
            raise CheckFailed(f"{said} changes {changed} entries of the batch's {key!r}")


def _is_changed(tensor: Tensor, before: Tensor) -> bool:
    """Whether numbers are others than before; NaN is NaN, and a shape that grew is a cache's."""
    if tensor.shape != before.shape or tensor.layout != torch.strided:
        return False
    return not torch.equal(tensor.nan_to_num(), before.nan_to_num())


def _moved(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> bool:
    return before.keys() != now.keys() or any(
        before[name].shape != now[name].shape or _is_changed(now[name], before[name]) for name in before
    )


def _all_state(model: nn.Module) -> dict[str, Tensor]:
    return {**parameters(model), **buffers_of(model)}


def _learns(module: nn.Module) -> bool:
    """Whether something in it is trained: what is frozen may be kept in eval mode on purpose."""
    return any(parameter.requires_grad for parameter in module.parameters())


def _state(model: nn.Module, training: bool) -> list[tuple[str, Tensor]]:
    """Parameters, and in eval mode buffers: running statistics may follow training. Integers count passes."""
    moved = () if training else [(name, each) for name, each in model.named_buffers() if each.is_floating_point()]
    return [*model.named_parameters(), *moved]


def _world() -> tuple[object, ...]:
    return torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()


def _mode(training: bool) -> str:
    return "train" if training else "eval"


CHECKS = (
    Check("determinism.eval", check_eval),
    Check("determinism.train", check_train),
    Check("determinism.modes", check_modes),
    Check("determinism.purity", check_purity),
    Check("determinism.history", check_history),
)
