"""Adapters: nothing at first, then a low-rank change of the declared scale, wherever it is merged or stored."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from andon.verify.access.calls import hyperparameter, loss_of, needed, new_batch, seeded
from andon.verify.access.logits import logits_of
from andon.verify.checks.table import Check
from andon.verify.errors import CheckFailed, NotApplicable, listed
from andon.verify.observation.adapted_layers import effective_layers, widths_of
from andon.verify.observation.adapted_models import (
    ALPHA,
    RANK,
    SPREAD,
    adapters_of,
    add,
    added,
    filled,
    method,
    new_base,
    otherwise_scaled,
    spread_of_layers,
    spread_of_weights,
    still_learning,
)
from andon.verify.observation.adapter_tensors import (
    frozen,
    is_layer,
    learning_owners,
    lies_across,
    namesake,
    product_of,
    rank_of,
    sites_of,
    tensors_of,
)
from andon.verify.observation.parameters import mismatch, parameters, trainable
from andon.verify.observation.recomputation import gradient, recompute
from andon.verify.observation.tolerances import distance, rms, rounding
from andon.verify.subject import Batch, Subject

HALVES = (torch.bfloat16, torch.float16)
OTHER = 3  # the seed of another adapter's values
STEPS = 3  # within which both sides of a fresh adapter have moved
RATE = 1e-2
MODULES = 16  # at most, that are looked at one by one
EXACT = 1e-2  # of a weight's rms: a round trip of what is quantized already
NOISES = 2.0  # of the quantizer, on the base it never saw and on the sum


def check_identity(subject: Subject) -> None:
    """A freshly added adapter changes nothing: the logits are those of the base model, in train mode as well.

    In train mode where the base draws no random numbers (measured by two seeds): the adapter's own dropout then acts on
    an adapter that adds nothing.

    Silent because a few steps of training repair most of what a random change does, and noise in training looks like
    the dropout that was asked for.

    Look at which of the two matrices starts at zero, at what else is touched when a module is wrapped, and at dropout
    of what the base's own layer is given or returns.

    Example:
        # wrong: both matrices are random, so wrapping a layer changes its output at once
        self.lora_A = nn.Parameter(torch.randn(r, in_features) / r)
        self.lora_B = nn.Parameter(torch.randn(out_features, r) / r)

        # right
        self.lora_A = nn.Parameter(torch.randn(r, in_features) / r)
        self.lora_B = nn.Parameter(torch.zeros(out_features, r))

    Reference: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    batch, base = new_batch(subject), new_base(subject)
    if not adapters_of(subject).identity:
        raise NotApplicable("an adapter that begins as its base; its authors say that this one does not")
    before = _logits(subject, base, batch)
    after = _logits(subject, added(subject), batch)
    moved = distance(after, before)
    if not moved <= rounding(before):
        raise CheckFailed(
            f"a fresh adapter moves the logits by {moved:.2g} of their rms; rounding explains {rounding(before):.0e}"
        )
    base.train()
    before, again = (_logits(subject, base, batch, seed) for seed in (0, 1))
    if not torch.equal(before, again):
        return
    model = added(subject).train()
    moved = max(distance(_logits(subject, model, batch, seed), before) for seed in (0, 1))
    if not moved <= rounding(before):
        raise CheckFailed(
            f"in train mode a fresh adapter moves the logits by {moved:.2g} of their rms, and the base alone draws no "
            f"random numbers; rounding explains {rounding(before):.0e}"
        )


def check_frozen(subject: Subject) -> None:
    """With an adapter added, only the adapter learns: the base's tensors are frozen, and steps leave them as they are.

    Silent because more trainable parameters fit even better; only when the saved adapter is put on the original
    base does it turn out to belong to another model.

    Look at embeddings, norms and biases, at which call of `requires_grad_` comes last, and at code that replaces a
    tensor of the base.

    Example:
        # wrong: freezes the linear layers only; embeddings and norms go on learning
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.requires_grad_(False)
        add_lora(model, r=8)

        # right
        model.requires_grad_(False)
        add_lora(model, r=8)

    Reference: pytorch/torchtitan#3456.
    """
    base = new_base(subject)
    names, values = {parameter: name for name, parameter in base.named_parameters()}, parameters(base)
    model = add(subject, base, RANK, ALPHA)
    own = still_learning(names, values, model)
    if own:
        raise CheckFailed(
            f"with an adapter added {len(own)} of the base's {len(values)} tensors still learn: {listed(own)}"
        )
    before = frozen(model)
    _train(subject, model)
    after = tensors_of(model)
    moved = [name for name, value in before.items() if not torch.equal(after[name], value)]
    if moved:
        raise CheckFailed(
            f"{STEPS} steps change {len(moved)} of {len(before)} frozen tensors of the base: {listed(moved)}"
        )


