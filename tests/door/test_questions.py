"""What is asked of a captured micro-batch, without a process of its own."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from andon.door.questions.accumulation import check_division
from andon.door.questions.likelihoods import check_classes
from andon.door.questions.packed import check_positions
from andon.door.questions.padding import check_padding, check_padding_targets
from andon.door.questions.question import again, differ
from andon.door.questions.shapes import check_broadcast, check_random_target
from andon.door.questions.targets import check_ignored, check_next_token, check_own_target
from andon.verify.capturing.micro_batch import as_subject
from andon.verify.errors import CheckFailed, NotApplicable, Unusual
from tests.door.recorded import WORDS, Asks, Bag, Call, Light, clamped, cross_entropy, light_of, padded, recorded

pytestmark = pytest.mark.tier2


def test_a_capture_is_the_scripts_loss_without_its_last_factor() -> None:
    """Behavior: parts by the names of `forward`, the constant factor apart, the same loss as a Subject."""
    captured = recorded(Bag(), cross_entropy, *padded())
    subject = as_subject(captured)
    again = subject.loss(subject.model(), subject.batch(torch.Generator()))
    assert (["ids", "labels"], 0.25) == (list(captured.parts), captured.factor)
    assert float(captured.loss.detach()) == float(again.detach())


def test_a_part_that_is_only_cut_into_labels_is_the_labels() -> None:
    """Behavior: rows of which the loss takes all places but the first are captured as that; not where all are read."""

    def next_token(call: Call, ids: Tensor, rows: Tensor) -> Tensor:
        return functional.cross_entropy(call(ids).flatten(0, 1), rows[:, 1:].flatten())

    def and_all(call: Call, ids: Tensor, rows: Tensor) -> Tensor:
        return next_token(call, ids, rows) + 0 * rows.sum()

    rows = torch.randint(1, WORDS, (6, 8))
    assert (6, 7) == recorded(Bag(), next_token, rows[:, :-1], rows).parts["labels"].shape
    assert (6, 8) == recorded(Bag(), and_all, rows[:, :-1], rows).parts["labels"].shape


def test_padding_is_no_part_of_a_prediction() -> None:
    """Behavior: a model that hides padding passes; one whose mean counts it, though it compares with it, is red."""
    check_padding(recorded(Bag(), cross_entropy, *padded()))
    with pytest.raises(CheckFailed, match="knows padding") as found:
        check_padding(recorded(Bag(masks=False), cross_entropy, *padded()))
    assert not isinstance(found.value, Unusual)


@pytest.mark.parametrize(("masks", "light"), [(False, Unusual), (True, None)])
def test_padding_is_read_little_by_a_model_that_is_hardly_trained(masks: bool, light: Light) -> None:
    """Behavior: yellow where double precision shows the same small change; what rounding changes passes."""
    torch.manual_seed(0)
    model = Bag(masks=masks)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.03)

    def loss_of(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(call(ids).flatten(0, 1), labels.flatten())

    assert light is light_of(check_padding, recorded(model, loss_of, *padded()))


class Counting(nn.Module):
    """Logits that know how many places a row has, padding among them, and compare nothing with it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        x = self.embed(ids)
        return self.head(x + x.mean(1, keepdim=True))


@pytest.mark.parametrize(("mark", "said"), [("labels", "is -100 just there"), ("lengths", "holds the lengths")])
def test_a_batch_says_what_padding_is(mark: str, said: str) -> None:
    """Behavior: red with labels that are -100 just there, or with a part that holds the rows' lengths."""
    ids, labels = padded()
    lengths = (ids != 0).sum(1)
    labels = labels if mark == "labels" else labels.clamp(min=1)

    def loss(call: Call, ids: Tensor, labels: Tensor, lengths: Tensor) -> Tensor:
        return functional.cross_entropy(call(ids).flatten(0, 1), labels.flatten()) * lengths.float().mean()

    with pytest.raises(CheckFailed, match=said):
        check_padding(recorded(Counting(), loss, ids, labels, lengths))


