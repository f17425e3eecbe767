"""A red cell as a script that anybody can run: at most 40 lines of the library's own calls, and a number at its end.

A script ends with exit code 1 where it shows the fault. Where no template fits what was found, it holds the numbers
and the command that found them.
"""

import re
import textwrap

from andon.verify.run.report import Finding

LONGEST = 40  # lines of a script
TOLERANCE = 1e-4  # of the logits' rms, in float32
TOKENS = "tokens = torch.randint(1, VOCABULARY, (2, 16))"
APART = """\
def apart(found, due):
    return float((found - due).abs().max() / due.square().mean().sqrt())
"""
# Part of a check's message tells which of its questions went wrong: check, words in it, and what to print.
TEMPLATES: tuple[tuple[str, str, str], ...] = (
    (
        "attention.causality",
        "",
        """\
model, changed = build(), tokens.clone()
changed[:, 8:] = (tokens[:, 8:] + 1) % VOCABULARY
found = apart(logits(model, changed)[:, :8], logits(model, tokens)[:, :8])
print(f"later tokens move earlier logits by {found:.3g} of their rms")""",
    ),
    (
        "attention.rows",
        "",
        """\
model = build()
found = apart(logits(model, tokens)[:1], logits(model, tokens[:1]))
found = max(found, apart(logits(model, tokens.flip(0)).flip(0), logits(model, tokens)))
print(f"a row's logits differ by {found:.3g} of their rms with other rows beside it")""",
    ),
    (
        "attention.padding",
        "logits",
        """\
model, found = build(), 0.0
for padding in (slice(0, 5), slice(11, 16)):
    mask, other = torch.ones_like(tokens), tokens.clone()
    mask[:, padding], other[:, padding] = 0, (tokens[:, padding] + 1) % VOCABULARY
    pair = [logits(model, each, attention_mask=mask)[mask == 1] for each in (tokens, other)]
    found = max(found, apart(*pair))
print(f"tokens behind the padding mask move real logits by {found:.3g} of their rms")""",
    ),
    (
        "packing.padded",
        "has logits",
        """\
model, short = build(), tokens[:1, :9]
mask = torch.tensor([[1] * 9 + [0] * 7])
long = torch.where(mask == 1, tokens[:1], 0)
alone = logits(model, short, attention_mask=mask[:, :9])
found = apart(logits(model, long, attention_mask=mask)[:, :9], alone)
print(f"padding on the right moves real logits by {found:.3g} of their rms")""",
    ),
    (
        "packing.packed",
        "has logits",
        """\
model, places = build(), torch.cat([torch.arange(7), torch.arange(9)])[None]
packed = logits(model, tokens[:1], position_ids=places)
alone = logits(model, tokens[:1, 7:], position_ids=places[:, 7:])
found = apart(packed[:, 7:], alone)
print(f"a packed document's logits are {found:.3g} of their rms from those it has alone")""",
    ),
    (
        "generation.decode",
        "",
        """\
model = build()
found = apart(decode(model, tokens), logits(model, tokens))
print(f"decoded with a cache, logits are {found:.3g} of their rms from those of one pass")""",
    ),
    (
        "generation.greedy",
        "whose logit",
        """\
model, found = build(), 0.0
model.generation_config = transformers.GenerationConfig(pad_token_id=0)
for length in (1, 3, 6):
    prompt, mask = tokens[:, :length], torch.ones_like(tokens[:, :length])
    words = model.generate(prompt, attention_mask=mask, max_new_tokens=1, do_sample=False)[:, length]
    last = logits(model, prompt)[:, -1]
    found = max(found, float((last.amax(-1) - last.gather(1, words[:, None])[:, 0]).max()))
print(f"the first word generated has a logit {found:.3g} below the largest of one pass")""",
    ),
    (
        "configuration.norms",
        "",
        """\
def eps(model):
    named = {{name: getattr(m, "eps", getattr(m, "variance_epsilon", None)) for name, m in model.named_modules()}}
    return {{name: value for name, value in named.items() if value is not None}}


before, after = eps(build()), eps(build({key}={value}))
same = [name for name in before if before[name] == after[name]]
print(f"{key}={value} leaves {{len(same)}} of {{len(before)}} norms as they were: {{same}}")
raise SystemExit(int(bool(same)))""",
    ),
    (
        "adapters.merge_again",
        "merged twice",
        """\
model = adapted(build())
model.merge_adapter()
before = logits(model, tokens)
model.merge_adapter()
found = apart(logits(model, tokens), before)
print(f"merging once more moves the logits by {found:.3g} of their rms")""",
    ),
    (
        "adapters.file_of_merged",
        "",
        """\
model = adapted(build())
before = logits(model, tokens)
model.merge_adapter()
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(build(), folder).eval()
found = apart(logits(loaded, tokens), before)
print(f"saved while merged and loaded, the adapter's logits are {found:.3g} of their rms apart")""",
    ),
    (
        "adapters.learning",
        "do not change",
        """\
model = adapted(build(), fill=False).train()
learning = [p for p in model.parameters() if p.requires_grad]
loss = model(input_ids=tokens, labels=tokens).loss
loss.backward()
found = sum(int(p.grad is not None and bool(p.grad.isfinite().all() and p.grad.any())) for p in learning)
print(f"the loss is {float(loss):.3g}, and {found} of {len(learning)} tensors get a gradient")
raise SystemExit(int(found < len(learning)))""",
    ),
    (
        "adapters.learning",
        "0 of",
        """\
model = adapted(build(), fill=False)
found = sum(p.requires_grad for p in model.parameters())
print(f"{found} parameters are trainable")
raise SystemExit(int(found == 0))""",
    ),
    (
        "determinism.train",
        "",
        """\
model, losses = build().train(), []
for _ in range(2):
    torch.manual_seed(0)
    losses.append(float(model(tokens, labels=tokens, use_cache=False).loss))
found = abs(losses[0] - losses[1])
print(f"with one seed two passes in train mode lose {losses}")""",
    ),
    (
        "determinism.",
        "",
        """\
model = build()
first = logits(model, tokens)
logits(model, tokens.flip(0)[:, :7])
found = apart(logits(model, tokens), first)
print(f"the same call again gives logits {found:.3g} of their rms apart")""",
    ),
    (
        "subject.repeats",
        "",
        """\
model = build()
first = logits(model, tokens)
found = apart(logits(model, tokens), first)
print(f"the same call again gives logits {found:.3g} of their rms apart")""",
    ),
    (
        "reference.logits",
        "",
        """\
found = apart(logits(build(), tokens), logits(build(attention="eager"), tokens))
print(f"the default attention's logits are {found:.3g} of their rms from eager attention's")""",
    ),
    (
        "configuration.sensitivity",
        "shapes, first weights",
        """\
found = apart(logits(build({key}={value}), tokens), logits(build(), tokens))
print(f"{key}={value} moves the logits by {{found:.3g}}")
raise SystemExit(int(found == 0))""",
    ),
    (
        "adapters.identity",
        "",
        """\
model = build()
before = logits(model, tokens)
found = apart(logits(adapted(model, fill=False), tokens), before)
print(f"a fresh adapter moves the logits by {found:.3g} of their rms")""",
    ),
    (
        "adapters.merge",
        "merged model differs",
        """\
model = adapted(build())
before = logits(model, tokens)
model.merge_adapter()
found = apart(logits(model, tokens), before)
print(f"merging moves the logits by {found:.3g} of their rms")""",
    ),
    (
        "adapters.unmerge",
        "",
        """\
model = adapted(build())
before = {name: p.detach().clone() for name, p in model.named_parameters()}
model.merge_adapter()
model.unmerge_adapter()
moved = {name: apart(p, before[name]) for name, p in model.named_parameters() if before[name].any()}
worst = max(moved, key=moved.get)
found = moved[worst]
print(f"merging and unmerging moves {worst} by {found:.3g} of its rms")""",
    ),
    (
        "adapters.file",
        "loaded adapter differs",
        """\
model = adapted(build())
before = logits(model, tokens)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(build(), folder).eval()
found = apart(logits(loaded, tokens), before)
print(f"saved and loaded, the adapter's logits are {found:.3g} of their rms apart")""",
    ),
)


