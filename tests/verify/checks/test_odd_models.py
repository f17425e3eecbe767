"""What checks of models and data make of odd subjects: they name what these lack, and find what only these have."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from andon.verify.access.roles import IGNORE
from andon.verify.checks.quantization import STD
from andon.verify.run.runner import check
from andon.verify.subject import Documents, Quantizer, Subject
from tests.verify import foreign_models
from tests.verify.small import LENGTH, ROWS, VOCAB, WIDTH, Small, batch, loss, said, small

pytestmark = pytest.mark.long
PASSED = "passed"
Bend = Callable[[Any, Tensor], Tensor]


class Odd(NamedTuple):
    """A subject, a check, and words of what is to come of it."""

    check: str
    made: Callable[[], Subject]
    said: str


class Bent(Small):
    """The small model with another forward pass."""

    def __init__(self, bend: Bend) -> None:
        super().__init__()
        self.bend = bend

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.bend(self, tokens)


def bent(bend: Bend, **parts: Any) -> Subject:
    """A subject of it; `bend` takes the model and tokens."""
    return small(model=lambda: Bent(bend), **parts)


def built(change: Callable[[Any], object], **parts: Any) -> Subject:
    """The small subject, whose new models are changed."""

    def model() -> nn.Module:
        made = Small()
        change(made)
        return made

    return small(model=model, **parts)


def usual(model: Any, tokens: Tensor) -> Tensor:
    """The small model's own pass."""
    return Small.forward(model, tokens)


def through(mask: Callable[[Tensor], Tensor]) -> Bend:
    """A pass in which a position sums over those that a mask of distances (T, T) shows it."""

    def bend(model: Any, tokens: Tensor) -> Tensor:
        x_BTD, places = model.embed(tokens), torch.arange(tokens.shape[1])
        seen_TT = mask(places[:, None] - places).to(x_BTD)
        return model.head(torch.tanh(model.mix(seen_TT @ x_BTD)) + x_BTD)

    return bend


def hole(apart_TT: Tensor) -> Tensor:
    """The past, but for what is two away."""
    return (apart_TT >= 0) & (apart_TT != 2)


def short(apart_TT: Tensor) -> Tensor:
    """The past, but for the third token, which only the next one sees."""
    seen_TT = apart_TT >= 0
    seen_TT[4:, 2] = False
    return seen_TT


def alone(model: Any, tokens: Tensor) -> Tensor:
    """Each token by itself."""
    return model.head(torch.tanh(model.mix(model.embed(tokens))))


def noisy(model: Any, tokens: Tensor) -> Tensor:
    """Noise that is not dropout's."""
    return usual(model, tokens) + model.training * torch.rand(VOCAB)


def writing(model: Any, tokens: Tensor) -> Tensor:
    """A pass that scales a weight in training."""
    with torch.no_grad():
        model.head.weight.mul_(1 + 0.01 * model.training)
    return usual(model, tokens)


def strict(model: Any, tokens: Tensor) -> Tensor:
    """A pass that changes a default of torch's."""
    torch.use_deterministic_algorithms(True)
    return usual(model, tokens)


def single(model: Any, tokens: Tensor) -> Tensor:
    """Float32 alone."""
    if model.head.weight.dtype == torch.float64:
        raise RuntimeError("expected Float but found Double")
    return usual(model, tokens)


def tripled(model: Any, tokens: Tensor) -> Tensor:
    """A gradient that is three times too large in half precision."""
    x_BTD = model.embed(tokens)
    if x_BTD.requires_grad and x_BTD.dtype == torch.bfloat16:
        x_BTD.register_hook(lambda gradient: 3 * gradient)
    return model.head(x_BTD)


def unit(model: Any, tokens: Tensor) -> Tensor:
    """A backward pass whose gradient does not follow what comes in."""
    logits_BTV = usual(model, tokens)
    if logits_BTV.requires_grad:
        logits_BTV.register_hook(lambda gradient: gradient / gradient.norm())
    return logits_BTV


def pooled(model: Any, tokens: Tensor) -> Tensor:
    """One vector per row, by a head without rows of words."""
    return torch.tanh(model.mix(model.embed(tokens))).mean(1)


def ids(generator: torch.Generator) -> dict[str, Tensor]:
    """Tokens alone, which the loss shifts."""
    return {"input_ids": batch(generator)["tokens"]}


