"""Tools that change how a step is taken or what is learned: Accelerate, Fabric, higher, TorchJD, Opacus, torchao."""

from typing import Any, NamedTuple

import higher
import litgpt
import loralib
import torch
from accelerate import Accelerator
from lightning.fabric import Fabric
from litgpt.utils import chunked_cross_entropy
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it
from torchao.quantization import quantize_
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
from torchjd.aggregation import UPGrad
from torchjd.autojac import jac_to_grad, mtl_backward

from andon.verify import Subject

SOURCE = (
    "accelerate 1.15.0, lightning 2.6.6, litgpt 0.5.13, higher 0.2.1, torchjd 0.18.0, opacus 1.6.0, torchao 0.18.0, "
    "loralib 0.1.2"
)

VOCAB = 33


def rows(generator: torch.Generator) -> Tensor:
    """Rows that climb by a stride of their own, (6, 17)."""
    start = torch.randint(0, VOCAB, (6, 1), generator=generator)
    return (start + torch.randint(1, 4, (6, 1), generator=generator) * torch.arange(17)) % VOCAB


class Recurrent(nn.Module):
    """A language model of two LSTM layers, its head tied to its embedding."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(width, VOCAB)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.lstm(self.embed(tokens))[0])


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    """Cross-entropy of the next token."""
    return F.cross_entropy(model(tokens[:, :-1]).transpose(1, 2), tokens[:, 1:])


def accelerated() -> Subject:
    """A step by Accelerate: its backward, its clipping, its wrapped optimizer."""
    accelerator = Accelerator(cpu=True)

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return accelerator.prepare_optimizer(torch.optim.AdamW(model.parameters(), lr=5e-3))

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Tensor]) -> dict[str, float]:
        model.train()
        total = 0.0
        for tokens in batches:
            loss = next_token(model, tokens) / len(batches)
            accelerator.backward(loss)
            total += loss.item()
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": total}

    return Subject(
        name="accelerate-lstm",
        model=Recurrent,
        batch=rows,
        loss=next_token,
        optimizer=optimizer,
        train_step=train_step,
        recurrent=True,
    )


def in_fabric() -> Subject:
    """LitGPT's model, set up by Lightning's Fabric, its loss in chunks."""
    fabric = Fabric(accelerator="cpu", devices=1)
    config = litgpt.Config(
        block_size=32, vocab_size=VOCAB, padded_vocab_size=VOCAB, n_layer=2, n_head=4, n_embd=32, n_query_groups=2,
        rotary_percentage=1.0, parallel_residual=False, bias=False, norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP", intermediate_size=64,
    )  # fmt: skip

    def loss(model: nn.Module, tokens: Tensor) -> Tensor:
        return chunked_cross_entropy(model(tokens[:, :-1]), tokens[:, 1:].contiguous(), chunk_size=32)

    def train_step(model: nn.Module, optimizer: Any, batches: list[Tensor]) -> dict[str, float]:
        total = 0.0
        for tokens in batches:
            each = loss(model, tokens)
            fabric.backward(each / len(batches))
            total += each.item() / len(batches)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": total}

    return Subject(
        name="fabric-litgpt",
        model=lambda: fabric.setup_module(litgpt.GPT(config)),
        batch=rows,
        loss=loss,
        optimizer=lambda model: fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=2e-3)),
        train_step=train_step,
    )


class Tasks(NamedTuple):
    """A few sines: what is adapted to, and what is asked then, (tasks, points, 1)."""

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor


def maml() -> Subject:
    """MAML by higher: the gradient passes through two inner steps on a copy of the weights."""

    def batch(generator: torch.Generator) -> Tasks:
        size = 0.5 + 2 * torch.rand(4, 1, 1, generator=generator)
        phase = 3 * torch.rand(4, 1, 1, generator=generator)
        x = torch.rand(4, 20, 1, generator=generator) * 6 - 3
        y = size * torch.sin(x + phase)
        return Tasks(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:])

    def loss(model: nn.Module, tasks: Tasks) -> Tensor:
        outer = []
        for support_x, support_y, query_x, query_y in zip(*tasks, strict=True):
            inner = torch.optim.SGD(model.parameters(), lr=0.02)
            with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (adapted, stepper):
                for _ in range(2):
                    stepper.step(F.mse_loss(adapted(support_x), support_y))
                outer.append(F.mse_loss(adapted(query_x), query_y))
        return torch.stack(outer).mean()

    return Subject(
        name="higher-maml",
        model=lambda: nn.Sequential(nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


class TwoHeads(nn.Module):
    """A shared trunk and a head for each of two tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 24), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(24, 1) for _ in range(2))


