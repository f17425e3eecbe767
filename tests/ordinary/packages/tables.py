"""Tables, survival times, functions and quantiles: rtdl, pycox, pykan and pytorch-forecasting."""

import torch
from kan import KAN
from pycox.models.loss import cox_ph_loss, nll_logistic_hazard
from pytorch_forecasting.metrics import QuantileLoss
from rtdl_num_embeddings import PeriodicEmbeddings
from rtdl_revisiting_models import MLP, FTTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everybody writes it

from andon.verify import Subject

SOURCE = "rtdl_revisiting_models 0.0.2, rtdl_num_embeddings 0.0.12, pycox 0.3.0, pykan 0.2.8, pytorch-forecasting 1.8.0"


def table(generator: torch.Generator) -> dict[str, Tensor]:
    """Numbers and two categories, with a target of both."""
    numbers = torch.randn(32, 4, generator=generator)
    categories = torch.stack(
        [torch.randint(0, 3, (32,), generator=generator), torch.randint(0, 5, (32,), generator=generator)], dim=1
    )
    target = numbers[:, 0] * (categories[:, 0] - 1) + torch.sin(3 * numbers[:, 1])
    return {"numbers": numbers, "categories": categories, "target": target}


def feature_tokens() -> Subject:
    """FT-Transformer: each feature is a token; norms, biases and embeddings do not decay."""

    def build() -> nn.Module:
        return FTTransformer(
            n_cont_features=4, cat_cardinalities=[3, 5], d_out=1, n_blocks=2, d_block=16, attention_n_heads=4,
            attention_dropout=0.1, ffn_d_hidden_multiplier=2.0, ffn_dropout=0.1, residual_dropout=0.0,
        )  # fmt: skip

    return Subject(
        name="rtdl-ft-transformer",
        model=build,
        batch=table,
        loss=lambda model, batch: F.mse_loss(model(batch["numbers"], batch["categories"]).squeeze(-1), batch["target"]),
        optimizer=lambda model: torch.optim.AdamW(model.make_parameter_groups(), lr=3e-3, weight_decay=1e-5),
        causal=False,
    )


def periodic() -> Subject:
    """Periodic embeddings of numbers before an MLP, learned frequencies."""

    def build() -> nn.Module:
        return nn.Sequential(
            PeriodicEmbeddings(4, 8, n_frequencies=8, frequency_init_scale=0.3, lite=False),
            nn.Flatten(),
            MLP(d_in=32, d_out=1, n_blocks=2, d_block=32, dropout=0.1),
        )

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.rand(64, 4, generator=generator) * 4 - 2
        return x, torch.cos(4 * x[:, 0]) + x[:, 1]

    return Subject(
        name="rtdl-periodic",
        model=build,
        batch=batch,
        loss=lambda model, batch: F.mse_loss(model(batch[0]).squeeze(-1), batch[1]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4),
        causal=False,
    )


def patients(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features, times, and whether the end was seen: higher risk ends sooner."""
    x = torch.randn(64, 5, generator=generator)
    risk = torch.exp(x[:, 0] - 0.5 * x[:, 1])
    time = -torch.rand(64, generator=generator).clamp(min=1e-3).log() / risk
    limit = 2 * torch.rand(64, generator=generator)
    return x, torch.minimum(time, limit), (time <= limit).float()


def survival_net(out: int) -> nn.Module:
    """An MLP with batch norm, as in pycox's examples; the last layer of Cox's model has no bias."""
    return nn.Sequential(
        nn.Linear(5, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Dropout(0.1), nn.Linear(32, out, bias=out > 1)
    )  # fmt: skip


def cox() -> Subject:
    """Cox's partial likelihood of the batch."""

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, time, seen = batch
        return cox_ph_loss(model(x), time, seen)

    return Subject(
        name="pycox-cox",
        model=lambda: survival_net(1),
        batch=patients,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        causal=False,
    )


def hazards() -> Subject:
    """Hazards of eight intervals, with censored times."""
    cuts = torch.linspace(0, 2, 8)[1:]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        x, time, seen = batch
        return nll_logistic_hazard(model(x), torch.bucketize(time, cuts), seen)

    return Subject(
        name="pycox-hazards",
        model=lambda: survival_net(8),
        batch=patients,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01),
        causal=False,
    )


def splines() -> Subject:
    """A Kolmogorov-Arnold network: splines on edges, a grid that is not a parameter to learn."""

    def build() -> nn.Module:
        seed = torch.initial_seed() % 2**31  # it seeds itself
        model = KAN(width=[2, 4, 1], grid=5, k=3, seed=seed, auto_save=False, symbolic_enabled=False)
        return model.speed()

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        x = torch.rand(64, 2, generator=generator) * 2 - 1
        return {"x": x, "y": torch.exp(torch.sin(3.1416 * x[:, :1]) + x[:, 1:] ** 2)}

    return Subject(
        name="pykan-regression",
        model=build,
        batch=batch,
        loss=lambda model, batch: (model(batch["x"]) - batch["y"]).square().mean(),
        optimizer=lambda model: torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2),
        causal=False,
    )


class Horizon(nn.Module):
    """A GRU over the past; quantiles of the next four values."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(1, 24, batch_first=True)
        self.out = nn.Linear(24, 4 * 3)

    def forward(self, past: Tensor) -> Tensor:
        """(rows, 4, 3)."""
        return self.out(self.gru(past.unsqueeze(-1))[1][-1]).view(-1, 4, 3)


def quantiles() -> Subject:
    """Pinball losses of three quantiles."""
    pinball = QuantileLoss(quantiles=[0.1, 0.5, 0.9])

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        phase = 6 * torch.rand(32, 1, generator=generator)
        series = torch.sin(phase + 0.5 * torch.arange(20)) + 0.2 * torch.randn(32, 20, generator=generator)
        return series[:, :16], series[:, 16:]

    return Subject(
        name="pytorch-forecasting-quantiles",
        model=Horizon,
        batch=batch,
        loss=lambda model, batch: pinball.loss(model(batch[0]), batch[1]).mean(),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        causal=False,
    )


SUBJECTS = {
    "rtdl-ft-transformer": feature_tokens,
    "rtdl-periodic": periodic,
    "pycox-cox": cox,
    "pycox-hazards": hazards,
    "pykan-regression": splines,
    "pytorch-forecasting-quantiles": quantiles,
}
