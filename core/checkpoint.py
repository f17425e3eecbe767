"""Checkpoints: a Hugging Face directory plus optimizer state and a hashed manifest, written atomically.

With an active adapter the directory is PEFT's and holds the adapter alone, since the base is frozen.

A resumed run continues bitwise as long as the machine, the versions and the settings that matter are the same;
`load_checkpoint` reports what differs.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import Parameter

from andon.core.adapters.lora import active_adapter, has_adapters, lora_origin
from andon.core.config import Config, dump_config
from andon.core.data.batch import DataState
from andon.core.files.folders import (
    atomic_folder,
    checkpoint_folder,
    checkpoint_step,
    latest_checkpoint,
    remove_leftovers,
)
from andon.core.files.headers import HeaderError, TensorEntry, read_header
from andon.core.files.manifest import (
    ADAPTER,
    ADAPTER_CONFIG,
    CONFIG,
    GO_BACK,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    TOKENIZER,
    CheckpointError,
    FileName,
    Manifest,
    NotFiniteError,
    check_files,
    read_manifest,
    record_files,
    write_manifest,
)
from andon.core.formats.huggingface_config import dump_huggingface_config
from andon.core.formats.peft import peft_parameters, read_base_digest, write_adapter
from andon.core.formats.peft_config import AdapterError, peft_fields, read_adapter_config
from andon.core.machine import cpu_model
from andon.core.model.finite import not_finite
from andon.core.training.randomness import random_states, read_random, restore_random
from andon.core.training.state import TrainState

SAFETENSORS_DTYPE = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ADAM_STATE = ("exp_avg", "exp_avg_sq", "step")
# Keys of the configuration on which neither data nor numbers depend; `model` and an adapter's table must agree, or the
# checkpoint is refused.
NO_EFFECT_TABLES = ("model.", "lora.", "qlora.", "checkpoint.", "cord.")
NO_EFFECT_ON_RESULTS = {
    "data.workers",
    "data.shard_tokens",
    "training.max_skipped_steps",
    "validation.every_steps",
}
SPLIT = {"validation.fraction", "training.seed", "data.paths", "data.text_field"}  # which text is held out


def save_checkpoint(
    root: Path,
    state: TrainState,
    config: Config,
    tokenizer_file: Path | None = None,
    metric: float | None = None,
    base: str = "",
    eos_id: int | None = None,
) -> Path:
    """Write `root/step-00000100` and return it.

    `metric` is the validation loss in nats, by which the best checkpoint is chosen. A tied head is written once, as the
    embedding. `base` is where the model under an adapter is found, `eos_id` the token that ends a text.

    Raises:
        NotFiniteError: a weight or moment is NaN or inf; nothing was written.
        CheckpointError: the file system refused; earlier checkpoints are untouched.
    """
    folder = checkpoint_folder(root, state.step)
    named = not_finite(_tensors(state).items())
    if named:
        raise NotFiniteError(f"step {state.step}: {named} holds NaN or inf, so no checkpoint is saved")
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root)
        with atomic_folder(folder) as partial:
            _write_files(partial, state, tokenizer_file, base, eos_id)
            write_manifest(partial, _build_manifest(partial, state, config, metric))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: could not be saved ({error}); {_what_is_left(root)}") from error
    return folder


def load_checkpoint(folder: Path, state: TrainState, config: Config) -> list[str]:
    """Restore `state` and the random number generators; on failure nothing has been changed.

    Returns one note for each thing that bitwise continuation depends on and that differs from when it was saved, for
    example `not bitwise: threads 2 to 4`.

    Raises:
        CheckpointError: a file is missing, truncated, changed or of another checkpoint, or the model differs.
    """
    manifest = read_manifest(folder)
    if checkpoint_step(folder) not in (None, manifest.step):
        raise CheckpointError(
            f"{folder / MANIFEST}: is of step {manifest.step}, and the folder's name says another; {GO_BACK}"
        )
    check_files(folder, manifest)
    differences = _differences(manifest.config, config)
    for key, (saved, ours) in differences.items():
        if key.startswith("model."):
            raise CheckpointError(
                f"{folder}: {key}={saved!r} in the checkpoint and {ours!r} in this run; "
                "resume with the configuration it was saved with, or start a new run"
            )
    _check_same_method(folder, manifest, state)
    file, parameters = _trained_parameters(state)
    weights, moments = _read_tensors(folder, file, parameters)
    named = not_finite([*weights.items(), *moments.items()])
    if named:
        raise CheckpointError(f"{folder}: {named} holds NaN or inf, from which nothing can be trained; {GO_BACK}")
    _check_same_base(folder, state)
    device = next(iter(parameters.values())).device
    try:
        generators = read_random(manifest.random, device)
    except ValueError as error:
        raise CheckpointError(f"{folder / MANIFEST}: random: {error}; {GO_BACK}") from error
    notes = _bitwise_notes(manifest.environment, _environment(device), differences)
    _restore(state, parameters, weights, moments)
    _restore_counters(state, manifest)
    restore_random(generators, device)
    return notes


def _trained_parameters(state: TrainState) -> tuple[FileName, dict[str, Parameter]]:
    """The file and the parameters that a checkpoint holds, by name: the active adapter, or else the full model."""
    adapter = active_adapter(state.model)
    if adapter is not None:
        return ADAPTER, peft_parameters(state.model, adapter)
    if has_adapters(state.model):
        raise CheckpointError("the model has adapters and no adapter is active; choose one with set_adapter")
    return MODEL, dict(state.model.named_parameters())  # names a shared parameter once


def _what_is_left(root: Path) -> str:
    if latest_checkpoint(root) is None:
        return "there is no earlier checkpoint: free disk space, then start again"
    return "earlier checkpoints are intact: free disk space, then --resume"


def _moments(state: TrainState, parameters: dict[str, Parameter]) -> dict[str, Tensor]:
    """Adam's state of these parameters, as `<name>.<moment>`."""
    return {
        f"{name}.{moment}": state.optimizer.state[parameter][moment]
        for name, parameter in parameters.items()
        if parameter in state.optimizer.state
        for moment in ADAM_STATE
    }


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """All that a checkpoint of this state holds, by name."""
    _, parameters = _trained_parameters(state)
    return {**parameters, **_moments(state, parameters)}


