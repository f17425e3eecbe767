"""Documents come in a fixed order, and whatever is not text is refused by name."""

import json
import os
from pathlib import Path

import pytest

from andon.core.data import corpus
from andon.core.data.corpus import CACHE_TAG, CorpusError, documents, find_sources


def write(root: Path, files: dict[str, str | bytes]) -> None:
    """Lay out files under a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read(*paths: Path | str, text_field: str = "text") -> list[tuple[str, str]]:
    """Names, without the folder, and texts of a corpus."""
    found = documents(find_sources([str(path) for path in paths]), text_field)
    return [(name.rpartition("/")[2], text) for name, text in found]


@pytest.mark.tier1
def test_files_keep_the_order_in_which_they_are_named_and_come_once(tmp_path: Path) -> None:
    """Behavior: paths decide the order; a file named twice, or through a link, is one."""
    write(tmp_path, {"b.txt": "bee", "a.txt": "ay"})
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    expected = [("b.txt", "bee"), ("a.txt", "ay")]
    assert expected == read(tmp_path / "b.txt", tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "link.txt")


@pytest.mark.tier1
def test_a_folder_is_read_in_sorted_order_without_what_is_hidden_or_cached(tmp_path: Path) -> None:
    """Behavior: folders give every file below them, sorted by path; hidden ones and caches are ignored."""
    write(tmp_path, {"b/2.txt": "two", "b/1.md": "one", "a.txt": "ay", ".hidden": b"\0", ".git/x": b"\0"})
    write(tmp_path, {f"tokens/{CACHE_TAG}": "", "tokens/manifest.json": "{}", "tokens/deep/x": b"\0"})
    write(tmp_path, {"__pycache__/x.pyc": b"\0"})
    assert [("a.txt", "ay"), ("1.md", "one"), ("2.txt", "two")] == read(tmp_path)


@pytest.mark.tier1
def test_a_glob_gives_files_and_folders_sorted(tmp_path: Path) -> None:
    """Behavior: a glob is expanded in sorted order, `**` reaches into folders, a matched folder is read whole."""
    write(tmp_path, {"b.txt": "bee", "a.txt": "ay", "c.bin": b"\0", "deep/er/d.txt": "dee"})
    assert [("a.txt", "ay"), ("b.txt", "bee")] == read(f"{tmp_path}/*.txt")
    assert [("a.txt", "ay"), ("b.txt", "bee"), ("d.txt", "dee")] == read(f"{tmp_path}/**/*.txt")
    assert [("d.txt", "dee")] == read(f"{tmp_path}/dee?")


@pytest.mark.tier1
def test_a_name_with_glob_characters_that_exists_is_a_file(tmp_path: Path) -> None:
    """Behavior: what lies there under exactly that name wins over the pattern."""
    write(tmp_path, {"[1].txt": "bracket", "1.txt": "one"})
    assert [("[1].txt", "bracket")] == read(tmp_path / "[1].txt")


@pytest.mark.tier1
def test_each_line_of_jsonl_is_a_document(tmp_path: Path) -> None:
    """Behavior: a line is an object with the text under the field; blank lines and empty texts are not documents."""
    lines = ['{"body": "one\\ntwo", "id": 1}', "", '{"body": ""}', '{"body": "dreißig"}']
    write(tmp_path, {"a.jsonl": "\n".join(lines)})
    assert [("a.jsonl:1", "one\ntwo"), ("a.jsonl:4", "dreißig")] == read(tmp_path, text_field="body")


@pytest.mark.tier1
def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    """Behavior: the mark at a file's start is dropped."""
    write(tmp_path, {"a.txt": b"\xef\xbb\xbfay", "b.jsonl": b'\xef\xbb\xbf{"text": "bee"}'})
    assert [("a.txt", "ay"), ("b.jsonl:1", "bee")] == read(tmp_path)


@pytest.mark.tier1
@pytest.mark.parametrize(
    ("files", "named", "message"),
    [
        ({}, "none.txt", "'none.txt' does not exist; name a file"),
        ({}, "*.txt", "the glob '*.txt' matches no file"),
        ({}, ".", "the corpus is empty"),
        ({"a.txt": ""}, "a.txt", "the corpus is empty"),
        ({"a.txt": "ay", "b.png": b"\x89PNG\0"}, ".", "b.png: holds a NUL byte, so it is not text; remove it"),
        ({"a.txt": "ay".encode("utf-16")}, "a.txt", "a.txt: holds a NUL byte, so it is not text"),
        ({"a.txt": b"gr\xfc\xdfe"}, "a.txt", "a.txt: is not UTF-8"),
        ({"a.txt": "ü".encode()[:1]}, "a.txt", "a.txt: is not UTF-8"),
        ({"a.jsonl": '{"text": "a"}\n{"text": '}, ".", "a.jsonl:2: is not valid JSON"),
        ({"a.jsonl": "[" * 100_000}, ".", "a.jsonl:1: is not valid JSON"),
        ({"a.jsonl": '\n{"body": "a"}'}, ".", "a.jsonl:2: no string under data.text_field='text'; found 'body'"),
        ({"a.jsonl": '{"text": 1}'}, ".", "a.jsonl:1: no string under data.text_field='text'; found 'text'"),
        ({"a.jsonl": "{}"}, ".", "a.jsonl:1: no string under data.text_field='text'; found nothing"),
        ({"a.jsonl": '["text"]'}, ".", "a.jsonl:1: no string under data.text_field='text'; found list"),
        ({"a.jsonl": '{"text": "ü\\ud800"}'}, ".", "a.jsonl:1: 'text' holds half of a surrogate pair"),
    ],
)
def test_bad_input_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str | bytes], named: str, message: str
) -> None:
    """Behavior: one error that says which file or pattern, and why."""
    write(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError) as refused:
        read(named)
    assert message in str(refused.value)


