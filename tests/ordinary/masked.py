"""Encoders of text: masked words, replaced words, tags, spans, chains of tags, classes."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from andon.verify import Subject

SOURCE = "written for this corpus"
PAD, CLS, SEP, MASK, FIRST, WORDS = 0, 1, 2, 3, 4, 64
IGNORED = -100


class BertEmbeddings(nn.Module):
    """Words, places, segments; normed and dropped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(WORDS, width, padding_idx=PAD)
        self.position_embeddings = nn.Embedding(32, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), nn.Dropout(0.1)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(B, T, D)."""
        places = torch.arange(input_ids.size(1), device=input_ids.device).expand_as(input_ids)
        kinds = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        total = self.word_embeddings(input_ids) + self.position_embeddings(places) + self.token_type_embeddings(kinds)
        return self.dropout(self.norm(total))


class Bert(nn.Module):
    """Post-norm, GELU, a mask that is 1 where a token is real."""

    def __init__(self, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, "gelu", batch_first=True, layer_norm_eps=1e-12)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.apply(self._init)

    def _init(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(B, T, D)."""
        states = self.embeddings(input_ids, token_type_ids)
        return self.encoder(states, src_key_padding_mask=attention_mask == 0)


def documents(generator: torch.Generator, lengths: tuple[int, ...] = (18, 11, 15, 7)) -> tuple[Tensor, Tensor]:
    """[CLS] words [SEP], padded, and the mask."""
    ids = torch.full((len(lengths), max(lengths) + 2), PAD)
    for row, length in enumerate(lengths):
        ids[row, 0], ids[row, length + 1] = CLS, SEP
        ids[row, 1 : length + 1] = torch.randint(FIRST, WORDS, (length,), generator=generator)
    return ids, (ids != PAD).long()


# ----------------------------------------------------------------------------------------------------- masked words
def masked(ids: Tensor, generator: torch.Generator, rate: float = 0.15) -> tuple[Tensor, Tensor]:
    """Of the chosen words 80% become [MASK], 10% another word, 10% stay; all others have no label."""
    chosen = (torch.rand(ids.shape, generator=generator) < rate) & (ids >= FIRST)
    chosen[:, 1] = True  # short rows have one at least
    labels = ids.masked_fill(~chosen, IGNORED)
    fate = torch.rand(ids.shape, generator=generator)
    other = torch.randint(FIRST, WORDS, ids.shape, generator=generator)
    inputs = torch.where(chosen & (fate < 0.8), MASK, ids)
    return torch.where(chosen & (fate >= 0.9), other, inputs), labels


class BertForMaskedLM(nn.Module):
    """The head has a transform, and shares the words' matrix."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.bert = Bert(width)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
        self.bias = nn.Parameter(torch.zeros(WORDS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        states = self.transform(self.bert(input_ids, attention_mask))
        return states @ self.bert.embeddings.word_embeddings.weight.T + self.bias


def masked_lm() -> Subject:
    """BERT's first task."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = documents(generator)
        inputs, labels = masked(ids, generator)
        return {"input_ids": inputs, "attention_mask": mask, "labels": labels}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"])
        return nn.functional.cross_entropy(logits.view(-1, WORDS), batch["labels"].view(-1), ignore_index=IGNORED)

    return Subject(
        name="masked lm", model=BertForMaskedLM, batch=batch, loss=loss, causal=False, random_augmentation=True,
        logits=lambda model, batch: model(batch["input_ids"], batch["attention_mask"]),
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, total_iters=10),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- replaced words
class Electra(nn.Module):
    """A small generator fills the masks; a discriminator says of each word whether it was replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = BertForMaskedLM(16), Bert(32)
        self.replaced = nn.Linear(32, 1)

    def forward(self, inputs: Tensor, original: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The generator's logits, the discriminator's, and what is true of each word."""
        words = self.generator(inputs, attention_mask)
        sampled = torch.distributions.Categorical(logits=words.detach()).sample()
        filled = torch.where(inputs == MASK, sampled, original)
        verdict = self.replaced(self.discriminator(filled, attention_mask)).squeeze(-1)
        return words, verdict, (filled != original).float()


def replaced_words() -> Subject:
    """No gradient passes through the sampling."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = documents(generator)
        chosen = (torch.rand(ids.shape, generator=generator) < 0.2) & (ids >= FIRST)
        chosen[:, 1] = True
        return {"inputs": ids.masked_fill(chosen, MASK), "original": ids, "attention_mask": mask}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        words, verdict, truth = model(**batch)
        hidden, real = batch["inputs"] == MASK, batch["attention_mask"].bool()
        generator_loss = nn.functional.cross_entropy(words[hidden], batch["original"][hidden])
        return generator_loss + 50.0 * nn.functional.binary_cross_entropy_with_logits(verdict[real], truth[real])

    return Subject(
        name="replaced words", model=Electra, batch=batch, loss=loss, causal=False, random_augmentation=True,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ spans
class SpanReader(nn.Module):
    """Question and text in, where the answer begins and ends out."""

    def __init__(self) -> None:
        super().__init__()
        self.bert, self.qa_outputs = Bert(), nn.Linear(32, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of begin and end, (B, T) each; never in the question or in padding."""
        scores = self.qa_outputs(self.bert(input_ids, attention_mask, token_type_ids))
        outside = (token_type_ids == 0) | (attention_mask == 0)
        start, end = scores.masked_fill(outside[..., None], -1e4).unbind(-1)
        return start, end