def _write_files(folder: Path, state: TrainState, tokenizer_file: Path | None, base: str, eos_id: int | None) -> None:
    file, parameters = _trained_parameters(state)
    save_file({name: moment.contiguous() for name, moment in _moments(state, parameters).items()}, folder / OPTIMIZER)
    adapter = active_adapter(state.model)
    if adapter is not None:
        write_adapter(state.model, folder, adapter, base)
    else:
        weights = {name: parameter.contiguous() for name, parameter in parameters.items()}
        save_file(weights, folder / file, metadata={"format": "pt"})  # transformers 4 refuses files without this
        dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
        ids = {"eos_token_id": eos_id}
        (folder / CONFIG).write_text(dump_huggingface_config(state.model.config, dtype, ids), encoding="utf-8")
    if tokenizer_file is not None:
        shutil.copyfile(tokenizer_file, folder / TOKENIZER)


def _check_same_method(folder: Path, manifest: Manifest, state: TrainState) -> None:
    """An adapter resumes with the same adapter on the same base, a full model with a full model."""
    adapter = active_adapter(state.model)
    if (ADAPTER in manifest.files) != (adapter is not None):
        saved, ours = ("an adapter", "a full model") if adapter is None else ("a full model", "an adapter")
        raise CheckpointError(f"{folder}: holds {saved} and this run trains {ours}; resume as the run was started")
    if adapter is None:
        return
    try:
        saved = peft_fields(read_adapter_config(folder / ADAPTER_CONFIG).config)
    except AdapterError as error:
        raise CheckpointError(f"{error}; {GO_BACK}") from error
    for field, value in peft_fields(lora_origin(state.model, adapter).config).items():
        if saved[field] != value:
            raise CheckpointError(
                f"{folder / ADAPTER_CONFIG}: {field}={saved[field]!r} in the checkpoint and {value!r} in this run; "
                "resume with the adapter it was saved with, or start a new run"
            )


def _build_manifest(folder: Path, state: TrainState, config: Config, metric: float | None) -> Manifest:
    device = next(state.model.parameters()).device
    return Manifest(
        step=state.step,
        epoch=state.data.epoch,
        batch=state.data.batch,
        metric=metric if metric is not None and math.isfinite(metric) else None,
        learning_rate=state.optimizer.param_groups[0]["lr"],
        skipped_in_a_row=state.skipped_in_a_row,
        loss_scale=state.loss_scale,
        scale_streak=state.scale_streak,
        environment=_environment(device),
        config=json.loads(dump_config(config)),
        random=random_states(device),
        files=record_files(folder),
    )


