"""`andon generate`: continue a prompt."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from andon.cli.export import tell
from andon.runs.choosing import choose_model
from andon.runs.models import load_any_model, marks_of
from andon.text import clean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from andon.core.formats.marks import Marks

# Settings of generation_config.json that would change what is said, and are not taken from it.
SAMPLING = (
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "stop_strings",
    "min_new_tokens",
    "max_new_tokens",
)


@click.command(
    epilog="""\b
Examples:
  andon generate --model reports/runs/demo --prompt 'def '
  andon generate --model smollm2.gguf --prompt 'The capital of France is' --temperature 0
"""
)
@click.option(
    "--model", type=click.Path(path_type=Path), required=True, help="Run, checkpoint, Hugging Face directory or GGUF."
)
@click.option("--prompt", default="", help="The text to continue; by default the start of a document.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--temperature", type=click.FloatRange(0), default=0.8, show_default=True, help="0 is greedy.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--best", is_flag=True, help="Of a run: the checkpoint of the lowest validation loss, not the newest.")
def command(
    model: Path, prompt: str, max_new_tokens: int, temperature: float, top_p: float, seed: int, best: bool
) -> None:
    """Continue a prompt with a trained or a published model, printing tokens as they are generated."""
    import torch

    from andon.core.formats.marks import marks_of_text
    from andon.core.model.generate import generate

    model = choose_model(model, best=best, say=tell)
    loaded, tokenizer = load_any_model(model)
    if tokenizer is None:
        raise click.UsageError(f"{model}: has no tokenizer; put its tokenizer.json there")
    marks = marks_of(model)
    around = marks_of_text(tokenizer, marks, model)
    _say_what_is_left(marks)
    ends = _ends(marks, around.end)
    text = tokenizer.encode(prompt, add_special_tokens=False).ids
    ids = [*around.begin, *text] if text else [*around.first]
    size = len(ids) + max_new_tokens
    if size > loaded.config.max_position_embeddings:
        raise click.UsageError(
            f"--max-new-tokens {max_new_tokens} and {len(ids)} prompt tokens exceed the model's "
            f"max_position_embeddings={loaded.config.max_position_embeddings}; ask for fewer"
        )
    generated = generate(
        loaded,
        torch.tensor([ids]),
        max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        eos_id=sorted(ends),
        generator=torch.Generator().manual_seed(seed),
    )
    _show(prompt, tokenizer, ids, map(int, generated), {*ends, *around.begin})


def _say_what_is_left(marks: "Marks") -> None:
    left = ", ".join(f"{key}={value!r}" for key, value in marks.generation.items() if key in SAMPLING)
    if left:
        tell(f"generation_config.json: not applied: {left}; the options of this command count")


def _ends(marks: "Marks", end: int) -> set[int]:
    """The ids that end generation: those of generation_config.json alone where there is one, as in transformers."""
    if marks.generation:
        return {*marks.stop} or {end}
    return {end, *marks.stop}


def _show(prompt: str, tokenizer: "Tokenizer", ids: list[int], generated: Iterable[int], hidden: set[int]) -> None:
    """Print the prompt, and then what each further token adds to the text."""
    written, shown = ids, prompt
    shield = clean if sys.stdout.isatty() else str  # in a file the text stays as the model wrote it
    click.echo(shield(prompt), nl=False)
    for token in generated:
        written = [*written, token]
        text = tokenizer.decode([each for each in written if each not in hidden], skip_special_tokens=False)
        if text.startswith(shown) and not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else half a character
            click.echo(shield(text[len(shown) :]), nl=False)
            shown = text
    click.echo()
