"""The manifest notices every change; folders appear whole; rotation keeps what it must."""

import hashlib
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from andon.core.files.folders import (
    atomic_folder,
    best_checkpoint,
    checkpoint_folder,
    checkpoint_step,
    checkpoints,
    latest_checkpoint,
    remove_leftovers,
    rotate,
    steps_to_delete,
)
from andon.core.files.manifest import (
    ADAPTER_FILES,
    FILES,
    MANIFEST,
    CheckpointError,
    Manifest,
    RandomStates,
    check_files,
    read_manifest,
    record_files,
    write_manifest,
)
from andon.sealing import SEAL, seal

pytestmark = pytest.mark.tier2


def manifest(folder: Path, step: int, metric: float | None = None) -> Manifest:
    """A manifest of the folder's files."""
    return Manifest(
        step=step,
        epoch=1,
        batch=2,
        metric=metric,
        learning_rate=0.1 + 0.2,
        skipped_in_a_row=0,
        loss_scale=1.0,
        scale_streak=0,
        environment={"torch": "2", "threads": 2},
        config={"model": {"hidden_size": 8}},
        random=RandomStates(python="[]", torch="00", cuda=None),
        files=record_files(folder),
    )


def checkpoint(root: Path, step: int, metric: float | None = None) -> Path:
    """A checkpoint in all but its tensors."""
    folder = checkpoint_folder(root, step)
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(f"{name} of step {step}")
    write_manifest(folder, manifest(folder, step, metric))
    return folder


def reseal(folder: Path, **fields: Any) -> None:
    """What somebody would write who knows how the seal is made."""
    plain = json.loads((folder / MANIFEST).read_bytes())
    del plain["sha256"]
    (folder / MANIFEST).write_bytes(seal({**plain, **fields}))


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    """Behavior: every field survives the file, floats to the last bit, and the files match."""
    folder = checkpoint(tmp_path, 3, metric=1 / 3)
    assert manifest(folder, 3, 1 / 3) == read_manifest(folder)
    check_files(folder, read_manifest(folder))


def test_the_spelling_of_a_manifest_is_fixed() -> None:
    """Behavior: a line a field, so that every version reads and seals the same bytes."""
    digest = hashlib.sha256(b'{"step": 1}').hexdigest()
    assert f'{{\n  "step": 1,\n  "{SEAL}": "{digest}"\n}}\n'.encode() == seal({"step": 1})


def test_notices_a_flipped_bit_anywhere_in_the_manifest(tmp_path: Path) -> None:
    """Behavior: one flipped bit, be it in a value, a name or white space, is refused."""
    folder = checkpoint(tmp_path, 3)
    whole = (folder / MANIFEST).read_bytes()
    for index in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        (folder / MANIFEST).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"manifest\.json: "):
            read_manifest(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"[" * 100_000, b'{"sha256": 1}', b"\xff"])
