"""Losses on embeddings, orders and tags: of pytorch-metric-learning, sentence-transformers and smaller packages."""

from typing import Any

import torch
from coral_pytorch.dataset import levels_from_labelbatch
from coral_pytorch.layers import CoralLayer
from coral_pytorch.losses import coral_loss
from info_nce import InfoNCE
from pytorch_metric_learning import distances, losses, miners
from sentence_transformers import SentenceTransformer
from sentence_transformers.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from torch import Tensor, nn
from torchcrf import CRF

from andon.verify import Subject

SOURCE = (
    "pytorch-metric-learning 2.9.0, info-nce-pytorch 0.1.4, sentence-transformers 6.2.0, pytorch-crf 0.7.2, "
    "coral-pytorch 1.4.0"
)


def clusters(generator: torch.Generator, rows: int = 24) -> tuple[Tensor, Tensor]:
    """Points of four classes, each class bent."""
    label = torch.arange(rows) % 4
    angle = label * 1.57 + 0.5 * torch.rand(rows, generator=generator)
    radius = 1 + torch.rand(rows, generator=generator)
    x = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return torch.cat([x, torch.randn(rows, 4, generator=generator)], dim=1), label


def embedder(out: int = 8) -> nn.Module:
    """A small trunk."""
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, out))


def triplets() -> Subject:
    """Triplet margin loss on semi-hard triplets, mined in the batch."""
    miner = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard")
    margin = losses.TripletMarginLoss(margin=0.2)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        embeddings = model(batch[0])
        return margin(embeddings, batch[1], miner(embeddings, batch[1]))

    return Subject(
        name="metric-learning-triplets",
        model=embedder,
        batch=clusters,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
        causal=False,
    )


def supervised_contrast() -> Subject:
    """Supervised contrastive loss by cosine."""
    contrast = losses.SupConLoss(temperature=0.1, distance=distances.CosineSimilarity())
    return Subject(
        name="metric-learning-supcon",
        model=embedder,
        batch=clusters,
        loss=lambda model, batch: contrast(model(batch[0]), batch[1]),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4),
        causal=False,
    )


class Faces(nn.Module):
    """A trunk and ArcFace, whose class centers are learned with it."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = embedder()
        self.arc = losses.ArcFaceLoss(num_classes=4, embedding_size=8, margin=28.6, scale=16)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """The loss itself."""
        return self.arc(self.trunk(x), label)


def arc_face() -> Subject:
    """ArcFace; centers have a rate of their own."""

    def optimizer(model: Any) -> torch.optim.Optimizer:
        groups = [{"params": model.trunk.parameters()}, {"params": model.arc.parameters(), "lr": 1e-2}]
        return torch.optim.AdamW(groups, lr=1e-3)

    return Subject(
        name="metric-learning-arcface",
        model=Faces,
        batch=clusters,
        loss=lambda model, batch: model(*batch),
        optimizer=optimizer,
        causal=False,
    )


class TwoTowers(nn.Module):
    """Queries and documents, each with its tower."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.document = embedder(), embedder()


def info_nce() -> Subject:
    """InfoNCE: other rows' documents are the negatives."""
    contrast = InfoNCE(temperature=0.1)

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        query = torch.randn(16, 6, generator=generator)
        turned = query.roll(1, dims=1) * 0.8
        return {"query": query, "document": turned + 0.2 * torch.randn(16, 6, generator=generator)}

    return Subject(
        name="info-nce-towers",
        model=TwoTowers,
        batch=batch,
        loss=lambda model, batch: contrast(model.query(batch["query"]), model.document(batch["document"])),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
        causal=False,
    )


