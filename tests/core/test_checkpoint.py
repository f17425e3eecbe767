"""Checkpoints restore a run bitwise, notice every damage, and leave everything as it was where they refuse."""

import json
import math
import random
import resource
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from andon.core import checkpoint
from andon.core.checkpoint import load_checkpoint, save_checkpoint
from andon.core.config import Config, parse_config
from andon.core.data.batch import DataState
from andon.core.files.folders import checkpoints, latest_checkpoint
from andon.core.files.manifest import (
    FILES,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    CheckpointError,
    NotFiniteError,
    read_manifest,
    record_files,
    write_manifest,
)
from andon.core.formats.interchange import load_model
from andon.core.model.llama import Llama
from andon.core.training.optimizer import build_optimizer
from andon.core.training.randomness import random_states, read_random, restore_random
from andon.core.training.state import TrainState

pytestmark = pytest.mark.tier2

MODEL_TABLE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def configuration(**tables: dict[str, Any]) -> Config:
    """A tiny run; `model={"tie_word_embeddings": True}` changes a key."""
    model = {**MODEL_TABLE, **tables.pop("model", {})}
    return parse_config({"model": model, **tables}, "test")


def new_state(config: Config, seed: int = 0, dtype: torch.dtype = torch.float32) -> TrainState:
    """A run at step 0."""
    model = Llama(config.model).to(dtype)
    model.init_weights(torch.Generator().manual_seed(seed))
    return TrainState(model, build_optimizer(model, config.training))