def shifting(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """Their loss."""
    tokens_BT = given["input_ids"]
    return cross_entropy(model(tokens_BT)[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten())


def unlabeled(**parts: Any) -> Subject:
    """A subject without labels."""
    return small(**{"batch": ids, "loss": shifting, **parts})


class OfPast(Small):
    """Averages the real tokens so far, twice: where none has come, 0 / 0, which rows padded on the right never see."""

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        attention_mask = torch.ones_like(tokens) if attention_mask is None else attention_mask
        past_BTD = (x_BTD * attention_mask[..., None]).cumsum(1) / attention_mask.cumsum(1)[..., None]
        return self.head(torch.tanh(self.mix(past_BTD).cumsum(1)) + x_BTD)


class OfPastOnce(OfPast):
    """Averages them once: places without a real token before them are no number, and no other place is."""

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T) to (B, T, V)."""
        x_BTD = self.embed(tokens)
        attention_mask = torch.ones_like(tokens) if attention_mask is None else attention_mask
        past_BTD = (x_BTD * attention_mask[..., None]).cumsum(1) / attention_mask.cumsum(1)[..., None]
        return self.head(torch.tanh(self.mix(past_BTD)) + x_BTD)


def of_places(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """Mean nats per real token, as a sum over all places, of which the others weigh 0."""
    labels = given["labels"].flatten()
    logits = model(given["tokens"], given["attention_mask"]).flatten(0, 1)
    return (cross_entropy(logits, labels.clamp(min=0), reduction="none") * (labels >= 0)).sum() / (labels >= 0).sum()


def right_padded(generator: torch.Generator) -> dict[str, Tensor]:
    """A batch whose second row is shorter."""
    given = batch(generator)
    mask_BT = torch.ones_like(given["tokens"])
    mask_BT[1, LENGTH // 2 :] = 0
    return {**given, "labels": given["labels"].masked_fill(mask_BT == 0, IGNORE), "attention_mask": mask_BT}


def of_real(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """Mean nats per real token."""
    return cross_entropy(model(given["tokens"], given["attention_mask"]).flatten(0, 1), given["labels"].flatten())


def with_mask(*shape: int) -> Callable[[torch.Generator], dict[str, Tensor]]:
    """Batches that have a mask, of this shape."""
    return lambda generator: {**ids(generator), "attention_mask": torch.ones(*shape, dtype=torch.int64)}


def pairs(labels: Callable[[Tensor, Tensor], Tensor], **parts: Any) -> Subject:
    """A subject whose batch is a pair; `labels` takes the tokens and those one ahead."""

    def made(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        tokens_BT, ahead_BT = batch(generator).values()
        return tokens_BT, labels(tokens_BT, ahead_BT.clone())

    def mean(model: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(given[0]).flatten(0, 1), given[1].flatten())

    return small(**{"batch": made, "loss": mean, **parts})


def one_wrong(_: Tensor, ahead_BT: Tensor) -> Tensor:
    """One label is another word."""
    ahead_BT[1, 2] = (ahead_BT[1, 2] + 1) % VOCAB
    return ahead_BT


def weighted(generator: torch.Generator) -> dict[str, Tensor]:
    """A batch with a part that nobody knows."""
    return {**batch(generator), "share": torch.rand(ROWS, LENGTH, generator=generator)}


def weighted_loss(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """Its loss, in which a token counts by its share."""
    each = cross_entropy(model(given["tokens"]).flatten(0, 1), given["labels"].flatten(), reduction="none")
    return (each * given["share"].flatten()).mean()


def no_graph(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """Logits that pass no gradient."""
    with torch.no_grad():
        return model(given["tokens"])


def twice_kept(model: Any) -> None:
    """A parameter whose kept gradient is doubled when it arrives."""

    def double(parameter: Any) -> None:
        parameter.grad *= 2

    model.mix.weight.register_post_accumulate_grad_hook(double)


def idle_dropout(model: Any) -> None:
    """Dropout that is never called."""
    model.drop, model.rest = nn.Identity(), nn.Dropout(0.5)


# ---------------------------------------------------------------------------------------------- documents and text
def rows(documents: Documents, end: int = -1, begin: int = -1) -> dict[str, Tensor]:
    """One document per row, padded; with a begin mark where one is given, and no target for an end where one is."""
    lists = [[*([begin] if begin >= 0 else []), *document] for document in documents]
    longest = max(map(len, lists))
    tokens_BT = torch.tensor([[*each, *[0] * (longest - len(each))] for each in lists])
    labels_BT = torch.tensor([[*each[1:], *[IGNORE] * (longest - len(each) + 1)] for each in lists])
    return {"tokens": tokens_BT, "labels": labels_BT.masked_fill(labels_BT == end, IGNORE)}


def in_one(documents: Documents) -> dict[str, Tensor]:
    """All documents in a row, a target for every token but the last, across borders too."""
    tokens_BT = torch.tensor([[word for document in documents for word in document]])
    return {"tokens": tokens_BT, "labels": torch.cat([tokens_BT[:, 1:], torch.full((1, 1), IGNORE)], 1)}


def backwards(documents: Documents) -> dict[str, Tensor]:
    """Each document from its end."""
    return rows([list(document)[::-1] for document in documents])


def without_last(documents: Documents) -> dict[str, Tensor]:
    """Several documents lose their last target."""
    made = rows(documents)
    made["labels"][:, 3 if len(documents) > 1 else LENGTH * 9 :] = IGNORE
    return made


def refusing(most: int, *, silent: bool) -> Callable[[Documents], Any]:
    """A collator of short documents, which raises or returns nothing where one is longer."""

    def made(documents: Documents) -> Any:
        if max(map(len, documents)) <= most:
            return rows(documents)
        if silent:
            return None
        raise ValueError("too long")

    return made


def half_of_several(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """A loss of which half passes no gradient where a batch has several rows."""
    whole = loss(model, given)
    return whole / 2 + whole.detach() / 2 if len(given["tokens"]) > 1 else whole


def marked(*, begin: int = 1, end: int = 1) -> Callable[[str], list[int]]:
    """Characters as ids, with so many marks before and after."""
    return lambda text: [*[1] * begin, *(ord(letter) for letter in text), *[2] * end]


def read(token_ids: Any) -> str:
    """The characters of ids."""
    return "".join(chr(token) for token in token_ids if token > 2)


def instructed(labels: Callable[[list[int], int], list[int]]) -> Callable[[str, str], tuple[list[int], list[int]]]:
    """An instruction in characters; `labels` takes its ids, and where the answer begins."""

    def instruct(prompt: str, answer: str) -> tuple[list[int], list[int]]:
        before, after = marked(end=0)(prompt), marked(begin=0)(answer)
        return [*before, *after], labels([*before, *after], len(before))

    return instruct


def under(given: list[int], start: int) -> list[int]:
    """Labels under their own tokens."""
    return [*[IGNORE] * start, *given[start:]]


def ahead(given: list[int], start: int) -> list[int]:
    """Labels one ahead."""
    return [*[IGNORE] * (start - 1), *given[start:], IGNORE]


def chosen(*, drop: Callable[[list[int], int], int]) -> Callable[[list[int], int], list[int]]:
    """Labels under their tokens, of which one place is left out."""

    def labels(given: list[int], start: int) -> list[int]:
        made = under(given, start)
        made[drop(given, start)] = IGNORE
        return made

    return labels


def texts(labels: Callable[[list[int], int], list[int]], **parts: Any) -> Subject:
    """A subject of instructions."""
    return small(**{"encode_instruction": instructed(labels), "decode": read, "eos_id": 2, **parts})


# ---------------------------------------------------------------------------------------------- generation and others
def greedy(model: nn.Module, tokens_BT: Tensor, count: int) -> Tensor:
    """The likeliest words."""
    for _ in range(count):
        tokens_BT = torch.cat([tokens_BT, model(tokens_BT)[:, -1:].argmax(-1)], 1)
    return tokens_BT


def left_in_training(model: nn.Module, tokens_BT: Tensor, count: int) -> Tensor:
    """The same; the model stays in training mode."""
    return greedy(model.train(), tokens_BT, count)


def unprompted(model: nn.Module, tokens_BT: Tensor, count: int) -> Tensor:
    """What follows without what it follows."""
    return torch.cat([tokens_BT.flip(0), greedy(model, tokens_BT, count)[:, tokens_BT.shape[1] :]], 1)


def renormed(**settings: Any) -> nn.Module:
    """A norm without weights, that a setting puts elsewhere."""
    model: Any = Small()
    setattr(model, "other" if settings else "norm", nn.LayerNorm(WIDTH, elementwise_affine=False))
    norm = model.other if settings else model.norm
    model.embed.register_forward_hook(lambda _module, _tokens, states: norm(states))
    return model


def rounding(weight: Tensor) -> Tensor:
    """Nearest of 65 levels for each block of 64."""
    blocks = weight.reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True).clamp_min(1e-30)
    return (torch.round(blocks / largest * 32) / 32 * largest).reshape(weight.shape)


def quantized(round_trip: Callable[[Tensor], Tensor], **parts: Any) -> Subject:
    """A subject of a quantizer."""
    return small(quantizer=Quantizer(round_trip, **parts))


def spoiled_after_zeros(weight: Tensor) -> Tensor:
    """Blocks after one of zeros are zeros, too."""
    empty = (weight == 0).all(1).cumsum(0) > 0
    return rounding(weight).masked_fill(empty[:, None], 0.0)


def scaled_in_place(weight: Tensor) -> Tensor:
    """The weights that were given are changed."""
    return rounding(weight.mul_(2)) / 2


def coarse(weight: Tensor) -> Tensor:
    """Values that are not levels, far off."""
    return torch.where((rounding(weight) - weight).abs() < 1e-6 * STD, weight, rounding(weight) * 0.9)


def library(**parts: Any) -> Subject:
    """The library-style model, with some parts exchanged."""
    return replace(foreign_models.library(), **parts)


# ---------------------------------------------------------------------------------------------- blocks
Part = Callable[[Any, Tensor, Tensor], Tensor]


class Block(nn.Module):
    """A block that does what it is told."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.mix, self.part = nn.Linear(WIDTH, WIDTH), part

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """States, and a mask (T, T)."""
        return self.part(self, x, mask)


class Stack(nn.Module):
    """Two blocks, that `through` calls one after the other, or otherwise."""

    def __init__(self, part: Part, through: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB)
        self.blocks, self.through = nn.ModuleList([Block(part), Block(part)]), through

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        time = tokens.shape[1]
        mask_TT = torch.ones(time, time, dtype=torch.bool).tril()
        return self.head(self.through(self, self.embed(tokens), mask_TT))


def added(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    """What attention adds."""
    return x + (x @ x.mT).masked_fill(~mask, float("-inf")).softmax(-1) @ block.mix(x)


def by_rows(block: Any, x: Tensor, _: Tensor) -> Tensor:
    """What a layer adds to states without a time."""
    return x + torch.tanh(block.mix(x))


def of_many(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The same; a few states are refused."""
    if x.shape[1] < 6:
        raise ValueError("at least 6 positions")
    return added(block, x, mask)


def narrow(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The same; of a few states a part is returned."""
    return added(block, x, mask)[:, :, : WIDTH if x.shape[1] > 6 else 4]


def divided(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The same, divided by the size of a matrix."""
    return x + (added(block, x, mask) - x) / block.mix.weight.norm()


def in_turn(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    """One block after the other."""
    for block in model.blocks:
        x = block(x, mask)
    return x


def side_by_side(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Both are given the same, and both count."""
    return model.blocks[0](x, mask) + model.blocks[1](x, mask)


def last_alone(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Both are given the same, and the last one counts."""
    model.blocks[0](x, mask)
    return model.blocks[1](x, mask)


def its_own_word(model: Any) -> None:
    """The head of a word lies along its embedding, so that it is likely to follow itself."""
    model.head.weight.data[3] = model.embed.weight.data[3].sign()
    model.embed.weight.data[3] = 0.5 * model.head.weight.data[3]


def one_word(_: torch.Generator) -> dict[str, Tensor]:
    """A batch in which one word follows itself."""
    return {"tokens": torch.full((8 * ROWS, LENGTH), 3), "labels": torch.full((8 * ROWS, LENGTH), 3)}


def flat(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Both are given rows (B x T, D)."""
    rows_RD = x.flatten(0, 1)
    for block in model.blocks:
        rows_RD = block(rows_RD, mask)
    return rows_RD.view_as(x)


def halved(model: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The second is given the first half of the positions twice."""
    half = x.shape[1] // 2
    x = model.blocks[0](x, mask)
    return torch.cat([model.blocks[1](x[:, :half], mask[:half, :half]), x[:, half:]], 1)


def stacked(part: Part, through: Callable[[Any, Tensor, Tensor], Tensor] = in_turn, **parts: Any) -> Subject:
    """A subject of the two blocks, with a dozen positions."""

    def longer(generator: torch.Generator) -> dict[str, Tensor]:
        ids_BT = torch.randint(VOCAB, (ROWS, 14), generator=generator)
        return {"tokens": ids_BT[:, :-1], "labels": ids_BT[:, 1:]}

    return small(**{"model": lambda: Stack(part, through), "batch": longer, **parts})


def with_codes() -> nn.Module:
    """Blocks that hold codes."""
    made = Stack(added, in_turn)
    made.blocks[0].register_buffer("codes", torch.zeros(4, dtype=torch.uint8))
    return made


# ---------------------------------------------------------------------------------------------- leaves
class Biased(nn.Module):
    """A norm whose bias is its first parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.gain = nn.Parameter(torch.zeros(WIDTH)), nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return x / (x.square().mean(-1, keepdim=True) + 1e-8).sqrt() * self.gain + self.bias


class Joined(nn.Module):
    """A leaf of two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Their sum."""
        return x + y


def behind(leaf: Callable[[], nn.Module]) -> Subject:
    """The small model with another module behind its embedding."""

    def insert(model: Any) -> None:
        model.leaf = leaf()
        model.embed.register_forward_hook(lambda _module, _tokens, states: model.leaf(states))

    return built(insert)


def joining(model: Any) -> None:
    """States go through the leaf of two inputs."""
    model.leaf = Joined()
    model.embed.register_forward_hook(lambda _module, _tokens, states: model.leaf(states, states))


class Late(Small):
    """The small model, whose forward pass changes what it consists of."""

    def __init__(self, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.change = change

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        self.change(self)
        return super().forward(tokens)


class Tied(Small):
    """Head and embedding are one tensor, and in a copy two."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embed.weight

    def __deepcopy__(self, _: object) -> nn.Module:
        """A model of the same numbers."""
        made = Small()
        made.load_state_dict(self.state_dict())
        return made


def noted(model: Any) -> None:
    """A buffer of what was seen."""
    model.register_buffer("seen", torch.ones(1))


def cached(model: Any) -> None:
    """A tensor with a graph is kept."""
    with torch.enable_grad():
        model.kept = 2 * model.head.weight


class Placed(nn.Module):
    """A table of positions in bfloat16, of so many rows."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(rows, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)
        self.bfloat16()

    def forward(self, tokens: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """(B, T) to (B, T, V)."""
        places = torch.arange(tokens.shape[1]) if position_ids is None else position_ids
        return self.head(self.embed(tokens) + self.places(places))


def placed(rows: int, time: int, *, said: bool = False) -> Subject:
    """A subject of it with batches of so many positions, which they may say."""

    def made(generator: torch.Generator) -> dict[str, Tensor]:
        ids_BT = torch.randint(VOCAB, (ROWS, time + 1), generator=generator)
        places = {"position_ids": torch.arange(time).expand(ROWS, time)} if said else {}
        return {"tokens": ids_BT[:, :-1], "labels": ids_BT[:, 1:], **places}

    def mean(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
        logits_BTV = model(given["tokens"], given.get("position_ids"))
        return cross_entropy(logits_BTV.flatten(0, 1).float(), given["labels"].flatten())

    return small(model=lambda: Placed(rows), batch=made, loss=mean)


def in_training(model: Any, tokens: Tensor) -> Tensor:
    """Refused in training."""
    if model.training:
        raise RuntimeError("no backend for training")
    return usual(model, tokens)


def by_chance(model: Any, tokens: Tensor) -> Tensor:
    """Rows meet in another order each time, as tokens in random buckets do."""
    return usual(model, tokens) + 1e-3 * torch.randn(len(tokens), 1, VOCAB)


def featured(generator: torch.Generator) -> dict[str, Tensor]:
    """A batch with features of its rows."""
    return {**batch(generator), "features": torch.rand(ROWS, LENGTH, VOCAB, generator=generator)}


def featured_loss(model: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """Its loss, in which these are added to the logits."""
    logits_BTV = model(given["tokens"]) + given["features"]
    return cross_entropy(logits_BTV.flatten(0, 1), given["labels"].flatten())


ODD = {
    "mask with a hole": Odd("attention.influence", lambda: bent(through(hole)), "but not at"),
    "token that ends early": Odd("attention.influence", lambda: bent(through(short)), "only, and an earlier one does"),
    "mixture's rows": Odd(
        "attention.rows", lambda: small(mixture_of_experts=True), "mixture_of_experts=True leaves it out"
    ),
    "mask a row and column": Odd(
        "attention.padding", lambda: unlabeled(batch=with_mask(ROWS, 1, LENGTH, LENGTH)), "a mask (B, T)"
    ),
    "padding without labels": Odd(
        "attention.padding", lambda: unlabeled(batch=with_mask(ROWS, LENGTH)), "losses with other right padding"
    ),
    "hashed by chance": Odd(
        "attention.rows", lambda: small(model=lambda: Bent(by_chance)), "draws no random numbers in eval mode"
    ),
    "no number without a token": Odd(
        "attention.padding", lambda: small(model=OfPast, batch=right_padded, loss=of_real), PASSED
    ),
    "no loss without a token": Odd(
        "attention.padding", lambda: small(model=OfPastOnce, batch=right_padded, loss=of_places), PASSED
    ),
    "one loss for all": Odd(
        "autocast.loss",
        lambda: small(loss=lambda model, _: 0 * model.head.weight.sum() + 1, roles={"tokens": "tokens"}),
        "mean cross-entropy of logits",
    ),
    "rounded loss": Odd(
        "autocast.loss", lambda: small(loss=lambda *given: loss(*given).bfloat16().float()), "exact in torch.bfloat16"
    ),
    # ------------------------------------------------------------------------------------------ configuration
    "norm of another name": Odd(
        "configuration.norms", lambda: small(configure=renormed, config_alternatives={"eps": 1e-3}), PASSED
    ),
    "setting that fails": Odd(
        "configuration.sensitivity",
        lambda: small(configure=lambda **given: Small() if not given else {}["deep"], config_alternatives={"depth": 2}),
        "KeyError",
    ),
    "settings without logits": Odd(
        "configuration.sensitivity",
        lambda: small(
            loss=lambda model, given: pooled(model, given["tokens"]).square().mean(),
            model=lambda: Bent(pooled),
            configure=lambda **_: Bent(pooled),
            config_alternatives={"idle": 2},
        ),
        "settings change nothing: idle",
    ),
    # ------------------------------------------------------------------------------------------ data
    "targets without labels": Odd("data.targets", unlabeled, "labels in the batch"),
    "other labels": Odd(
        "data.targets", lambda: pairs(lambda tokens, _: (tokens * 3 + 1) % VOCAB), "the batch's own tokens"
    ),
    "other labels by name": Odd(
        "data.targets",
        lambda: small(batch=lambda generator: (b := batch(generator)) | {"labels": (b["tokens"] * 3 + 1) % VOCAB}),
        "at their place or one ahead",
    ),
    "labels of another shape": Odd(
        "data.targets",
        lambda: small(
            batch=lambda generator: batch(generator) | {"labels": torch.zeros(ROWS, 1, dtype=torch.int64)},
            loss=lambda model, given: model(given["tokens"]).square().mean(),
        ),
        "labels of the tokens' shape",
    ),
    "one wrong label": Odd("data.targets", lambda: pairs(one_wrong), "1 of 15 targets are not the token that follows"),
    "nothing counted": Odd(
        "data.targets",
        lambda: pairs(
            lambda _, ahead_BT: torch.full_like(ahead_BT, IGNORE),
            loss=lambda m, b: m(b[0]).square().mean(),
            objective="cross_entropy",
        ),
        "a batch with counted labels",
    ),
    "epoch without labels": Odd(
        "data.targets", lambda: small(epoch_batches=lambda _: [ids(torch.Generator())]), PASSED
    ),
    "ends that are not targets": Odd(
        "data.padding",
        lambda: small(collate_padded=lambda documents: rows(documents, end=9, begin=10), eos_id=9),
        "ends of text",
    ),
    "order of its own": Odd(
        "data.epochs",
        lambda: small(
            epoch_batches=lambda _: [{"tokens": row[None]} for row in torch.arange(60).view(10, 6)[torch.randperm(10)]]
        ),
        "differs, read twice,",
    ),
    "one row again": Odd(
        "data.epochs",
        lambda: small(epoch_batches=lambda _: [{"tokens": torch.ones(3, 6).long()}]),
        "are repetitions of others",
    ),
    "long epoch": Odd(
        "data.epochs",
        lambda: small(epoch_batches=lambda _: [{"tokens": torch.ones(1, 1).long().expand(1100, 2000)}]),
        "epochs of at most 2,000,000 tokens",
    ),
    "nothing held out": Odd(
        "data.held_out",
        lambda: small(epoch_batches=lambda _: [batch(torch.Generator())], validation_batches=list),
        "and held-out ones",
    ),
    # ------------------------------------------------------------------------------------------ determinism, dtypes
    "dropout that is not called": Odd("determinism.train", lambda: built(idle_dropout), "for 2 seeds"),
    "noise in training": Odd("determinism.modes", lambda: bent(noisy), "whose dropout can be set to 0"),
    "weights written": Odd("determinism.purity", lambda: bent(writing), "changes head.weight by"),
    "default changed": Odd("determinism.purity", lambda: bent(strict), "changes torch's defaults"),
    "no logits": Odd(
        "determinism.eval",
        lambda: bent(pooled, loss=lambda model, given: model(given["tokens"]).square().mean()),
        PASSED,
    ),
    "mixture's steps": Odd("dtypes.smooth", lambda: small(mixture_of_experts=True), PASSED),
    "float32 alone": Odd("dtypes.smooth", lambda: bent(single), PASSED),
    "another gradient in half": Odd(
        "dtypes.gradients", lambda: small(model=lambda: Bent(tripled).bfloat16()), "the gradient of embed.weight is"
    ),
    # ------------------------------------------------------------------------------------------ generation
    "longer than its batch": Odd("generation.greedy", lambda: small(generate=greedy), PASSED),
    "left in training": Odd(
        "generation.greedy", lambda: small(generate=left_in_training), "leaves the model with training=True"
    ),
    "another prompt": Odd("generation.greedy", lambda: small(generate=unprompted), "does not begin with the prompt"),
    "words by product": Odd(
        "gradients.inputs",
        lambda: bent(
            lambda model, tokens: model.head(one_hot(tokens, VOCAB).to(model.embed.weight) @ model.embed.weight)
        ),
        "a layer that turns ids into vectors",
    ),
    "embedded twice": Odd(
        "gradients.inputs",
        lambda: bent(lambda model, tokens: model.head(model.embed(tokens) + model.embed(tokens))),
        "a layer that turns ids into vectors",
    ),
    # ------------------------------------------------------------------------------------------ initialization
    "nothing behind a buffer": Odd(
        "initialization.finite",
        lambda: built(lambda model: model.register_buffer("rest", torch.empty(3, device="meta"))),
        "still on the meta device",
    ),
    "buffer of integers": Odd(
        "initialization.finite", lambda: built(lambda model: model.register_buffer("count", torch.arange(3))), PASSED
    ),
    "huge weight": Odd(
        "initialization.finite", lambda: built(lambda model: model.mix.bias.data.fill_(1e4)), "usual ones are below"
    ),
    "router's part": Odd("initialization.loss", lambda: small(mixture_of_experts=True), PASSED),
    "known answers": Odd("initialization.loss", lambda: built(its_own_word, batch=one_word), "knows the answers"),
    "another loss": Odd(
        "initialization.loss", lambda: small(loss=lambda *given: 0.01 * loss(*given)), "mean cross-entropy of logits"
    ),
    "nothing at the head": Odd(
        "initialization.loss", lambda: built(lambda model: model.head.weight.data.zero_()), "nothing reaches the head"
    ),
    # ------------------------------------------------------------------------------------------ loss
    "gradient without labels": Odd("loss.gradient", unlabeled, PASSED),
    "frozen part": Odd("loss.backward", lambda: built(lambda model: model.mix.requires_grad_(False)), PASSED),
    "doubled when kept": Odd("loss.backward", lambda: built(twice_kept), "after 1 backward passes mix.weight.grad"),
    "gradient that ignores": Odd("loss.scale", lambda: bent(unit), "an eighth of the loss gives"),
    "no label counted": Odd(
        "loss.definition",
        lambda: pairs(
            lambda _, ahead_BT: torch.full_like(ahead_BT, IGNORE),
            loss=lambda m, b: m(b[0]).square().mean(),
            objective="cross_entropy",
        ),
        "a batch with counted labels",
    ),
    "logits without a graph": Odd("loss.gradient", lambda: small(logits=no_graph), "logits with a graph"),
    "weighed labels": Odd("loss.definition", lambda: small(batch=weighted, loss=weighted_loss), "labels alike"),
    "unknown weights": Odd(
        "loss.definition",
        lambda: small(batch=weighted, loss=weighted_loss, objective="cross_entropy"),
        "what the batch's part 'share' is",
    ),
    "mixture's loss": Odd("loss.gradient", lambda: small(mixture_of_experts=True), "a loss without a router's part"),
    # ------------------------------------------------------------------------------------------ packing
    "targets lost together": Odd(
        "packing.conservation", lambda: small(collate_padded=without_last), "targets together and"
    ),
    "collator of short ones": Odd(
        "packing.conservation", lambda: small(collate_padded=refusing(5, silent=False)), PASSED
    ),
    "collator that skips": Odd("packing.conservation", lambda: small(collate_padded=refusing(5, silent=True)), PASSED),
    "collator of nothing": Odd(
        "packing.conservation",
        lambda: small(collate_padded=refusing(3, silent=False)),
        "a collator that takes documents of 4 tokens",
    ),
    "one word": Odd(
        "packing.conservation",
        lambda: small(
            collate_padded=rows, batch=lambda _: {key: torch.ones(ROWS, LENGTH).long() for key in ("tokens", "labels")}
        ),
        "a batch with different tokens in it",
    ),
    "target across a border": Odd(
        "packing.packed", lambda: bent(alone, collate_packed=in_one), "targets; one by one they have"
    ),
    "document turned": Odd(
        "packing.padded", lambda: bent(alone, collate_padded=backwards), "is not in what was made of it"
    ),
    "gradient of several": Odd(
        "packing.padded", lambda: bent(alone, collate_padded=rows, loss=half_of_several), "is not in the documents' own"
    ),
    # ------------------------------------------------------------------------------------------ others
    "recurrence": Odd("positions.average", lambda: library(recurrent=True), "a recurrence adds up"),
    "levels not said": Odd("quantization.levels", lambda: quantized(rounding), "quantizer.levels"),
    "nearest level missed": Odd(
        "quantization.levels", lambda: quantized(coarse, levels=lambda: torch.arange(-32, 33) / 32), "its nearest level"
    ),
    "zeros that spread": Odd("quantization.zeros", lambda: quantized(spoiled_after_zeros), "after a block of zeros"),
    "input scaled": Odd("quantization.circumstances", lambda: quantized(scaled_in_place), "changes its input by"),
    "another dtype": Odd("quantization.noise", lambda: quantized(lambda w: rounding(w).float()), "in torch.float32"),
    "reference without a graph": Odd(
        "reference.gradients", lambda: small(reference_logits=no_graph), "have a graph to"
    ),
    "part that is not used": Odd(
        "reference.gradients",
        lambda: built(
            lambda model: model.register_parameter("rest", nn.Parameter(torch.ones(2))),
            reference_logits=lambda model, given: model(given["tokens"]),
        ),
        PASSED,
    ),
    # ------------------------------------------------------------------------------------------ structure
    "nothing that learns": Odd(
        "structure.parameters",
        lambda: built(lambda model: model.requires_grad_(False), loss=lambda *given: loss(*given).requires_grad_()),
        "trainable parameters",
    ),
    "few states refused": Odd("positions.shift", lambda: stacked(of_many), "on a part of the sequence (at least 6"),
    "few states narrowed": Odd("positions.shift", lambda: stacked(narrow), "states of the shape they are given"),
    "states without a time": Odd("structure.blocks", lambda: stacked(by_rows, flat), "states (B, T, D)"),
    "blocks side by side": Odd("structure.blocks", lambda: stacked(added, side_by_side), PASSED),
    "the last block alone": Odd(
        "structure.blocks", lambda: stacked(added, last_alone), "block 1 is given what block 0 was given"
    ),
    "blocks of other lengths": Odd("structure.blocks", lambda: stacked(added, halved), PASSED),
    "blocks of codes": Odd("structure.residual", lambda: stacked(added, model=with_codes), "are not quantized"),
    "nothing finite": Odd("structure.residual", lambda: stacked(divided), "and finite ones"),
    "state that comes late": Odd("structure.state", lambda: small(model=lambda: Late(noted)), "do not fit a new model"),
    "copy without ties": Odd("structure.state", lambda: small(model=Tied), "shares 1 pairs of parameters and a copy 0"),
    "no copy": Odd("structure.state", lambda: small(model=lambda: Late(cached)), "a model that can be copied"),
    "parameter of integers": Odd(
        "structure.state",
        lambda: built(
            lambda model: model.register_parameter("places", nn.Parameter(torch.arange(3), requires_grad=False))
        ),
        PASSED,
    ),
    "matrix of ones": Odd("determinism.eval", lambda: built(lambda model: model.mix.weight.data.fill_(1.0)), PASSED),
    "norm with its bias first": Odd("norms.unit", lambda: behind(Biased), PASSED),
    "leaf that refuses rows": Odd("norms.unit", lambda: behind(lambda: nn.Conv1d(LENGTH, LENGTH, 1)), "are modules"),
    "leaf of two inputs": Odd("norms.unit", lambda: built(joining), "norms that are modules"),
    "norms without logits": Odd(
        "norms.unit",
        lambda: bent(pooled, loss=lambda model, given: model(given["tokens"]).square().mean()),
        "norms that are modules",
    ),
    "table of few positions": Odd("positions.precision", lambda: placed(16, 12), "batches of at least 64 positions"),
    "table of its batch": Odd("positions.precision", lambda: placed(64, 64), PASSED),
    "positions that are said": Odd("positions.precision", lambda: placed(512, 12, said=True), PASSED),
    "refused in training": Odd("gradients.parameters", lambda: bent(in_training), "no backend for training"),
    "features in the batch": Odd("gradients.inputs", lambda: small(batch=featured, loss=featured_loss), PASSED),
    "loss of torch's own": Odd("loss.precision", lambda: small(loss=torch.dot), "Subject.loss raised TypeError"),
    "parts of a mixture": Odd("structure.parameters", lambda: small(mixture_of_experts=True), PASSED),
    # ------------------------------------------------------------------------------------------ text
    "two ends": Odd("text.marks", lambda: small(encode=marked(end=2), eos_id=2), "closes with 2 end marks"),
    "no end known": Odd("text.marks", lambda: small(encode=marked()), PASSED),
    "labels of another length": Odd("text.instruction", lambda: texts(lambda ids, at: under(ids, at)[:-1]), "labels"),
    "nothing trained": Odd("text.instruction", lambda: texts(lambda ids, _: [IGNORE] * len(ids)), "none of an"),
    "a piece left out": Odd(
        "text.instruction", lambda: texts(chosen(drop=lambda _, at: at + 1)), "are not in one piece"
    ),
    "prompts that differ": Odd(
        "text.instruction",
        lambda: texts(lambda ids, at: under(ids, at - (at > 18)), decode=None),
        "one answer to two prompts has",
    ),
    "labels ahead": Odd("text.instruction", lambda: texts(ahead), PASSED),
    "labels neither": Odd(
        "text.instruction",
        lambda: texts(lambda ids, at: [IGNORE] * at + [7] * (len(ids) - at)),
        "must be one or the other",
    ),
    "no decoder": Odd("text.instruction", lambda: texts(under, decode=None), PASSED),
    "answer that reads otherwise": Odd(
        "text.instruction", lambda: texts(under, decode=lambda token_ids: read(token_ids).upper()), "and the answer is"
    ),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_subject_is_told_what_it_lacks_or_has(odd: Odd) -> None:
    """Behavior: a check of an odd subject passes, names what it needs, or finds the fault, with these words."""
    report = check(odd.made(), only=(odd.check,))
    assert odd.said in said(report)