def test_refuses_a_foreign_manifest(tmp_path: Path, content: bytes) -> None:
    """Behavior: any other JSON, or none at all, is refused as not matching its own hash."""
    folder = checkpoint(tmp_path, 3)
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"does not match its own SHA-256.*--resume --previous"):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"format": 2}, "format=2"),
        ({"step": -1}, "step=-1"),
        ({"surprise": 1}, "surprise=1"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "sha256": ""}}}, "files.../../etc/passwd"),
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}}, "files./etc/passwd"),
        ({"random": {"python": "[]", "torch": "00"}}, "random.cuda: field required"),
    ],
)
def test_refuses_a_sealed_manifest_that_breaks_the_rules(
    tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    """Behavior: a right seal does not excuse another format, an unknown key or a path out of the folder."""
    folder = checkpoint(tmp_path, 3)
    reseal(folder, **fields)
    with pytest.raises(CheckpointError) as caught:
        read_manifest(folder)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_names_the_file_that_changed(tmp_path: Path, name: str) -> None:
    """Behavior: a file that is truncated, flipped, swapped with another checkpoint's, or gone is named."""
    folder, other = checkpoint(tmp_path, 3), checkpoint(tmp_path, 4)
    whole, record = (folder / name).read_bytes(), read_manifest(folder)
    for content, complaint in [
        (whole[:-1], f"{name}: {len(whole) - 1} bytes where the manifest says {len(whole)}"),
        (bytes([whole[0] ^ 1]) + whole[1:], f"{name}: SHA-256"),
        ((other / name).read_bytes(), f"{name}: SHA-256"),
    ]:
        (folder / name).write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            check_files(folder, record)
        assert complaint in str(caught.value)
        check_files(folder, record, skip=FILES)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read"):
        check_files(folder, record)


def test_refuses_a_file_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    """Behavior: a tokenizer may be absent from both; one that was added afterwards belongs to another checkpoint."""
    folder = checkpoint(tmp_path, 3)
    (folder / "tokenizer.json").unlink()
    write_manifest(folder, manifest(folder, 3))
    check_files(folder, read_manifest(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not listed in manifest\.json"):
        check_files(folder, read_manifest(folder))


def test_a_folder_without_a_manifest_is_not_a_checkpoint(tmp_path: Path) -> None:
    """Behavior: the message names the file that is missing."""
    with pytest.raises(CheckpointError, match=r"manifest\.json: cannot be read"):
        read_manifest(tmp_path)


def test_publishes_only_after_everything_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: each file and the folder are synced before the name appears, and the parent after it."""
    target, synced = tmp_path / "run" / "step-00000001", []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, target.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with atomic_folder(target) as partial:
        (partial / "a").write_text("a")
        (partial / "b").write_text("b")
        inner = {path.stat().st_ino for path in (partial / "a", partial / "b")}
        folder = partial.stat().st_ino
    assert inner == {inode for inode, _ in synced[:2]}
    assert [(folder, False), (target.parent.stat().st_ino, True)] == synced[2:]
    assert [target] == list(target.parent.iterdir())


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """Behavior: when filling the new folder fails, the old one stands untouched and nothing else is left."""
    target = tmp_path / "model"
    with atomic_folder(target) as partial:
        (partial / "a").write_text("old")

    def interrupted() -> None:
        with atomic_folder(target) as partial:
            (partial / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ["old"] == [path.read_text() for path in target.iterdir()]
    assert [target] == list(tmp_path.iterdir())


def test_replaces_a_folder_of_the_same_name(tmp_path: Path) -> None:
    """Behavior: the new content takes the name and the old is gone, also after a replacement cut short."""
    target = checkpoint(tmp_path, 3)
    target.with_name("step-00000003.replaced").mkdir()
    with atomic_folder(target) as partial:
        (partial / "a").write_text("new")
    assert [target] == list(tmp_path.iterdir())
    assert ["a"] == [path.name for path in target.iterdir()]


def test_a_death_between_the_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: while the new folder takes the name of the old, the old is still found and whole."""
    target, rename = checkpoint(tmp_path, 3), Path.rename

    def dies(self: Path, to: Path) -> Path:
        if to == target:
            raise KeyboardInterrupt
        return rename(self, to)

    def replace() -> None:
        with atomic_folder(target):
            monkeypatch.setattr(Path, "rename", dies)

    with pytest.raises(KeyboardInterrupt):
        replace()
    (found,) = checkpoints(tmp_path)
    check_files(found, read_manifest(found))


def test_lists_checkpoints_newest_first_and_nothing_else(tmp_path: Path) -> None:
    """Behavior: half-written folders, files and other names do not count; one that was about to be replaced does."""
    for step in (5, 100_000_000, 20):
        checkpoint(tmp_path, step)
    checkpoint(tmp_path, 7).rename(tmp_path / "step-00000007.replaced")
    (tmp_path / "step-00000005.replaced").mkdir()
    (tmp_path / ".step-00000030.partial").mkdir()
    (tmp_path / "step-30").mkdir()
    (tmp_path / "step-00000030.bak").mkdir()
    (tmp_path / "step-00000040").write_text("a file")
    names = ["step-100000000", "step-00000020", "step-00000007.replaced", "step-00000005"]
    assert names == [folder.name for folder in checkpoints(tmp_path)]
    assert tmp_path / "step-100000000" == latest_checkpoint(tmp_path)
    assert [] == checkpoints(tmp_path / "nowhere")
    assert latest_checkpoint(tmp_path / "nowhere") is None
    assert 7 == checkpoint_step(tmp_path / "step-00000007.replaced")
    assert checkpoint_step(tmp_path / "my-model") is None


def test_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    """Behavior: partial folders go; checkpoints and everything else stay."""
    folder = checkpoint(tmp_path, 3)
    (tmp_path / ".step-00000004.partial").mkdir()
    (tmp_path / ".step-00000004.partial" / "model.safetensors").write_text("half")
    (tmp_path / ".notes").mkdir()
    remove_leftovers(tmp_path)
    assert {folder, tmp_path / ".notes"} == set(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("metrics", "keep_last", "keep_best", "gone"),
    [
        ({}, 1, True, []),
        ({1: None}, 1, True, []),
        ({1: 3.0, 2: 1.0, 3: 2.0}, 1, True, [1]),
        ({1: 3.0, 2: 1.0, 3: 2.0}, 1, False, [1, 2]),
        ({3: 2.0, 2: 1.0, 1: 3.0}, 2, True, [1]),
        ({1: 1.0, 2: 1.0, 3: None, 4: 5.0}, 1, True, [1, 3]),
        ({1: 1.0, 2: 2.0}, 5, True, []),
    ],
)
def test_rotation_keeps_the_last_and_the_best(
    metrics: dict[int, float | None], keep_last: int, keep_best: bool, gone: list[int]
) -> None:
    """Behavior: the highest steps stay, and the lowest metric, the newest among equals."""
    assert gone == steps_to_delete(metrics, keep_last, keep_best)


def test_rotation_deletes_neither_too_much_nor_too_little() -> None:
    """Behavior: what stays is exactly the last N and the best, for every set of at most five checkpoints."""
    for choice in itertools.product(("absent", None, 1.0, 2.0), repeat=5):
        metrics = {step: metric for step, metric in enumerate(choice) if not isinstance(metric, str)}
        lowest = min((metric for metric in metrics.values() if metric is not None), default=None)
        best = {max(step for step in metrics if metrics[step] == lowest)} if lowest else set()
        for keep_last, keep_best in itertools.product((1, 2, 4, 6), (True, False)):
            kept = metrics.keys() - set(steps_to_delete(metrics, keep_last, keep_best))
            assert set(sorted(metrics)[-keep_last:]) | (best if keep_best else set()) == kept


def test_rotates_folders(tmp_path: Path) -> None:
    """Behavior: the expired folders are gone from disk, the best and the newest are there."""
    saved = [checkpoint(tmp_path, step, metric) for step, metric in [(1, 2.0), (2, 1.0), (3, 3.0), (4, None)]]
    assert [saved[0], saved[2]] == rotate(saved[3], keep_last=1, keep_best=True)
    assert {saved[1], saved[3]} == set(tmp_path.iterdir())
    assert saved[1] == best_checkpoint(tmp_path)
    assert best_checkpoint(tmp_path / "nowhere") is None


def test_a_damaged_or_later_checkpoint_pushes_out_no_good_one(tmp_path: Path) -> None:
    """Behavior: a damaged step 3, a renamed one and a step 9 of before a resume are neither counted nor deleted."""
    first, second = checkpoint(tmp_path, 1, 5.0), checkpoint(tmp_path, 2, 6.0)
    damaged, later = checkpoint(tmp_path, 3, 0.0), checkpoint(tmp_path, 9, 4.0)
    (damaged / MANIFEST).write_bytes(b"{}")
    renamed = checkpoint(tmp_path, 8, 0.0).rename(checkpoint_folder(tmp_path, 4))
    newest = checkpoint(tmp_path, 5, 7.0)
    assert [] == rotate(newest, keep_last=2, keep_best=True)
    assert [first] == rotate(newest, keep_last=2, keep_best=False)
    assert {second, damaged, renamed, newest, later} == set(tmp_path.iterdir())
    assert later == best_checkpoint(tmp_path)


def test_a_folder_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the file system's refusal becomes one clear error."""
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)

    def refuse(self: Path, target: Path) -> Path:
        del self, target
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CheckpointError, match=r"step-00000001: cannot be removed \(Permission denied\)"):
        rotate(second, keep_last=1, keep_best=False)
    assert first.exists()


@pytest.mark.parametrize("name", ADAPTER_FILES)
def test_an_adapters_folder_is_listed_and_checked_by_its_own_files(tmp_path: Path, name: str) -> None:
    """Behavior: its weights, its configuration, its optimizer state and tokenizer; not those of a full model."""
    for each in ADAPTER_FILES:
        (tmp_path / each).write_text(each)
    record = manifest(tmp_path, 3)
    assert set(ADAPTER_FILES) == record.files.keys()
    check_files(tmp_path, record)
    (tmp_path / name).write_text(name.upper())
    with pytest.raises(CheckpointError, match=f"{name}: SHA-256"):
        check_files(tmp_path, record)
