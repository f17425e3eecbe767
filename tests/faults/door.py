"""The catalogue asked through the door: `andon verify -- andon train CONFIG` with each fault in our core, no Subject.

A fault is live where it changes what the run leaves: its log, weights or checkpoints. Where a plain run shows no
difference, a resumed one is tried, and then tuning of an adapter; faults of other subjects begin with what those are.
"""

import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from andon.files import write_whole
from andon.gates.evidence import Metric
from andon.verify.faults.inject import Fault
from tests.door import ask, results
from tests.door.cases import Case
from tests.door.process import python, run
from tests.faults.planted import NONE
from tests.small_run import write_corpus

CONFIG = Path(__file__).with_name("door.toml")
FOLDER = Path("reports/runs/faults_door")  # what is known so far
NOT_LIVE = "not live"
LIMIT = 600.0  # seconds of one command
DOCUMENTS = 16
OWN = ("config.toml", "--data", "corpus", "--out", "run", "--no-trace", "-q")
TRAIN = [["train", *OWN]]
LORA, QLORA = ([["finetune", kind, "--model", "BASE", "--config", *OWN]] for kind in ("lora", "qlora"))
# What is run, by name: the arguments of `andon`, one command after another.
PROGRAMS: dict[str, list[list[str]]] = {
    "train": TRAIN,
    "resumed": [*TRAIN, ["train", "--resume", "run", "--previous", "--no-trace", "-q"]],
    "half": [[*TRAIN[0], "--set", "training.dtype=bfloat16"]],
    "tied": [[*TRAIN[0], "--set", "model.tie_word_embeddings=true"]],
    "recomputed": [[*TRAIN[0], "--set", "training.activation_checkpointing=true"]],
    "lora": LORA,
    "qlora": QLORA,
    "half lora": [[*LORA[0], "--set", "training.dtype=bfloat16"]],
}
FIRST = {"mixed": "half", "mixed late": "half", "four bits": "qlora"}  # subjects that are called otherwise
NEXT = ("train", "resumed", "lora", "qlora")
# The words that name a cause (tests/door/causes.py) by the catalogue's areas.
AREAS = {
    "attention mask": "attention-mask", "tying": "embedding-tying", "mixed precision": "precision",
    "accumulation": "grad-accumulation", "distributed": "grad-accumulation", "resume": "checkpoint-resume",
    "configuration": "schedule", "quantization": "precision",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A fault, in which run it is live, and what was said of that run."""

    fault: str
    area: str
    program: str = ""  # of PROGRAMS; empty where it is live in none
    light: str = NOT_LIVE
    check: str = ""
    first: bool = False
    others: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""


def asked(faults: Sequence[Fault], workers: int, note: Callable[[Asked], None], *, resume: bool) -> list[Asked]:
    """A row for each fault, some at a time; each is kept, and not asked again with `resume`."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        usual = Usual(base)

        def one(fault: Fault) -> Asked:
            file = FOLDER / f"{fault.id}.json"
            row = _read(file) if resume and file.exists() else _ask(fault, usual)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asdict(row), indent=2) + "\n")
            note(row)
            return row

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, faults))


class Usual:
    """What runs without a fault leave, and what is said of them; each is made when it is first needed."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._left: dict[str, str] = {}
        self._said: dict[str, frozenset[str]] = {}
        self._lock = threading.RLock()  # several faults are asked about at a time

    def left(self, program: str) -> str:
        """What the program's run leaves."""
        with self._lock:
            if program not in self._left:
                self._left[program] = left(self.case(NONE, program))
            return self._left[program]

    def said(self, program: str) -> frozenset[str]:
        """The findings of the program's run."""
        with self._lock:
            if program not in self._said:
                self._said[program] = results.accustomed(ask.ask(self.case(NONE, program), timeout=LIMIT))
            return self._said[program]

    def case(self, name: str, program: str) -> Case:
        """The program with a fault in it."""
        with self._lock:
            if "BASE" in str(PROGRAMS[program]) and not self.base.exists():
                _make_base(self.base)
        runs = [
            ["-m", "tests.faults.planted", name, *(str(self.base) if word == "BASE" else word for word in words)]
            for words in PROGRAMS[program]
        ]
        return Case(program, "fault", name, _files(), runs)


