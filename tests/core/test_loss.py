"""The chunked loss against torch's cross-entropy."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as plain_cross_entropy

from andon.core.config import ModelConfig
from andon.core.data.batch import IGNORE, Batch
from andon.core.model.llama import build_model
from andon.core.training import loss as module
from andon.core.training.loss import cross_entropy, loss
from andon.verify.observation.tensor_memory import TensorMemory
from tests.core.shapes import SHAPE
from tests.tolerances import TOLERANCE, distance

ROWS, LENGTH, WIDTH, VOCAB = 3, 5, 4, 11
COUNTED = 12  # of the 15 labels
CHUNKS = [1, 5 * VOCAB, 6 * VOCAB + 3, COUNTED * VOCAB, 1 << 23]  # rows: 1, 5 (2 left over), 6, all, more than all


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, T, D), head (V, D), and labels (B, T) of which three are not counted."""
    generator = torch.Generator().manual_seed(0)
    x_BTD = torch.randn(ROWS, LENGTH, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight_VD = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    labels_BT = torch.randint(0, VOCAB, (ROWS, LENGTH), generator=generator)
    labels_BT[0, 1] = labels_BT[2, 3] = labels_BT[2, 4] = IGNORE
    return x_BTD, weight_VD, labels_BT


def reference(x_BTD: Tensor, weight_VD: Tensor, labels_BT: Tensor) -> Tensor:
    """torch's own, over all logits at once."""
    return plain_cross_entropy((x_BTD @ weight_VD.t()).flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORE)


@pytest.mark.tier1
@pytest.mark.parametrize("elements", CHUNKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradients_are_torchs(dtype: torch.dtype, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: torch's cross_entropy, whatever the chunks, with rows left over and rows not counted."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
    x, weight, labels = inputs(dtype)
    actual, expected = cross_entropy(x, weight, labels), reference(x, weight, labels)
    assert dtype == actual.dtype
    assert distance(actual.detach(), expected.detach()) < TOLERANCE[dtype]
    for ours, torchs in zip(
        torch.autograd.grad(actual, (x, weight)), torch.autograd.grad(expected, (x, weight)), strict=True
    ):
        assert distance(ours, torchs) < TOLERANCE[dtype]


@pytest.mark.tier1
@pytest.mark.parametrize("factor", [0.25, 2.0, 65536.0, -1.0])
def test_the_gradient_that_comes_in_is_passed_on(factor: float) -> None:
    """Reference: torch's gradients of the scaled loss."""
    x, weight, labels = inputs()
    actual = torch.autograd.grad(cross_entropy(x, weight, labels) * factor, (x, weight))
    expected = torch.autograd.grad(reference(x, weight, labels) * factor, (x, weight))
    assert max(map(distance, actual, expected)) < TOLERANCE[torch.float64]


@pytest.mark.tier1
@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    """Behavior: a frozen head or frozen states cost no gradient, and the other's is the same."""
    leaves = inputs()[:2]
    labels = inputs()[2]
    leaves[frozen].requires_grad_(False)
    cross_entropy(*leaves, labels).backward()
    assert leaves[frozen].grad is None
    other = leaves[1 - frozen]
    assert other.grad is not None
    assert distance(other.grad, torch.autograd.grad(reference(*leaves, labels), other)[0]) < TOLERANCE[torch.float64]


@pytest.mark.tier2  # a dispatch mode imports torch._dynamo, a second
def test_without_gradients_only_the_value_is_computed() -> None:
    """Behavior: under no_grad the value is the same to the last bit, and nothing as large as the head is made."""
    x, weight, labels = inputs()
    expected = cross_entropy(x, weight, labels).detach()
    x, weight = x.detach()[:1, :2], weight.detach()
    with torch.no_grad(), TensorMemory([x, weight, labels]) as live:
        cross_entropy(x, weight, labels[:1, :2])
    assert live.largest < weight.nbytes
    x, weight, labels = inputs()
    with torch.no_grad():
        assert torch.equal(expected, cross_entropy(x, weight, labels))


@pytest.mark.tier2  # a dispatch mode imports torch._dynamo, a second
def test_all_logits_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: no tensor is larger than a chunk's logits or the head's gradient, a sixteenth of all logits."""
    rows, vocab, width = 256, 128, 8
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 16 * vocab)
    x = torch.randn(1, rows, width, requires_grad=True)
    weight = torch.randn(vocab, width, requires_grad=True)
    labels = torch.randint(0, vocab, (1, rows))
    with TensorMemory([x, weight, labels]) as live:
        cross_entropy(x, weight, labels).backward()
    chunk = 16 * vocab * 4
    assert max(chunk, x.nbytes) == live.largest
    assert live.peak < 6 * chunk + 4 * x.nbytes
    with TensorMemory([x, weight, labels]) as plain:
        reference(x, weight, labels).backward()
    assert plain.largest == rows * vocab * 4  # the measure does see them where they exist


@pytest.mark.tier1
def test_micro_batches_add_up_to_one_batch() -> None:
    """Reference: one batch of eight rows with unequal numbers of counted labels, in float64, rtol 1e-10."""
    model = build_model(ModelConfig.model_validate(SHAPE), 0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(0, SHAPE["vocab_size"], (8, 10), generator=generator)
    labels_BT = tokens_BT.roll(-1, 1)
    for row in range(8):
        labels_BT[row, row + 1 :] = IGNORE  # row r counts r + 1 labels
    count = 8 * 9 // 2

    def gradients(sizes: list[int], tokens: int | None) -> tuple[float, list[Tensor]]:
        model.zero_grad()
        total = 0.0
        for tokens_part, labels_part in zip(tokens_BT.split(sizes), labels_BT.split(sizes), strict=True):
            part = loss(model, Batch(tokens_part, labels_part, None), tokens)
            part.backward()
            total += float(part.detach())
        return total, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    value, whole = gradients([8], None)
    assert len(whole) == len(list(model.parameters()))
    for sizes in ([1] * 8, [3, 5], [1, 7]):
        parts_value, parts = gradients(sizes, count)
        assert math.isclose(value, parts_value, rel_tol=1e-10)
        for one, many in zip(whole, parts, strict=True):
            assert distance(many, one) < 1e-10


@pytest.mark.tier1
def test_the_models_loss_is_that_of_its_logits() -> None:
    """Reference: torch's cross_entropy of the model's own logits, tied head and packed rows included."""
    for tied in (False, True):
        config = ModelConfig.model_validate(SHAPE | {"tie_word_embeddings": tied})
        model = build_model(config, 0, dtype=torch.float64)
        tokens_BT = torch.randint(0, config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(2))
        batch = Batch(tokens_BT, tokens_BT.roll(-1, 1), torch.tensor([[0, 0, 0, 1, 1, 1]] * 2))
        expected = plain_cross_entropy(model(tokens_BT, batch.documents_BT).flatten(0, 1), batch.labels_BT.flatten())
        parameters = list(model.parameters())
        actual = loss(model, batch)
        assert distance(actual.detach(), expected.detach()) < TOLERANCE[torch.float64]
        ours, torchs = (torch.autograd.grad(value, parameters) for value in (actual, expected))
        assert max(map(distance, ours, torchs)) < TOLERANCE[torch.float64]


@pytest.mark.tier1
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("elements", [5 * VOCAB, 1 << 23])
def test_autocast_computes_in_half_precision(
    dtype: torch.dtype, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: float32 within half precision's tolerance, products aside: loss and gradients stay float32."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", elements)
    x, weight, labels = inputs(torch.float32)
    with torch.autocast("cpu", dtype):
        actual = cross_entropy(x, weight, labels)
    expected = reference(x, weight, labels)
    assert actual.dtype == torch.float32
    assert 0 < distance(actual.detach(), expected.detach()) < TOLERANCE[dtype]
    ours, torchs = (torch.autograd.grad(value, (x, weight)) for value in (actual, expected))
    assert [torch.float32] * 2 == [gradient.dtype for gradient in ours]
    assert 0 < max(map(distance, ours, torchs)) < TOLERANCE[dtype]


@pytest.mark.tier1
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_has_a_float32_softmax(dtype: torch.dtype) -> None:
    """Reference: float64 of the same rounded inputs; the loss is float32, the gradients the model's."""
    x, weight, labels = inputs(dtype)
    actual = cross_entropy(x, weight, labels)
    exact = [leaf.detach().double().requires_grad_() for leaf in (x, weight)]
    expected = reference(*exact, labels)
    assert actual.dtype == torch.float32
    assert distance(actual.detach(), expected.detach()) < TOLERANCE[dtype]
    ours, theirs = torch.autograd.grad(actual, (x, weight)), torch.autograd.grad(expected, exact)
    assert [dtype] * 2 == [gradient.dtype for gradient in ours]
    assert max(map(distance, ours, theirs)) < TOLERANCE[dtype]
    even = cross_entropy(torch.zeros_like(x), torch.zeros(1000, WIDTH, dtype=dtype), labels)
    assert pytest.approx(math.log(1000), rel=1e-6) == float(even)  # in half precision it would be a third digit off


@pytest.mark.tier1
def test_float16_gradients_do_not_underflow_before_the_loss_scale() -> None:
    """Reference: float32. Divided by two million tokens a gradient is below float16's smallest number, 6e-8."""
    x, weight, labels = inputs(torch.float32)
    tokens, scale = 1 << 21, 65536.0
    with torch.autocast("cpu", torch.float16):
        actual = torch.autograd.grad(cross_entropy(x, weight, labels, tokens) * scale, (x, weight))
    expected = torch.autograd.grad(reference(x, weight, labels) * COUNTED / tokens * scale, (x, weight))
    assert max(map(distance, actual, expected)) < TOLERANCE[torch.float16]


@pytest.mark.tier1
def test_where_no_label_counts_the_loss_is_nan() -> None:
    """Behavior: no number is made up, whether or not gradients are wanted."""
    x, weight, labels = inputs()
    labels.fill_(IGNORE)
    assert cross_entropy(x, weight, labels).isnan()
    with torch.no_grad():
        assert cross_entropy(x, weight, labels).isnan()


@pytest.mark.tier1
def test_a_micro_batch_without_labels_adds_nothing() -> None:
    """Behavior: with the step's total given, its loss and its gradients are zero."""
    x, weight, labels = inputs()
    value = cross_entropy(x, weight, labels.fill_(IGNORE), tokens=7)
    assert float(value.detach()) == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(value, (x, weight)))


@pytest.mark.tier1
def test_a_second_backward_raises() -> None:
    """Behavior: the gradients were handed out; nothing stale or doubled comes back, and no second derivative."""
    x, weight, labels = inputs()
    value = cross_entropy(x, weight, labels)
    value.backward(retain_graph=True)
    with pytest.raises((RuntimeError, TypeError)):
        value.backward()
    x, weight, labels = inputs()
    squared = cross_entropy(x, weight, labels).square()
    first = torch.autograd.grad(squared, x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.tier2
def test_the_label_that_does_not_count_is_torchs() -> None:
    """Reference: torch's cross_entropy with its own default: -100, which other libraries write into labels too."""
    x, weight, labels = inputs()
    labels[1] = -100
    expected = plain_cross_entropy((x @ weight.t()).flatten(0, 1), labels.flatten())
    assert distance(cross_entropy(x, weight, labels).detach(), expected.detach()) < TOLERANCE[torch.float64]


@pytest.mark.tier2
def test_without_gradients_every_chunk_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reference: torch's cross_entropy, in chunks of two rows."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 2 * VOCAB)
    x, weight, labels = (tensor.detach() for tensor in inputs())
    assert distance(cross_entropy(x, weight, labels), reference(x, weight, labels)) < TOLERANCE[torch.float64]


@pytest.mark.tier2
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_heads_gradient_is_handed_out_as_it_is(dtype: torch.dtype) -> None:
    """Behavior: its own backward gives each input's dtype, and copies nothing where none is to be changed."""
    x, weight, labels = inputs(dtype)
    node: Any = cross_entropy(x, weight, labels).grad_fn
    held = node.grads[1]
    grad_x, grad_weight, *_ = node.apply(torch.ones((), dtype=torch.float32))
    assert dtype == grad_x.dtype == grad_weight.dtype
    assert (dtype == torch.float32) == (grad_weight is held)
