"""What a fine-tune trains on: instructions or text, encoded with its base's tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING

from andon.files import write_whole
from andon.runs.folder import CACHE
from andon.runs.models import FinetuneError, FinetuneJob, resolve_checkpoint

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from andon.core.config import Config
    from andon.core.data.dataset import Dataset


def open_data(job: FinetuneJob, config: "Config", tokenizer: "Tokenizer | None", folder: Path) -> "Dataset":
    """Instructions if the files hold them, otherwise plain text, encoded with the base's tokenizer.

    Raises as `andon.core.data.instructions` and `andon.core.data.dataset` do, and:
        FinetuneError: the base has no tokenizer.
    """
    from andon.core.data.corpus import find_sources
    from andon.core.data.dataset import open_dataset
    from andon.core.data.instruction_records import has_instructions
    from andon.core.files.manifest import TOKENIZER

    if tokenizer is None:
        raise FinetuneError(f"{job.base}: has no tokenizer; put its tokenizer.json there")
    from andon.core.data import instructions
    from andon.core.formats.marks import end_id, load_marks

    base = resolve_checkpoint(job.base)
    eos_id = end_id(tokenizer, load_marks(base), base)
    sources = find_sources(config.data.paths)
    if not has_instructions(sources, config.data.text_field):
        return open_dataset(config, CACHE, tokenizer, eos_id)
    file = folder / TOKENIZER
    dataset = instructions.open_instructions(config, sources, tokenizer, file, job.template, eos_id)
    write_whole(file, tokenizer.to_str(pretty=True))
    return dataset