class Hidden(nn.Module):
    """A model that hides from each token what it should see, and shows it the padding; of eight columns at most."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, 8), nn.Embedding(8, 8)
        self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.layer(x, src_key_padding_mask=ids != 0))


def test_a_mask_upside_down_shows_where_there_is_no_padding() -> None:
    """Behavior: red, as rows without padding see nothing; a script that calls `view` on its labels is asked too."""

    def viewed(call: Call, ids: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(call(ids).view(-1, WORDS), labels.view(-1))

    with pytest.raises(CheckFailed, match="more columns of it"):
        check_padding(recorded(Hidden(), viewed, *padded()))
    assert (True, False) == (differ(math.nan, 1.0), differ(math.nan, math.nan))


def test_padding_is_no_target() -> None:
    """Behavior: labels of padding that count are red where a mask says that it is; ignored ones pass."""
    torch.manual_seed(0)
    ids, labels = padded()
    check_padding_targets(recorded(Bag(), cross_entropy, ids, labels))
    ends = labels.masked_fill((ids == 0).cumsum(1) == 1, 0)  # padding that ends a text is to be written, once
    check_padding_targets(recorded(Bag(), cross_entropy, ids, ends))
    with pytest.raises(CheckFailed, match=r"15 places where 'ids' .* all for class 0"):
        check_padding_targets(recorded(Bag(), clamped, ids, labels))


class Reach(nn.Module):
    """Logits of the mean of all tokens up to some ahead."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.ahead, self.embed, self.head = ahead, nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        seen = torch.ones(ids.shape[1], ids.shape[1]).tril(self.ahead)
        return self.head(seen / seen.sum(1, keepdim=True) @ self.embed(ids))