def script(finding: Finding, preamble: str, module: str, name: str) -> str:
    """The script of a finding of this model; `preamble` builds the model in the library's own words."""
    body = _body(finding)
    said = "\n".join(f"# {line}" for line in textwrap.wrap(f"{finding.check}: {finding.message}", 110))
    if not body:
        only = f"verify.check(subject({name!r}), only=[{finding.check.split()[0]!r}])"
        return f"{said}\nfrom andon import verify\nfrom {module} import subject\n\nprint({only}.findings)\n"
    end = "" if "raise SystemExit" in body else f"\nraise SystemExit(int(not found <= {TOLERANCE}))"
    lines = _needed(preamble, body)
    apart = f"{APART}\n\n" if "apart(" in body else ""
    return f"{said}\n{lines}{apart}{TOKENS}\n{body}{end}\n"


def _body(finding: Finding) -> str:
    for check, words, body in TEMPLATES:
        same = finding.check == check or (check.endswith(".") and finding.check.startswith(check))
        if same and words in finding.message:
            if not check.startswith("configuration."):
                return body
            said = re.search(r"(?:with |^)(\w+)=(.+?) (?:shapes, first weights|changes)", finding.message)
            return body.format(key=said[1], value=said[2]) if said else ""
    return ""


def _needed(preamble: str, body: str) -> str:
    """The preamble without the functions that this script does not call."""
    parts = preamble.rstrip("\n").split("\n\n\n")
    kept = [
        part
        for part in parts
        if not part.startswith("def ") or _name(part) in ("build", "logits") or f"{_name(part)}(" in body
    ]
    return "\n\n\n".join(kept) + "\n\n\n"


def _name(function: str) -> str:
    return function.removeprefix("def ").partition("(")[0]