def programs(fault: Fault) -> Iterator[str]:
    """In which runs a fault may be live, the likeliest first."""
    subjects = (FIRST.get(each, each) for each in fault.subjects)
    yield from dict.fromkeys([*(each for each in subjects if each in PROGRAMS), *NEXT])


def _ask(fault: Fault, usual: Usual) -> Asked:
    program = next((each for each in programs(fault) if left(usual.case(fault.id, each)) != usual.left(each)), "")
    if not program:
        return Asked(fault.id, fault.area)
    answer = ask.ask(usual.case(fault.id, program), timeout=LIMIT)
    return judged(fault, program, answer, usual.said(program))


def judged(fault: Fault, program: str, answer: ask.Answer, accustomed: frozenset[str]) -> Asked:
    """What was said of a run in which the fault is live."""
    area = AREAS.get(fault.area, fault.area)
    case = Case(program, "fault", fault.id, {}, (), area=area)
    row = results.judged(case, answer, accustomed, fault.named_by)
    return Asked(
        fault.id, fault.area, program, row.light, row.check, row.first, row.others, row.seconds, row.error
    )  # fmt: skip


def left(case: Case) -> str:
    """What a case's run leaves: its exit codes, what it logged but for times, and hashes of its checkpoints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case.write(folder)
        codes = [run([*python(), *words], folder, LIMIT).code for words in case.runs]
        return json.dumps([codes, logged(folder / "run" / "log.jsonl"), _hashes(folder / "run")])


def logged(file: Path) -> list[dict[str, Any]]:
    """The lines of a run's log without what differs from run to run."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines()) if file.exists() else ()
    return [{key: value for key, value in line.items() if not _is_timed(key)} for line in lines]


def _is_timed(key: str) -> bool:
    return any(word in key for word in ("second", "time", "trace", "span", "cpu", "bytes", "faults"))


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(folder.glob("checkpoints/*/*.safetensors")) + sorted(folder.glob("*/*.safetensors"))
    return {str(each.relative_to(folder)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def _files() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as name:
        write_corpus(Path(name), DOCUMENTS)
        found = {f"corpus/{each.name}": each.read_text(encoding="utf-8") for each in Path(name).iterdir()}
    return {"config.toml": CONFIG.read_text(encoding="utf-8"), **found}


def _make_base(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        Case("base", "clean", NONE, _files(), ()).write(Path(name))
        done = run([*python(), "-m", "andon", *TRAIN[0]], Path(name), LIMIT)
        assert done.code == 0, done.error
        (Path(name) / "run").rename(folder)


def _read(file: Path) -> Asked:
    content = json.loads(file.read_text(encoding="utf-8"))
    return Asked(**content | {"others": tuple(content["others"])})


def counts(rows: Sequence[Asked]) -> dict[str, int]:
    """How many faults were asked about, are live, and were named."""
    live = [row for row in rows if row.light != NOT_LIVE]
    return {
        "asked": len(rows),
        "live": len(live),
        "red": sum(row.light == results.RED for row in live),
        "yellow": sum(row.light == results.YELLOW for row in live),
        "missed": sum(row.light == results.MISSED for row in live),
        "unmeasured": sum(row.light == results.UNMEASURED for row in live),
        "first": sum(row.first for row in live),
    }


def metrics(rows: Sequence[Asked]) -> dict[str, Metric]:
    """The same as evidence, with the share that is named."""
    found = counts(rows)
    share = (found["red"] + found["yellow"]) / found["live"] if found["live"] else None
    return {**{name: Metric(value, "faults") for name, value in found.items()}, "named": Metric(share, "share")}


def line(row: Asked) -> str:
    """A fault in a line."""
    said = f"{row.light} {row.check}".strip()
    beside = f"; beside it {', '.join(row.others[:4])}" if row.others else ""
    return f"{row.fault} ({row.program or 'no run'}): {said}{beside} {row.error} ({row.seconds:.0f} s)"
