"""Torch's own transformer layers, as its tutorials and their readers use them."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from andon.verify import Subject

SOURCE = "written for this corpus"


class PositionalEncoding(nn.Module):
    """Sines and cosines, added to (T, B, D)."""

    pe: Tensor

    def __init__(self, d_model: int, dropout: float = 0.1, max_len: int = 128) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)
        self.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, with positions."""
        return self.dropout(x + self.pe[: x.size(0)])


# ------------------------------------------------------------------------------- a word-level language model, (T, B)
NTOKEN = 53


class TransformerModel(nn.Module):
    """An encoder under a causal mask."""

    def __init__(self, d_model: int = 32, nhead: int = 4, d_hid: int = 48, nlayers: int = 2) -> None:
        super().__init__()
        self.d_model = d_model
        self.pos_encoder = PositionalEncoding(d_model, 0.2)
        layer = nn.TransformerEncoderLayer(d_model, nhead, d_hid, dropout=0.2)
        self.transformer_encoder = nn.TransformerEncoder(layer, nlayers, enable_nested_tensor=False)
        self.embedding = nn.Embedding(NTOKEN, d_model)
        self.linear = nn.Linear(d_model, NTOKEN)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.linear.bias)
        nn.init.uniform_(self.linear.weight, -0.1, 0.1)

    def forward(self, src: Tensor) -> Tensor:
        """Tokens (T, B) to logits (T, B, V)."""
        hidden = self.pos_encoder(self.embedding(src) * math.sqrt(self.d_model))
        src_mask = nn.Transformer.generate_square_subsequent_mask(len(src), device=src.device)
        return self.linear(self.transformer_encoder(hidden, src_mask))


def batchify_and_get_batch(generator: torch.Generator, bptt: int = 20, batch_size: int = 6) -> tuple[Tensor, Tensor]:
    """A text cut into columns, and the flat targets one row further down."""
    text = torch.randint(NTOKEN, (batch_size * (bptt + 1),), generator=generator)
    data = text.view(batch_size, -1).t().contiguous()
    return data[:-1], data[1:].reshape(-1)


def word_lm_step(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[Any]) -> dict[str, float]:
    """An update over all of these, clipped."""
    model.train()
    optimizer.zero_grad()
    total = 0.0
    for data, targets in batches:
        loss = nn.functional.cross_entropy(model(data).view(-1, NTOKEN), targets) / len(batches)
        loss.backward()
        total += loss.item()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return {"loss": total, "grad_norm": norm.item()}


def word_lm() -> Subject:
    """Wikitext's tutorial."""
    return Subject(
        name="torch word lm",
        model=TransformerModel,
        batch=batchify_and_get_batch,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]).view(-1, NTOKEN), batch[1]),
        logits=lambda model, batch: model(batch[0]).transpose(0, 1),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=1.0),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.95),
        train_step=word_lm_step,
    )


# --------------------------------------------------------------------------------------------------- a tagger
@dataclass
class TaggedSentences:
    """Words padded with 0, tags padded with -100."""

    words: Tensor
    tags: Tensor