def check_learning(subject: Subject) -> None:
    """Every tensor of an adapter learns: it changes within three optimizer steps, with gradient checkpointing too.

    Silent because the other tensors learn, and where none does, the base model's output is good enough for nobody
    to notice.

    Look at code that freezes parameters after the adapter was added, at checkpointing with inputs that need no
    gradient, at wrapped modules that are never called, and at the adapter's dtype.

    Example:
        # wrong: the preparation freezes every parameter, those of the new adapter as well
        model = get_peft_model(model, lora_config)
        model = prepare_model_for_kbit_training(model)

        # right: freeze first, then add the adapter
        model = prepare_model_for_kbit_training(model)
        model = get_peft_model(model, lora_config)

    Reference: huggingface/trl#4081.
    """
    for checkpointing in (False, True):
        base = new_base(subject)
        if checkpointing and not recompute(base):
            return
        model = add(subject, base, RANK, ALPHA)
        learning = trainable(model)
        how = " with activations computed again" if checkpointing else ""
        if not learning:
            raise CheckFailed(f"with an adapter added 0 of {len(parameters(model))} parameters are trainable{how}")
        before = parameters(model)
        _train(subject, model)
        still = [name for name, parameter in learning.items() if torch.equal(parameter, before[name])]
        if still and not subject.mixture_of_experts:
            raise CheckFailed(
                f"{len(still)} of {len(learning)} adapter tensors do not change in {STEPS} steps{how}: {listed(still)}"
            )


def check_targets(subject: Subject) -> None:
    """What was asked to be adapted is what learns: each such module has an adapter, and no other one has.

    Premise: `Adapters.targets` says which modules were asked for, by name or by the end of their path; an adapter's
    tensors have the path of their module in their names, or (checked first) no target's can be told.

    Silent because an adapter on half of the modules trains as well, only to a little less.

    Look at names that match nothing, at patterns that match more, and at module types that are passed over.

    Example:
        # wrong: LLaMA has no "c_proj", and nobody says so
        add_lora(model, targets=["q_proj", "v_proj", "c_proj"])

        # right: a target that names nothing is refused
        missing = [target for target in targets if not any(name.endswith(target) for name, _ in model.named_modules())]
        assert not missing, missing
    """
    asked = adapters_of(subject).targets
    if not asked:
        raise NotApplicable("adapters.targets")
    base = new_base(subject)
    owners = [name for name, module in base.named_modules() if name and is_layer(module)]
    wanted = _asked_for(asked, owners)
    found = learning_owners(add(subject, base, RANK, ALPHA), owners)
    if not found & wanted:
        raise NotApplicable("adapter tensors named after the modules that they sit on")
    idle, other = sorted(wanted - found), sorted(found - wanted)
    if idle or other:
        raise CheckFailed(
            f"{len(wanted)} modules were asked to be adapted; on {len(idle)} of them nothing learns, and {len(other)} "
            f"others learn: {listed(idle + other)}"
        )


def _asked_for(asked: Sequence[str], owners: list[str]) -> set[str]:
    """The modules that were asked to be adapted; fail where one that was asked for is not there."""
    by_target = {end: {name for name in owners if f".{name}".endswith(f".{end}")} for end in asked}
    unknown = [end for end, names in by_target.items() if not names]
    if unknown:
        raise CheckFailed(f"of the modules that were asked to be adapted the base has none called {listed(unknown)}")
    return set().union(*by_target.values())


