"""Speech, forecasts, survival and grades: CTC, seasonal and quantile forecasts, Cox, ordered classes, spikes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from andon.verify import Subject

SOURCE = "written for this corpus"


# ----------------------------------------------------------------------------------------------------- speech, by CTC
@dataclass
class Utterances:
    """Frames (B, T, F), letters one after another, and how many there are of both."""

    frames: Tensor
    frame_lengths: Tensor
    letters: Tensor
    letter_lengths: Tensor


class Recognizer(nn.Module):
    """Strided convolutions, a bidirectional LSTM, log probabilities of letters and blank."""

    def __init__(self, features: int = 12, letters: int = 10) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(features, 24, 3, stride=2, padding=1), nn.ReLU())
        self.rnn = nn.LSTM(24, 20, bidirectional=True)
        self.out = nn.Linear(40, letters + 1)

    def forward(self, frames: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(T / 2, B, letters + 1), as CTC wants it, and the lengths there."""
        halves = (lengths + 1) // 2
        x = self.conv(frames.transpose(1, 2)).permute(2, 0, 1)
        packed = nn.utils.rnn.pack_padded_sequence(x, halves, enforce_sorted=False)
        x, _ = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])
        return self.out(x).log_softmax(-1), halves


def utterances(generator: torch.Generator) -> Utterances:
    """Each letter sounds for six frames at a pitch of its own."""
    counts = torch.tensor([5, 3, 4, 5])
    letters = [torch.randint(1, 11, (int(count),), generator=generator) for count in counts]
    frames = torch.zeros(4, 30, 12)
    for row, spoken in enumerate(letters):
        sound = fn.one_hot(spoken, 12).float().repeat_interleave(6, 0)
        frames[row, : len(sound)] = sound + 0.1 * torch.randn(sound.shape, generator=generator)
    return Utterances(frames, 6 * counts, torch.cat(letters), counts)


def ctc(model: nn.Module, batch: Utterances) -> Tensor:
    """Blank is 0."""
    log_probs, lengths = model(batch.frames, batch.frame_lengths)
    return fn.ctc_loss(log_probs, batch.letters, lengths, batch.letter_lengths, blank=0, zero_infinity=True)


# --------------------------------------------------------------------------------------------------------- forecasting
class SeasonalMLP(nn.Module):
    """N-BEATS: blocks explain a part of the past and add to the future; one knows trends, one seasons."""

    trend: Tensor
    season: Tensor

    def __init__(self, past: int = 24, future: int = 6, hidden: int = 32) -> None:
        super().__init__()
        time = torch.arange(-past, future) / future
        waves = [f(2 * math.pi * k * time / 2) for k in (1, 2, 3) for f in (torch.sin, torch.cos)]
        self.register_buffer("trend", torch.stack([time**p for p in range(3)]))
        self.register_buffer("season", torch.stack(waves))
        body = lambda out: nn.Sequential(  # noqa: E731 - twice
            nn.Linear(past, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, out)
        )
        self.blocks = nn.ModuleList([body(2 * 3), body(2 * 6)])
        self.past = past

    def forward(self, history: Tensor) -> Tensor:
        """(B, past) to (B, future)."""
        left, total = history, torch.zeros(())
        for block, basis in zip(self.blocks, (self.trend, self.season), strict=True):
            back, ahead = block(left).chunk(2, -1)
            left = left - back @ basis[:, : self.past]
            total = total + ahead @ basis[:, self.past :]
        return total


def seasons(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Trends with seasons, scaled by the mean of the past."""
    level, slope, phase = torch.rand(3, 24, 1, generator=generator)
    time = torch.arange(30.0)
    series = 2 + level + 0.05 * slope * time + torch.sin(2 * math.pi * time / 12 + 6 * phase)
    series = series + 0.05 * torch.randn(series.shape, generator=generator)
    series = series / series[:, :24].mean(1, keepdim=True)
    return series[:, :24], series[:, 24:]


def smape(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The symmetric percentage error, its denominator held, as in the paper's code."""
    forecast, truth = model(batch[0]), batch[1]
    return 200 * ((forecast - truth).abs() / (forecast.detach().abs() + truth.abs())).mean()


class QuantileNet(nn.Module):
    """Lower, middle and upper forecast; steps between them are positive, so that they do not cross."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(24, 32), nn.SiLU(), nn.Linear(32, 18))

    def forward(self, history: Tensor) -> Tensor:
        """(B, future, 3)."""
        first, rest = self.net(history).view(-1, 6, 3).split([1, 2], -1)
        return torch.cat([first, first + fn.softplus(rest).cumsum(-1)], -1)


def pinball(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Of the quantiles 0.1, 0.5, 0.9."""
    levels = batch[1].new_tensor([0.1, 0.5, 0.9])
    error = batch[1][..., None] - model(batch[0])
    return torch.maximum(levels * error, (levels - 1) * error).sum(-1).mean()


class CausalConvs(nn.Module):
    """WaveNet's gated, dilated convolutions of discrete amplitudes."""

    def __init__(self, levels: int = 32, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(levels, width)
        self.dilations = (1, 2, 4)
        self.gates = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=d) for d in self.dilations)
        self.residuals = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in self.dilations[:-1])
        self.skips = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in self.dilations)
        self.out = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, levels, 1))

    def forward(self, levels: Tensor) -> Tensor:
        """(B, T) to logits (B, levels, T)."""
        x, total = self.embed(levels).transpose(1, 2), torch.zeros(())
        for i, dilation in enumerate(self.dilations):
            value, gate = self.gates[i](fn.pad(x, (dilation, 0))).chunk(2, 1)
            h = torch.tanh(value) * torch.sigmoid(gate)
            total = total + self.skips[i](h)
            if i < len(self.residuals):
                x = x + self.residuals[i](h)
        return self.out(total)


