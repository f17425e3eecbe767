"""What a move of a module costs: `python -m tests.moving` moves three, each in a copy of the tree, and counts.

A move is `git mv` and new imports, written mechanically. Whatever else names the old place must follow by hand, and is
counted: at most three files. Then the gates that would notice run in the copy, and what they say is as it was before.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click

from andon.gates.evidence import Evidence, Metric, digests, write_evidence
from andon.gates.measures.debt.ratchet import fallen, read_baseline
from andon.gates.measures.debt.score import find_files, grade_files
from andon.gates.measures.mutation import generate, keys, plan, results
from andon.gates.names import file_of
from andon.gates.selftest.injection import copy_tree
from tests.commands import git

MOST = 3
MOVES = {  # each to a folder in which its package's contract lets it be
    "core:windows": "core/files",
    "gates:evidence": "gates/report",
    "verify:inject": "verify/run",
}
SOURCES = ["andon", "configs", "core", "gates", "noxfile.py", "pyproject.toml", "tests", "tracing", "verify"]
GRADED = ("andon", "core", "gates", "noxfile.py", "tracing", "verify")
ANSWERS = "from tests.moving import unanswered; print(*unanswered(), sep='\\n')"
DEBT = "from tests.moving import below; print(*below(), sep='\\n')"
GATES: dict[str, Sequence[str]] = {
    "format": ["ruff", "format", "--check"],
    "lint": ["ruff", "check"],
    "types": ["ty", "check"],
    "contracts": ["lint-imports", "--no-cache"],
    "unit tests": ["python", "-m", "pytest", "-q", "-m", "tier1", "-p", "no:cacheprovider"],
    "tables": ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gates/test_risk.py",
               "tests/gates/test_selftest.py", "tests/gates/test_fuzz.py", "tests/test_tables.py", "-m", "not long"],
    "surface": ["python", "-m", "andon", "dev", "surface"],
    "debt": ["python", "-c", DEBT],
    "answers about mutants": ["python", "-c", ANSWERS],
}  # fmt: skip


class Moved(NamedTuple):
    """What followed a move: files beside imports, and gates that say something else than before."""

    files: list[str]
    red: list[str]


def main() -> int:
    """Move each module, print what followed, leave evidence "moving"; 1 where it is too much."""
    start, measured, found = time.monotonic(), digests(SOURCES), {}
    for name, folder in MOVES.items():
        old = file_of(name)
        with tempfile.TemporaryDirectory(prefix="andon-moving-") as place:
            root = copied(Path(place) / "tree")
            before = {gate: said(command, root) for gate, command in GATES.items()}
            files = moved(old, folder, root)
            red = [gate for gate, command in GATES.items() if said(command, root) != before[gate]]
        found[name] = Moved(files, red)
        click.echo(f"{old} to {folder}/: {len(files)} files beside imports ({', '.join(files) or 'none'})")
        click.echo("".join(f"  {gate}: not what it was before\n" for gate in red), nl=False)
    most = max(len(each.files) for each in found.values())
    metrics = {f"files {name}": Metric(len(each.files), "files") for name, each in found.items()}
    metrics |= {"files": Metric(most, "files"), "red": Metric(sum(len(each.red) for each in found.values()), "gates")}
    write_evidence(Evidence("moving", "python -m tests.moving", time.monotonic() - start, measured, metrics))
    return int(most > MOST or any(each.red for each in found.values()))


def copied(root: Path) -> Path:
    """A copy of the tree as it stands, with a commit to compare with."""
    copy_tree(root)
    git("add", "--all", cwd=root)
    git("commit", "--quiet", "--allow-empty", "--message", "as it was", cwd=root)
    return root


def moved(old: str, folder: str, root: Path) -> list[str]:
    """Move a module into a folder; returns the files beside it that change by more than their imports."""
    new = f"{folder}/{Path(old).name}"
    (root / folder).mkdir(parents=True, exist_ok=True)
    git("mv", old, new, cwd=root)
    texts = {name: _text(root / name) for name in git("ls-files", cwd=root).splitlines()}
    names = dotted(old), dotted(new)
    for name, text in texts.items():
        after = imports_moved(text, *names) if name.endswith(".py") else text
        for before, now in ((old, new), names):
            after = after.replace(before, now)
        if after != text:
            (root / name).write_text(after, encoding="utf-8")
    for options in (("check", "--quiet", "--select", "I", "--fix"), ("format", "--quiet")):
        subprocess.run([_tool("ruff"), *options], cwd=root, check=True)
    changed = git("diff", "--name-only", cwd=root).splitlines()
    return [name for name in changed if keys.unmoved(texts[name]) != keys.unmoved(_text(root / name))]


def imports_moved(text: str, old: str, new: str) -> str:
    """A module's text with its import statements as they are after a move from one dotted name to another."""
    lines = text.splitlines(keepends=True)
    for node in sorted(_imports(ast.parse(text)), key=lambda each: -each.lineno):
        statements = list(_following(node, old, new))
        if statements != [node]:
            margin = " " * node.col_offset
            lines[node.lineno - 1 : node.end_lineno] = [f"{margin}{ast.unparse(each)}\n" for each in statements]
    return "".join(lines)


def _imports(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))


def _following(node: ast.ImportFrom, old: str, new: str) -> Iterator[ast.ImportFrom]:
    """The statement after a move; two, where it imports the moved module among others of its folder."""
    folder, _, stem = old.rpartition(".")
    mine = [alias for alias in node.names if node.module == folder and alias.name == stem]
    others = [alias for alias in node.names if alias not in mine]
    if node.module == old:
        yield ast.ImportFrom(new, node.names, 0)
    elif not mine:
        yield node
    else:
        yield from [ast.ImportFrom(folder, others, 0)] if others else []
        yield ast.ImportFrom(new.rpartition(".")[0], [ast.alias(stem, mine[0].asname)], 0)


def unanswered() -> list[str]:
    """Functions whose mutants would be run again, in the tree of the working directory."""
    known, kept = plan.read_plan(), results.read_results()
    found = []
    for module in known.modules:
        if keys.tests_digest(module, known) != kept[module.name].digest:
            found.append(f"{module.name}: which test covers what")
        for name, source in generate.functions(Path(module.file).read_text(encoding="utf-8")).items():
            held = kept[module.name].functions.get(name)
            if held is None or held.key != keys.key(source, held.tests, module.count, known, generate.version()):
                found.append(f"{module.name}: {name}")
    return found


def below() -> list[str]:
    """Files that fell below their recorded grade, in the tree of the working directory."""
    texts = {str(path): path.read_text(encoding="utf-8") for path in find_files(GRADED)}
    return fallen(grade_files(texts), read_baseline())


def said(command: Sequence[str], root: Path) -> tuple[int, list[str]]:
    """Exit code of a gate, and what one that is red, or a command of ours, printed, but for how long it took."""
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [_tool(command[0]), *command[1:]], cwd=root, env=environment, check=False, capture_output=True, text=True
    )
    lines = [line for line in done.stdout.splitlines() if not re.search(r" in [\d.]+s", line)]
    return done.returncode, lines if done.returncode or "-c" in command else []


def _tool(name: str) -> Path:
    return Path(sys.executable) if name == "python" else Path(sys.executable).with_name(name)


def dotted(path: str) -> str:
    """The name that a file of ours is imported by."""
    return ".".join(["andon", *Path(path).with_suffix("").parts])


def _text(path: Path) -> str:
    """A tracked file's text; empty for a link to a folder and for what is not text."""
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except UnicodeDecodeError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
