"""A subject's fingerprint: all that can be measured of it, as numbers. Two with one fingerprint behave alike.

By this an injected fault is known to be live, whatever the checks make of it.
"""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify.access.calls import gradients, loss_of, new_batch, new_model, seeded
from andon.verify.access.logits import logits_of
from andon.verify.access.roles import fields, rows
from andon.verify.access.targets import tokens_of
from andon.verify.observation.protect import protected
from andon.verify.subject import Batch, Loop, Subject

Fingerprint = list[float] | str
Measured = Iterator[tuple[str, Any]]
TOLERANCE = 1e-6  # of a tensor's norm: what another order of summation leaves
PROJECTIONS = 2
LENGTHS = (19, 5, 2, 9)  # of made-up documents
SENTENCES = ("A short one.", "Ein längerer Satz, mit Umlauten 1234 und\n\n  Einrückung. " * 12)
QUESTION = "What is red?"


def fingerprint(subject: Subject) -> dict[str, Fingerprint]:
    """A fingerprint of each quantity, by name; where a factory raises, its error. What is lacking is left out."""
    return {key: value for name in PROBES for key, value in _probed(subject, name).items()}


def changes(subject: Subject, clean: Mapping[str, Fingerprint]) -> list[str]:
    """The quantities that differ from the clean subject's, of the first probe that shows any; else none."""
    for name in PROBES:
        seen = _probed(subject, name)
        before = {key: sketch for key, sketch in clean.items() if key.startswith(f"{name}.")}
        differing = [key for key in {**before, **seen} if not _equal(seen.get(key, ""), before.get(key, ""))]
        if differing:
            return differing
    return []


def _probed(subject: Subject, name: str) -> dict[str, Fingerprint]:
    seen: dict[str, Fingerprint] = {}
    with protected():
        torch.manual_seed(0)
        try:
            for key, value in PROBES[name](subject):
                seen[f"{name}.{key}"] = _fingerprint_of(value)
        except Exception as error:  # noqa: BLE001 - a fault may raise anything, and that is seen too
            seen[f"{name}.raised"] = type(error).__name__
    return seen


def _equal(one: Fingerprint, other: Fingerprint) -> bool:
    if isinstance(one, str) or isinstance(other, str) or len(one) != len(other):
        return one == other
    scale = max(one[-1], other[-1])
    pairs = zip(one, other, strict=True)
    return all(a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= TOLERANCE * scale for a, b in pairs)


def _fingerprint_of(value: Any) -> Fingerprint:
    """Count, random projections, norm."""
    if isinstance(value, str):
        return value
    flat = torch.as_tensor(value).detach().double().reshape(-1)
    generator = torch.Generator().manual_seed(len(flat))
    random = torch.randn(PROJECTIONS, len(flat), generator=generator, dtype=torch.float64)
    return [float(len(flat)), *(random @ flat).tolist(), float(flat.norm())]


def _weights(model: nn.Module) -> Measured:
    for name, parameter in model.named_parameters():
        yield name, parameter
        yield f"{name} is", f"{parameter.dtype} {parameter.requires_grad}"


def _state(optimizer: torch.optim.Optimizer) -> Measured:
    for place, group in enumerate(optimizer.param_groups):
        yield f"{place}.settings", [float(group.get(key, 0)) for key in ("lr", "weight_decay", "eps")]
        for number, parameter in enumerate(group["params"]):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    yield f"{place}.{number}.{key}", value
                    yield f"{place}.{number}.{key} is", str(value.dtype)


def _parts(batch: Batch) -> Measured:
    for key, value in fields(batch).items():
        yield str(key), value if isinstance(value, Tensor) else str(value)


def _named(name: str, seen: Iterable[tuple[str, Any]]) -> Measured:
    for key, value in seen:
        yield f"{name}.{key}", value


