"""The one way in for small files from disk: regular files alone, with bounds before anything is built from them.

A stranger may have written any of them. A pipe or a device in a file's place would never end; depth, digits and dotted
keys cost a parser far more than they weigh. The standard library is all that this needs: every package may use it.
"""

import errno
import hashlib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 26  # of a small file; the largest published tokenizer.json has half of that
MAX_TOML_BYTES = 1 << 20
MAX_DEPTH = 100
TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
MAX_DIGITS = 40  # of a number: 2^64 has 20
MAX_PARTS = 16  # of a dotted key
# In TOML, what is no key: strings and comments, the longest first.
TEXTS = re.compile(r'"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*', re.DOTALL)
DOTTED = re.compile(rf'(?<![\w-])(?:(?:[\w-]+|"")[ \t]*\.[ \t]*){{{MAX_PARTS}}}')


class ReadError(ValueError):
    """What is wrong with a file's content, without its name."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file, or a link to one, for reading bytes.

    Raises:
        ReadError: a pipe, a device or a socket.
        OSError: the file system refused.
    """
    if "\0" in str(path):
        raise ReadError("its name holds a NUL byte")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for a writer
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise ReadError("is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """A regular file's bytes, not more than `most`.

    Raises:
        ReadError, OSError: as `open_regular`, or a larger file.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ReadError(f"is larger than {most:,} bytes")
    return content


def file_sha256(path: Path) -> str:
    """The SHA-256 of a regular file of any size. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, most: int = MAX_BYTES) -> str:
    """The same as UTF-8.

    Raises:
        ReadError, OSError: as `read_bytes`, or text of another encoding.
    """
    try:
        return read_bytes(path, most).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReadError(f"is not text (no UTF-8 at byte {error.start})") from error


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """A JSON file's value. Raises as `read_bytes` and `parse_json` do."""
    return parse_json(read_bytes(path, most))


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's tables. Raises as `read_bytes` and `parse_toml` do."""
    content = read_bytes(path, MAX_TOML_BYTES)
    try:
        return parse_toml(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ReadError(f"is not valid TOML (no UTF-8 at byte {error.start})") from error


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """A JSON value of bounded depth, with numbers of bounded length; `pairs` makes what an object becomes.

    Raises:
        ReadError: not JSON, or beyond a bound.
    """
    return _bounded("JSON", lambda: json.loads(text, parse_int=_integer, object_pairs_hook=pairs))


def parse_toml(text: str) -> dict[str, Any]:
    """TOML's tables of bounded depth.

    Raises:
        ReadError: not TOML, or beyond a bound.
    """
    if DOTTED.search(TEXTS.sub('""', text)):
        raise ReadError(f"has a key of more than {MAX_PARTS} dotted parts")
    return _bounded("TOML", lambda: tomllib.loads(text))


def _bounded(language: str, parse: Callable[[], Any]) -> Any:
    try:
        value = parse()
        check_depth(value)
    except RecursionError as error:
        raise ReadError(f"is not valid {language} ({TOO_DEEP})") from error
    except ValueError as error:
        raise ReadError(f"is not valid {language} ({error})") from error
    return value


def check_depth(value: Any) -> None:
    """Raises ReadError where lists and objects are nested deeper than MAX_DEPTH."""
    level, depth = [value], 0
    while level:
        level = [inner for each in level for inner in _inside(each)]
        depth += 1
        if depth > MAX_DEPTH:
            raise ReadError(TOO_DEEP)


def _inside(value: Any) -> list[Any]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [each for each in values if isinstance(each, dict | list)]


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ReadError(f"a number of {len(text)} digits, where {MAX_DIGITS} are read")
    return int(text)