@pytest.mark.tier1
def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    """Behavior: a pipe would wait for ever and a dangling link holds nothing."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorpusError, match="pipe: is not a regular file"):
        read(tmp_path)
    (tmp_path / "pipe").unlink()
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(CorpusError, match="link: is not a regular file"):
        read(tmp_path)


@pytest.mark.tier1
def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the system's reason is in the message; as root may read everything, it is played."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    write(tmp_path, {"a.txt": "ay"})
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CorpusError, match=r"a\.txt: cannot be read \(Permission denied\)"):
        find_sources([str(tmp_path / "a.txt")])


@pytest.mark.tier1
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_after_its_inspection_is_refused(tmp_path: Path, name: str) -> None:
    """Behavior: what is read must be what was hashed."""
    write(tmp_path, {name: json.dumps({"text": "before"})})
    sources = find_sources([str(tmp_path)])
    write(tmp_path, {name: json.dumps({"text": "behind"})})
    with pytest.raises(CorpusError, match=f"{name}: changed while it was read"):
        list(documents(sources, "text"))


@pytest.mark.tier1
def test_a_long_document_is_cut_at_line_ends(tmp_path: Path) -> None:
    """Behavior: nothing above a fiftieth of the corpus stays whole; no character is lost, no line is broken."""
    text = "".join(f"line {number}\n" for number in range(10_000))
    write(tmp_path, {"a.txt": text, "b.txt": "short\n"})
    *pieces, (last, short) = read(tmp_path)
    assert text == "".join(piece for _, piece in pieces)
    assert ("b.txt", "short\n") == (last, short)
    assert ("a.txt part 1", "a.txt part 2") == (pieces[0][0], pieces[1][0])
    assert all(piece.endswith("\n") for _, piece in pieces)
    assert len(text) // 50 >= max(len(piece) for _, piece in pieces)
    assert 50 <= len(pieces) <= 52


@pytest.mark.tier1
@pytest.mark.parametrize(("text", "ends"), [("word " * 200, " "), ("x" * 1000, "x")])
def test_a_document_without_lines_is_cut_at_spaces_or_anywhere(tmp_path: Path, text: str, ends: str) -> None:
    """Behavior: pieces keep the limit (here the least, 256 characters) whatever the text looks like."""
    write(tmp_path, {"a.txt": text})
    pieces = [piece for _, piece in read(tmp_path)]
    assert text == "".join(pieces)
    assert 256 >= max(map(len, pieces))
    assert all(piece.endswith(ends) for piece in pieces)


@pytest.mark.tier1
def test_without_paths_the_standard_library_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: .py files only, and neither tests nor installed packages nor generated tables."""
    kept = {"json/decoder.py": "import re\n", "ast.py": "import sys\n"}
    left = dict.fromkeys(
        ("test/a.py", "lib2to3/tests/a.py", "site-packages/a/a.py", "encodings/cp1.py", "html/entities.py"), "x = 1\n"
    )
    write(
        tmp_path, {**kept, **left, "_sysconfigdata__linux.py": "x = 1\n", "config-3/a.py": "x = 1\n", "a.txt": "text"}
    )
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda _: str(tmp_path))
    assert [("ast.py", "import sys\n"), ("decoder.py", "import re\n")] == read()


@pytest.mark.tier1
def test_a_python_without_sources_needs_text_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: an interpreter that carries only compiled files has no default corpus."""
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(
        CorpusError, match=r"holds no sources of the standard library; name your own text in data\.paths"
    ):
        find_sources([])


@pytest.mark.tier3
def test_the_interpreters_own_library_is_a_corpus() -> None:
    """Behavior: megabytes of Python, the same in the same order each time, with nothing of the test suites."""
    sources = find_sources([])
    assert sources == find_sources([])
    names = {source.path.name for source in sources}
    assert {"argparse.py", "dataclasses.py", "threading.py"} <= names
    assert not [source.path for source in sources if {"test", "tests", "site-packages"} & set(source.path.parts)]
    assert 4_000_000 < sum(source.bytes for source in sources) < 40_000_000