def check_recomputation(subject: Subject) -> None:
    """Gradient checkpointing (computing activations again in the backward pass) changes no gradient of an adapter.

    Silent because an adapter that gets no gradient leaves the base model, which is a good one.

    Look at reentrant checkpointing of inputs that need no gradient, as behind a frozen embedding.

    Example:
        # wrong: behind a frozen embedding x needs no gradient, so a reentrant checkpoint gives none
        x = self.embed(input_ids)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True)

        # right
        x = self.embed(input_ids)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)

    Reference: PyTorch documentation, torch.utils.checkpoint; huggingface/transformers#26221.
    """
    batch, base = new_batch(subject), new_base(subject)
    if not recompute(base):
        raise NotApplicable("a model with gradient_checkpointing_enable() or activation_checkpointing")
    again, plain = filled(add(subject, base, RANK, ALPHA)), filled(added(subject))
    due = gradient(subject, plain.train(), batch)
    error, name = mismatch(gradient(subject, again.train(), batch), due)
    allowed = 10 * rounding(*due.values())
    if not error <= allowed:
        raise CheckFailed(
            f"with activations computed again the gradient of {name} differs by {error:.2g} of itself; "
            f"rounding explains {allowed:.0e}"
        )


def check_scale(subject: Subject) -> None:
    """Alpha and rank act as declared: twice the alpha is twice the change, and ranks of equal scale give equal changes.

    Silent because the learning rate makes up for a wrong scale, until other code merges or loads the adapter.

    Look at alpha, alpha / rank and alpha / sqrt(rank), and at which of them each code path multiplies by.

    Example:
        # wrong: multiplies by alpha, where the adapter's scale is alpha / r
        def forward(self, x):
            return self.base(x) + self.alpha * (x @ self.lora_A.T @ self.lora_B.T)

        # right
        def forward(self, x):
            return self.base(x) + self.alpha / self.r * (x @ self.lora_A.T @ self.lora_B.T)

    Reference: Hu et al. 2021, arXiv:2106.09685, section 4.1; Blaizzy/mlx-vlm#841.
    """
    scale, batch = method(subject, "scale"), new_batch(subject)
    plain = filled(add(subject, new_base(subject), RANK, ALPHA))
    fresh = {name: not bool(tensor.any()) for name, tensor in trainable(added(subject)).items()}
    doubled = filled(add(subject, new_base(subject), RANK, ALPHA))
    with torch.no_grad():
        for name, parameter in trainable(doubled).items():
            parameter.mul_(2.0 if fresh[name] else 1.0)
    due = _logits(subject, doubled, batch)
    if any(fresh.values()):
        found = _logits(subject, filled(add(subject, new_base(subject), RANK, 2 * ALPHA)), batch)
        _same(found, due, "an adapter with twice the alpha differs from one with twice the change")
    alpha = ALPHA * scale(RANK, 1.0) / scale(2 * RANK, 1.0)
    wide = add(subject, new_base(subject), 2 * RANK, alpha)
    narrow = dict(trainable(plain))
    with torch.no_grad():
        for name, parameter in trainable(wide).items():
            if name not in narrow or 2 * RANK not in parameter.shape or RANK not in narrow[name].shape:
                raise NotApplicable("an adapter of the same tensors at each rank, which is one of their sizes")
            parameter.zero_()
            corner = tuple(slice(0, size) for size in narrow[name].shape)
            parameter[corner] = narrow[name]
    found, due = _logits(subject, wide, batch), _logits(subject, plain, batch)
    _same(
        found, due, f"one change of the weights at rank {2 * RANK} and alpha {alpha:g} differs from rank {RANK} and "
        f"alpha {ALPHA:g}, both of scale {scale(RANK, ALPHA):g},"
    )  # fmt: skip


def check_merge(subject: Subject) -> None:
    """The merged model gives the adapted model's logits, and an adapter with values other than zero changes the base's.

    Silent because the merged model works: like the base, like a stronger or weaker adapter, or like another base.

    Look at the scale, at transposed and tied weights, at dtypes, and at what a quantized base is merged into.

    Example:
        # wrong: the merge leaves out the scale that the forward pass applies
        for layer in lora_layers:
            layer.base.weight.data += layer.lora_B @ layer.lora_A

        # right
        for layer in lora_layers:
            layer.base.weight.data += layer.scaling * (layer.lora_B @ layer.lora_A)

    Reference: hao-ai-lab/FastVideo#870.
    """
    merge, batch = method(subject, "merge"), new_batch(subject)
    base = _logits(subject, new_base(subject), batch)
    model = filled(added(subject))
    adapted = _logits(subject, model, batch)
    if distance(adapted, base) <= 10 * rounding(base):
        raise CheckFailed(
            f"an adapter with values of {SPREAD} moves the logits by {distance(adapted, base):.2g} of their rms"
        )
    merged = merge(model)
    if _is_quantized_again(subject, merged, batch):
        raise NotApplicable("a merge into plain weights; of what is quantized again asks adapters.merged_quantized")
    _same(_logits(subject, merged, batch), adapted, "the merged model differs from the adapted one")


