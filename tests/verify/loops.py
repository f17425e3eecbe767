"""Clean training code of several habits, for checks to pass and for bugs to be injected into by exchange of text.

A script in the manner of nanoGPT, a trainer class in Hugging Face's, a loop that accumulates in Lightning's, a LoRA and
a block quantizer. Legend: B batch, T time, D width, V vocab.
"""

# ruff: noqa: D102 - methods of modules and loops, whose names say it

import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from andon.verify.subject import Adapters, Quantizer, Subject

VOCAB, WIDTH, HEADS, LENGTH, IGNORE = 23, 16, 2, 12, -100
EXAMPLES, ROWS, HELD_OUT = 24, 4, 10  # rows of training data, of a batch, of validation data
Batch = tuple[Tensor, Tensor]  # tokens (B, T), labels (B, T): the token that follows, or IGNORE


# ------------------------------------------------------------------------------------------------- model and data
class Norm(nn.Module):
    """RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD * torch.rsqrt(x_BTD.square().mean(-1, keepdim=True) + 1e-6) * self.gain


class Block(nn.Module):
    """Attention and a feed-forward network."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.first, self.second = Norm(), Norm()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.rest = nn.Dropout(share)

    def forward(self, x_BTD: Tensor) -> Tensor:
        shape = (*x_BTD.shape[:2], HEADS, -1)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(self.first(x_BTD)).chunk(3, -1))
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x_BTD.shape)
        x_BTD = x_BTD + self.rest(self.out(mixed))
        return x_BTD + self.rest(self.down(torch.relu(self.up(self.second(x_BTD)))))


class Net(nn.Module):
    """A small decoder: tokens (B, T) to logits (B, T, V)."""

    def __init__(self, share: float = 0.0) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block(share) for _ in range(2))
        self.norm, self.head = Norm(), nn.Linear(WIDTH, VOCAB, bias=False)
        self.activation_checkpointing = False

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embed(tokens_BT) + self.places(torch.arange(tokens_BT.shape[1]))
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x_BTD = checkpoint(block, x_BTD, use_reentrant=False)
            else:
                x_BTD = block(x_BTD)
        return self.head(self.norm(x_BTD))


def corpus(rows: int, seed: int, *, ragged: bool) -> Batch:
    """Rows of tokens; where ragged, the rows end early and the rest is not counted."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (rows, LENGTH + 1), generator=generator)
    labels = tokens[:, 1:].clone()
    if ragged:
        for row in range(rows):
            labels[row, 2 + (5 * row) % LENGTH :] = IGNORE
    return tokens[:, :-1], labels


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean nats a counted token."""
    tokens, labels = batch
    return cross_entropy(model(tokens).flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE)


def counted(batch: Batch) -> int:
    """Labels that count."""
    return int((batch[1] != IGNORE).sum())


def write(folder: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """A checkpoint: tensors, and numbers as JSON."""
    save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, folder / "tensors.safetensors")
    (folder / "numbers.json").write_text(json.dumps(numbers))


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read it back."""
    return load_file(folder / "tensors.safetensors"), json.loads((folder / "numbers.json").read_text())


def flat_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's tensors by place."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{key}": value for i, state in states.items() for key, value in state.items()}


def put_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put them back."""
    content = optimizer.state_dict()
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            place, _, key = rest.partition(".")
            content["state"].setdefault(int(place), {})[key] = value.clone()
    optimizer.load_state_dict(content)


# ------------------------------------------------------------------------------- a script in the manner of nanoGPT
PEAK, LEAST, WARMUP, STEPS, CLIP, DECAY = 1e-2, 0.1, 3, 12, 0.7, 0.1


def script_rate(step: int) -> float:
    """Learning rate of a step."""
    if step < WARMUP:
        return PEAK * (step + 1) / (WARMUP + 1)
    if step > STEPS:
        return PEAK * LEAST
    share = (step - WARMUP) / (STEPS - WARMUP)
    return PEAK * (LEAST + (1 - LEAST) * 0.5 * (1 + math.cos(math.pi * share)))


def script_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, with decay on matrices."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.95), fused=True)