def spans() -> Subject:
    """The two losses are averaged."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        ids, mask = documents(generator, (20, 16, 18, 14))
        kinds = ((torch.arange(ids.shape[1]) > 5) & (mask == 1)).long()
        start = torch.randint(6, 11, (4,), generator=generator)
        end = start + torch.randint(0, 4, (4,), generator=generator)
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": kinds, "start": start, "end": end}

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        start, end = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        criterion = nn.CrossEntropyLoss()
        return (criterion(start, batch["start"]) + criterion(end, batch["end"])) / 2

    return Subject(name="answer spans", model=SpanReader, batch=batch, loss=loss, causal=False)


# --------------------------------------------------------------------------------------------------- chains of tags
class CRFTagger(nn.Module):
    """A BiLSTM scores tags, a linear chain scores their order."""

    def __init__(self, tags: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 20, padding_idx=PAD)
        self.lstm = nn.LSTM(20, 16, bidirectional=True, batch_first=True)
        self.emission = nn.Linear(32, tags)
        self.transitions = nn.Parameter(torch.empty(tags, tags).uniform_(-0.1, 0.1))
        self.start, self.end = (nn.Parameter(torch.empty(tags).uniform_(-0.1, 0.1)) for _ in range(2))

    def emissions(self, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, tags)."""
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(words), lengths, True, enforce_sorted=False)
        return self.emission(nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], True)[0])

    def score(self, emitted: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Of the given chains, (B,)."""
        single = emitted.gather(2, tags[..., None]).squeeze(2)
        moves = self.transitions[tags[:, :-1], tags[:, 1:]]
        last = tags.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
        return self.start[tags[:, 0]] + (single * mask).sum(1) + (moves * mask[:, 1:]).sum(1) + self.end[last]

    def normalizer(self, emitted: Tensor, mask: Tensor) -> Tensor:
        """The log of the sum over all chains, (B,), by the forward algorithm."""
        alpha = self.start + emitted[:, 0]
        for step in range(1, emitted.shape[1]):
            following = torch.logsumexp(alpha[:, :, None] + self.transitions, dim=1) + emitted[:, step]
            alpha = torch.where(mask[:, step, None], following, alpha)
        return torch.logsumexp(alpha + self.end, dim=1)

    def forward(self, words: Tensor, lengths: Tensor, tags: Tensor) -> Tensor:
        """Negative log likelihood of each row."""
        mask = words != PAD
        emitted = self.emissions(words, lengths)
        return self.normalizer(emitted, mask) - self.score(emitted, tags, mask)


def chain_tagger() -> Subject:
    """Mean over sentences."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        lengths = torch.tensor([12, 9, 4, 7])
        words = torch.randint(FIRST, WORDS, (4, 12), generator=generator)
        words[torch.arange(12) >= lengths[:, None]] = PAD
        return words, lengths, words % 5

    return Subject(
        name="crf tagger", model=CRFTagger, batch=batch, loss=lambda model, batch: model(*batch).mean(), causal=False,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.015, momentum=0.9),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- classes
class TextCNN(nn.Module):
    """Kim 2014: convolutions of several widths, the maximum over time."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 24, padding_idx=PAD)
        self.convs = nn.ModuleList(nn.Conv1d(24, 16, width) for width in (3, 4, 5))
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(48, classes)

    def forward(self, text: Tensor) -> Tensor:
        """Logits (B, classes)."""
        x = self.embedding(text).transpose(1, 2)
        return self.fc(self.drop(torch.cat([conv(x).relu().amax(2) for conv in self.convs], 1)))


class BertClassifier(nn.Module):
    """From the pooled [CLS]."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.bert, self.pooler = Bert(), nn.Linear(32, 32)
        self.dropout, self.classifier = nn.Dropout(0.1), nn.Linear(32, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """`logits` and `pooled`."""
        pooled = torch.tanh(self.pooler(self.bert(input_ids, attention_mask)[:, 0]))
        return {"logits": self.classifier(self.dropout(pooled)), "pooled": pooled}


def classified(generator: torch.Generator) -> dict[str, Tensor]:
    """A class follows from the first word."""
    ids, mask = documents(generator, (16, 9, 12, 6, 14, 11))
    return {"input_ids": ids, "attention_mask": mask, "label": ids[:, 1] % 3}


def bert_classes() -> Subject:
    """Fine-tuned with two rates: the head learns faster."""

    def optimizer(model: Any) -> torch.optim.Optimizer:
        head = itertools.chain(model.pooler.parameters(), model.classifier.parameters())
        groups = [{"params": model.bert.parameters(), "lr": 5e-4}, {"params": list(head), "lr": 5e-3}]
        return torch.optim.AdamW(groups, weight_decay=0.01)

    return Subject(
        name="bert classes",
        model=BertClassifier,
        batch=classified,
        loss=lambda model, batch: nn.functional.cross_entropy(
            model(batch["input_ids"], batch["attention_mask"])["logits"], batch["label"]
        ),
        causal=False,
        optimizer=optimizer,
    )


def cnn_classes() -> Subject:
    """Convolutions over words."""
    return Subject(
        name="text cnn", model=TextCNN, batch=classified, causal=False,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch["input_ids"]), batch["label"]),
        optimizer=lambda model: torch.optim.Adadelta(model.parameters()),
    )  # fmt: skip


SUBJECTS = {
    "masked lm": masked_lm,
    "replaced words": replaced_words,
    "answer spans": spans,
    "crf tagger": chain_tagger,
    "bert classes": bert_classes,
    "text cnn": cnn_classes,
}