def conflict_free() -> Subject:
    """Jacobian descent by TorchJD: the trunk's step is one that neither task loses by; heads learn as usual."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(32, 8, generator=generator)
        return x, torch.stack([x[:, :2].sum(1), x[:, 0] - x[:, 2]], dim=1)

    def losses(model: Any, batch: tuple[Tensor, ...]) -> tuple[Tensor, list[Tensor]]:
        features = model.trunk(batch[0])
        return features, [F.mse_loss(head(features)[:, 0], batch[1][:, k]) for k, head in enumerate(model.heads)]

    def train_step(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        joined = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        features, each = losses(model, joined)
        mtl_backward(each, features=features)
        jac_to_grad(model.trunk.parameters(), UPGrad())
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": torch.stack(each).mean().item()}

    return Subject(
        name="torchjd-two-tasks",
        model=TwoHeads,
        batch=batch,
        loss=lambda model, batch: torch.stack(losses(model, batch)[1]).mean(),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05),
        train_step=train_step,
        causal=False,
    )


def private() -> Subject:
    """DP-SGD by Opacus: each row's gradient is clipped and noise is added to their sum."""

    def build() -> nn.Module:
        return GradSampleModule(nn.Sequential(nn.Linear(6, 24), nn.GroupNorm(4, 24), nn.ReLU(), nn.Linear(24, 3)))

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        label = torch.randint(0, 3, (32,), generator=generator)
        x = torch.randn(32, 6, generator=generator)
        return x + 2 * F.one_hot(label, 6), label

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return DPOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), noise_multiplier=0.5, max_grad_norm=1.0,
            expected_batch_size=32,
        )  # fmt: skip

    return Subject(
        name="opacus-classifier",
        model=build,
        batch=batch,
        loss=lambda model, batch: F.cross_entropy(model(batch[0]), batch[1]),
        optimizer=optimizer,
        causal=False,
    )


class Attentive(nn.Module):
    """A decoder of one layer in linear maps alone, so that they can be replaced."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.places = nn.Embedding(16, width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 2 * width, bias=False), nn.Linear(2 * width, width, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.head = nn.Linear(width, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        x = self.embed(tokens) + self.places.weight[: tokens.shape[1]]
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.down(F.gelu(self.up(self.norms[1](x))))
        return self.head(self.norms[2](x))


def quantization_aware() -> Subject:
    """Quantization-aware training by torchao: int8 activations, int4 weights in groups, straight-through gradients."""

    def build() -> nn.Module:
        model = Attentive()
        config = QATConfig(
            activation_config=IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False),
            weight_config=IntxFakeQuantizeConfig(torch.int4, group_size=16),  # ty: ignore[missing-attribute]
            step="prepare",
        )
        quantize_(model, config)
        return model

    return Subject(
        name="torchao-qat",
        model=build,
        batch=rows,
        loss=next_token,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3),
    )


class Adapted(nn.Module):
    """A classifier of loralib's layers; only what is added learns, and biases of those layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCAB, 16)
        self.qkv = loralib.MergedLinear(16, 48, r=4, lora_alpha=8, enable_lora=[True, False, True])
        self.out = loralib.Linear(16, 16, r=4, lora_alpha=8)
        self.classify = nn.Linear(16, 3)
        loralib.mark_only_lora_as_trainable(self, bias="lora_only")
        self.classify.requires_grad_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of classes."""
        q, k, v = self.qkv(self.words(tokens)).chunk(3, dim=-1)
        mixed = torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1) @ v
        return self.classify(self.out(mixed).mean(1))


def microsoft_lora() -> Subject:
    """Microsoft's loralib: weights are merged while evaluating and taken apart for training."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        label = torch.randint(0, 3, (16,), generator=generator)
        tokens = label.unsqueeze(1) * 11 + torch.randint(0, 11, (16, 8), generator=generator)
        return {"tokens": tokens, "label": label}

    return Subject(
        name="loralib-classifier",
        model=Adapted,
        batch=batch,
        loss=lambda model, batch: F.cross_entropy(model(batch["tokens"]), batch["label"]),
        optimizer=lambda model: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3),
        causal=False,
    )


SUBJECTS = {
    "accelerate-lstm": accelerated,
    "fabric-litgpt": in_fabric,
    "higher-maml": maml,
    "torchjd-two-tasks": conflict_free,
    "opacus-classifier": private,
    "torchao-qat": quantization_aware,
    "loralib-classifier": microsoft_lora,
}