def _answers(subject: Subject, model: nn.Module, batch: Batch) -> Measured:
    yield from _parts(batch)
    with torch.no_grad(), seeded():
        yield "logits", logits_of(subject, model, batch)
    with seeded():
        loss = loss_of(subject, model, batch)
    yield "loss", loss
    yield "loss is", str(loss.dtype)
    with seeded():
        yield from _named("gradient", gradients(subject, model, batch).items())
    twice = replace(subject, loss=lambda model, batch: 2 * subject.loss(model, batch))
    with seeded():
        yield from _named("gradient of twice the loss", gradients(twice, model, batch).items())


def _model(subject: Subject) -> Measured:
    model = new_model(subject)
    yield from _weights(model)
    for mode in (True, False):
        yield from _named(str(mode), _answers(subject, model.train(mode), new_batch(subject)))
    yield "state", " ".join(model.state_dict())


def _documents(subject: Subject) -> list[list[int]]:
    """Made-up documents of words that the subject's own batch has."""
    end = [] if subject.eos_id is None else [subject.eos_id]
    words = tokens_of(subject, new_batch(subject)).unique()
    words = words[words != subject.eos_id] if end else words
    with seeded(1):
        return [words[torch.randint(len(words), (length,))].tolist() + end for length in LENGTHS]


def _laid_out(subject: Subject) -> Measured:
    for name in ("collate_padded", "collate_packed"):
        make = getattr(subject, name)
        if make:
            yield from _named(name, _answers(subject, new_model(subject), make(_documents(subject))))


def _continued(subject: Subject) -> Measured:
    model = new_model(subject).eval()
    tokens_BT = torch.tensor(_documents(subject)[0])[None].repeat(2, 1)
    if subject.generate:
        yield "generate", subject.generate(model, tokens_BT[:, :5], 6)
    if subject.cached_logits:
        yield "cached_logits", subject.cached_logits(model, tokens_BT)


def _configured(subject: Subject) -> Measured:
    for key, value in subject.config_alternatives.items():
        if subject.configure:
            with seeded():
                model = subject.configure(**{key: value})
            yield from _named(key, _weights(model))
            with torch.no_grad():
                yield f"{key}.logits", logits_of(subject, model.eval(), new_batch(subject))


def _ragged(subject: Subject, seed: int) -> list[Batch]:
    batch = new_batch(subject, seed)
    return [rows(batch, torch.tensor([0])), batch]


def _stepped(subject: Subject) -> Measured:
    if not (subject.optimizer and subject.train_step):
        return
    model = new_model(subject).train()
    optimizer = subject.optimizer(model)
    for step in range(3):
        logged = subject.train_step(model, optimizer, _ragged(subject, step)) or {}
        yield from _named(f"{step}.log", logged.items())
        yield from _named(f"{step}.weight", _weights(model))
        yield from _named(f"{step}.state", _state(optimizer))


def _rates(subject: Subject) -> Measured:
    if subject.lr_at:
        yield "all", [subject.lr_at(step) for step in range(int(subject.hyperparameters.get("steps", 20)) * 2)]


def _validated(subject: Subject) -> Measured:
    for mode in (True, False):
        if subject.validate:
            model = new_model(subject).train(mode)
            yield f"{mode}.loss", subject.validate(model, _ragged(subject, 0))
            yield f"{mode}.mode", str([module.training for module in model.modules()])
            yield f"{mode}.random", torch.get_rng_state()


def _looped(subject: Subject) -> Measured:
    if not subject.loop:
        return
    loop, epoch = subject.loop(), int(subject.hyperparameters.get("epoch_steps", 4))
    yield from _ran("begun", loop, 3)
    yield "validation", loop.validate()
    yield from _ran("validated", loop, 1)
    alive = _alive()
    yield from _ran("epoch", loop, epoch)
    yield "alive", float(_alive() - alive)
    handle = next(p for p in loop.model.parameters() if p.requires_grad).register_hook(lambda grad: grad * math.inf)
    yield from _ran("spoiled", loop, 1)
    handle.remove()