def wavenet() -> Subject:
    """Amplitudes by the mu-law."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        phase, speed = torch.rand(2, 4, 1, generator=generator)
        wave = torch.sin(6.28 * phase + (0.2 + 0.3 * speed) * torch.arange(29))
        encoded = torch.sign(wave) * torch.log1p(31 * wave.abs()) / math.log(32)
        levels = ((encoded + 1) / 2 * 31 + 0.5).long()
        return {"input": levels[:, :-1], "target": levels[:, 1:]}

    return Subject(
        name="wavenet", model=CausalConvs, batch=batch,
        loss=lambda model, batch: fn.cross_entropy(model(batch["input"]), batch["target"]),
        logits=lambda model, batch: model(batch["input"]).transpose(1, 2),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- survival
def patients(generator: torch.Generator) -> dict[str, Tensor]:
    """Features, time, and whether death was seen (or else the study ended)."""
    x = torch.randn(32, 6, generator=generator)
    time = -torch.log(torch.rand(32, generator=generator)) * torch.exp(-x[:, 0])
    ends = 2 * torch.rand(32, generator=generator)
    return {"x": x, "time": torch.minimum(time, ends), "event": (time <= ends).float()}


class Risk(nn.Module):
    """A log hazard ratio; a constant in it would change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 24), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(24, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B,)."""
        return self.net(x).squeeze(-1)


def cox(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The partial likelihood: among all still at risk, who died? Breslow's, by a sum from the longest time on."""
    order = batch["time"].argsort(descending=True)
    risk, event = model(batch["x"])[order], batch["event"][order]
    return -((risk - risk.logcumsumexp(0)) * event).sum() / event.sum().clamp(min=1)


# --------------------------------------------------------------------------------------------------------------- grades
class Ordinal(nn.Module):
    """CORAL: one direction, a threshold for each step between grades."""

    def __init__(self, grades: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
        self.direction = nn.Linear(24, 1, bias=False)
        self.thresholds = nn.Parameter(torch.linspace(1.0, -1.0, grades - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits that the grade is above 0, 1, ..."""
        return self.direction(self.body(x)) + self.thresholds


def grades(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Five ordered grades."""
    x = torch.randn(32, 6, generator=generator)
    return x, torch.bucketize(x[:, 0] + x[:, 1], torch.tensor([-1.5, -0.5, 0.5, 1.5]))


def ordinal_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """A yes or no for each threshold, summed."""
    x, grade = batch
    above = (grade[:, None] > torch.arange(4)).float()
    return fn.binary_cross_entropy_with_logits(model(x), above, reduction="none").sum(1).mean()


# --------------------------------------------------------------------------------------------------------------- spikes
class Spike(torch.autograd.Function):
    """A step forward; backward, the slope of a fast sigmoid (Zenke and Ganguli 2018)."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor) -> Tensor:
        """One above zero."""
        ctx.save_for_backward(potential)
        return (potential > 0).to(potential.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Scaled by 10."""
        (potential,) = ctx.saved_tensors
        return grads[0] / (10 * potential.abs() + 1) ** 2


class SpikingNet(nn.Module):
    """Leaky neurons that are reset by what they spiked, held; the readout only leaks, its maximum is the logit."""

    def __init__(self, classes: int = 3, beta: float = 0.9) -> None:
        super().__init__()
        self.into, self.out, self.beta = nn.Linear(16, 32), nn.Linear(32, classes), beta
        nn.init.normal_(self.into.weight, std=0.5)

    def forward(self, spikes: Tensor) -> dict[str, Tensor]:
        """(T, B, 16): logits, and the rate of spikes."""
        count = spikes.shape[1]
        membrane, readout = spikes.new_zeros(count, 32), spikes.new_zeros(count, self.out.out_features)
        fired, records, rates = torch.zeros_like(membrane), [], []
        for step in spikes:
            membrane = self.beta * membrane + self.into(step) - fired.detach()
            fired = Spike.apply(membrane - 1.0)
            readout = self.beta * readout + self.out(fired)
            records.append(readout)
            rates.append(fired)
        return {"logits": torch.stack(records).amax(0), "rate": torch.stack(rates).mean()}


def spiking() -> Subject:
    """Cross-entropy, and a price for spikes."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        label = torch.randint(3, (12,), generator=generator)
        rate = torch.where(torch.arange(16) % 3 == label[:, None], 0.5, 0.05)
        return {"spikes": (torch.rand(15, 12, 16, generator=generator) < rate).float(), "label": label}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out = model(batch["spikes"])
        return fn.cross_entropy(out["logits"], batch["label"]) + 0.1 * out["rate"]

    return Subject(
        name="spiking", model=SpikingNet, batch=batch, loss=loss, causal=False, recurrent=True,
        optimizer=lambda model: torch.optim.Adamax(model.parameters(), lr=5e-3, betas=(0.9, 0.999)),
    )  # fmt: skip


SUBJECTS = {
    "ctc": lambda: Subject(name="ctc", model=Recognizer, batch=utterances, loss=ctc, causal=False, recurrent=True),
    "seasonal mlp": lambda: Subject(name="seasonal mlp", model=SeasonalMLP, batch=seasons, loss=smape, causal=False),
    "quantiles": lambda: Subject(
        name="quantiles", model=QuantileNet, batch=seasons, loss=pinball, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=10),
    ),
    "wavenet": wavenet,
    "cox": lambda: Subject(
        name="cox", model=Risk, batch=patients, loss=cox, causal=False,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True),
    ),
    "ordinal": lambda: Subject(name="ordinal", model=Ordinal, batch=grades, loss=ordinal_loss, causal=False),
    "spiking": spiking,
}  # fmt: skip
