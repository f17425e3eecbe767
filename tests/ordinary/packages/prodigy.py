"""Prodigy, which finds its own rate, on a recurrent tagger."""

import torch
from prodigyopt import Prodigy
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from andon.verify import Subject

SOURCE = "prodigyopt 1.1.2"

WORDS, TAGS = 40, 5


class Tagger(nn.Module):
    """A bidirectional LSTM over packed sentences."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(32, TAGS)

    def forward(self, sentence: Tensor, lengths: Tensor) -> Tensor:
        """Log-probabilities of tags (rows, longest, tags)."""
        packed = pack_padded_sequence(self.words(sentence), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=sentence.shape[1])
        return self.tags(states).log_softmax(-1)


def prodigy_tagger() -> Subject:
    """A rate of 1 times what Prodigy estimates, under a cosine."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        sentence = torch.randint(1, WORDS, (8, 12), generator=generator)
        lengths = torch.randint(4, 13, (8,), generator=generator)
        inside = torch.arange(12) < lengths.unsqueeze(1)
        before = torch.cat([torch.zeros(8, 1, dtype=torch.long), sentence[:, :-1]], dim=1)
        tags = torch.where(before % 2 == 0, sentence % TAGS, (sentence + 1) % TAGS)
        return {"sentence": sentence * inside, "lengths": lengths, "tags": tags.masked_fill(~inside, -1)}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        scores = model(batch["sentence"], batch["lengths"])
        return nn.functional.nll_loss(scores.transpose(1, 2), batch["tags"], ignore_index=-1)

    return Subject(
        name="prodigy-tagger",
        model=Tagger,
        batch=batch,
        loss=loss,
        optimizer=lambda model: Prodigy(
            model.parameters(),
            lr=1.0,
            weight_decay=0.01,
            decouple=True,
        ),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=200),
        causal=False,
    )


SUBJECTS = {"prodigy-tagger": prodigy_tagger}
