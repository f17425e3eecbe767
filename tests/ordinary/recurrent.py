"""LSTMs and GRUs: language models, a forecaster, a reader of reviews, and translation with attention."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from andon.verify import Subject

SOURCE = "written for this corpus"


# ----------------------------------------------------------------- words, time first, one matrix for both ends, tied
class RNNModel(nn.Module):
    """Embedding, LSTM, and the embedding again as decoder."""

    def __init__(self, ntoken: int = 71, ninp: int = 40, nlayers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.ntoken = ntoken
        self.drop = nn.Dropout(dropout)
        self.encoder = nn.Embedding(ntoken, ninp)
        self.rnn = nn.LSTM(ninp, ninp, nlayers, dropout=dropout)
        self.decoder = nn.Linear(ninp, ntoken)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, input: Tensor, hidden: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Any]:  # noqa: A002
        """Tokens (T, B) to log probabilities (T * B, V) and the last states."""
        output, hidden = self.rnn(self.drop(self.encoder(input)), hidden)
        decoded = self.decoder(self.drop(output)).view(-1, self.ntoken)
        return F.log_softmax(decoded, dim=1), hidden


def columns(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A chunk of the text in columns, and its targets."""
    source = torch.randint(71, (26, 8), generator=generator)
    return source[:25], source[1:26].reshape(-1)


def lstm_words() -> Subject:
    """SGD with a large rate, as the weights are small."""
    return Subject(
        name="lstm words",
        model=RNNModel,
        batch=columns,
        loss=lambda model, batch: nn.NLLLoss()(model(batch[0])[0], batch[1]),
        recurrent=True,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=2.0),
    )