class BagOfTokens(nn.Module):
    """A module of sentence-transformers' own kind: features in, features with an embedding out."""

    def __init__(self, words: int = 60, width: int = 16) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.dense = nn.Linear(width, width)

    def forward(self, features: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        """The mean over real tokens."""
        mask = features["attention_mask"].unsqueeze(-1).float()
        mean = (self.words(features["input_ids"]) * mask).sum(1) / mask.sum(1).clamp(min=1)
        return features | {"sentence_embedding": torch.tanh(self.dense(mean))}


def texts(generator: torch.Generator, topic: Tensor) -> dict[str, Tensor]:
    """Padded sentences about these topics."""
    rows = len(topic)
    ids = topic.unsqueeze(1) * 6 + torch.randint(1, 7, (rows, 8), generator=generator)
    noise = torch.randint(1, 60, (rows, 8), generator=generator)
    ids = torch.where(torch.rand(rows, 8, generator=generator) < 0.3, noise, ids)
    mask = torch.arange(8) < torch.randint(3, 9, (rows, 1), generator=generator)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


def ranking() -> Subject:
    """Multiple negatives ranking: the right answer among the batch's."""

    def batch(generator: torch.Generator) -> list[dict[str, Tensor]]:
        topic = torch.randperm(9, generator=generator)
        return [texts(generator, topic), texts(generator, topic)]

    def loss(model: nn.Module, batch: list[dict[str, Tensor]]) -> Tensor:
        return MultipleNegativesRankingLoss(model)([dict(each) for each in batch], torch.empty(0))

    return Subject(
        name="sentence-transformers-ranking",
        model=lambda: SentenceTransformer(modules=[BagOfTokens()], device="cpu"),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-3),
        causal=False,
    )


def similarity() -> Subject:
    """The cosine of two sentences is fitted to a score."""

    def batch(generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        topic = torch.randint(0, 9, (12,), generator=generator)
        same = torch.rand(12, generator=generator) < 0.5
        other = torch.where(same, topic, (topic + 4) % 9)
        return texts(generator, topic), texts(generator, other), same.float()

    def loss(model: nn.Module, batch: tuple[dict[str, Tensor], dict[str, Tensor], Tensor]) -> Tensor:
        first, second, score = batch
        return CosineSimilarityLoss(model)([dict(first), dict(second)], score)

    return Subject(
        name="sentence-transformers-similarity",
        model=lambda: SentenceTransformer(modules=[BagOfTokens()], device="cpu"),
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=5e-3),
        causal=False,
    )


class CrfTagger(nn.Module):
    """A GRU over time-first sentences, and a chain of tags."""

    def __init__(self, words: int = 40, tags: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(words, 16)
        self.gru = nn.GRU(16, 16, bidirectional=True)
        self.scores = nn.Linear(32, tags)
        self.crf = CRF(tags)

    def forward(self, sentence: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Mean log-likelihood of a sentence."""
        emissions = self.scores(self.gru(self.words(sentence))[0])
        return self.crf(emissions, tags, mask=mask, reduction="mean")


def crf() -> Subject:
    """Minus the log-likelihood of the tags under the chain, (time, batch)."""

    def batch(generator: torch.Generator) -> dict[str, Tensor]:
        sentence = torch.randint(0, 40, (10, 6), generator=generator)
        kind = sentence // 20
        before = torch.cat([torch.zeros(1, 6, dtype=torch.long), kind[:-1]])
        length = torch.randint(5, 11, (6,), generator=generator)
        return {"sentence": sentence, "tags": 2 * before + kind, "mask": torch.arange(10).unsqueeze(1) < length}

    return Subject(
        name="pytorch-crf-tagger",
        model=CrfTagger,
        batch=batch,
        loss=lambda model, batch: -model(**batch),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=5e-3),
        causal=False,
    )


def ordinal() -> Subject:
    """CORAL: five ordered grades by four thresholds over one score."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 24), nn.LeakyReLU(), CoralLayer(size_in=24, num_classes=5))

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randn(32, 6, generator=generator)
        return x, torch.bucketize(x[:, 0] + x[:, 1], torch.tensor([-1.5, -0.5, 0.5, 1.5]))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return coral_loss(model(batch[0]), levels_from_labelbatch(batch[1], num_classes=5))

    return Subject(
        name="coral-grades",
        model=build,
        batch=batch,
        loss=loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        causal=False,
    )


SUBJECTS = {
    "metric-learning-triplets": triplets,
    "metric-learning-supcon": supervised_contrast,
    "metric-learning-arcface": arc_face,
    "info-nce-towers": info_nce,
    "sentence-transformers-ranking": ranking,
    "sentence-transformers-similarity": similarity,
    "pytorch-crf-tagger": crf,
    "coral-grades": ordinal,
}
