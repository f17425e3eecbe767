"""Documents of a corpus in a fixed order: text files, JSONL, folders, globs, or the Python standard library.

A document is a text file or a line of JSONL. One longer than a fiftieth of the corpus is split at line ends into
documents of that length, so that a single book can be split into training and validation too.
"""

import codecs
import glob
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from andon.reading import ReadError, parse_json

READ_BYTES = 1 << 20
MIN_DOCUMENTS = 50
MIN_PIECE_CHARACTERS, MAX_DOCUMENT_CHARACTERS = 256, 1 << 20  # characters

# The default corpus: every .py file of the standard library except tests, installed packages, and data tables (code
# pages, characters, help topics, build settings), from which a model would learn digits instead of Python.
NOT_CODE = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
TABLES = {"encodings", "pydoc_data", "entities.py", "stringprep.py"}
BUILD_SETTINGS = ("_sysconfigdata", "config-")

# An array of objects, which is no prose.
RECORDS = re.compile(r"\s*\[\s*\{")
FIRST_LINE = re.compile(rb"\s*\[\s*(\{|$)")
ONE_A_LINE = "write one object a line into a .jsonl file, as `jq -c '.[]' FILE > samples.jsonl` does"

# A folder with this file is a cache (https://bford.info/cachedir/), such as that of this corpus's tokens.
CACHE_TAG = "CACHEDIR.TAG"


class CorpusError(ValueError):
    """A corpus that cannot be used; the message names the file or pattern, the rule and the next step."""


class Source(NamedTuple):
    """A file of the corpus, with its size and hash when it was inspected."""

    path: Path
    bytes: int
    sha256: str


def find_sources(paths: list[str]) -> list[Source]:
    """Every file that `paths` name, once, in the order of `paths` and sorted within a folder or glob.

    Each file is read once, to hash it and to reject what is not text. Inside folders, hidden files, caches and links to
    folders are skipped. Without paths: the standard library's sources of the running interpreter.

    Raises:
        CorpusError: a path that does not exist, a glob without a match, a file that is not text, or no text at all.
    """
    named = [file for path in paths for file in _expand_path(path)] if paths else _standard_library()
    first_of = {file.resolve(): file for file in reversed(named)}
    sources = [_inspect(file) for file in named if first_of.pop(file.resolve(), None)]
    if not any(source.bytes for source in sources):
        raise CorpusError(f"data.paths={paths}: the corpus is empty; name files, folders or globs with text in them")
    return sources


def documents(sources: list[Source], text_field: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of every document that is not empty, in the order of `sources`.

    Raises:
        CorpusError: a line of JSONL that is broken or lacks `text_field`, or a file that changed since its inspection.
    """
    share = sum(source.bytes for source in sources) // MIN_DOCUMENTS
    longest = min(max(share, MIN_PIECE_CHARACTERS), MAX_DOCUMENT_CHARACTERS)
    for source in sources:
        for name, text in _jsonl_documents(source, text_field) if is_jsonl(source) else _text_document(source):
            pieces = _split_text(text, longest)
            yield from zip(_piece_names(name, len(pieces)), pieces, strict=True)


def is_jsonl(source: Source) -> bool:
    """Whether each line of the file is a document of its own."""
    return source.path.suffix == ".jsonl"


def records(source: Source) -> Iterator[tuple[str, Any]]:
    """Yield "file:line" and the JSON value of every line that is not blank.

    Raises:
        CorpusError: an array, a line that is not valid JSON, or a file that changed since its inspection.
    """
    digest = hashlib.sha256()
    first = True
    with source.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            digest.update(line)
            if line.strip():
                if first and FIRST_LINE.match(line):
                    raise CorpusError(f"{source.path}: begins with a JSON array; {ONE_A_LINE}")
                first = False
                yield f"{source.path}:{number}", _parse_json(f"{source.path}:{number}", line)
    _check_unchanged(source, digest.hexdigest())


def check_text(where: str, field: str, text: str) -> None:
    """Reject a string that JSON can hold and UTF-8 cannot encode.

    Raises:
        CorpusError: half of a surrogate pair.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"{where}: {field!r} holds half of a surrogate pair, which UTF-8 cannot encode; correct it"
            ) from error