def advance(state: TrainState, steps: int) -> list[float]:
    """Train on noise from the global generators, which a resumed run must therefore continue, and return the losses."""
    losses = []
    for _ in range(steps):
        tokens_BT = torch.randint(state.model.config.vocab_size, (2, 6)).roll(random.randrange(6))
        loss = torch.nn.functional.cross_entropy(
            state.model(tokens_BT)[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten()
        )
        loss.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        state.data = DataState(state.step // 4, state.step % 4)
        losses.append(loss.item())
    return losses


def fingerprint(state: TrainState) -> dict[str, bytes]:
    """Everything that a checkpoint restores, to the bit."""
    content = {"counters": repr([state.step, state.data, state.skipped_in_a_row, state.loss_scale, state.scale_streak])}
    content["rates"] = repr([group["lr"] for group in state.optimizer.param_groups])
    content["random"] = repr([random.getstate(), torch.get_rng_state().tolist()])
    tensors = {name: parameter.detach() for name, parameter in state.model.named_parameters()}
    for name, parameter in state.model.named_parameters():
        for moment, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.{moment}"] = value
    found = {
        name: f"{tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.flatten().view(torch.uint8).numpy().tobytes()
        for name, tensor in tensors.items()
    }
    return found | {name: text.encode() for name, text in content.items()}


def tokenizer_file(folder: Path) -> Path:
    """Something to carry along; nothing here reads it."""
    (folder / "given.json").write_text('{"a": "tokenizer"}')
    return folder / "given.json"


def assert_refused(folder: Path, config: Config, complaint: str, state: TrainState | None = None) -> None:
    """Loading fails with the complaint and has changed nothing."""
    state = state or new_state(config, seed=9)
    before = fingerprint(state)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, state, config)
    assert complaint in str(caught.value)
    assert before == fingerprint(state)


@contextmanager
def file_size_limit(limit: int) -> Generator[None]:
    """The disk is full after `limit` bytes of any one file."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.mark.parametrize(("dtype", "tied"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)])
def test_resumes_bitwise_and_again(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    """Behavior: losses and weights after one and after two resumes are those of the uninterrupted run, to the bit."""
    config = configuration(model={"tie_word_embeddings": tied})
    state = new_state(config, dtype=dtype)
    torch.manual_seed(1)
    random.seed(1)
    random.gauss(0, 1)  # leaves a second sample cached in the generator
    advance(state, 3)
    state.skipped_in_a_row, state.loss_scale, state.scale_streak = 2, 8.0, 5
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0125
    first = save_checkpoint(tmp_path, state, config)
    assert str(dtype) == "torch." + json.loads((first / "config.json").read_text())["dtype"]
    before = fingerprint(state)
    expected = advance(state, 2)
    random.gauss(0, 1)

    state_2 = new_state(config, seed=7, dtype=dtype)
    assert [] == load_checkpoint(first, state_2, config)
    assert before == fingerprint(state_2)
    second = save_checkpoint(tmp_path, state_2, config)
    state_3 = new_state(config, seed=8, dtype=dtype)
    assert [] == load_checkpoint(second, state_3, config)
    assert expected == advance(state_3, 2)
    random.gauss(0, 1)
    assert fingerprint(state) == fingerprint(state_3)


def test_resumes_from_before_the_first_step(tmp_path: Path) -> None:
    """Behavior: a state without moments restores to one without, also over moments that are there."""
    config = configuration()
    state = new_state(config)
    folder = save_checkpoint(tmp_path, state, config)
    before = fingerprint(state)
    other = new_state(config, seed=3)
    advance(other, 2)
    load_checkpoint(folder, other, config)
    assert before == fingerprint(other)


def test_restored_tensors_do_not_lean_on_the_file(tmp_path: Path) -> None:
    """Behavior: training after a resume does not change the checkpoint, and damage to it does not reach the run."""
    config = configuration()
    state = new_state(config)
    advance(state, 1)
    folder = save_checkpoint(tmp_path, state, config)
    load_checkpoint(folder, state, config)
    restored = fingerprint(state)
    for name in (MODEL, OPTIMIZER):
        size = (folder / name).stat().st_size
        with (folder / name).open("r+b") as file:
            file.write(b"\xff" * size)
    assert restored == fingerprint(state)


def test_a_tied_head_is_written_once_and_stays_tied(tmp_path: Path) -> None:
    """Behavior: the file holds the embedding alone, and after loading both names are one parameter."""
    config = configuration(model={"tie_word_embeddings": True})
    state = new_state(config)
    folder = save_checkpoint(tmp_path, state, config)
    load_checkpoint(folder, state, config)
    assert "lm_head.weight" not in load_file(folder / MODEL)
    assert state.model.lm_head.weight is state.model.model.embed_tokens.weight


def test_the_folder_is_complete(tmp_path: Path) -> None:
    """Behavior: all files are there under the step's name, the tokenizer is a copy, and no temporary name is left."""
    config, state = configuration(), new_state(configuration())
    advance(state, 3)
    given = tokenizer_file(tmp_path)
    folder = save_checkpoint(tmp_path / "checkpoints", state, config, given, metric=1.5)
    assert tmp_path / "checkpoints" / "step-00000003" == folder
    assert {*FILES, MANIFEST} == {path.name for path in folder.iterdir()}
    assert given.read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert [folder] == list((tmp_path / "checkpoints").iterdir())
    manifest = read_manifest(folder)
    assert (3, 1.5, config.training.learning_rate) == (manifest.step, manifest.metric, manifest.learning_rate)
    assert json.loads(config.model_dump_json()) == manifest.config


@pytest.mark.parametrize("metric", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path: Path, metric: float) -> None:
    """Behavior: a loss that is not finite is recorded as not measured."""
    config = configuration()
    folder = save_checkpoint(tmp_path, new_state(config), config, metric=metric)
    assert read_manifest(folder).metric is None


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_refuses_a_file_cut_at_every_sixteenth(tmp_path: Path, name: str) -> None:
    """Behavior: each file, truncated at each 1/16 of its length, is refused by name and nothing is changed."""
    config, state = configuration(), new_state(configuration())
    advance(state, 1)
    folder = save_checkpoint(tmp_path, state, config, tokenizer_file(tmp_path))
    whole = (folder / name).read_bytes()
    advance(state, 1)
    before = fingerprint(state)
    for sixteenth in range(16):
        (folder / name).write_bytes(whole[: len(whole) * sixteenth // 16])
        with pytest.raises(CheckpointError, match=f"{name}: "):
            load_checkpoint(folder, state, config)
    assert before == fingerprint(state)
    (folder / name).write_bytes(whole)
    load_checkpoint(folder, state, config)
    assert before != fingerprint(state)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_refuses_a_flipped_bit(tmp_path: Path, name: str) -> None:
    """Behavior: one bit in the middle of any file is noticed, and the message says what to do."""
    config, state = configuration(), new_state(configuration())
    folder = save_checkpoint(tmp_path, state, config, tokenizer_file(tmp_path))
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 16
    (folder / name).write_bytes(content)
    assert_refused(folder, config, "--resume --previous")


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
def test_refuses_a_file_of_another_checkpoint(tmp_path: Path, name: str) -> None:
    """Behavior: weights or moments of another step, equally long, are refused by name."""
    config, state = configuration(), new_state(configuration())
    advance(state, 1)
    first = save_checkpoint(tmp_path, state, config)
    advance(state, 1)
    second = save_checkpoint(tmp_path, state, config)
    shutil.copyfile(first / name, second / name)
    assert_refused(second, config, f"{name}: SHA-256")


def test_refuses_a_folder_under_another_steps_name(tmp_path: Path) -> None:
    """Behavior: step 0 renamed to step 5 is refused; under a name without a step it is what it is."""
    config, state = configuration(), new_state(configuration())
    folder = save_checkpoint(tmp_path, state, config)
    renamed = folder.rename(tmp_path / "step-00000005")
    assert_refused(renamed, config, "is of step 0, and the folder's name says another")
    assert [] == load_checkpoint(renamed.rename(tmp_path / "keep"), state, config)


def drop_a_tensor(tensors: dict[str, torch.Tensor]) -> None:
    """Leave one out."""
    del tensors[next(name for name in tensors if "norm" in name)]


def reshape_a_tensor(tensors: dict[str, torch.Tensor]) -> None:
    """As many numbers, another shape."""
    name = next(name for name in tensors if "q_proj" in name and tensors[name].dim())
    tensors[name] = tensors[name].reshape(-1)


def cast_a_tensor(tensors: dict[str, torch.Tensor]) -> None:
    """Another dtype."""
    name = next(name for name in tensors if "norm" in name)
    tensors[name] = tensors[name].double()


def add_a_tensor(tensors: dict[str, torch.Tensor]) -> None:
    """One that no parameter asks for."""
    tensors["model.norm.bias"] = torch.zeros(1)


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
@pytest.mark.parametrize("change", [drop_a_tensor, reshape_a_tensor, cast_a_tensor, add_a_tensor])
def test_refuses_tensors_that_do_not_fit(
    tmp_path: Path, name: str, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    """Behavior: with hashes that match, each tensor's name, shape and dtype must still be this model's."""
    config, state = configuration(), new_state(configuration())
    advance(state, 1)
    folder = save_checkpoint(tmp_path, state, config)
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / name).items()}
    change(tensors)
    save_file(tensors, folder / name)
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": record_files(folder)}))
    assert_refused(folder, config, f"{folder / name}: model.")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_tensor, "is absent in the file and ('F32', (16,)) in this run"),
        (add_a_tensor, "model.norm.bias is ('F32', (1,)) in the file and absent in this run"),
    ],
)
def test_says_on_which_side_a_tensor_is_missing(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    """Behavior: the message shows what the other side has in its place."""
    config = configuration()
    folder = save_checkpoint(tmp_path, new_state(config), config)
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / MODEL).items()}
    change(tensors)
    save_file(tensors, folder / MODEL)
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": record_files(folder)}))
    assert_refused(folder, config, message)