# --------------------------------------------------------- characters, where each batch goes on from the one before it
class StatefulChars(nn.Module):
    """A GRU that remembers, cut off, where the last batch ended (truncated backpropagation through time)."""

    def __init__(self, characters: int = 30, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, 16)
        self.gru = nn.GRU(16, width, batch_first=True)
        self.out = nn.Linear(width, characters)
        self.carried: Tensor | None = None

    def reset(self) -> None:
        """Forget, at the beginning of a text."""
        self.carried = None

    def forward(self, text: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        if self.carried is not None and self.carried.shape[1] != len(text):
            self.reset()
        states, last = self.gru(self.embed(text), self.carried)
        if self.training:
            self.carried = last.detach()
        return self.out(states)


def stateful_chars() -> Subject:
    """Four streams of text."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        stream = torch.randint(30, (4, 21), generator=generator)
        return {"text": stream[:, :-1], "following": stream[:, 1:]}

    return Subject(
        name="stateful gru",
        model=StatefulChars,
        batch=batch,
        loss=lambda model, batch: F.cross_entropy(model(batch["text"]).transpose(1, 2), batch["following"]),
        recurrent=True,
        optimizer=lambda model: torch.optim.RMSprop(model.parameters(), lr=2e-3, alpha=0.95),
    )


# ----------------------------------------------------------------------------------------- names of several lengths
class Names(NamedTuple):
    """Padded names with begin and end, and their lengths, the longest first."""

    letters: Tensor
    lengths: Tensor


class NameModel(nn.Module):
    """A packed GRU; only real letters are scored."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(29, 12, padding_idx=0)
        self.gru = nn.GRU(12, 40, num_layers=2, batch_first=True)
        self.scores = nn.Linear(40, 29)

    def forward(self, names: Names) -> tuple[Tensor, Tensor]:
        """Scores of all that follows, one after another in packed order, and what did follow."""
        steps = names.lengths - 1
        read = pack_padded_sequence(self.embedding(names.letters[:, :-1]), steps, batch_first=True)
        output, _ = self.gru(read)
        expected = pack_padded_sequence(names.letters[:, 1:], steps, batch_first=True)
        return self.scores(output.data), expected.data


def names(generator: torch.Generator) -> Names:
    """1 begins, 2 ends, 0 pads."""
    lengths = sorted(torch.randint(3, 11, (6,), generator=generator).tolist(), reverse=True)
    rows = [torch.randint(3, 29, (length,), generator=generator) for length in lengths]
    marked = [F.pad(F.pad(row, (1, 0), value=1), (0, 1), value=2) for row in rows]
    return Names(pad_sequence(marked, batch_first=True), torch.tensor(lengths) + 2)


def gru_names() -> Subject:
    """A generator of names."""
    return Subject(
        name="gru names", model=NameModel, batch=names, loss=lambda model, batch: F.cross_entropy(*model(batch)),
        recurrent=True, optimizer=lambda model: torch.optim.Adam(model.parameters(), 3e-3),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------------- forecasting
class Forecaster(nn.Module):
    """The last state of an LSTM says the next values, as differences from the last one seen."""

    def __init__(self, features: int = 3, hidden: int = 32, horizon: int = 4) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True)
        self.project = nn.Linear(hidden, horizon)

    def forward(self, history: Tensor) -> Tensor:
        """(B, T, F) to (B, horizon)."""
        _, (last, _) = self.lstm(history)
        return history[:, -1, :1] + self.project(last[-1])


def waves(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Noisy waves of three channels; the first is forecast."""
    phase = torch.rand(16, 1, 3, generator=generator) * 6.28
    time = torch.arange(24.0)[None, :, None] * torch.tensor([0.3, 0.5, 0.2])
    series = torch.sin(time + phase) + 0.05 * torch.randn(16, 24, 3, generator=generator)
    return series[:, :20], series[:, 20:, 0]


def lstm_forecast() -> Subject:
    """Huber's loss."""

    def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
        optimizer.zero_grad()
        history, future = (torch.cat(parts) for parts in zip(*batches, strict=True))
        loss = F.smooth_l1_loss(model(history), future)
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimizer.step()
        return {"loss": float(loss.detach())}

    return Subject(
        name="lstm forecast",
        model=Forecaster,
        batch=waves,
        loss=lambda model, batch: F.smooth_l1_loss(model(batch[0]), batch[1]),
        causal=False,
        recurrent=True,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        train_step=train_step,
    )


# --------------------------------------------------------------------------------------------------------- reviews
class ReviewReader(nn.Module):
    """A bidirectional LSTM over packed words, pooled by maximum over the real ones."""

    def __init__(self, words: int = 120) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 24, padding_idx=0)
        self.lstm = nn.LSTM(24, 20, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(0.3)
        self.verdict = nn.Linear(40, 1)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """A logit a review."""
        packed = pack_padded_sequence(
            self.dropout(self.embedding(words)), lengths, batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, padding_value=-1e9)
        return self.verdict(self.dropout(states.amax(1)))[:, 0]


def reviews(generator: torch.Generator) -> dict[str, Tensor]:
    """Good ones hold word 7."""
    lengths = torch.randint(5, 20, (8,), generator=generator)
    rows = [torch.randint(8, 120, (int(length),), generator=generator) for length in lengths]
    good = torch.arange(8) % 2
    for row, says in zip(rows, good.tolist(), strict=True):
        row[len(row) // 2] = 7 if says else 8
    return {"words": pad_sequence(rows, batch_first=True), "lengths": lengths, "good": good.float()}


def review_reader() -> Subject:
    """Good or bad."""
    return Subject(
        name="lstm reviews",
        model=ReviewReader,
        batch=reviews,
        loss=lambda model, batch: F.binary_cross_entropy_with_logits(
            model(batch["words"], batch["lengths"]), batch["good"]
        ),
        causal=False,
        recurrent=True,
    )


# ------------------------------------------------------------------------------------- translation with attention
class AttentiveTranslator(nn.Module):
    """Bahdanau's: a bidirectional GRU reads, another GRU writes and looks back at each word."""

    def __init__(self, source: int = 50, target: int = 40, width: int = 24) -> None:
        super().__init__()
        self.source = nn.Embedding(source, width, padding_idx=0)
        self.target = nn.Embedding(target, width, padding_idx=0)
        self.reader = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.start = nn.Linear(2 * width, width)
        self.query, self.keys = nn.Linear(width, width), nn.Linear(2 * width, width, bias=False)
        self.energy = nn.Linear(width, 1, bias=False)
        self.writer = nn.GRUCell(3 * width, width)
        self.scores = nn.Linear(4 * width, target)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Log probabilities (B, T, V) of what follows each given word."""
        real = source != 0
        packed = pack_padded_sequence(self.source(source), real.sum(1), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.reader(packed)[0], batch_first=True, total_length=source.shape[1])
        mean = (read * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        state, keys, steps = torch.tanh(self.start(mean)), self.keys(read), []
        for word in self.target(target).unbind(1):
            energy = self.energy(torch.tanh(self.query(state)[:, None] + keys)).squeeze(-1)
            weights = energy.masked_fill(~real, float("-inf")).softmax(-1)
            context = torch.bmm(weights[:, None], read).squeeze(1)
            state = self.writer(torch.cat([word, context], -1), state)
            steps.append(self.scores(torch.cat([state, context, word], -1)))
        return torch.stack(steps, 1).log_softmax(-1)


def translated(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sentences in two languages; 0 pads, 1 begins, 2 ends."""
    sides = []
    for size in (50, 40):
        rows = [torch.randint(3, size, (length,), generator=generator) for length in (9, 5, 7, 4)]
        sides.append(pad_sequence([torch.cat([torch.tensor([1]), row, torch.tensor([2])]) for row in rows], True))
    return sides[0], sides[1]


def attentive_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Teacher forcing; padding does not count."""
    source, target = batch
    following = target[:, 1:]
    log_probs = model(source, target[:, :-1]).gather(-1, following[..., None]).squeeze(-1)
    real = (following != 0).float()
    return -(log_probs * real).sum() / real.sum()


def attentive_translation() -> Subject:
    """Sequence to sequence."""
    return Subject(
        name="gru translation", model=AttentiveTranslator, batch=translated, loss=attentive_loss, causal=False,
        recurrent=True, optimizer=lambda model: torch.optim.Adadelta(model.parameters(), lr=1.0, rho=0.95, eps=1e-6),
    )  # fmt: skip


SUBJECTS = {
    "lstm words": lstm_words,
    "stateful gru": stateful_chars,
    "gru names": gru_names,
    "lstm forecast": lstm_forecast,
    "lstm reviews": review_reader,
    "gru translation": attentive_translation,
}
