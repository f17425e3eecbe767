"""`python -m tests.pages [--check]`: docs/checks, a page an area and one of scripts, made from their docstrings.

With --check nothing is written, and the exit code is 1 where a page says something else than its docstrings.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from andon.door.lines import LINES
from andon.verify.checks import CHECKS, Check
from andon.verify.run.docstring import Line, explain, lights
from andon.verify.run.reads import as_sentence
from tests.documents import anchor

FOLDER = Path("docs/checks")
GENERATED = "<!-- Made by `python -m tests.pages` from the docstrings in {}; edit those. -->"
INDEX = (
    "A check states something that is true of every correct implementation, measures it on copies of your model, and\n"
    "reports the numbers. Which checks apply depends on the parts that the [subject](../subject.md) has.\n"
    "`andon verify list` prints this list, and `andon verify explain CHECK` a check's own words."
)
SCRIPT = (
    "Of a script as it is, without a subject, there are {} [statements more](run.md), about its whole run and about\n"
    "the micro-batch that is captured from it."
)
RUN = (
    "# run\n\nWhat `andon verify -- python train.py` says of a script as it is: see [the Door](../door.md). "
    "`andon verify explain NAME`\nprints one of them.\n"
)
ALONE = "Alone: `andon verify my_checks:subject --only {}`."
ALWAYS = ("model", "batch", "loss")
TIERS = {1: "milliseconds", 2: "seconds", 3: "longer"}
# What the checks of an area compare, for the lists of areas in README and in docs/checks.
AREAS = {
    "loss": "definition, ignored labels, shapes, gradient and precision of the loss",
    "attention": "causality, padding masks, document masks, grouped-query heads",
    "positions": "order, relative shifts and precision of position encodings",
    "norms": "what a norm divides by, and in which precision",
    "objective": "what a loss is made of, and what only a part of it reaches",
    "structure": "unused parameters, residuals, tied weights, state dict",
    "initialization": "seed, scale, layers with equal first weights, the first loss",
    "determinism": "eval and train mode, hidden state, random numbers",
    "dtypes": "half precision compared with float32: logits, loss, gradients",
    "autocast": "what runs under autocast, and what must not",
    "gradients": "autograd compared with central differences, for parameters and inputs",
    "packing": "packed rows and padded batches compared with single documents",
    "generation": "cached decoding and greedy generation compared with one forward pass",
    "configuration": "every setting takes effect, and on all layers that it names",
    "reference": "logits, loss and gradients compared with an independent implementation",
    "data": "targets, padding, epochs, no validation data in training",
    "text": "tokenizer round trip, special tokens, which tokens of instructions and conversations are trained",
    "resizing": "a vocabulary that grows: old words, new rows, tying",
    "updates": "what one optimizer step sees, and what it changes",
    "optimizer": "parameter groups, weight decay, moments, parity with AdamW",
    "schedule": "warm-up, peak, decay, state, and the rate that updates really use",
    "accumulation": "micro-batches compared with one large batch: gradient, clipping, logged loss",
    "clipping": "the norm that updates see, the norm that is reported, non-finite steps",
    "memory": "graphs and tensors that grow from step to step, recomputation",
    "evaluation": "the mean over all tokens, modes; validation does not affect later training",
    "resume": "saving, loading and going on, bit by bit",
    "adapters": "LoRA and others: identity, merge, scale, files, what learns and what is frozen",
    "quantization": "what a weight quantizer keeps, block by block",
}
# The areas by what they belong to, a line each in README.
GROUPS = {
    "loss and gradients": ("loss", "objective", "gradients", "reference"),
    "attention": ("attention", "positions", "generation"),
    "weights": ("structure", "norms", "initialization", "configuration"),
    "precision and randomness": ("dtypes", "autocast", "determinism"),
    "batches and text": ("packing", "data", "text"),
    "the optimizer step": ("updates", "optimizer", "schedule", "clipping", "accumulation"),
    "the run": ("evaluation", "resume", "memory"),
    "fine-tuning": ("adapters", "quantization", "resizing"),
}


def area_of(check: Check) -> str:
    """The first half of a check's name."""
    return check.name.partition(".")[0]


def areas() -> dict[str, list[Check]]:
    """Checks by area, in the order of AREAS."""
    found: dict[str, list[Check]] = {area: [] for area in AREAS}
    for check in CHECKS:
        found[area_of(check)].append(check)
    return found