def test_refuses_a_file_that_is_not_safetensors(tmp_path: Path) -> None:
    """Behavior: with hashes that match, the header is still checked before anything is mapped."""
    config, state = configuration(), new_state(configuration())
    folder = save_checkpoint(tmp_path, state, config)
    (folder / MODEL).write_bytes(b"a pickle, perhaps")
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": record_files(folder)}))
    assert_refused(folder, config, f"{folder / MODEL}: 17 bytes do not hold the announced header")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", 32, "model.hidden_size=16 in the checkpoint and 32 in this run"),
        ("tie_word_embeddings", True, "model.tie_word_embeddings=False in the checkpoint and True in this run"),
        ("rope_theta", 500.0, "model.rope_theta=10000.0 in the checkpoint and 500.0 in this run"),
    ],
)
def test_refuses_another_model(tmp_path: Path, key: str, value: object, message: str) -> None:
    """Behavior: `--resume` with another model names the key and both values, even where the tensors would fit."""
    config = configuration()
    folder = save_checkpoint(tmp_path, new_state(config), config)
    assert_refused(folder, configuration(model={key: value}), message)


def test_says_what_bitwise_depends_on_and_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: one note a difference in machine, torch or a setting that moves weights; none for other settings."""
    config = configuration()
    folder = save_checkpoint(tmp_path, new_state(config), config)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 2)
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    monkeypatch.setattr(checkpoint, "cpu_model", lambda: "abacus")
    changed = configuration(
        training={"learning_rate": 0.5, "max_skipped_steps": 3}, data={"workers": 2}, checkpoint={"keep_last": 7}
    )
    notes = load_checkpoint(folder, new_state(config), changed)
    assert f"not bitwise: threads {threads} to {threads + 2}" in notes
    assert "not bitwise: training.learning_rate 0.0003 to 0.5" in notes
    assert ["torch", "threads", "processor", "training.learning_rate"] == [note.split()[2] for note in notes]


def test_a_full_disk_leaves_earlier_checkpoints_whole(tmp_path: Path) -> None:
    """Behavior: wherever the space ends, the error is clear, no trace is left, and the one before still loads."""
    config, state = configuration(), new_state(configuration())
    advance(state, 1)
    folder = save_checkpoint(tmp_path, state, config, tokenizer_file(tmp_path))
    saved = fingerprint(state)
    limits = [0, 500, *((folder / name).stat().st_size - 1 for name in (MODEL, OPTIMIZER, MANIFEST))]
    advance(state, 1)
    for limit in limits:
        with file_size_limit(limit), pytest.raises(CheckpointError, match=r"step-00000002: could not be saved"):
            save_checkpoint(tmp_path, state, config, tmp_path / "given.json")
        assert {folder, tmp_path / "given.json"} == set(tmp_path.iterdir())
    load_checkpoint(folder, state, config)
    assert saved == fingerprint(state)


def test_a_missing_tokenizer_is_reported_before_anything_is_lost(tmp_path: Path) -> None:
    """Behavior: what cannot be copied is named, and the folder does not appear."""
    config = configuration()
    with pytest.raises(CheckpointError, match=r"nowhere\.json"):
        save_checkpoint(tmp_path, new_state(config), config, tmp_path / "nowhere.json")
    assert [] == checkpoints(tmp_path)


def test_a_killed_save_is_ignored_and_swept(tmp_path: Path) -> None:
    """Behavior: half a folder of an earlier process is not a checkpoint, and the next save removes it."""
    config, state = configuration(), new_state(configuration())
    half = tmp_path / ".step-00000002.partial"
    half.mkdir()
    (half / MODEL).write_bytes(b"half")
    assert latest_checkpoint(tmp_path) is None
    folder = save_checkpoint(tmp_path, state, config)
    assert [folder] == list(tmp_path.iterdir())


def test_saves_a_step_again(tmp_path: Path) -> None:
    """Behavior: after a resume from before it, a step is saved over the damaged checkpoint of the same name."""
    config, state = configuration(), new_state(configuration())
    folder = save_checkpoint(tmp_path, state, config)
    (folder / MODEL).write_bytes(b"damaged")
    assert folder == save_checkpoint(tmp_path, state, config, metric=2.0)
    load_checkpoint(folder, state, config)
    assert [folder] == list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_is_a_model_to_load(tmp_path: Path, tied: bool) -> None:
    """Behavior: `load_model` takes the folder, whatever its name, and still believes only what the manifest says."""
    config = configuration(model={"tie_word_embeddings": tied})
    state = new_state(config)
    folder = save_checkpoint(tmp_path, state, config).rename(tmp_path / "mine")
    (folder / OPTIMIZER).unlink()  # not needed here
    model, tokenizer = load_model(folder)
    tokens_BT = torch.arange(8)[None]
    assert torch.equal(state.model(tokens_BT), model(tokens_BT))
    assert tokenizer is None
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("10000.0", "20000.0"))
    with pytest.raises(CheckpointError, match=r"config\.json: SHA-256"):
        load_model(folder)


def test_a_gpu_gets_its_own_generator_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a state saved from a GPU goes to the GPU that continues, and nowhere where there is none."""
    given = {}
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: given.update({device: state.tolist()}))
    states = random_states(torch.device("cpu")).model_copy(update={"cuda": "0102ff"})
    own = read_random(states, torch.device("cpu"))
    restore_random(own, torch.device("cpu"))
    assert {} == given
    there = own._replace(cuda=torch.tensor([1, 2, 255], dtype=torch.uint8))
    restore_random(there, torch.device("cuda", 1))
    assert {torch.device("cuda", 1): [1, 2, 255]} == given