class EncoderTagger(nn.Module):
    """Post-norm layers with their defaults, told which words are padding."""

    def __init__(self, words: int = 90, tags: int = 7, width: int = 32) -> None:
        super().__init__()
        self.word = nn.Embedding(words, width, padding_idx=0)
        self.place = nn.Embedding(32, width)
        layer = nn.TransformerEncoderLayer(width, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.tag = nn.Linear(width, tags)

    def forward(self, words: Tensor) -> Tensor:
        """Scores (B, T, tags)."""
        states = self.word(words) + self.place(torch.arange(words.shape[1], device=words.device))
        return self.tag(self.encoder(states, src_key_padding_mask=words == 0))


def tagged_sentences(generator: torch.Generator) -> TaggedSentences:
    """Four sentences; a tag follows from its word."""
    lengths = torch.randint(6, 17, (4,), generator=generator).tolist()
    words = [torch.randint(1, 90, (length,), generator=generator) for length in lengths]
    tags = [sentence % 7 for sentence in words]
    return TaggedSentences(pad_sequence(words, True), pad_sequence(tags, True, padding_value=-100))


def tagging_loss(model: nn.Module, batch: TaggedSentences) -> Tensor:
    """Over the real words."""
    return nn.functional.cross_entropy(model(batch.words).permute(0, 2, 1), batch.tags)


def encoder_tagger() -> Subject:
    """Tags from both sides."""
    return Subject(
        name="torch encoder tagger", model=EncoderTagger, batch=tagged_sentences, loss=tagging_loss, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
    )  # fmt: skip


# ------------------------------------------------------------------------------ readings of sensors, pre-norm GELU
class SensorEncoder(nn.Module):
    """Regression from a series of several channels."""

    def __init__(self, channels: int = 5, width: int = 24) -> None:
        super().__init__()
        self.inputs = nn.Linear(channels, width)
        self.places = nn.Parameter(torch.randn(1, 32, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 3, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.value = nn.Linear(width, 1)

    def forward(self, series: Tensor, lengths: Tensor) -> Tensor:
        """A number per row, from the mean over what was read."""
        real = torch.arange(series.size(1), device=series.device) < lengths[:, None]
        hidden = self.body(self.inputs(series) + self.places[:, : series.size(1)], src_key_padding_mask=~real)
        pooled = (hidden * real[..., None]).sum(1) / lengths[:, None]
        return self.value(pooled).squeeze(-1)


def readings(generator: torch.Generator) -> dict[str, Tensor]:
    """Series of several lengths, and the mean of their first channel."""
    lengths = torch.tensor([20, 11, 17, 8, 20, 14])
    series = torch.randn(6, 20, 5, generator=generator)
    series *= (torch.arange(20) < lengths[:, None])[..., None]
    return {"series": series, "lengths": lengths, "value": series[..., 0].sum(1) / lengths + 1.0}


def sensor_regression() -> Subject:
    """Mean squared error."""
    return Subject(
        name="torch sensor regression",
        model=SensorEncoder,
        batch=readings,
        loss=lambda model, batch: nn.functional.mse_loss(model(batch["series"], batch["lengths"]), batch["value"]),
        causal=False,
    )


# ------------------------------------------------------------------------------------- translation, nn.Transformer
PAD_IDX, BOS_IDX, EOS_IDX = 1, 2, 3


class Seq2SeqTransformer(nn.Module):
    """The tutorial on translation: time first, three masks."""

    def __init__(self, src_vocab: int = 61, tgt_vocab: int = 47, emb_size: int = 32) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "enable_nested_tensor")  # it says that inference could be faster
            self.transformer = nn.Transformer(
                d_model=emb_size, nhead=4, num_encoder_layers=2, num_decoder_layers=2, dim_feedforward=64, dropout=0.1
            )
        self.generator = nn.Linear(emb_size, tgt_vocab)
        self.src_tok_emb = nn.Embedding(src_vocab, emb_size)
        self.tgt_tok_emb = nn.Embedding(tgt_vocab, emb_size)
        self.positional_encoding = PositionalEncoding(emb_size)
        self.scale = math.sqrt(emb_size)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Source (S, B) and target (T, B) to logits (T, B, V)."""
        src_padding, tgt_padding = (src == PAD_IDX).t(), (tgt == PAD_IDX).t()
        tgt_mask = torch.triu(torch.ones(len(tgt), len(tgt), dtype=torch.bool, device=tgt.device), diagonal=1)
        hidden = self.transformer(
            self.positional_encoding(self.src_tok_emb(src) * self.scale),
            self.positional_encoding(self.tgt_tok_emb(tgt) * self.scale),
            tgt_mask=tgt_mask,
            src_key_padding_mask=src_padding,
            tgt_key_padding_mask=tgt_padding,
            memory_key_padding_mask=src_padding,
        )
        return self.generator(hidden)


def sentence_pairs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Columns of words between begin and end."""
    sides = []
    for size in (61, 47):
        lengths = torch.randint(4, 12, (5,), generator=generator).tolist()
        words = [torch.randint(4, size, (length,), generator=generator) for length in lengths]
        ends = torch.tensor([BOS_IDX]), torch.tensor([EOS_IDX])
        sides.append(pad_sequence([torch.cat([ends[0], row, ends[1]]) for row in words], padding_value=PAD_IDX))
    return sides[0], sides[1]


def translation_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The decoder reads all but the last word and predicts all but the first."""
    src, tgt = batch
    logits = model(src, tgt[:-1])
    loss_fn = nn.CrossEntropyLoss(ignore_index=PAD_IDX)
    return loss_fn(logits.reshape(-1, logits.shape[-1]), tgt[1:].reshape(-1))


def noam(optimizer: torch.optim.Optimizer, warmup: int = 40, width: int = 32) -> Any:
    """The schedule of "Attention is all you need", section 5.3; the optimizer's own rate is 1."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: width**-0.5 * min(max(step, 1) ** -0.5, max(step, 1) * warmup**-1.5)
    )


def translation() -> Subject:
    """Encoder and decoder."""
    return Subject(
        name="torch translation", model=Seq2SeqTransformer, batch=sentence_pairs, loss=translation_loss, causal=False,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9),
    )  # fmt: skip


# ----------------------------------------------------------------------------------------------- captions of images
class Captioner(nn.Module):
    """Patches of an image are what a decoder attends to."""

    def __init__(self, words: int = 41, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(24, width)
        layer = nn.TransformerDecoderLayer(
            width, 2, 64, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, num_layers=2, norm=nn.LayerNorm(width))
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.words.weight
        nn.init.normal_(self.words.weight, std=0.02)

    def forward(self, image: Tensor, caption: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        memory = self.patches(image).flatten(2).transpose(1, 2)
        length = caption.shape[1]
        states = self.words(caption) + self.places.weight[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=caption.device)
        return self.head(self.decoder(states, memory, tgt_mask=mask, tgt_is_causal=True))


def captioned_images(generator: torch.Generator) -> dict[str, Tensor]:
    """Images with captions of one length."""
    return {
        "image": torch.rand(3, 3, 16, 16, generator=generator),
        "caption": torch.randint(41, (3, 13), generator=generator),
    }


def caption_logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Of all words but the first."""
    return model(batch["image"], batch["caption"][:, :-1])


def captions() -> Subject:
    """With the warm-up and decay of the paper."""
    return Subject(
        name="torch captions",
        model=Captioner,
        batch=captioned_images,
        loss=lambda model, batch: nn.functional.cross_entropy(
            caption_logits(model, batch).flatten(0, 1), batch["caption"][:, 1:].flatten(), label_smoothing=0.1
        ),
        logits=caption_logits,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9),
        lr_scheduler=noam,
    )


SUBJECTS = {
    "torch word lm": word_lm,
    "torch encoder tagger": encoder_tagger,
    "torch sensor regression": sensor_regression,
    "torch translation": translation,
    "torch captions": captions,
}
