"""Programs that train, with correct variants and bugs planted by exact replacement, read from folders of two layouts.

A folder of scripts: `NAME/train.py` with `faults.json` and `variants.json`, in it or in its folder `public`. A program
of several files: one package with a `train.py`, beside a `faults.py` with `F`, and, where it has them, `RUNS` and
`VARIANTS`.
"""

import json
import runpy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

KNOWN = {"invariant": "any", "convention": "habit", "intent": "author"}  # two layouts, two spellings
KNOWN_BY = ("any", "habit", "author", "")  # "": not said
KINDS = ("clean", "variant", "fault")
# How a program whose faults.py has no RUNS is run, by the arguments of its own command line.
RUNS = {
    "base": [[]],
    "lora": [["--lora_rank", "4"]],
    "resume": [["--save", "part.pt", "--save_at", "5"], ["--resume", "part.pt"]],
}


class LayoutError(ValueError):
    """A folder is of neither layout, or a replacement does not fit; the message names it and the rule."""


class Edit(NamedTuple):
    """What is replaced: `old` occurs once in the file."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Case:
    """A program as it stands, a correct variant of it, or one with a bug; the words of each run follow `python`."""

    program: str
    kind: str
    id: str
    files: Mapping[str, str]
    runs: Sequence[Sequence[str]]
    mode: str = ""
    area: str = ""
    knowable_by: str = ""
    what: str = ""
    edits: Sequence[Edit] = field(default=())
    folder: Path = Path()  # that it was read from

    @property
    def label(self) -> str:
        """As it is written in progress and on the command line."""
        return f"{self.program}/{self.id}"

    def write(self, folder: Path) -> None:
        """Write the program's files."""
        for name, text in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def cases(folder: Path) -> list[Case]:
    """Every case of a folder of either layout.

    Raises:
        LayoutError: the folder is of neither, or a replacement does not fit.
    """
    if (folder / "faults.py").exists():
        return list(_of_package(folder))
    inner = folder / "public" if (folder / "public").is_dir() else folder
    found = [case for each in sorted(inner.iterdir()) if (each / "train.py").exists() for case in _of_script(each)]
    if not found:
        raise LayoutError(f"{folder}: no faults.py beside a package, and no NAME/train.py with NAME/faults.json")
    return found


def replaced(files: Mapping[str, str], edits: Sequence[Edit], where: str) -> dict[str, str]:
    """The files with each text replaced.

    Raises:
        LayoutError: a text does not occur exactly once.
    """
    result = dict(files)
    for edit in edits:
        count = result.get(edit.file, "").count(edit.old)
        if count != 1:
            raise LayoutError(
                f"{where}: the text to replace occurs {count} times in {edit.file}, not once: {edit.old!r}"
            )
        result[edit.file] = result[edit.file].replace(edit.old, edit.new)
    return result


def _of_script(folder: Path) -> Iterator[Case]:
    faults = json.loads((folder / "faults.json").read_text(encoding="utf-8"))
    variants = json.loads((folder / "variants.json").read_text(encoding="utf-8"))["variants"]
    files = {"train.py": (folder / "train.py").read_text(encoding="utf-8")}
    runs = [["train.py", *words] for words in faults["runs"]]
    yield Case(folder.name, "clean", "clean", files, runs, folder=folder)
    for each in variants:
        edits = [Edit("train.py", old, new) for old, new in each["edits"]]
        changed = replaced(files, edits, f"{folder.name}/{each['id']}")
        yield Case(
            folder.name, "variant", each["id"], changed, runs, what=each.get("note", ""), edits=edits, folder=folder
        )
    for each in faults["faults"]:
        edits = [Edit("train.py", each["old"], each["new"])]
        changed = replaced(files, edits, f"{folder.name}/{each['id']}")
        known = KNOWN.get(each.get("knowable_by", ""), each.get("knowable_by", ""))
        yield Case(
            folder.name,
            "fault",
            each["id"],
            changed,
            runs,
            "",
            each["area"],
            known,
            each.get("note", ""),
            edits,
            folder,
        )


def _of_package(folder: Path) -> Iterator[Case]:
    table: dict[str, Any] = runpy.run_path(str(folder / "faults.py"))
    package = next((each for each in sorted(folder.iterdir()) if (each / "train.py").exists()), None)
    if package is None:
        raise LayoutError(f"{folder}: faults.py stands beside no package with a train.py")
    name = package.name
    files = {f"{name}/{each.name}": each.read_text(encoding="utf-8") for each in sorted(package.glob("*.py"))}
    runs = {mode: [["-m", f"{name}.train", *words] for words in each] for mode, each in table.get("RUNS", RUNS).items()}
    used = {each["mode"] for each in table["F"].values()}
    for mode in (mode for mode in runs if mode == "base" or mode in used):
        yield Case(
            name, "clean", "clean" if mode == "base" else f"clean-{mode}", files, runs[mode], mode, folder=folder
        )
    for key, (what, edits) in table.get("VARIANTS", {}).items():
        own = [Edit(f"{name}/{file}", old, new) for file, old, new in edits]
        yield Case(
            name, "variant", key, replaced(files, own, key), runs["base"], "base", what=what, edits=own, folder=folder
        )
    for key, each in table["F"].items():
        own = [Edit(f"{name}/{each['file']}", each["old"], each["new"])]
        changed, mode = replaced(files, own, key), each["mode"]
        said = (each["area"], each.get("knowable_by", ""), each.get("what", ""))
        yield Case(name, "fault", key, changed, runs[mode], mode, *said, own, folder)
