"""Stores of tokens: written once, read back exactly, reused while intact, and rebuilt where they are not."""

import errno
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from andon.core.data.corpus import CACHE_TAG
from andon.core.data.shards import (
    EncodedDocument,
    ShardError,
    open_or_build,
    open_store,
    read_tokens,
    store_key,
    text_hash,
    write_store,
)

DOCUMENTS = [
    EncodedDocument([1, 2, 3, 0], 6, 11),
    EncodedDocument([4, 0], 1, 22),
    EncodedDocument([5, 6, 7, 8, 9, 10, 11, 0], 17, 11),
]
STREAM = [1, 2, 3, 0, 4, 0, 5, 6, 7, 8, 9, 10, 11, 0]


def build(folder: Path) -> None:
    """Fill a store with three documents in shards of four tokens."""
    (folder / "tokenizer.json").write_text("{}")
    write_store(folder, DOCUMENTS, 4, 12, {"sources": {"a.txt": "00"}})


def flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Lose a file's last byte."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.tier2
def test_tokens_are_read_back_at_any_position_in_any_shape(tmp_path: Path) -> None:
    """Behavior: positions count through all shards, and every token stands in exactly one."""
    build(tmp_path)
    store = open_store(tmp_path)
    assert STREAM == read_tokens(store, np.arange(14)).tolist()
    assert [[0, 1], [4, 11]] == read_tokens(store, np.array([[13, 0], [4, 12]])).tolist()
    assert np.int64 == read_tokens(store, np.arange(2)).dtype
    assert [8, 8, 8, 4] == [path.stat().st_size for path in sorted(tmp_path.glob("shard-*.bin"))]


@pytest.mark.tier2
def test_the_index_says_where_documents_end_and_what_they_are(tmp_path: Path) -> None:
    """Behavior: ends in the stream, bytes of text, and a hash that equal documents share."""
    build(tmp_path)
    store = open_store(tmp_path)
    assert [4, 6, 14] == store.ends_D.tolist()
    assert [6, 1, 17] == store.bytes_D.tolist()
    assert [11, 22, 11] == store.hashes_D.tolist()


@pytest.mark.tier2
@pytest.mark.parametrize(("id_count", "size"), [(65536, 2), (65537, 4)])
def test_ids_take_two_bytes_where_they_fit(tmp_path: Path, id_count: int, size: int) -> None:
    """Behavior: the largest id that the tokenizer has decides, and that id is read back."""
    write_store(tmp_path, [EncodedDocument([id_count - 1, 0], 1, 1)], 100, id_count, {})
    assert 2 * size == (tmp_path / "shard-00000.bin").stat().st_size
    assert [id_count - 1, 0] == read_tokens(open_store(tmp_path), np.arange(2)).tolist()


@pytest.mark.tier2
def test_the_manifest_says_what_the_store_holds(tmp_path: Path) -> None:
    """Behavior: totals, layout, sources, and the size and hash of each file, for people and other programs."""
    build(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (3, 14, 24) == (manifest["documents"], manifest["tokens"], manifest["bytes"])
    assert {"a.txt": "00"} == manifest["sources"]
    shards = [f"shard-0000{number}.bin" for number in range(4)]
    assert ["documents.bin", *shards, "tokenizer.json"] == list(manifest["files"])


@pytest.mark.tier2
@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["shard-00001.bin", "documents.bin", "tokenizer.json", "manifest.json"])
def test_a_damaged_store_is_refused_by_name_and_rebuilt(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """Behavior: a lost, truncated or flipped file is named in the refusal and in the note about the new store."""
    open_or_build(tmp_path, "key", build)
    damage(tmp_path / "key" / name)
    with pytest.raises(ShardError, match=name):
        open_store(tmp_path / "key")
    store, note = open_or_build(tmp_path, "key", build)
    assert name in note
    assert STREAM == read_tokens(store, np.arange(14)).tolist()


@pytest.mark.tier2
@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"files": {}}', b'{"sha256": "00"}'])
def test_what_is_not_a_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    """Behavior: whatever JSON it is, it lacks the hash of itself."""
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ShardError, match="does not match its own SHA-256"):
        open_store(tmp_path)


@pytest.mark.tier2
def test_an_intact_store_is_reused(tmp_path: Path) -> None:
    """Behavior: built once, and marked as a cache that backups and corpora leave out."""
    built: list[Path] = []

    def counted(folder: Path) -> None:
        built.append(folder)
        build(folder)

    assert "tokens written" == open_or_build(tmp_path / "new" / "cache", "key", counted)[1]
    assert "tokens reused" == open_or_build(tmp_path / "new" / "cache", "key", counted)[1]
    assert 1 == len(built)
    assert (
        (tmp_path / "new" / "cache" / CACHE_TAG).read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    )


@pytest.mark.tier2
def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Behavior: a full disk gives one error with the reason, and no folder that looks like a store."""

    def fail(folder: Path) -> None:
        build(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ShardError, match=r"tokens cannot be written \(No space left on device\)"):
        open_or_build(tmp_path, "key", fail)
    assert [CACHE_TAG, "key.lock"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.tier2
def test_two_runs_do_not_build_at_once(tmp_path: Path) -> None:
    """Behavior: the second waits for the first and then uses what it wrote."""
    notes: list[str] = []
    waiting = threading.Thread(target=lambda: notes.append(open_or_build(tmp_path, "key", build)[1]))

    def slow(folder: Path) -> None:
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        build(folder)

    assert "tokens written" == open_or_build(tmp_path, "key", slow)[1]
    waiting.join()
    assert ["tokens reused"] == notes


@pytest.mark.tier2
def test_no_shard_stays_mapped(tmp_path: Path) -> None:
    """Behavior: a map held for a whole run would keep every page it touched in the process's memory."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the kernel's list of mapped files is Linux's")
    build(tmp_path)
    tokens = read_tokens(open_store(tmp_path), np.arange(14))
    assert STREAM == tokens.tolist()
    assert str(tmp_path) not in maps.read_text()


@pytest.mark.tier2
def test_keys_differ_with_every_input_and_not_with_their_order() -> None:
    """Behavior: another source, tokenizer or layout is another store."""
    assert store_key({"a": 1, "b": [2]}) == store_key({"b": [2], "a": 1})
    assert 3 == len({store_key({"a": 1}), store_key({"a": 2}), store_key({"b": 1})})


@pytest.mark.tier2
def test_equal_texts_have_equal_hashes() -> None:
    """Reference: BLAKE2b of eight bytes, as an unsigned number."""
    assert text_hash("grüße") == text_hash("grü" + "ße")
    assert 0 <= text_hash("a") != text_hash("b") < 1 << 64


@pytest.mark.tier3
def test_a_full_disk_leaves_no_store(tmp_path: Path) -> None:
    """Behavior: a real limit on file sizes, in a process of its own, ends in the same error."""
    script = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom andon.core.data.shards import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "fill = lambda folder: write_store(folder, [EncodedDocument([1] * 5000, 1, 1)], 10**6, 2, {})\n"
        "try: open_or_build(Path(sys.argv[1]), 'key', fill)\n"
        "except ShardError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, check=True, text=True)
    assert f"{tmp_path}: tokens cannot be written (File too large); free disk space there\n" == done.stdout
    assert [CACHE_TAG, "key.lock"] == sorted(path.name for path in tmp_path.iterdir())