def _resumed(subject: Subject) -> Measured:
    if not (subject.loop and subject.resume):
        return
    epoch = int(subject.hyperparameters.get("epoch_steps", 4))
    for steps in (2, epoch + 2):
        loop = subject.loop()
        for _ in range(steps):
            loop.step()
        with TemporaryDirectory() as folder:
            loop.save(Path(folder))
            yield from _ran(f"after {steps}", subject.resume(Path(folder)), epoch + 1)


def _ran(name: str, loop: Loop, steps: int) -> Measured:
    yield f"{name}.random at first", torch.get_rng_state()
    for step in range(steps):
        yield from _named(f"{name}.{step}", loop.step().items())
    yield from _named(name, _weights(loop.model))
    yield from _named(name, _state(loop.optimizer))
    yield f"{name}.random", torch.get_rng_state()


def _alive() -> int:
    """Tensors, and nodes of graphs, that something still holds."""
    gc.collect()
    kinds = Tensor, torch.autograd.function.FunctionCtx
    return sum(issubclass(type(thing), kinds) for thing in gc.get_objects())  # isinstance would wake lazy modules


def _read(subject: Subject) -> Measured:
    for epoch in range(2):
        for number, batch in enumerate(subject.epoch_batches(epoch) if subject.epoch_batches else ()):
            yield from _named(f"{epoch}.{number}", _parts(batch))
    for number, batch in enumerate(subject.validation_batches() if subject.validation_batches else ()):
        yield from _named(f"held out.{number}", _parts(batch))
    for number, sentence in enumerate(SENTENCES):
        if subject.encode:
            yield f"encoded.{number}", [float(token) for token in subject.encode(sentence)]
        if subject.encode_instruction:
            for key, ids in zip(("ids", "labels"), subject.encode_instruction(QUESTION, sentence), strict=True):
                yield f"instruction.{number}.{key}", [float(token) for token in ids]


def _adapted(subject: Subject) -> Measured:
    if not subject.adapters:
        return
    adapters, batch = subject.adapters, new_batch(subject)
    model = adapters.add(new_model(subject), 3, 5.0)
    yield from _named("added", _weights(model))
    with seeded(1), torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    for mode in (True, False):
        yield from _named(f"moved.{mode}", _answers(subject, model.train(mode), batch))
    if adapters.save and adapters.load:
        with TemporaryDirectory() as folder:
            adapters.save(model, Path(folder))
            with seeded(2):
                loaded = adapters.load(new_model(subject), Path(folder))
        with torch.no_grad():
            yield "loaded", logits_of(subject, loaded.eval(), batch)
    for number, name in enumerate(("merge", "unmerge", "merge", "merge")):
        change = getattr(adapters, name)
        if change:
            model = change(model).eval()
            yield from _named(f"{number} {name}", _weights(model))
            with torch.no_grad():
                yield f"{number} {name}.logits", logits_of(subject, model, batch)


def _quantized(subject: Subject) -> Measured:
    if not subject.quantizer:
        return
    if subject.quantizer.levels:
        torch.set_default_dtype(torch.bfloat16)  # `protected` puts it back
        yield "levels under bfloat16", subject.quantizer.levels()
        torch.set_default_dtype(torch.float32)
    for shape in ((64, 64), (3, 50), (7, 13)):
        with seeded(shape[0]):
            weight = torch.randn(shape)
        yield str(shape), subject.quantizer.round_trip(weight)


PROBES: dict[str, Callable[[Subject], Measured]] = {
    "quantizer": _quantized,
    "model": _model,
    "documents": _laid_out,
    "continued": _continued,
    "configured": _configured,
    "train_step": _stepped,
    "lr_at": _rates,
    "validate": _validated,
    "loop": _looped,
    "resume": _resumed,
    "data": _read,
    "adapters": _adapted,
}
