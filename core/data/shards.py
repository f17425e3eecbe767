"""Tokens of a corpus in memory-mapped shards, written once and reused while corpus and tokenizer stay the same.

A store is the folder `<cache>/<key>/`. Its key is a hash of everything that determines its content, so a changed source
or tokenizer makes another store. It holds `tokenizer.json`, `shard-00000.bin` and on (little-endian uint16 or uint32),
`documents.bin` (three little-endian uint64 per document: one past its last token in the token stream, its bytes as
UTF-8, a hash of its text), and `manifest.json` with the size and SHA-256 of each, and of itself.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock

from andon.core.data.corpus import CACHE_TAG
from andon.core.data.windows import shard_pieces
from andon.core.files.folders import atomic_folder
from andon.reading import ReadError, file_sha256, read_bytes
from andon.sealing import seal, unseal

FORMAT = 3
COLUMNS = 3  # of the document index
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
DOCUMENTS = "documents.bin"
CACHE_TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# Token shards of a training corpus; safe to delete.\n"


class ShardError(RuntimeError):
    """A store that cannot be read or written; the message names the file and what is wrong with it."""


class TokenStore(NamedTuple):
    """An opened store: its folder and the positions of its documents; no file stays open or mapped.

    `ends_D` is one past the last token of each document in the token stream, `bytes_D` its length as UTF-8 and
    `hashes_D` (uint64) the hash of its text.
    """

    folder: Path
    shard_tokens: int
    dtype: str
    ends_D: np.ndarray
    bytes_D: np.ndarray
    hashes_D: np.ndarray


class EncodedDocument(NamedTuple):
    """One document to be stored: its ids with the end-of-document token, and its text's bytes and hash."""

    ids: list[int]
    bytes: int
    hash: int


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b over the text's UTF-8, to recognize equal documents."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def store_key(parts: dict[str, Any]) -> str:
    """Name of the store made from these inputs (JSON values)."""
    return hashlib.sha256(json.dumps({"format": FORMAT, **parts}, sort_keys=True).encode()).hexdigest()[:32]


def open_or_build(cache: Path, key: str, build: Callable[[Path], None]) -> tuple[TokenStore, str]:
    """The store `<cache>/<key>/` and a note on its origin: reused, or filled by `build(empty folder)`.

    A store that is absent or damaged is built. One process builds while others wait; the folder is renamed into place
    only when it is complete.

    Raises:
        ShardError: the cache cannot be written.
    """
    folder = cache / key
    try:
        cache.mkdir(parents=True, exist_ok=True)
        (cache / CACHE_TAG).write_text(CACHE_TAG_TEXT, encoding="ascii")
        with FileLock(cache / f"{key}.lock"):
            note = "tokens written"
            if folder.exists():
                try:
                    return open_store(folder), "tokens reused"
                except ShardError as error:
                    note = f"tokens rewritten, because {error}"
            with atomic_folder(folder) as partial:
                build(partial)
            return open_store(folder), note
    except OSError as error:
        raise ShardError(f"{cache}: tokens cannot be written ({error.strerror}); free disk space there") from error


def write_store(
    folder: Path, encoded: Iterable[EncodedDocument], shard_tokens: int, id_count: int, about: dict[str, Any]
) -> None:
    """Add shards, document index and manifest to a folder with the tokenizer; the manifest includes `about`."""
    dtype = "<u2" if id_count <= 1 << 16 else "<u4"
    rows = array("Q")
    tokens = size = 0
    for document in encoded:
        ids = np.array(document.ids, dtype)
        for shard, begin, end in shard_pieces(tokens, tokens + len(ids), shard_tokens):
            done = shard * shard_tokens + begin - tokens
            with (folder / shard_name(shard)).open("ab") as file:
                file.write(ids[done : done + end - begin].tobytes())
        tokens += len(ids)
        size += document.bytes
        rows.extend((tokens, document.bytes, document.hash))
    (folder / DOCUMENTS).write_bytes(np.array(rows, "<u8").tobytes())
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in sorted(folder.iterdir())
    }
    layout = {"format": FORMAT, "dtype": dtype, "shard_tokens": shard_tokens}
    totals = {"documents": len(rows) // COLUMNS, "tokens": tokens, "bytes": size}
    (folder / MANIFEST).write_bytes(seal({**layout, **totals, **about, "files": files}))


def open_store(folder: Path) -> TokenStore:
    """Compare every file of a store with its manifest, and read the document index.

    Raises:
        ShardError: a file is missing, truncated, or changed.
    """
    try:
        manifest = _read_manifest(folder / MANIFEST)
        for name, written in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != written["bytes"]:
                raise ShardError(f"{path}: has {path.stat().st_size} bytes where {written['bytes']} were written")
            if file_sha256(path) != written["sha256"]:
                raise ShardError(f"{path}: differs from what was written (SHA-256)")
        ends_D, bytes_D, hashes_D = np.fromfile(folder / DOCUMENTS, "<u8").reshape(-1, COLUMNS).T
    except OSError as error:
        raise ShardError(f"{error.filename}: cannot be read ({error.strerror})") from error
    layout = manifest["shard_tokens"], manifest["dtype"]
    return TokenStore(folder, *layout, ends_D.astype(np.int64), bytes_D.astype(np.int64), hashes_D.astype(np.uint64))


def read_tokens(store: TokenStore, positions: np.ndarray) -> np.ndarray:
    """Tokens at these positions of the token stream, in the same shape, as int64.

    A shard is mapped only while it is read: a permanent map would keep every page that was ever read in memory.
    """
    tokens = np.empty(positions.shape, np.int64)
    shards, offsets = np.divmod(positions, store.shard_tokens)
    for shard in np.unique(shards):
        here = shards == shard
        path = store.folder / shard_name(shard)
        try:
            tokens[here] = np.memmap(path, store.dtype, mode="r")[offsets[here]]
        except (OSError, ValueError, IndexError) as error:  # removed, emptied or cut since it was opened
            raise ShardError(f"{path}: changed while it was read ({error}); start again: it is written anew") from error
    return tokens


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"shard-{shard:05d}.bin"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return unseal(read_bytes(path))
    except ReadError as error:
        raise ShardError(f"{path}: {error}") from error