def next_token(call: Call, ids: Tensor) -> Tensor:
    """Of the same text."""
    return functional.cross_entropy(call(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize(("ahead", "red"), [(0, False), (1, True), (2, True), (9, False)])
def test_no_prediction_sees_its_target(ahead: int, red: bool) -> None:
    """Behavior: a mask that is one or two too far is red; what sees all of a text, as encoders do, is not."""
    torch.manual_seed(0)
    captured = recorded(Reach(ahead), next_token, torch.randint(WORDS, (6, 10)))
    if not red:
        check_own_target(captured)
        return
    with pytest.raises(CheckFailed, match="1 later, which is their target"):
        check_own_target(captured)


@pytest.mark.parametrize(("ahead", "light"), [(0, None), (1, None), (2, Unusual), (7, NotApplicable)])
def test_a_text_predicts_its_next_token(ahead: int, light: Light) -> None:
    """Behavior: labels that are shifted twice are yellow; what is not found near is not asked."""
    torch.manual_seed(0)
    text = torch.randint(WORDS, (6, 18))
    captured = recorded(
        Reach(0),
        cross_entropy,
        text[:, :10].clone(),
        text[:, ahead:][:, :10].clone(),
    )
    assert light is light_of(check_next_token, captured)


def test_a_text_that_is_corrected_is_yellow() -> None:
    """Behavior: a causal model that is given nearly all of its targets at their places may correct the others."""
    torch.manual_seed(0)
    text = torch.randint(WORDS, (6, 18))
    written = torch.where(torch.rand(6, 18) < 0.06, (text + 1) % WORDS, text)
    assert CheckFailed is light_of(check_own_target, recorded(Reach(0), cross_entropy, text, text.clone()))
    assert Unusual is light_of(check_own_target, recorded(Reach(0), cross_entropy, written, text))
    cut = recorded(
        Reach(0), lambda call, x, y: cross_entropy(lambda x: call(x)[:, :-1], x, y), text, text[:, :-1].clone()
    )
    assert CheckFailed is light_of(check_own_target, cut)


def test_a_target_is_asked_where_targets_differ() -> None:
    """Behavior: a place at which all rows have one token, as a date's dash, tells nothing; beside it is asked."""
    ids = torch.randint(WORDS, (6, 10))
    ids[:, 5] = 3
    captured = recorded(Reach(0), lambda call, ids: cross_entropy(call, ids, ids), ids)
    with pytest.raises(CheckFailed, match="at that place, which is their target"):
        check_own_target(captured)


def test_ignored_labels_have_no_gradient() -> None:
    """Behavior: labels of -100 that the loss counts as a class are red."""
    check_ignored(recorded(Bag(), cross_entropy, *padded()))
    with pytest.raises(CheckFailed, match="places where 'labels' is -100"):
        check_ignored(recorded(Bag(), clamped, *padded()))


def ranked(scores: Tensor, y: Tensor) -> Tensor:
    """A loss of the order of all pairs of rows."""
    return functional.softplus((scores - scores.t()) * torch.sign(y.unsqueeze(1) - y)).mean()


def in_bins(y: Tensor) -> Tensor:
    """Targets (B,) as probabilities of as many bins."""
    return (y.unsqueeze(1) - torch.linspace(-1, 1, len(y))).square().neg().softmax(-1)


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # torch says so, too
@pytest.mark.parametrize(
    ("loss_of", "check", "light"),
    [
        (lambda call, x, y: (call(x).squeeze(-1) - y).square().mean(), check_broadcast, None),
        (lambda call, x, y: (call(x) - y).square().mean(), check_broadcast, CheckFailed),
        (lambda call, x, y: (call(x).squeeze(-1)[:, None] - call(x).squeeze(-1)).mean(), check_broadcast, Unusual),
        (lambda call, x, y: functional.mse_loss(call(x), y), check_broadcast, CheckFailed),
        (lambda call, x, y: ranked(call(x), y), check_broadcast, None),
        (lambda call, x, y: functional.cross_entropy(call(x).expand(5, 5), in_bins(y)), check_broadcast, None),
        (lambda call, x, y: -((call(x) - y).square().neg().softmax(-1)[:, 0]).log().mean(), check_broadcast, Unusual),
        (lambda call, x, y: (call(x).squeeze(-1) - y).square().mean(), check_random_target, None),
        (lambda call, x, _: (call(x) - torch.randn(5, 1)).square().mean(), check_random_target, Unusual),
    ],
    ids=["rows", "crossed", "all scores", "crossed in a loss", "ranked", "in bins", "beside bins", "given", "drawn"],
)
def test_pairs_and_targets(loss_of: Call, check: Asks, light: Light) -> None:
    """Behavior: a prediction (B, 1) beside targets (B,) is red; all pairs of scores, and rows beside bins, yellow.

    Targets held against each other, or put into as many bins as rows, are nothing; drawn targets are yellow.
    """
    captured = recorded(nn.Linear(3, 1), loss_of, torch.randn(5, 3), torch.randn(5))
    assert light is light_of(check, captured)


@pytest.mark.parametrize(
    ("made", "scores", "light"),
    [
        (functional.nll_loss, functional.log_softmax, None),
        (functional.cross_entropy, lambda x, _: x, None),
        (functional.cross_entropy, functional.log_softmax, None),
        (functional.nll_loss, functional.softmax, CheckFailed),
        (functional.cross_entropy, functional.softmax, CheckFailed),
        (functional.nll_loss, lambda x, _: x + 4, Unusual),
        (functional.nll_loss, lambda x, _: x.log_softmax(0), CheckFailed),
        (lambda x, y: functional.cross_entropy(x, functional.one_hot(y, 4).float()), lambda x, _: x, None),
        (lambda x, y: functional.cross_entropy(x, 2 * functional.one_hot(y, 4).float()), lambda x, _: x, Unusual),
    ],
)
def test_probabilities_are_no_scores(made: Call, scores: Call, light: Light) -> None:
    """Behavior: softmax's output in the place of scores or of logarithms is red; scores in nll_loss are yellow."""
    seen = recorded(
        nn.Linear(3, 4), lambda call, x, y: made(scores(call(x), 1), y), torch.randn(6, 3), torch.arange(6) % 4
    )
    assert light is light_of(check_classes, seen)


def test_a_figure_that_is_printed_is_no_loss() -> None:
    """Behavior: the mean probability of the right class, by nll_loss, is asked nothing where the loss is another."""

    def loss_of(call: Call, x: Tensor, y: Tensor) -> Tensor:
        scores = call(x)
        functional.nll_loss(scores.softmax(1), y)
        return functional.cross_entropy(scores, y)

    check_classes(recorded(nn.Linear(3, 4), loss_of, torch.randn(6, 3), torch.arange(6) % 4))


@pytest.mark.parametrize(("divisor", "unusual"), [(1, True), (2, False)])
def test_micro_batches_weigh_one_batch(divisor: int, unusual: bool) -> None:
    """Behavior: two whole means are yellow, two halves are none; nor is a step of one micro-batch."""
    torch.manual_seed(0)
    ids, labels = torch.randint(1, WORDS, (6, 7)), torch.randint(1, WORDS, (6, 7))
    captured = recorded(Bag(), lambda *given: cross_entropy(*given) * 4 / divisor, ids, labels)
    with pytest.raises(NotApplicable):
        check_division(captured)
    captured.micro_batches = 2
    if not unusual:
        check_division(captured)
        return
    with pytest.raises(Unusual, match="together they weigh 2"):
        check_division(captured)


def test_a_loss_scaler_is_a_factor_of_the_loss() -> None:
    """Behavior: what a scaler multiplies by is no part of the loss, whose dtype and value are then its own."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.zeros(()))  # what it multiplies by is made in the first step
    captured = recorded(Bag(), lambda *given: scaler.scale(cross_entropy(*given).bfloat16()), *padded())
    assert (torch.bfloat16, 8.0) == (captured.loss.dtype, captured.factor)
    assert ["ids", "labels"] == list(captured.parts)


def test_rows_that_are_picked_after_the_pass_are_the_batch() -> None:
    """Behavior: of a whole data set's labels the part counts that the loss was given, by number or by slice."""
    everything = torch.randint(1, WORDS, (90, 7))
    for pick in (torch.arange(6) * 3, slice(3, 9)):
        captured = recorded(Bag(), lambda call, ids, pick=pick: cross_entropy(call, ids, everything[pick]), padded()[0])
        assert {"ids": (6, 7), "labels": (6, 7)} == {name: tuple(part.shape) for name, part in captured.parts.items()}


def test_autocast_is_on_again_where_it_was() -> None:
    """Behavior: what ran under autocast runs under it again, and what did not does not."""
    model, seen = nn.Linear(4, 4), list[torch.dtype]()
    model.register_forward_hook(lambda _module, _args, output: seen.append(output.dtype))

    def loss_of(call: Call, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y = call(x)
        return y.float().square().mean()

    captured = recorded(model, loss_of, torch.randn(3, 4))
    seen.clear()
    again(captured)
    assert [torch.bfloat16] == seen


def packed(late: int) -> dict[str, Tensor]:
    """Rows of three documents, whose positions begin anew so many places late."""
    lengths = ([4, 3, 5], [3, 6, 3])
    documents = torch.tensor([[n for n, size in enumerate(row) for _ in range(size)] for row in lengths])
    positions = torch.tensor([[place for size in row for place in range(size)] for row in lengths])
    positions = torch.cat([torch.zeros(2, late, dtype=torch.long), positions], dim=1)[:, :12]
    return {"w": torch.randint(WORDS, (2, 12)), "d": documents, "p": positions}


class Packed(nn.Module):
    """Logits of words and their positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.head = nn.Embedding(WORDS, 8), nn.Embedding(12, 8), nn.Linear(8, WORDS)

    def forward(self, w: Tensor, d: Tensor, p: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        return self.head(self.embed(w) + self.places(p) + 0 * d[..., None])


@pytest.mark.parametrize(("late", "light"), [(0, None), (1, CheckFailed), (4, NotApplicable)])
def test_positions_begin_with_their_document(late: int, light: Light) -> None:
    """Behavior: positions that begin anew a place late are red; far from the borders they are something else's."""
    torch.manual_seed(0)
    captured = recorded(
        Packed(),
        lambda call, w, d, p: functional.cross_entropy(call(w, d, p)[:, :-1].flatten(0, 1), w[:, 1:].flatten()),
        *packed(late).values(),
    )
    assert light is light_of(check_positions, captured)