def script_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> dict[str, float]:
    """One update from several micro-batches."""
    tokens = sum(counted(batch) for batch in batches)
    total = 0.0
    for batch in batches:
        loss = mean_loss(model, batch) * counted(batch) / tokens
        loss.backward()
        total += loss.item()
    parameters = list(model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    if torch.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": total, "grad_norm": float(norm), "tokens": tokens}


@torch.no_grad()
def script_validate(model: nn.Module, batches: list[Batch]) -> float:
    """Mean loss over all tokens."""
    model.eval()
    total = sum(float(mean_loss(model, batch)) * counted(batch) for batch in batches)
    model.train()
    return total / sum(counted(batch) for batch in batches)


class Script:
    """The run: windows in a new order each epoch."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model: nn.Module = Net(share=0.1)
        self.optimizer = script_optimizer(self.model)
        self.number = 0
        self.data = corpus(EXAMPLES, 5, ragged=True)

    def batches(self, number: int) -> list[Batch]:
        epoch, place = divmod(number, EXAMPLES // (2 * ROWS))
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(100 + epoch))
        chosen = order[place * 2 * ROWS : (place + 1) * 2 * ROWS]
        return [(self.data[0][part], self.data[1][part]) for part in chosen.split(ROWS)]

    def step(self) -> dict[str, float]:
        rate = script_rate(self.number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logged = script_step(self.model, self.optimizer, self.batches(self.number))
        self.number += 1
        return logged | {"learning_rate": rate}

    def validate(self) -> float:
        return script_validate(self.model, held_out())

    def save(self, folder: Path) -> None:
        tensors = self.model.state_dict() | flat_state(self.optimizer) | {"random": torch.get_rng_state()}
        write(folder, tensors, {"number": self.number})


def script_resume(folder: Path) -> Script:
    """Continue from a checkpoint."""
    run = Script()
    tensors, numbers = read(folder)
    run.model.load_state_dict({name: tensors[name] for name in run.model.state_dict()})
    put_state(run.optimizer, tensors)
    run.number = numbers["number"]
    torch.set_rng_state(tensors["random"])
    return run


def held_out() -> list[Batch]:
    """Validation batches; the last is smaller."""
    tokens, labels = corpus(HELD_OUT, 6, ragged=True)
    return list(zip(tokens.split(ROWS), labels.split(ROWS), strict=True))


def script() -> Subject:
    """The script as a subject."""
    return Subject(
        name="script",
        model=lambda: Net(share=0.1),
        batch=lambda generator: corpus(ROWS, generator.initial_seed(), ragged=True),
        loss=mean_loss,
        optimizer=script_optimizer,
        train_step=script_step,
        lr_at=script_rate,
        validate=script_validate,
        validation_batches=held_out,
        loop=Script,
        resume=script_resume,
        epoch_batches=lambda number: [batch for place in range(3) for batch in Script().batches(3 * number + place)],
        hyperparameters={
            "learning_rate": PEAK, "weight_decay": DECAY, "grad_clip": CLIP, "warmup_steps": WARMUP, "steps": STEPS,
            "min_ratio": LEAST, "epoch_steps": EXAMPLES // (2 * ROWS), "skips_nonfinite": 1,
        },
    )  # fmt: skip


# ------------------------------------------------------------------------- a trainer in the manner of Hugging Face
class HuggingNet(nn.Module):
    """Called with a whole batch; returns loss and logits, and shifts inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net(share=0.0)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(input_ids)
        if labels is None:
            return {"logits": logits}
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        return {"loss": loss, "logits": logits}


class Trainer:
    """Epochs over a shuffled set, a scheduler object, a running mean of the loss."""

    accumulation = 2

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.model: nn.Module = HuggingNet()
        self.optimizer = trainer_optimizer(self.model)
        self.scheduler = trainer_schedule(self.optimizer)
        self.tokens = corpus(EXAMPLES, 7, ragged=False)[0]
        self.epoch, self.taken = 0, 0
        self.losses: list[float] = []
        self.stream = self.examples()

    def examples(self) -> Iterator[dict[str, Tensor]]:
        while True:
            shuffle = torch.Generator().manual_seed(self.epoch)
            order = torch.randperm(EXAMPLES, generator=shuffle)
            for chosen in order.split(ROWS)[self.taken :]:
                self.taken += 1
                yield {"input_ids": self.tokens[chosen], "labels": self.tokens[chosen].clone()}
            self.epoch, self.taken = self.epoch + 1, 0

    def step(self) -> dict[str, float]:
        self.model.train()
        batches = [next(self.stream) for _ in range(self.accumulation)]
        for inputs in batches:
            loss = self.model(**inputs)["loss"] / len(batches)
            loss.backward()
            self.losses.append(float(loss.detach()) * len(batches))
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.model.zero_grad()
        return {"loss": sum(self.losses) / len(self.losses), "grad_norm": norm.item()}

    def validate(self) -> float:
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            tokens = corpus(8, 8, ragged=False)[0]
            value = float(self.model(tokens, tokens)["loss"])
        self.model.train(was_training)
        return value

    def save(self, folder: Path) -> None:
        numbers = {"epoch": self.epoch, "taken": self.taken, "scheduler": self.scheduler.state_dict()["last_epoch"]}
        write(folder, self.model.state_dict() | flat_state(self.optimizer), numbers)


def trainer_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW with decay on all but norms and biases, by name."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    spared = [p for name, p in named if name.endswith("bias") or "gain" in name]
    decayed = [p for name, p in named if not (name.endswith("bias") or "gain" in name)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-3, foreach=True)


def trainer_schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear, with warm-up."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 4, max(0.0, (40 - step) / 36)))


def trainer_resume(folder: Path) -> Trainer:
    """Continue from a checkpoint."""
    run = Trainer()
    tensors, numbers = read(folder)
    run.model.load_state_dict({name: tensors[name] for name in run.model.state_dict()})
    put_state(run.optimizer, tensors)
    run.epoch, run.taken = numbers["epoch"], numbers["taken"]
    for _ in range(numbers["scheduler"]):
        run.scheduler.step()
    run.stream = run.examples()
    return run


def trainer_batch(generator: torch.Generator) -> dict[str, Tensor]:
    """A batch as the trainer makes it."""
    tokens = corpus(ROWS, generator.initial_seed(), ragged=False)[0]
    return {"input_ids": tokens, "labels": tokens.clone()}


def trainer() -> Subject:
    """The trainer as a subject."""
    return Subject(
        name="trainer",
        model=HuggingNet,
        batch=trainer_batch,
        loss=lambda model, batch: model(**batch)["loss"],
        logits=lambda model, batch: model(batch["input_ids"])["logits"],
        optimizer=trainer_optimizer,
        lr_scheduler=trainer_schedule,
        loop=Trainer,
        resume=trainer_resume,
        hyperparameters={"learning_rate": 3e-3, "grad_clip": 1.0, "epoch_steps": EXAMPLES // (2 * ROWS)},
    )


# ------------------------------------------------------------------ a loop that accumulates, in Lightning's manner
class Accumulating:
    """A hook a batch, an update every few, half-precision products, momentum; no clipping, a constant rate."""

    every = 3

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model: nn.Module = Net(share=0.0)
        self.optimizer = self.configure_optimizers(self.model)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.seen = 0

    @staticmethod
    def configure_optimizers(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def training_step(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return mean_loss(self.model, batch)

    def on_batch(self, batch: Batch) -> Tensor:
        loss = self.training_step(batch)
        (loss / self.every).backward()
        self.seen += 1
        if self.seen % self.every == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.update_average()
        return loss.detach()

    @torch.no_grad()
    def update_average(self, decay: float = 0.9) -> None:
        for slow, fast in zip(self.average.parameters(), self.model.parameters(), strict=True):
            slow.sub_((1 - decay) * (slow - fast))

    def step(self) -> dict[str, float]:
        self.model.train()
        losses = [self.on_batch(corpus(ROWS, 50 + self.seen, ragged=False)) for _ in range(self.every)]
        return {"loss": float(torch.stack(losses).mean())}

    def validate(self) -> float:
        with torch.no_grad():
            return float(self.training_step(corpus(ROWS, 9, ragged=False)))

    def save(self, folder: Path) -> None:
        write(folder, self.model.state_dict() | flat_state(self.optimizer), {"seen": self.seen})


def accumulating_resume(folder: Path) -> Accumulating:
    """Continue from a checkpoint."""
    run = Accumulating()
    tensors, numbers = read(folder)
    run.model.load_state_dict({name: tensors[name] for name in run.model.state_dict()})
    put_state(run.optimizer, tensors)
    run.seen = numbers["seen"]
    return run


def accumulating_loss(model: nn.Module, batch: Batch) -> Tensor:
    """As the loop takes it."""
    with torch.autocast("cpu", torch.bfloat16):
        return mean_loss(model, batch)


def accumulating() -> Subject:
    """The loop as a subject; `epoch` tells which batch is which."""
    return Subject(
        name="accumulating",
        model=Net,
        batch=lambda generator: corpus(ROWS, generator.initial_seed(), ragged=False),
        loss=accumulating_loss,
        optimizer=Accumulating.configure_optimizers,
        loop=Accumulating,
        resume=accumulating_resume,
        epoch_batches=lambda number: [corpus(ROWS, 50 + index, ragged=False) for index in range(30)],
    )


# --------------------------------------------------------------- an optimizer by hand, for half-precision weights
class AdamW(torch.optim.Optimizer):
    """Adam with decoupled decay; weights in half precision have a full one in the state."""

    def __init__(self, groups: list[dict[str, Any]], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's signature
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                self.update(p, p.grad.float(), self.state[p], group)

    def update(self, p: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state |= {"step": 0, "master": p.float().clone()}
            state |= {"exp_avg": torch.zeros_like(gradient), "exp_avg_sq": torch.zeros_like(gradient)}
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        mean = state["exp_avg"] / (1 - beta1 ** state["step"])
        square = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
        master = p.float() if p.dtype == torch.float32 else state["master"]
        master.mul_(1 - group["lr"] * group["weight_decay"])
        master.sub_(group["lr"] * mean / (square.sqrt() + group["eps"]))
        p.copy_(master)


def own_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """By hand, at a rate below the rounding of half-precision weights."""
    return AdamW([{"params": list(model.parameters())}], lr=4e-5)


def own(dtype: torch.dtype = torch.float32) -> Subject:
    """A hand-written optimizer under plain steps."""
    return Subject(
        name=f"own {dtype}",
        model=lambda: Net().to(dtype),
        batch=lambda generator: corpus(ROWS, generator.initial_seed(), ragged=False),
        loss=mean_loss,
        optimizer=own_optimizer,
    )


class Momentum(torch.optim.Optimizer):
    """Steps along a running mean of gradients."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's signature
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                p.sub_(group["lr"] * mean)


def heavy() -> Subject:
    """Another optimizer by hand."""
    return replace(own(), optimizer=lambda model: Momentum(list(model.parameters()), 0.1, 0.9), name="heavy")


def half() -> Subject:
    """The same with weights in bfloat16."""
    return own(torch.bfloat16)


# --------------------------------------------------------------------------------------------------------- adapters
class Lora(nn.Module):
    """A linear map plus scale x B A."""

    a: nn.Parameter
    b: nn.Parameter
    other_a: nn.Parameter
    other_b: nn.Parameter

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale, self.merged = base, alpha / rank, False
        self.active = 0
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / rank)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        if self.merged:
            return self.base(x)
        return self.base(x) + linear(linear(dropout(x, 0.2, self.training), self.a), self.b) * self.scale

    def exchange(self, a: Any, b: Any) -> None:
        """Take these two sides, and keep the others frozen."""
        self.other_a, self.other_b = self.a, self.b
        self.a, self.b = a, b
        for parameter in self.parameters():
            parameter.requires_grad_(parameter is a or parameter is b)

    def fold(self, sign: int) -> None:
        with torch.no_grad():
            self.base.weight += sign * self.scale * (self.b @ self.a)
        self.merged = sign > 0


def lora_add(model: nn.Module, rank: int, alpha: float) -> nn.Module:
    """Adapters on every linear map of the blocks; all else frozen."""
    model.requires_grad_(False)
    for block in model.get_submodule("blocks").children():
        for name in ("qkv", "out", "up", "down"):
            setattr(block, name, Lora(getattr(block, name), rank, alpha))
    return model


def lora_second(model: nn.Module, rank: int, alpha: float) -> nn.Module:
    """Another adapter on each, which is active."""
    for module in loras(model).values():
        fresh = Lora(module.base, rank, alpha)
        module.exchange(fresh.a, fresh.b)
        module.active = 1
    return model


def lora_switch(model: nn.Module, number: int) -> nn.Module:
    """The first adapter, 0, or the second, 1."""
    for module in loras(model).values():
        if module.active != number:
            module.exchange(module.other_a, module.other_b)
            module.active = number
    return model


def loras(model: nn.Module) -> dict[str, Lora]:
    """The adapters by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Lora)}


def lora_merge(model: nn.Module) -> nn.Module:
    """Fold them in."""
    for module in loras(model).values():
        if not module.merged:
            module.fold(1)
    return model


def lora_unmerge(model: nn.Module) -> nn.Module:
    """Take them out."""
    for module in loras(model).values():
        if module.merged:
            module.fold(-1)
    return model


def lora_save(model: nn.Module, folder: Path) -> None:
    """The adapter alone."""
    found = loras(model)
    tensors = {f"{name}.{side}": getattr(module, side) for name, module in found.items() for side in ("a", "b")}
    one = next(iter(found.values()))
    write(folder, tensors, {"rank": one.a.shape[0], "alpha": one.scale * one.a.shape[0]})


def lora_load(model: nn.Module, folder: Path) -> nn.Module:
    """The adapter on a base."""
    tensors, numbers = read(folder)
    model = lora_add(model, numbers["rank"], numbers["alpha"])
    for name, module in loras(model).items():
        module.a.data.copy_(tensors[f"{name}.a"])
        module.b.data.copy_(tensors[f"{name}.b"])
    return model


def lora() -> Subject:
    """Adapters on the small decoder."""
    return Subject(
        name="lora",
        model=Net,
        batch=lambda generator: corpus(ROWS, generator.initial_seed(), ragged=False),
        loss=mean_loss,
        adapters=Adapters(
            lora_add,
            lora_merge,
            lora_unmerge,
            lora_save,
            lora_load,
            second=lora_second,
            switch=lora_switch,
            targets=("qkv", "out", "up", "down"),
        ),
        hyperparameters={"lora_dropout": 0.2},
    )


# -------------------------------------------------------------------------------------------------------- quantizer
SIZE = 32


def levels() -> Tensor:
    """Sixteen values between -1 and 1, denser about 0."""
    steps = torch.linspace(-1, 1, 15, dtype=torch.float64)
    return (
        torch.cat([steps.sign() * steps.abs() ** 1.4, torch.tensor([0.03], dtype=torch.float64)]).sort().values.float()
    )


def quantize(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Two codes a byte, and the largest value of each block."""
    flat = weights.flatten().float()
    flat = torch.cat([flat, flat.new_zeros(-len(flat) % SIZE)])
    blocks = flat.view(-1, SIZE)
    largest = blocks.abs().amax(1)
    ratios = blocks / largest.clamp_min(1e-30)[:, None]
    codes = (ratios[..., None] - levels()).abs().argmin(-1).flatten().to(torch.uint8)
    return codes[0::2] << 4 | codes[1::2], largest


def dequantize(packed: Tensor, largest: Tensor) -> Tensor:
    """Values, padding included."""
    codes = torch.stack([packed >> 4, packed & 15], 1).flatten().long()
    return (levels()[codes].view(-1, SIZE) * largest[:, None]).flatten()


def round_trip(weights: Tensor) -> Tensor:
    """There and back."""
    return dequantize(*quantize(weights))[: weights.numel()].view(weights.shape).to(weights.dtype)


def quantized() -> Subject:
    """A quantizer, with a model it is not used on."""
    return Subject(
        name="quantized",
        model=Net,
        batch=lambda generator: corpus(ROWS, generator.initial_seed(), ragged=False),
        loss=mean_loss,
        quantizer=Quantizer(round_trip, floor_db=17.0, levels=levels, block_size=SIZE),
    )


class FourBits(nn.Module):
    """A linear map whose weight is held in codes."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.store(plain.weight)

    def store(self, weight: Tensor) -> None:
        """Quantize anew."""
        self.packed, self.largest = quantize(weight.detach())

    def read(self) -> Tensor:
        """The weight."""
        flat = dequantize(self.packed, self.largest)
        return flat[: self.in_features * self.out_features].view(self.out_features, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.read())


class FoldedAgain(Lora):
    """An adapter whose merge quantizes the sum."""

    def fold(self, sign: int) -> None:
        assert isinstance(self.base, FourBits)
        change = self.scale * (self.b @ self.a)
        self.base.store(self.base.read() + sign * change)
        self.merged = bool(sign > 0)


def four_bit_add(model: nn.Module, rank: int, alpha: float) -> nn.Module:
    """Adapters on a base in four bits."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in model.get_submodule("blocks").children():
        for name in ("qkv", "out", "up", "down"):
            setattr(block, name, FoldedAgain(getattr(block, name), rank, alpha))
    return model


def four_bit_net() -> nn.Module:
    """The decoder, its blocks' matrices in four bits."""
    model = Net()
    for block in model.get_submodule("blocks").children():
        for name in ("qkv", "out", "up", "down"):
            setattr(block, name, FourBits(getattr(block, name)))
    return model


def four_bit_lora() -> Subject:
    """Adapters on four bits, merged into four bits."""
    return replace(
        lora(), name="four bits", model=four_bit_net, quantizer=quantized().quantizer,
        adapters=Adapters(four_bit_add, lora_merge, targets=("qkv", "out", "up", "down")),
    )  # fmt: skip


SUBJECTS = {
    "script": script,
    "trainer": trainer,
    "accumulating": accumulating,
    "own": own,
    "half": half,
    "lora": lora,
    "quantized": quantized,
    "four_bit_lora": four_bit_lora,
}