def section(check: Check) -> str:
    """A check's part of its page."""
    needs, reading = ", ".join(f"`{need}`" for need in (*ALWAYS, *check.needs)), f" {as_sentence(check)}".rstrip()
    turns = f"Turns {' or '.join(lights(check))}. Tier {check.tier} ({TIERS[check.tier]})."
    return "\n\n".join([*paragraphs(check), f"Needs {needs}.{reading} {turns} {ALONE.format(check.name)}"])


def paragraphs(check: Line) -> list[str]:
    """What a docstring says, under the check's name."""
    said = explain(check)
    parts = [f"## {check.name}", escaped(said.title)]
    parts += [re.sub(r"^(Silent|Look|Yellow)\b", r"**\1**", escaped(text)) for text in said[1:5] if text]
    parts += [f"```python\n{said.example}\n```"] if said.example else []
    parts += [f"Reference: {linked(escaped(said.reference))}"] if said.reference else []
    return parts


def escaped(text: str) -> str:
    """Plain text as Markdown: what stands outside of backticks means nothing to it."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_<\[])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def linked(text: str) -> str:
    """Threads of GitHub and papers of arXiv as links."""
    text = re.sub(r"\b([\w.-]+/[\w.-]+)#(\d+)", r"[\1#\2](https://github.com/\1/issues/\2)", text)
    return re.sub(r"\barXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def page(area: str, checks: list[Check]) -> str:
    """The page of an area."""
    said = AREAS[area]
    head = f"# {area}\n\nChecks of {said}. What `{ALWAYS[0]}` and the other parts are: [a subject](../subject.md).\n"
    return (
        f"{GENERATED.format('verify/checks')}\n\n{head}\n{contents(checks)}\n\n"
        + "\n\n".join(map(section, checks))
        + "\n"
    )


def run_page() -> str:
    """The page of what is said of a script as it is."""
    sections = ["\n\n".join([*paragraphs(each), f"Turns {' or '.join(lights(each))}."]) for each in LINES]
    return f"{GENERATED.format('andon/door')}\n\n{RUN}\n{contents(LINES)}\n\n" + "\n\n".join(sections) + "\n"


def contents(checks: Sequence[Line]) -> str:
    """Names with links to their parts, and what each states."""
    return "\n".join(f"- [{each.name}](#{anchor(each.name)}): {escaped(explain(each).title)}" for each in checks)


def listing() -> str:
    """The areas, a line each: what each compares, and how many checks it has."""
    rows = [f"| [{area}]({area}.md) | {AREAS[area]} | {len(checks)} |" for area, checks in areas().items()]
    return "\n".join(["| area | what is checked | checks |", "| --- | --- | ---: |", *rows])


def groups() -> str:
    """The areas in groups, with links from README, and how many checks each group has."""
    by_area, rows = areas(), []
    for group, names in GROUPS.items():
        links = ", ".join(f"[{name}](docs/checks/{name}.md)" for name in names)
        rows.append(f"| {group} | {links} | {sum(len(by_area[name]) for name in names)} |")
    return "\n".join(["| | areas | checks |", "| --- | --- | ---: |", *rows])


def wanted() -> dict[Path, str]:
    """Every page as it should be."""
    parts = (GENERATED.format("verify/checks"), "# The checks", INDEX, listing(), SCRIPT.format(len(LINES)))
    index = "\n\n".join(parts) + "\n"
    pages = {FOLDER / f"{area}.md": page(area, checks) for area, checks in areas().items()}
    return {FOLDER / "index.md": index, **pages, FOLDER / "run.md": run_page()}


def stale() -> list[Path]:
    """Pages that are missing, differ, or belong to no area."""
    pages = wanted()
    found = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    return [*found, *(path for path in sorted(FOLDER.glob("*.md")) if path not in pages)]


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Compare only.")
def main(check: bool) -> None:
    """Write the pages, or compare them."""
    pages = wanted()
    for path in stale():
        click.echo(f"{path}: {'differs from its docstrings; run `python -m tests.pages`' if check else 'written'}")
        if check:
            continue
        if path in pages:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
        else:
            path.unlink()
    sys.exit(int(check and bool(stale())))


if __name__ == "__main__":
    main()
