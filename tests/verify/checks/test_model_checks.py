"""Every check of model and data stays silent on users' correct code, and finds what is injected there."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from andon.verify import check
from andon.verify.checks import CHECKS
from andon.verify.subject import Subject
from tests.verify import foreign_models

SOURCE = Path(foreign_models.__file__).read_text(encoding="utf-8")
AREAS = {
    "attention", "configuration", "data", "determinism", "dtypes", "generation", "initialization", "loss", "norms",
    "packing", "positions", "reference", "resizing", "structure", "text",
}  # fmt: skip
OURS = tuple(each.name for each in CHECKS if each.name.partition(".")[0] in AREAS)


class Fault(NamedTuple):
    """A change of foreign_models.py, the subject it is put to, and the check that is to find it."""

    name: str
    before: str
    after: str
    subject: str
    finder: str


FAULTS = (
    # ------------------------------------------------------------------------------------------ attention
    Fault("later tokens almost hidden", 'float("-inf")', "-12.0", "gpt", "attention.causality"),
    Fault("sees one ahead", "64).tril()", "64).tril(1)", "gpt", "attention.causality"),
    Fault("softmax over queries", "F.softmax(scores, dim=-1)", "F.softmax(scores, dim=-2)", "gpt",
          "attention.causality"),
    Fault("heads and time mixed", "(share @ v).transpose(1, 2)", "(share @ v)", "gpt", "attention.causality"),
    Fault("not itself, not the last", "device).tril()", "device).tril(-2) | torch.eye(time).bool()", "packing",
          "attention.influence"),
    Fault("rows share a mean", "= self.embed(input_ids)", "= self.embed(input_ids) + self.embed(input_ids).mean(0)",
          "library", "attention.rows"),
    Fault("padding seen", "seen = seen & attention_mask.bool()[:, None, None, :]", "seen = seen.clone()", "library",
          "attention.padding"),
    Fault("padding seen both ways", "key_padding_mask=hidden", "key_padding_mask=None", "encoder", "attention.padding"),
    Fault("documents seen", "seen = seen & (document_ids[:, None, :, None] == document_ids[:, None, None, :])", "",
          "packing", "attention.documents"),
    Fault("one group of keys", "self.groups, self.size).transpose(1, 2)\n        q, k",
          "self.groups, self.size).transpose(1, 2)\n        v = v[:, :1].expand_as(v)\n        q, k", "library",
          "structure.parameters"),
    Fault("heads tiled", "each.repeat_interleave(self.heads // self.groups, dim=1)",
          "each.repeat(1, self.heads // self.groups, 1, 1)", "library", "attention.groups"),
    Fault("keys not normed", "q.shape[-1:]), F.rms_norm(k, k.shape[-1:])", "q.shape[-1:]), k", "capped",
          "attention.normed"),
    # ------------------------------------------------------------------------------------------ positions
    Fault("places all zero", "torch.arange(0, idx.shape[1], dtype", "torch.zeros(idx.shape[1], dtype", "gpt",
          "positions.order"),
    Fault("places unused", " + self.transformer.wpe(pos)", "", "gpt", "positions.order"),
    Fault("both ways without places", "torch.arange(input_ids.shape[1])", "0 * torch.arange(input_ids.shape[1])",
          "encoder", "positions.order"),
    Fault("keys turned back", "turned(k, cos, sin)", "turned(k, cos, -sin)", "library", "positions.shift"),
    Fault("keys not turned", "turned(k, cos, sin)", "k", "packing", "positions.shift"),
    Fault("places wrap", "torch.arange(time, device=input_ids.device)[None]",
          "torch.arange(time, device=input_ids.device)[None] % 8", "library", "positions.shift"),
    Fault("rounded angles", "place.double()[..., None] * rates",
          "place.bfloat16()[..., None] * rates.bfloat16()", "library", "positions.shift"),
    Fault("masked after the softmax", "y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p)",
          "y = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) * seen) @ v", "library", "positions.average"),
    # ----------------------------------------------------------------------------------------------- norms
    Fault("padded width", "high.pow(2).mean(-1, keepdim=True)", "high.pow(2).sum(-1, keepdim=True) / 48", "library",
          "norms.unit"),
    Fault("rounded statistics", "high = x.float() if x.dtype != torch.float64 else x", "high = x", "half",
          "norms.precision"),
    Fault("last norm unused", "x = self.transformer.ln_f(x)", "self.transformer.ln_f(x)", "gpt",
          "structure.parameters"),
    # -------------------------------------------------------------------------------------------- structure
    Fault("last layer left out", "in self.transformer.h:", "in self.transformer.h[:-1]:", "gpt", "structure.blocks"),
    Fault("a layer twice", "for layer in self.layers:", "for layer in [*self.layers, self.layers[-1]]:", "library",
          "structure.blocks"),
    Fault("one layer for all", "nn.ModuleList([GptBlock(width, heads, dropout) for _ in range(layers)])",
          "nn.ModuleList([GptBlock(width, heads, dropout)] * layers)", "gpt", "structure.blocks"),
    Fault("added twice", "x = x + self.attn(self.ln_1(x))", "x = x + x + self.attn(self.ln_1(x))", "gpt",
          "structure.residual"),
    Fault("not added", "x = x + self.mlp(self.ln_2(x))", "x = self.mlp(self.ln_2(x))", "gpt", "structure.residual"),
    Fault("not added, norms last", "self.second(x + self.narrow", "self.second(self.narrow", "encoder",
          "structure.residual"),
    Fault("embedding cut off", "hidden = self.embed(input_ids)", "hidden = self.embed(input_ids).detach()", "library",
          "structure.parameters"),
    Fault("layers in a plain list", "nn.ModuleList([Layer(s) for _ in range(s.layers)])",
          "[Layer(s) for _ in range(s.layers)]", "library", "structure.state"),
    Fault("tied by value", "self.head.weight = self.embed.weight", "self.head.weight.data = self.embed.weight.data",
          "tied", "structure.tying"),
    # ------------------------------------------------------------------------------------- initialization
    Fault("large embedding", "nn.init.normal_(module.weight, std=0.02)", "nn.init.normal_(module.weight, std=1.0)",
          "gpt", "initialization.loss"),
    Fault("layers alike", "                nn.init.normal_(p, std=s.scale)",
          "                nn.init.normal_(p, std=s.scale, generator=torch.Generator().manual_seed(p.shape[0]))",
          "library", "initialization.layers"),
    Fault("one layer's own scale", "nn.init.normal_(p, std=s.scale)",
          "nn.init.normal_(p, std=s.scale * (3 if p is self.layers[1].down.weight else 1))", "library",
          "initialization.layers"),
    Fault("memory as it was", "self.last = Rms(s.width, s.eps)",
          "self.last = Rms(s.width, s.eps)\n        self.last.gain.data[3] = float('nan')", "library",
          "initialization.finite"),
    Fault("numbers of its own", "nn.init.normal_(p, std=s.scale)",
          "nn.init.normal_(p, std=s.scale, generator=torch.Generator().manual_seed(torch.Generator().seed()))",
          "library", "initialization.seed"),
    Fault("matrices of std 1", "nn.init.normal_(p, std=s.scale)",
          "nn.init.normal_(p, std=s.scale if p is self.embed.weight or p is self.head.weight else 1.0)", "library",
          "initialization.scale"),
    # ------------------------------------------------------------------------------------------------ loss
    Fault("not shifted", "logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()",
          "logits.flatten(0, 1).float(), labels.flatten()", "library", "data.targets"),
    Fault("shifted twice", "logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()",
          "logits[:, :-2].flatten(0, 1).float(), labels[:, 2:].flatten()", "library", "loss.definition"),
    Fault("padding counted", "labels[:, 1:].flatten()", "labels[:, 1:].clamp_min(0).flatten()", "library",
          "loss.definition"),
    Fault("half-precision softmax", "logits[:, :-1].flatten(0, 1).float()", "logits[:, :-1].flatten(0, 1).bfloat16()",
          "library", "loss.precision"),
    Fault("rounded logits", "logits[:, :-1].flatten(0, 1).float()",
          "logits[:, :-1].flatten(0, 1).bfloat16().float()", "library", "loss.definition"),
    Fault("not upcast", "logits[:, :-1].flatten(0, 1).float()", "logits[:, :-1].flatten(0, 1)", "half",
          "loss.precision"),
    Fault("last chunk dropped", "range(0, len(targets), 16)", "range(0, len(targets) // 16 * 16, 16)", "packing",
          "loss.shapes"),
    Fault("divided by positions", "/ (targets != -100).sum()", "/ len(targets)", "packing", "loss.definition"),
    Fault("mean of means", 'reduction="sum")\n    return total / (targets != -100).sum()',
          'reduction="mean")\n    return total / (len(targets) // 16)', "packing", "loss.definition"),
    Fault("divided by labels", 'batch["labels"], ignore_index=-100)',
          'batch["labels"], ignore_index=-100, reduction="sum") / batch["labels"].numel()', "encoder",
          "loss.definition"),
    Fault("backward inside the loss", "    return total / (targets != -100).sum()",
          "    total.backward(retain_graph=True) if total.requires_grad else None\n"
          "    return total / (targets != -100).sum()", "packing", "loss.backward"),
    Fault("chunks cut off", "piece, labels = logits[start : start + 16], targets",
          "piece, labels = logits[start : start + 16].detach() if start == 16 else logits[start : start + 16], targets",
          "packing", "loss.gradient"),
    # ----------------------------------------------------------------------------------------- determinism
    Fault("dropout in evaluation", "training=self.training)", "training=True)", "gpt", "determinism.eval"),
    Fault("attention dropout in evaluation", "p = self.drop if self.training else 0.0", "p = self.drop", "dropping",
          "determinism.eval"),
    Fault("another mask in training", "device=input_ids.device).tril()[None, None]",
          "device=input_ids.device).tril(int(self.training))[None, None]", "library", "determinism.modes"),
    Fault("labels changed", "time = input_ids.shape[1]\n        place",
          "time = input_ids.shape[1]\n        if labels is not None:\n            labels[:, 1] = -100\n        place",
          "library", "determinism.purity"),
    Fault("evaluation mode left on", "time = input_ids.shape[1]\n        place",
          "time = input_ids.shape[1]\n        self.layers[0].eval()\n        place", "library", "determinism.purity"),
    Fault("places of the first call", "place = torch.arange(time, device=input_ids.device)[None]",
          "self.first = getattr(self, 'first', time)\n        "
          "place = (torch.arange(time)[None] + 2 * (time - self.first)) ** 2", "library", "determinism.history"),
    Fault("other random numbers", "hidden = self.embed(input_ids)",
          "hidden = self.embed(input_ids) + 0 * torch.rand(1)", "library", "determinism.eval"),
    Fault("noise that no seed reaches", "hidden = self.embed(input_ids)",
          "noise = torch.Generator()\n        noise.seed()\n"
          "        hidden = self.embed(input_ids) + 0.1 * self.training * torch.rand(1, generator=noise)",
          "library", "determinism.train"),
    # ---------------------------------------------------------------------------------------------- dtypes
    Fault("residual far from zero", "hidden = self.embed(input_ids)", "hidden = self.embed(input_ids) + 300 - 300",
          "half", "dtypes.logits"),
    Fault("logits far from zero", "logits[:, :-1].flatten(0, 1).float()",
          "(logits[:, :-1].flatten(0, 1) + 300).float()", "half", "dtypes.loss"),
    Fault("half-precision residual", "hidden = hidden + self.attention",
          "hidden = hidden.bfloat16().float() + self.attention",
          "library", "dtypes.smooth"),
    Fault("half-precision scores", "scores = (q @ k.transpose(-2, -1))",
          "scores = (q @ k.transpose(-2, -1)).half().to(q.dtype)", "gpt", "dtypes.smooth"),
    Fault("half-precision angles", "place.double()[..., None] * rates",
          "place.to(self.embed.weight.dtype)[..., None] * rates.to(self.embed.weight.dtype)", "half",
          "positions.precision"),
    Fault("half-precision angles under autocast", "(place.double()[..., None] * rates)[:, None]",
          "(place.float()[..., None] @ rates.float()[None])[:, None]", "mixed", "positions.precision"),
    # --------------------------------------------------------------------------------------- configuration
    Fault("theta not used", "self.config.theta **", "1e4 **", "library", "configuration.sensitivity"),
    Fault("dropout not used", "self.drop = s.drop", "self.drop = 0.0", "library", "configuration.sensitivity"),
    Fault("one epsilon of its own", "Rms(s.width, s.eps), Rms(s.width, s.eps)",
          "Rms(s.width, s.eps), Rms(s.width, 1e-5)",
          "library", "configuration.norms"),
    Fault("scale of the embedding alone", "for p in self.parameters():", "for p in [self.embed.weight]:", "library",
          "configuration.spread"),
    # --------------------------------------------------------------------------------- packing and padding
    Fault("a target across the border", "targets.masked_fill(border, -100)", "targets", "packing", "packing.borders"),
    Fault("first token in the wrong document", "masked_fill(border, -100), numbers)",
          "masked_fill(border, -100), F.pad(numbers[:, :-1], (1, 0)))", "packing", "packing.packed"),
    Fault("short documents dropped", "    tokens = torch.tensor([[word for",
          "    documents = [d for d in documents if len(d) != 2]\n    tokens = torch.tensor([[word for", "packing",
          "packing.conservation"),
    Fault("padding counted in the mean", "labels[:, 1:].flatten()", "labels[:, 1:].clamp_min(0).flatten()", "library",
          "packing.padded"),
    Fault("padding is a target", '"labels": ids.masked_fill(mask == 0, -100)', '"labels": ids', "library",
          "data.padding"),
    Fault("the end is not a target", '"labels": ids.masked_fill(mask == 0, -100)',
          '"labels": ids.masked_fill((mask == 0) | (ids == END), -100)', "library", "data.padding"),
    # -------------------------------------------------------------------------------------------- gradients
    Fault("gradients damped on the way down", "        hidden = self.embed(input_ids)\n",
          "        hidden = self.embed(input_ids) + 0\n"
          "        if hidden.requires_grad:\n            hidden.register_hook(lambda g: 0.9 * g)\n",
          "library", "gradients.inputs"),
    Fault("attention of detached states", "self.attention(self.before(hidden)",
          "self.attention(self.before(hidden.detach())", "library", "gradients.parameters"),
    # ------------------------------------------------------------------------------------------ generation
    Fault("the first logits", "logits[:, -1].argmax(-1)", "logits[:, 0].argmax(-1)", "packing", "generation.greedy"),
    Fault("the least likely", "logits[:, -1].argmax(-1)", "logits[:, -1].argmin(-1)", "packing", "generation.greedy"),
    Fault("a short memory", "model(tokens[:, : i + 1])", "model(tokens[:, max(0, i - 3) : i + 1])", "packing",
          "generation.decode"),
    # ------------------------------------------------------------------------------------------------ data
    Fault("copying", "data[:, :-1], data[:, 1:]", "data[:, :-1], data[:, :-1]", "gpt", "data.targets"),
    Fault("two ahead", "data[:, :-1], data[:, 1:]", "data[:, :-2], data[:, 2:]", "gpt", "data.targets"),
    Fault("one window for all rows", "torch.randint(2, VOCAB, (ROWS, LENGTH + 1), generator=generator)",
          "torch.randint(2, VOCAB, (1, LENGTH + 1), generator=generator).expand(ROWS, -1)", "gpt", "data.rows"),
    Fault("one order", "manual_seed(number)", "manual_seed(0)", "packing", "data.epochs"),
    Fault("windows never seen", "generator=torch.Generator().manual_seed(number))",
          "generator=torch.Generator().manual_seed(number))[:7]", "packing", "data.epochs"),
    Fault("held out and trained", "900 + index", "100 + index", "packing", "data.held_out"),
    Fault("first answer token untrained", "[-100] * len(before) + after", "[-100] * (len(before) + 1) + after[1:]",
          "packing", "text.instruction"),
    Fault("end untrained", "[-100] * len(before) + after", "[-100] * len(before) + after[:-1] + [-100]", "packing",
          "text.instruction"),
    Fault("prompt trained", "[-100] * len(before) + after", "before + after", "packing", "text.instruction"),
    Fault("a bound that multiplies", "torch.tanh(logits / self.config.cap)", "torch.tanh(logits)", "capped",
          "configuration.caps"),
    Fault("begun twice", "[2, *(ord", "[2, 2, *(ord", "packing", "text.marks"),
    Fault("never ended", "for c in text), END]", "for c in text)]", "packing", "text.marks"),
    Fault("spaces lost", "for i in ids if i > 2", "for i in ids if i > 32", "packing", "text.round_trip"),
)  # fmt: skip


def injected(fault: Fault) -> Subject:
    """The subject, made of foreign_models.py with the fault in it."""
    assert fault.before in SOURCE, f"{fault.name}: nothing to replace"
    module = ModuleType("injected")
    source = SOURCE.replace(fault.before, fault.after)
    assert source != SOURCE
    exec(compile(source, foreign_models.__file__, "exec"), vars(module))  # noqa: S102 - our own text
    make: Callable[[], Subject] = vars(module)[fault.subject]
    return make()


@pytest.mark.tier3
@pytest.mark.parametrize("make", foreign_models.CLEAN, ids=lambda make: make.__name__)
def test_correct_code_passes(make: Callable[[], Subject]) -> None:
    """Behavior: no check accuses code without a fault."""
    report = check(make(), only=OURS)
    assert [] == [f"{finding.check}: {finding.message}" for finding in report.findings]
    assert len(report.passed) > 20


@pytest.mark.tier3
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found(fault: Fault) -> None:
    """Behavior: the check that is to find the fault does, and says so with numbers."""
    report = check(injected(fault), only=(fault.finder,))
    messages = [finding.message for finding in report.findings if not finding.mistake]
    assert messages, report
    assert all(any(letter.isdigit() for letter in message) for message in messages)
