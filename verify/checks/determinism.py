"""What a forward pass may leave behind: nothing; and what mode changes: dropout alone."""

import torch
from torch import Tensor, nn

from andon.verify.access.batches import first_positions, rows_of, small_batch
from andon.verify.access.calls import loss_of, new_model, seeded
from andon.verify.access.logits import logits_of
from andon.verify.access.roles import fields
from andon.verify.access.targets import tokens_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable
from andon.verify.observation.perturb import (
    dropout_rates,
    logits_eval,
    perturbed_model,
    precise,
    rescale,
    rounding_tolerance,
    without_dropout,
)
from andon.verify.observation.tolerances import distance, require_close
from andon.verify.subject import Batch, Subject


def check_eval(subject: Subject) -> None:
    """In eval mode nothing is random: another seed gives the same logits and loss, and no random numbers are drawn.

    Silent because dropout in evaluation only makes its loss a little worse, and drawing numbers changes later
    batches.

    Look at functional dropout without `training=self.training`, and at attention's `dropout_p`.

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
    model, batch = perturbed_model(subject), small_batch(subject)
    results = []
    for seed in (1, 2):
        with seeded(seed), torch.no_grad():
            state = torch.get_rng_state()
            results.append((_logits(subject, model, batch), loss_of(subject, model, batch)))
            if not torch.equal(state, torch.get_rng_state()):
                raise CheckFailed("a forward pass in eval mode draws from torch's random numbers: 0 draws are expected")
    for name, first, second in zip(("logits", "loss"), *results, strict=True):
        require_close(second, first, 1e-6, f"eval mode's {name} with two seeds")


def check_train(subject: Subject) -> None:
    """In train mode the seed decides the loss: the same seed repeats it, and with dropout another seed changes it.

    Silent because runs are not compared number by number anyway; resuming and debugging then cannot be exact.

    Look at random generators that torch.manual_seed does not reach, at state kept between passes, and at dropout
    that is asked for and not applied.

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
    model, batch = perturbed_model(subject).train(), small_batch(subject)
    losses = []
    for _ in range(2):
        with seeded(3), torch.no_grad():
            losses.append(loss_of(subject, model, batch))
    require_close(losses[1], losses[0], 1e-6, "train mode's losses with one seed")
    rate = max(dropout_rates(model), default=0.0)
    if rate > 0:
        with seeded(4), torch.no_grad():
            other = loss_of(subject, model, batch)
        if torch.equal(other, losses[0]):
            raise CheckFailed(
                f"dropout rates go up to {rate:g}, and train mode's loss is {float(other):.6g} for 2 seeds"
            )


def check_modes(subject: Subject) -> None:
    """Without dropout, train and eval mode give the same loss and logits.

    Silent because the two are never compared: one is trained and the other measured.

    Look at whatever asks `self.training`: shifts, masks, norms, scales, and a separate loss for evaluation.

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
    batch = small_batch(subject)
    model = without_dropout(perturbed_model(subject))
    evaluated, tolerance = _loss_and_logits(subject, model.eval(), batch), rounding_tolerance(subject, model, batch)
    trained = [_loss_and_logits(subject, model.train(), batch, seed) for seed in (1, 2)]
    if distance(trained[1][0], trained[0][0]) > tolerance:
        raise NotApplicable("a model whose dropout can be set to 0")
    for name, train, evaluation in zip(("losses", "logits"), trained[0], evaluated, strict=True):
        require_close(train, evaluation, tolerance, f"{name} in train and eval mode, without dropout")


def check_purity(subject: Subject) -> None:
    """A forward and backward pass changes no parameter, no mode, no default of torch's and nothing in the batch.

    In eval mode it changes no buffer either.

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
        model, batch = new_model(subject).train(training), small_batch(subject)
        modes = {name: module.training for name, module in model.named_modules()}
        before = {name: tensor.detach().clone() for name, tensor in _state(model, training)}
        parts = {key: value.clone() for key, value in fields(batch).items() if isinstance(value, Tensor)}
        world = _world()
        loss_of(subject, model, batch).backward()
        for name, tensor in _state(model, training):
            if not torch.equal(tensor.nan_to_num(), before[name].nan_to_num()):
                raise CheckFailed(
                    f"a pass in {_mode(training)} mode changes {name} by {distance(tensor, before[name]):.2g} of its "
                    "rms"
                )
        for name, module in model.named_modules():
            if module.training != modes[name]:
                raise CheckFailed(f"a pass in {_mode(training)} mode leaves {name or 'the model'} in the other")
        for key, value in fields(batch).items():
            if isinstance(value, Tensor) and not torch.equal(value.nan_to_num(), parts[key].nan_to_num()):
                changed = int((value != parts[key]).sum())
                raise CheckFailed(f"a pass in {_mode(training)} mode changes {changed} entries of the batch's {key!r}")
        if world != _world():
            raise CheckFailed(f"a pass in {_mode(training)} mode changes torch's defaults from {world} to {_world()}")


def check_history(subject: Subject) -> None:
    """Logits do not depend on earlier inputs: not on shorter, longer or narrower batches, in either mode.

    Silent because the batches of a run are alike; the first odd one, evaluation or generation is computed with old
    state.

    Look at masks, rotations and positions kept from an earlier call, and at caches that are not emptied.

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
    batch = small_batch(subject)
    rows, time = tokens_of(subject, batch).shape
    short = first_positions(subject, rows_of(subject, batch, [rows - 1]), max(2, time // 2))
    model = perturbed_model(subject)
    first = logits_eval(subject, model, batch)
    tolerance = rounding_tolerance(subject, model, batch)
    with seeded(4), torch.no_grad():
        loss_of(subject, model.train(), short)
    require_close(
        logits_eval(subject, model, batch), first, tolerance, "logits before and after a pass with a shorter batch"
    )
    after = logits_eval(subject, model, short)
    other = precise(subject, new_model(subject)).eval()
    rescale(other)
    require_close(after, logits_eval(subject, other, short), tolerance, "a short batch's logits after a long and first")
    require_close(logits_eval(subject, other, batch), first, tolerance, "a long batch's logits after a short and first")


def _loss_and_logits(subject: Subject, model: nn.Module, batch: Batch, seed: int = 0) -> tuple[Tensor, Tensor]:
    with seeded(seed), torch.no_grad():
        return loss_of(subject, model, batch), logits_of(subject, model, batch)


def _logits(subject: Subject, model: nn.Module, batch: Batch) -> Tensor:
    try:
        return logits_of(subject, model, batch)
    except NotApplicable:
        return torch.zeros(1)


def _state(model: nn.Module, training: bool) -> list[tuple[str, Tensor]]:
    """Parameters, and in eval mode buffers: running statistics may follow training."""
    return [*model.named_parameters(), *(() if training else model.named_buffers())]


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