def test_a_gpus_generator_and_name_are_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: of the GPU that the model lies on."""
    config = configuration()
    state = new_state(config)
    folder = save_checkpoint(tmp_path, state, config)
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", {gpu: torch.tensor([1, 255], dtype=torch.uint8)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "get_device_name", {gpu: "Abacus 9000"}.__getitem__)
    there = SimpleNamespace(device=gpu)
    monkeypatch.setattr(state.model, "parameters", lambda: iter([there]))
    found = checkpoint._build_manifest(folder, state, config, None)
    assert ("01ff", "Abacus 9000") == (found.random.cuda, found.environment["device"])
    assert {"torch", "threads", "processor", "device"} == found.environment.keys()
    assert "cpu" == checkpoint._environment(torch.device("cpu"))["device"]
    assert read_manifest(folder).random.cuda is None


def test_moments_are_those_of_the_checkpoint_and_no_others(tmp_path: Path) -> None:
    """Behavior: a parameter without any there has none afterwards, and one that had none gets its own."""
    config = configuration()
    donor, state = new_state(config), new_state(config, seed=9)
    advance(donor, 1)
    first, second, *_ = donor.model.parameters()
    del donor.optimizer.state[first]
    del state.optimizer.state[list(state.model.parameters())[1]]
    folder = save_checkpoint(tmp_path / "runs" / "one", donor, config)
    load_checkpoint(folder, state, config)
    assert fingerprint(donor) == fingerprint(state)
    assert first is not second


def test_transformers_is_told_who_wrote_the_weights(tmp_path: Path) -> None:
    """Behavior: its version 4 refuses a file without that."""
    config = configuration()
    folder = save_checkpoint(tmp_path, new_state(config), config)
    with safe_open(folder / MODEL, "pt") as file:
        assert {"format": "pt"} == file.metadata()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("poisoned", ["weight", "moment"])
def test_a_save_that_is_not_finite_is_refused(poisoned: str, value: float, tmp_path: Path) -> None:
    """Behavior: one weight or moment that is NaN or inf is named, and nothing is written."""
    config = configuration()
    state = new_state(config)
    advance(state, 2)
    parameter = state.model.model.norm.weight
    tensor = parameter.data if poisoned == "weight" else state.optimizer.state[parameter]["exp_avg_sq"]
    tensor[3] = value
    with pytest.raises(NotFiniteError, match=r"step 2: model\.norm\.weight\S* holds NaN or inf"):
        save_checkpoint(tmp_path, state, config)
    assert [] == list(tmp_path.iterdir())


def test_a_checkpoint_that_is_not_finite_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: one that was saved all the same is refused by the tensor's name, with the state as it was."""
    config = configuration()
    state = new_state(config)
    advance(state, 2)
    monkeypatch.setattr(checkpoint, "not_finite", lambda tensors: "")
    state.model.model.norm.weight.data[0] = math.nan
    folder = save_checkpoint(tmp_path, state, config)
    monkeypatch.undo()
    fresh = new_state(config)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds NaN or inf"):
        load_checkpoint(folder, fresh, config)
    assert 0 == fresh.step