def _is_quantized_again(subject: Subject, merged: nn.Module, batch: Batch) -> bool:
    """Whether any weight that a merge changed is what the quantizer represents: nothing else comes back as it was."""
    if subject.quantizer is None:
        return False
    base = new_base(subject)
    widths = widths_of(base, lambda: _logits(subject, base, batch))
    before = effective_layers(base, widths)
    for name, found in effective_layers(merged, widths).items():
        if not bool(found.any()) or (name in before and torch.equal(found, before[name])):
            continue
        weight = found.T.contiguous().float()
        if distance(subject.quantizer.round_trip(weight), weight) < EXACT:
            return True
    return False


def check_merged_weights(subject: Subject) -> None:
    """Merging changes a weight by scale x B A; where A and B cannot be told, by a matrix of the adapter's rank at most.

    Silent because a change of the right size in the wrong direction is repaired by more training.

    Look at the scale, at transposed products, at rows that belong to another projection, and at weights that are
    shared.

    Example:
        # wrong: multiplies by alpha, where the adapter's scale is alpha / r
        delta = layer.lora_B @ layer.lora_A
        layer.base.weight.data += layer.alpha * delta

        # right
        delta = layer.lora_B @ layer.lora_A
        layer.base.weight.data += layer.alpha / layer.r * delta

    Reference: Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    merge, scale = method(subject, "merge"), method(subject, "scale")(RANK, ALPHA)
    plain, model = new_base(subject), filled(added(subject))
    other = otherwise_scaled(subject)
    sides = {name: tensor.detach().clone() for name, tensor in trainable(model).items()}
    merged, scaled = tensors_of(merge(model)), {} if other is None else tensors_of(merge(other))
    compared = False
    for name, weight in tensors_of(plain).items():
        after, beside = namesake(name, weight, merged), namesake(name, weight, scaled)
        if after is None or not _is_changed_matrix(weight, after):
            continue
        if beside is not None and not torch.equal(beside, after):
            continue  # what is merged into it is not B A alone: DoRA's magnitudes, a learned mask
        compared, change = True, after.double() - weight.double()
        noise = 4 * float(torch.finfo(after.dtype).eps) * float(after.double().norm())
        _require_rank(name, change, noise, rank_of(name, change, sides, RANK))
        product = product_of(name, change, sides, RANK, across=lies_across(plain, name))
        if product is not None:
            _require_scale(name, change, noise, product, scale)
    if not compared:
        raise NotApplicable("a merge that adds scale x B A to the base's parameters, by name")


def _is_changed_matrix(weight: Tensor, after: Tensor) -> bool:
    return weight.is_floating_point() and weight.dim() == 2 and not torch.equal(after, weight)


def check_merged_quantized(subject: Subject) -> None:
    """A weight that is quantized, adapted and merged is base + scale x B A within the quantizer's own noise.

    Premise: what each adapted layer computes is measured, on unit vectors, adapted and merged; the noise is what
    `Subject.quantizer` makes of that sum. A merge that leaves the sum unquantized has none.

    Silent because a merged model that lost its adapter, or its base, answers nearly as the base did.

    Look at what is dequantized before the sum, at scales that belong to the old weight, and at sums that are rounded
    to the codes of the base.

    Example:
        # wrong: the sum is written with the base's scales, and larger weights are cut off
        merged = base.dequantize() + scale * (B @ A)
        codes = (merged / base.scales).round().clamp(-7, 7)

        # right: quantized anew
        merged = base.dequantize() + scale * (B @ A)
        base = quantize(merged)

    Reference: Dettmers et al. 2023, arXiv:2305.14314, section 3.
    """
    merge, batch = method(subject, "merge"), new_batch(subject)
    quantizer, base = needed(subject, "quantizer"), new_base(subject)
    widths = widths_of(base, lambda: _logits(subject, base, batch))
    plain = effective_layers(base, widths)
    model = filled(added(subject), spread=spread_of_layers(subject, plain, widths))
    adapted, merged = effective_layers(model, widths), effective_layers(merge(model), widths)
    compared = [name for name in plain if name in adapted and name in merged]
    compared = [name for name in compared if distance(adapted[name], plain[name]) > rounding(plain[name])]
    if not compared:
        raise NotApplicable("adapted layers that take vectors, and have the base's names before and after merging")
    for name in compared:
        due = adapted[name]
        noise = rms(quantizer.round_trip(due.T.contiguous().float()).T.double() - due.double())
        away = rms(merged[name].double() - due.double())
        if not away <= NOISES * noise + rounding(due) * rms(due):
            raise CheckFailed(
                f"merged, {name} is {away:.3g} (rms) from base + scale x B A; quantizing that sum explains {noise:.3g}"
            )


def check_merge_again(subject: Subject) -> None:
    """Merging a model that is already merged changes nothing, or is refused.

    Silent because the doubled change looks like an adapter that was trained harder.

    Look at the flag that says merged, and at whether loading or saving merges by itself.

    Example:
        # wrong: nothing remembers that the weight holds the adapter already
        def merge(self):
            self.weight.data += self.scaling * (self.lora_B @ self.lora_A)

        # right
        def merge(self):
            if not self.merged:
                self.weight.data += self.scaling * (self.lora_B @ self.lora_A)
                self.merged = True
    """
    merge, batch = method(subject, "merge"), new_batch(subject)
    once = merge(filled(added(subject)))
    due = _logits(subject, once, batch)
    try:
        twice = merge(once)
    except Exception:  # noqa: BLE001 - refused, in the code's own way
        return
    _same(_logits(subject, twice, batch), due, "a model merged twice differs from one merged once")


def check_unmerge(subject: Subject) -> None:
    """Unmerging gives back the adapted model: its adapter bit by bit, and its base within rounding.

    Silent because what is left over is small, and grows with each round of merging and unmerging.

    Look at what unmerging subtracts, in which dtype, and at copies of the adapter that merging writes back.

    Example:
        # wrong: merging adds the scaled product, unmerging subtracts the bare one
        def merge(self):
            self.weight.data += self.scaling * (self.lora_B @ self.lora_A)
        def unmerge(self):
            self.weight.data -= self.lora_B @ self.lora_A

        # right
        def merge(self):
            self.weight.data += self.scaling * (self.lora_B @ self.lora_A)
        def unmerge(self):
            self.weight.data -= self.scaling * (self.lora_B @ self.lora_A)

    Reference: Hu et al. 2021, arXiv:2106.09685, section 4.1 (no additional inference latency).
    """
    merge, unmerge, batch = method(subject, "merge"), method(subject, "unmerge"), new_batch(subject)
    model = filled(added(subject), spread=spread_of_weights(subject))
    due, sides = _logits(subject, model, batch), parameters(model)
    learning = set(trainable(model))
    back = unmerge(merge(model))
    _same(_logits(subject, back, batch), due, "a model merged and unmerged differs from the adapted one")
    after = tensors_of(back)
    for name, before in sides.items():
        if name not in after or after[name].shape != before.shape:
            continue
        if name in learning and not torch.equal(after[name], before):
            raise CheckFailed(
                f"merging and unmerging changes the adapter's {name} by {distance(after[name], before):.2g} of its rms"
            )
        if name not in learning and distance(after[name], before) > rounding(before):
            raise CheckFailed(f"merging and unmerging moves {name} by {distance(after[name], before):.2g} of its rms")


def check_file(subject: Subject) -> None:
    """An adapter that is saved, and loaded onto a fresh base, gives the same logits; and saving changes nothing.

    Silent because names that do not match are skipped: a fresh adapter, which changes nothing, stays in place.

    Look at prefixes of names, at `strict=False`, and at whether the scale is in the file.

    Example:
        # wrong: names in the file begin with "base_model.", so strict=False skips every one of them
        state = torch.load("adapter.pt")
        model.load_state_dict(state, strict=False)

        # right
        state = torch.load("adapter.pt")
        state = {name.removeprefix("base_model."): tensor for name, tensor in state.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected and not any("lora_" in name for name in missing)

    Reference: pytorch/torchtune#2537.
    """
    save, load, batch = method(subject, "save"), method(subject, "load"), new_batch(subject)
    model = filled(added(subject))
    due = _logits(subject, model, batch)
    with tempfile.TemporaryDirectory() as name:
        save(model, Path(name))
        _same(_logits(subject, model, batch), due, "the model after saving differs from before")
        loaded = load(new_base(subject), Path(name))
    _same(_logits(subject, loaded, batch), due, "the loaded adapter differs from the saved one")


def check_file_of_merged(subject: Subject) -> None:
    """An adapter saved from a merged model is refused, or is applied once when it is loaded.

    Silent because the doubled change looks like an adapter that was trained harder.

    Look at whether the file says merged, and at an `eval()` that merges before saving.

    Example:
        # wrong: the file holds the merged weights and the adapter, which is applied to them once more
        model.merge_adapter()
        torch.save(model.state_dict(), "adapter.pt")

        # right: the adapter alone, of an unmerged model
        model.unmerge_adapter()
        torch.save(get_peft_model_state_dict(model), "adapter.pt")
    """
    merge, save, load = (method(subject, what) for what in ("merge", "save", "load"))
    model, batch = filled(added(subject)), new_batch(subject)
    due = _logits(subject, model, batch)
    with tempfile.TemporaryDirectory() as name:
        try:
            save(merge(model), Path(name))
            loaded = load(new_base(subject), Path(name))
        except Exception:  # noqa: BLE001 - refused, in the code's own way
            return
        _same(
            _logits(subject, loaded, batch),
            due,
            "an adapter saved while merged, and loaded, differs from the adapted model",
        )


def check_two(subject: Subject) -> None:
    """Of two adapters on one base only the active one acts and learns, and each behaves as it would alone.

    Silent because two adapters that add up, or share a tensor, train well; what is served after a switch is
    neither.

    Look at what switching changes and what it forgets, at what freezes the other adapter, and at state kept for
    both.

    Example:
        # wrong: a new adapter is not active by itself: the first one goes on learning
        model.add_adapter("french", lora_config)
        train(model, french_data)

        # right
        model.add_adapter("french", lora_config)
        model.set_adapter("french")
        train(model, french_data)

    Reference: PEFT documentation, PeftModel.add_adapter.
    """
    second, switch, batch = method(subject, "second"), method(subject, "switch"), new_batch(subject)
    model = filled(added(subject))
    first = _logits(subject, model, batch)
    own = {id(parameter) for parameter in trainable(model).values()}
    with seeded(1):
        model = second(model, RANK, ALPHA)
    learning, alone = trainable(model), added(subject)
    both = [name for name, parameter in learning.items() if id(parameter) in own]
    if both or len(learning) != len(own):
        raise CheckFailed(
            f"with a second adapter active {len(learning)} tensors learn, {len(both)} of them the first's; the first "
            f"had {len(own)}{': ' + listed(both) if both else ''}"
        )
    due = _logits(subject, alone, batch)
    _same(_logits(subject, model, batch), due, "a fresh second adapter, active, differs from a fresh one alone")
    due = _logits(subject, filled(alone, OTHER), batch)
    _same(_logits(subject, filled(model, OTHER), batch), due, "a second adapter, active, differs from the same alone")
    _train(subject, model)
    _same(_logits(subject, switch(model, 0), batch), first, "the first adapter, active again, differs from before")


def check_dropout(subject: Subject) -> None:
    """The declared dropout of the adapters acts in each of them in training, and in none in evaluation.

    Silent because an adapter without dropout trains well, and overfits a little sooner.

    Look at which constructors pass the setting on, and at functional dropout without `training=self.training`.

    Example:
        # wrong: the MLP's adapter is built without the setting, so its dropout is 0
        self.attn = LoRALinear(dim, dim, r=8, dropout=config.lora_dropout)
        self.mlp = LoRALinear(dim, 4 * dim, r=8)

        # right
        self.attn = LoRALinear(dim, dim, r=8, dropout=config.lora_dropout)
        self.mlp = LoRALinear(dim, 4 * dim, r=8, dropout=config.lora_dropout)

    Reference: pytorch/torchtune#995.
    """
    share, batch = hyperparameter(subject, "lora_dropout"), new_batch(subject)
    base = new_base(subject).train()
    if not torch.equal(_logits(subject, base, batch, 0), _logits(subject, base, batch, 1)):
        raise NotApplicable("a base without dropout of its own")
    model = filled(added(subject))
    first, second = (_logits(subject, model.eval(), batch, seed) for seed in (0, 1))
    if not torch.equal(first, second):
        raise CheckFailed(f"in eval mode two passes of an adapted model differ by {distance(second, first):.2g}")
    values = parameters(model)
    sites = sites_of(trainable(model))
    for site in list(sites)[:: max(1, len(sites) // MODULES)]:
        with torch.no_grad():
            for name, parameter in trainable(model).items():
                parameter.copy_(values[name] if name in sites[site] else torch.zeros_like(values[name]))
        first, second = (_logits(subject, model.train(), batch, seed) for seed in (0, 1))
        if not bool(first.isfinite().all()):
            raise NotApplicable("adapters that can be all zero")
        active = not torch.equal(first, second)
        if active != (share > 0):
            raise CheckFailed(
                f"in training two passes through the adapter of {site} alone differ by {distance(second, first):.2g}; "
                f"lora_dropout is {share:g}"
            )


def _logits(subject: Subject, model: nn.Module, batch: Batch, seed: int | None = None) -> Tensor:
    """Logits in eval mode, or in the model's own mode with a seed."""
    if seed is None:
        model.eval()
    with torch.no_grad(), seeded(seed or 0):
        return logits_of(subject, model, batch)


def _train(subject: Subject, model: nn.Module) -> None:
    """A few plain steps of what is trainable."""
    optimizer = torch.optim.AdamW(trainable(model).values(), lr=RATE, weight_decay=0.0)
    model.train()
    for number in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(subject, model, new_batch(subject, number))
        if not loss.requires_grad:
            raise CheckFailed("the loss of an adapted model depends on 0 trainable parameters: backward would fail")
        loss.backward()
        optimizer.step()


def _require_rank(name: str, change: Tensor, noise: float, most: int) -> None:
    """Fail where a merge changes a weight by a matrix of a higher rank than `most`."""
    sizes = torch.linalg.svdvals(change)
    if len(sizes) > most and float(sizes[most]) > noise + 1e-3 * float(sizes[0]):
        raise CheckFailed(
            f"merging changes {name} by a matrix of rank above {most}: its singular values are "
            f"{float(sizes[0]):.3g}, ..., {float(sizes[most]):.3g}"
        )


def _require_scale(name: str, change: Tensor, noise: float, product: Tensor, scale: float) -> None:
    """Fail where a merge changes a weight by anything but scale x the adapter's product."""
    found = float((product * change).sum() / product.square().sum())
    left = float((change - found * product).norm())
    if abs(found - scale) > 1e-2 * scale or left > noise + 1e-2 * float(change.norm()):
        raise CheckFailed(
            f"merging adds {found:.4g} x B A to {name}; the scale of rank {RANK}, alpha {ALPHA:g} is {scale:.4g}"
        )


def _same(found: Tensor, due: Tensor, what: str) -> None:
    moved, allowed = distance(found, due), (8 if due.dtype in HALVES else 2) * rounding(due)  # a merge rounds twice
    if not moved <= allowed:
        raise CheckFailed(f"{what} by {moved:.2g} of the logits' rms; rounding explains {allowed:.0e}")


CHECKS = (
    Check("adapters.identity", check_identity, ("adapters",)),
    Check("adapters.merge", check_merge, ("adapters",)),
    Check("adapters.merged_weights", check_merged_weights, ("adapters",)),
    Check("adapters.merged_quantized", check_merged_quantized, ("adapters", "quantizer")),
    Check("adapters.targets", check_targets, ("adapters",)),
    Check("adapters.merge_again", check_merge_again, ("adapters",)),
    Check("adapters.unmerge", check_unmerge, ("adapters",)),
    Check("adapters.scale", check_scale, ("adapters",)),
    Check("adapters.file", check_file, ("adapters",)),
    Check("adapters.file_of_merged", check_file_of_merged, ("adapters",)),
    Check("adapters.two", check_two, ("adapters",), tier=2),
    Check("adapters.dropout", check_dropout, ("adapters",), tier=2),
    Check("adapters.frozen", check_frozen, ("adapters",), tier=2),
    Check("adapters.learning", check_learning, ("adapters",), tier=2),
    Check("adapters.recomputation", check_recomputation, ("adapters",), tier=2),
)