def _expand_path(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        return _walk(path)
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise CorpusError(f"data.paths: {name!r} does not exist; name a file, a folder or a glob")
    matches = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207 (Path takes no absolute one)
    files = [file for match in matches for file in (_walk(match) if match.is_dir() else [match])]
    if not files:
        raise CorpusError(f"data.paths: the glob {name!r} matches no file; check it with ls")
    return files


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__pycache__"]
        if CACHE_TAG in files:
            folders.clear()
        else:
            found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(found)


def _standard_library() -> list[Path]:
    root = sysconfig.get_path("stdlib")
    found: list[Path] = []
    for parent, folders, files in os.walk(root):
        folders[:] = [name for name in folders if _is_included(name)]
        found += [Path(parent, name) for name in files if name.endswith(".py") and _is_included(name)]
    if not found:
        raise CorpusError(f"{root}: holds no sources of the standard library; name your own text in data.paths")
    return sorted(found)


def _is_included(name: str) -> bool:
    return name not in NOT_CODE | TABLES and not name.startswith(BUILD_SETTINGS)


def _inspect(path: Path) -> Source:
    if not path.is_file():  # a pipe would block, a dangling link has no content
        raise CorpusError(f"{path}: is not a regular file; remove it")
    digest, decoder, size = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(READ_BYTES):
                if b"\0" in chunk:
                    raise CorpusError(_not_text(path, "holds a NUL byte"))
                decoder.decode(chunk)
                digest.update(chunk)
                size += len(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise CorpusError(_not_text(path, "is not UTF-8")) from error
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return Source(path, size, digest.hexdigest())


def _not_text(path: Path, why: str) -> str:
    return f"{path}: {why}, so it is not text; remove it, or name the text files by a glob such as 'folder/**/*.txt'"


def _text_document(source: Source) -> Iterator[tuple[str, str]]:
    content = source.path.read_bytes()
    _check_unchanged(source, hashlib.sha256(content).hexdigest())
    text = content.decode("utf-8-sig")
    _check_prose(source.path, text)
    yield source.path.as_posix(), text


def _check_prose(path: Path, text: str) -> None:
    """Records of JSON in a file of another name would be learned as braces and quotes."""
    found = _json_or_none(text) if RECORDS.match(text) else None
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        raise CorpusError(f"{path}: holds a JSON array of {len(found)} objects, not text; {ONE_A_LINE}")
    if path.suffix == ".json" and _has_an_object_a_line(text):
        raise CorpusError(f"{path}: holds a JSON object on each line, not text; rename it to end in .jsonl")


def _has_an_object_a_line(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) > 1 and all(isinstance(_json_or_none(line), dict) for line in lines[:2])


def _json_or_none(text: str) -> Any:
    try:
        return parse_json(text)
    except ReadError:
        return None


def _jsonl_documents(source: Source, text_field: str) -> Iterator[tuple[str, str]]:
    for where, record in records(source):
        text = record.get(text_field) if isinstance(record, dict) else None
        if not isinstance(text, str):
            found = ", ".join(map(repr, record)) if isinstance(record, dict) else type(record).__name__
            raise CorpusError(f"{where}: no string under data.text_field={text_field!r}; found {found or 'nothing'}")
        check_text(where, text_field, text)
        yield where, text


def _parse_json(where: str, line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise CorpusError(f"{where}: {error}; JSONL holds one object per line") from error


def _check_unchanged(source: Source, sha256: str) -> None:
    if sha256 != source.sha256:
        raise CorpusError(f"{source.path}: changed while it was read; start again when nothing writes to it")


def _piece_names(name: str, pieces: int) -> list[str]:
    return [name] if pieces == 1 else [f"{name} part {number}" for number in range(1, pieces + 1)]


def _split_text(text: str, longest: int) -> list[str]:
    """Pieces of at most `longest` characters, each ending after a line break, else after a space if there is one."""
    pieces, start = [], 0
    while len(text) - start > longest:
        limit = start + longest
        end = text.rfind("\n", start, limit) + 1 or text.rfind(" ", start, limit) + 1 or limit
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]] if text else []