WORDS = 625  # of Python's generator: 624 and a position
RANDOM_STATES = {
    "python's version": ("python", json.dumps([9, [0] * WORDS, None])),
    "python's position": ("python", json.dumps([3, [0] * (WORDS - 1) + [10**9], None])),
    "a word too large": ("python", json.dumps([3, [1 << 80] + [1] * (WORDS - 1), None])),
    "not a list": ("python", "7"),
    "torch's length": ("torch", "00ff"),
    "torch's content": ("torch", "ff" * 5056),
    "no hexadecimal": ("torch", "xyz"),
}


@pytest.mark.parametrize("case", RANDOM_STATES)
def test_a_crafted_random_state_changes_nothing(case: str, tmp_path: Path) -> None:
    """Behavior: a manifest with a valid seal and a state that is none is refused before any weight is changed."""
    config = configuration()
    state = new_state(config)
    advance(state, 1)
    folder = save_checkpoint(tmp_path, state, config)
    manifest = read_manifest(folder)
    key, text = RANDOM_STATES[case]
    write_manifest(folder, manifest.model_copy(update={"random": manifest.random.model_copy(update={key: text})}))
    fresh = new_state(config, seed=1)
    before = fresh.model.lm_head.weight.clone()
    with pytest.raises(CheckpointError, match="random: no state of a random number generator"):
        load_checkpoint(folder, fresh, config)
    assert torch.equal(before, fresh.model.lm_head.weight)
    assert 0 == fresh.step
