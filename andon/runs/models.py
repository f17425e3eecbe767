"""Load what `--model` names: a run, a checkpoint, a Hugging Face directory, a GGUF file, or an adapter on one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from andon.files import write_whole
from andon.reading import read_bytes
from andon.sealing import seal, unseal

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from andon.core.data.chat import ChatTemplate
    from andon.core.formats.marks import Marks
    from andon.core.model.llama import Llama

JOB_FILE = "finetune.json"  # in a fine-tuning run's folder, and beside an exported adapter
ADAPTER_NAME = "default"  # an adapter's name on its model, as in PEFT


class ModelError(ValueError):
    """A model that cannot be put together; the message names the file and the next step."""


class FinetuneError(ValueError):
    """A fine-tune that cannot begin; the message names the file or key and the next step."""


class FinetuneJob(NamedTuple):
    """An adapter's base and method: enough to load the same base again."""

    method: str  # lora or qlora, also the configuration's table
    base: Path
    dtype: str | None  # None: as the base declares
    double_quantization: bool
    template: "ChatTemplate | None"


def load_any_model(path: Path, dtype: "torch.dtype | None" = None) -> "tuple[Llama, Tokenizer | None]":
    """Model and tokenizer, an adapter on its base; a run's folder means its newest checkpoint.

    Raises as `andon.core.formats.interchange`, `andon.core.formats.peft` and `adapter_job` do.
    """
    from andon.core.formats.interchange import load_model

    folder = resolve_checkpoint(path)
    job = adapter_job(folder)
    return load_adapted(folder, job) if job else load_model(folder, dtype)


def load_adapted(folder: Path, job: FinetuneJob) -> "tuple[Llama, Tokenizer | None]":
    """The adapter in a folder on its base, and the base's tokenizer."""
    from andon.core.formats.peft import load_adapter

    model, tokenizer = load_base(job)
    load_adapter(model, folder, ADAPTER_NAME)
    return model, tokenizer


def load_base(job: FinetuneJob) -> "tuple[Llama, Tokenizer | None]":
    """The model as the adapter sees it in training: in the run's dtype, or its blocks in 4 bits."""
    from andon.core.config import QloraConfig
    from andon.core.formats.huggingface import DTYPES
    from andon.core.formats.interchange import load_model

    dtype = DTYPES[job.dtype] if job.dtype else None
    table = QloraConfig(double_quantization=job.double_quantization)
    return load_model(resolve_checkpoint(job.base), dtype, table if job.method == "qlora" else None)


def marks_of(path: Path) -> "Marks":
    """What the model's files say beside its weights; an adapter's are its base's."""
    from andon.core.formats.marks import load_marks

    folder = resolve_checkpoint(path)
    job = adapter_job(folder)
    return load_marks(resolve_checkpoint(job.base) if job else folder)


def tokenizer_named(name: str) -> "tuple[Tokenizer | None, int | None]":
    """A tokenizer.json as its folder's other files say that it is read, and the id that ends a text.

    Neither where no file is named, or one of another name: such a file lies beside no others that say more of it.
    """
    from andon.core.files.manifest import TOKENIZER
    from andon.core.formats.marks import end_id, load_marks
    from andon.core.formats.tokenizer_files import read_tokenizer

    path = Path(name)
    tokenizer = read_tokenizer(path.parent) if path.name == TOKENIZER else None
    return tokenizer, end_id(tokenizer, load_marks(path.parent), path.parent) if tokenizer else None


def resolve_checkpoint(path: Path) -> Path:
    """A run's newest checkpoint; any other path unchanged.

    Raises:
        ModelError: the path is a run that has no checkpoint yet.
    """
    from andon.core.files.folders import latest_checkpoint

    newest = latest_checkpoint(path / "checkpoints")
    if newest is None and (path / "run.lock").exists():
        raise ModelError(
            f"{path}: this run has saved no checkpoint yet; wait for its first, or start it with a smaller "
            "checkpoint.every_steps"
        )
    return newest or path


def adapter_job(folder: Path, base: Path | None = None) -> FinetuneJob | None:
    """How the adapter in a folder was trained; None where the folder holds no adapter.

    One from elsewhere only names its base, which is then loaded as it is. `base` replaces the recorded path.

    Raises:
        ModelError: the base is not where the adapter says, or the adapter does not say.
    """
    from andon.core.files.manifest import ADAPTER_CONFIG
    from andon.core.formats.peft_config import read_adapter_config

    described = folder / ADAPTER_CONFIG
    if not described.exists():
        return None
    jobs = [path for path in (folder / JOB_FILE, folder.parent.parent / JOB_FILE) if path.exists()]
    recorded = read_adapter_config(described).base
    job = (
        read_job(jobs[0])
        if jobs
        else FinetuneJob("lora", Path(recorded or ""), None, double_quantization=False, template=None)
    )
    job = job._replace(base=base) if base else job
    if not (jobs or recorded or base) or not job.base.exists():
        raise ModelError(
            f"{described}: base_model_name_or_path={recorded!r} is not on this machine; name it with --base"
        )
    return job


def read_job(path: Path) -> FinetuneJob:
    """Read what `write_job` wrote.

    Raises:
        ModelError: it cannot be read.
    """
    from andon.core.data.chat import ChatTemplate

    try:
        fields = unseal(read_bytes(path))
        template = fields.pop("template")
        fields["base"] = Path(fields["base"])
        return FinetuneJob(**fields, template=ChatTemplate(**template) if template else None)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: is damaged ({error}); name the adapter's base with --base") from error


def write_job(job: FinetuneJob, path: Path) -> None:
    """Write a job into its run's folder, whole."""
    write_whole(path, dump_job(job))


def dump_job(job: FinetuneJob) -> str:
    """A job as JSON, sealed."""
    fields: dict[str, Any] = job._asdict() | {"base": str(job.base)}
    fields["template"] = job.template._asdict() if job.template else None
    return seal(fields).decode()