def _read_tensors(
    folder: Path, file: FileName, parameters: dict[str, Parameter]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and moments by name, once their headers are known to fit these parameters."""
    weights = {name: (SAFETENSORS_DTYPE[p.dtype], tuple(p.shape)) for name, p in parameters.items()}
    _check_header(folder / file, weights)
    moments = {}
    with_moments = {name.rpartition(".")[0] for name in _header(folder / OPTIMIZER)}
    for name, (dtype, shape) in weights.items():
        if name in with_moments:  # a parameter that never had a gradient has none
            moments |= {f"{name}.exp_avg": (dtype, shape), f"{name}.exp_avg_sq": (dtype, shape)}
            moments[f"{name}.step"] = ("F32", ())
    _check_header(folder / OPTIMIZER, moments)
    return load_file(folder / file), load_file(folder / OPTIMIZER)


def _check_same_base(folder: Path, state: TrainState) -> None:
    """An adapter is valid on one base only."""
    adapter = active_adapter(state.model)
    if adapter is None:
        return
    trained_on, ours = read_base_digest(folder / ADAPTER), lora_origin(state.model, adapter).base
    if trained_on != ours:
        raise CheckpointError(
            f"{folder / ADAPTER}: was trained on a base with SHA-256 {trained_on[:12]}..., "
            f"and this run's has {ours[:12]}...; resume on the base it was trained on"
        )


def _check_header(path: Path, expected: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    found = {name: (entry.dtype, entry.shape) for name, entry in _header(path).items()}
    for name in sorted(found.keys() | expected.keys()):
        saved, ours = found.get(name, "absent"), expected.get(name, "absent")
        if saved != ours:
            raise CheckpointError(f"{path}: {name} is {saved} in the file and {ours} in this run; {GO_BACK}")


def _header(path: Path) -> dict[str, TensorEntry]:
    try:
        return read_header(path)
    except HeaderError as error:
        raise CheckpointError(f"{error}; {GO_BACK}") from error


def _restore(
    state: TrainState, parameters: dict[str, Parameter], weights: dict[str, Tensor], moments: dict[str, Tensor]
) -> None:
    """Copy every tensor: what was read is memory-mapped from a file that rotation may delete."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
            state.optimizer.state.pop(parameter, None)
            if f"{name}.step" in moments:
                state.optimizer.state[parameter] = {
                    moment: moments[f"{name}.{moment}"].to(parameter.device, copy=True) for moment in ADAM_STATE
                }


def _restore_counters(state: TrainState, manifest: Manifest) -> None:
    for group in state.optimizer.param_groups:
        group["lr"] = manifest.learning_rate
    state.step = manifest.step
    state.data = DataState(manifest.epoch, manifest.batch)
    state.skipped_in_a_row = manifest.skipped_in_a_row
    state.loss_scale = manifest.loss_scale
    state.scale_streak = manifest.scale_streak


def _environment(device: torch.device) -> dict[str, str | int]:
    """What determines, besides seeds and configuration, the order in which floating-point sums are taken."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": f"{cpu_model()}, {torch.backends.cpu.get_cpu_capability()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _differences(saved: dict[str, dict[str, Any]], config: Config) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, as `table.key: (saved, ours)`."""
    ours = json.loads(dump_config(config))
    keys = [(table, key) for table, values in ours.items() for key in values]
    pairs = {f"{table}.{key}": (saved.get(table, {}).get(key), ours[table][key]) for table, key in keys}
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def _bitwise_notes(
    saved: dict[str, str | int], here: dict[str, str | int], differences: dict[str, tuple[Any, Any]]
) -> list[str]:
    machine = {key: (saved.get(key), value) for key, value in here.items() if saved.get(key) != value}
    settings = {
        key: pair
        for key, pair in differences.items()
        if not key.startswith(NO_EFFECT_TABLES) and key not in NO_EFFECT_ON_RESULTS
    }
    moved = "; text that was trained on may now be held out"
    return [
        f"not bitwise: {key} {old} to {new}{moved if key in SPLIT else ''}"
        for key, (old, new) in {**machine, **settings}.items()
    ]
