"""`python -m tests.bench.tables [--check]`: README's tables, made from committed measurements and from arithmetic.

A table stands between `<!-- table: NAME -->` and `<!-- /table -->`; what stands there is replaced whole. With --check
nothing is written, and the exit code is 1 where README says something else than the measurements.
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from andon.core.config import load_config
from andon.core.memory import adapter_sizes, sizes
from andon.gates.measures.debt.loss import grade
from andon.gates.measures.mutation.plan import read_excuses
from andon.workshop import matrix
from tests.zoo.triage import FILE as TRIAGE
from tests.zoo.triage import LABELS, NEW, verdict, verdicts

README = Path("README.md")
BENCH = Path("reports/baselines/bench.json")
BENCH_GPU = Path("reports/baselines/bench_gpu.json")
BENCH_ADAPTERS = Path("reports/baselines/bench_adapters.json")
LEARN = Path("reports/baselines/learn_adapters.json")
FAULTS = Path("reports/baselines/faults.json")
SELFTEST = Path("reports/baselines/selftest.json")
DEBT = Path("reports/baselines/debt.json")
FUZZ = Path("reports/baselines/fuzz.json")
MUTANTS = Path("reports/baselines/mutation.json")
POWER = Path("reports/baselines/power.json")
NIGHTLY = Path("reports/baselines/nightly.json")
STRANGERS = Path("reports/baselines/strangers.json")
WILD = Path("reports/baselines/wild.json")
ZOO = Path("reports/baselines/zoo.json")
SHIPPED = ("tiny", "small", "124m", "1b", "7b")
COMPARED = ("124m", "1b", "7b")
METHODS = {"full": "full", "lora": "LoRA", "qlora": "QLoRA"}
PEER_NAMES = {"lora": "transformers + peft", "qlora": "peft + bitsandbytes"}
SPEEDS = {"bitsandbytes": "the speed of bitsandbytes", "gather": "that of a plain table gather"}
LEARNED = (("before", ".4f"), ("after", ".4f"), ("fall_percent", ".1f"))
OURS = "ours"
BLOCK = re.compile(r"<!-- table: ([a-z-]+) -->\n(.*?)<!-- /table -->", re.DOTALL)
OPENING = "<!-- table:"


class TableError(ValueError):
    """README's marks cannot be followed; the message names the mark and the rule."""


def speed(bench: dict[str, Any]) -> str:
    """Milliseconds by phase, tokens per second, and the ratio to the matrix products, an implementation a row."""
    tokens = bench["workload"]["rows"] * bench["workload"]["length"]
    rows = []
    for name, seconds in bench["seconds"].items():
        after = seconds["clip"] + seconds["optimizer"]
        times = [seconds["forward"], seconds["backward"], after, seconds["step"]]
        ratio = f"{bench['over_products'][name]['ratio']:.3f}"
        rows.append([_title(bench, name), *map(_ms, times), f"{tokens / seconds['step']:.0f}", ratio])
    alone = bench["seconds"][OURS]["products"]
    rows.append(["matrix products", "", "", "", _ms(alone), f"{tokens / alone:.0f}", "1.000"])
    header = ["milliseconds", "forward", "backward", "clip, AdamW", "step", "tokens/s", "x products"]
    lines = [f"- Andon over {_title(bench, name)}: {_interval(found)}" for name, found in bench["ours_over"].items()]
    lines = [f"- Andon over its own matrix products: {_interval(bench['over_products'][OURS])}", *lines]
    return "\n".join(
        [_table(header, rows), "", "Step time, paired within each round (95% interval):", "", *lines, "", _where(bench)]
    )


def memory(bench: dict[str, Any]) -> str:
    """Megabytes of a step, an implementation a row."""
    rows = []
    for name, parts in bench["memory"].items():
        state = None if parts["peak"] is None else sum(parts[part] for part in ("weights", "gradients", "optimizer"))
        share = bench["memory_over"].get(name)
        columns = [_mb(parts["peak"]), _mb(parts["imported"]), _mb(state), _mb(parts["own"])]
        rows.append([_title(bench, name), *columns, "" if name == OURS else _number(share, ".2f")])
    header = ["megabytes", "peak", "imports", "weights, gradients, AdamW", "the rest", "ours over it"]
    return _table(header, rows)


def plan() -> str:
    """Gigabytes that full fine-tuning of each shipped shape holds at a step's peak, one row of its own length."""
    rows = []
    for name in SHIPPED:
        config = load_config(Path(f"configs/{name}.toml"))
        shape, step = sizes.shape_of(config), sizes.step_of(config)
        peak = sizes.peak_memory(shape, step)
        rest = peak.activations + peak.head + peak.other
        held = [peak.weights, peak.gradients, peak.optimizer, rest, peak.total]
        rows.append([name, f"{sizes.count_parameters(shape).total:,}", f"{step.rows} x {step.length}", *map(_gb, held)])
    header = ["gigabytes", "parameters", "batch", "weights", "gradients", "AdamW", "the rest", "at the peak"]
    return (
        f'{_table(header, rows)}\n\nComputed by `andon plan configs/NAME.toml`; "the rest" is activations and the head.'
    )


def adapters(bench: dict[str, Any]) -> str:
    """Milliseconds and megabytes of a step under each method, ours and the peer's, full training's beside them."""
    rows = [_full_row(json.loads(BENCH.read_text(encoding="utf-8")))] if BENCH.exists() else []
    lines = []
    for method, each in bench["methods"].items():
        title, over = METHODS[method], each["over_products"]
        for name, seconds in each["seconds"].items():
            memory = each["memory"][name]
            who = "Andon" if name == OURS else PEER_NAMES[method]
            sizes_of = [_mb(memory[part]) for part in ("weights", "peak")]
            ratio = f"{over[name]['ratio']:.3f}"
            rows.append([f"{who}, {title}", _ms(seconds["step"]), ratio, *sizes_of, _mb(each["live"][name])])
        lines.append(f"- {title}, Andon over its products: {_interval(over[OURS])}")
        lines.append(f"- {title}, Andon over {PEER_NAMES[method]}: {_interval(each['ours_over'])}")
        shares = [_number(each[key], ".2f") for key in ("memory_over", "live_over")]
        lines.append(f"- {title}, our memory over theirs: {shares[0]} of the rest, {shares[1]} of all tensors")
    header = ["one training step", "step ms", "x products", "parameters MB", "peak MB", "tensors MB"]
    return "\n".join([_table(header, rows), "", *lines, "", _where(bench)])


def _full_row(bench: dict[str, Any]) -> list[str]:
    memory, ratio = bench["memory"][OURS], f"{bench['over_products'][OURS]['ratio']:.3f}"
    return ["Andon, full", _ms(bench["seconds"][OURS]["step"]), ratio, _mb(memory["weights"]), _mb(memory["peak"]), ""]


def nf4(bench: dict[str, Any]) -> str:
    """What 4 bits take and lose on published weights, and how fast they come back."""
    rows = []
    for kind, title in (("single", "NF4"), ("double", "NF4, double quantization")):
        found = bench["nf4"][kind]
        lost, beside = found["loss"] - found["loss_whole"], abs(found["loss"] - found["loss_bitsandbytes"])
        figures = [f"{found['bits']:.3f}", f"{found['file_bits']:.3f}", f"{found['relative_error']:.5f}"]
        rows.append([title, *figures, f"{lost:.4f}", f"{beside:.1e}"])
    header = ["SmolLM2-135M", "bits a parameter", "in the file", "relative error", "loss, nats more", "to bitsandbytes"]
    speed = bench["nf4"]["speed"]
    beside = [f"{speed[name] / speed['ours']:.2f} x {title}" for name, title in SPEEDS.items()]
    return f"{_table(header, rows)}\n\nDequantization runs at {' and '.join(beside)}: same values, medians."


def methods() -> str:
    """Gigabytes at a step's peak of each shape under each method, one row of its own length, and what is saved."""
    rows = []
    for name in COMPARED:
        config = load_config(Path(f"configs/{name}.toml"))
        step = sizes.step_of(config)
        totals = {
            method: max(moment.total for moment in adapter_sizes.snapshots_for(config, method)(step))
            for method in METHODS
        }
        saved = [f"{1 - totals[method] / totals['full']:.0%}" for method in ("lora", "qlora")]
        ranks = f"{config.lora.rank}, {config.qlora.rank}"
        rows.append([name, f"{step.rows} x {step.length}", ranks, *map(_gb, totals.values()), *saved])
    header = ["gigabytes at the peak", "batch", "ranks", *METHODS.values(), "LoRA saves", "QLoRA saves"]
    return f"{_table(header, rows)}\n\nComputed by `andon plan configs/NAME.toml --method METHOD`."


def learned(content: dict[str, Any]) -> str:
    """Held-out loss of SmolLM2-135M before and after each fine-tune."""
    rows = [
        [title, *(_number(content[f"{method}_{key}"], form) for key, form in LEARNED)]
        for method, title in (("lora", "LoRA, the model whole"), ("qlora", "QLoRA, the model in 4 bits"))
    ]
    header = ["held-out loss, nats per token", "before", "after", "fall, %"]
    kept = f"4 bits keep {_number(content['kept_share'], '.3f')} of the way from where they begin to where LoRA ends."
    how = f"Rank {content['rank']}, 200 steps (`nox -s learn -- adapters`)."
    return "\n".join([_table(header, rows), "", kept, how])


def gpu(bench: dict[str, Any]) -> str:
    """A GPU's step beside Hugging Face's compiled one; whatever was not measured says so."""
    rows = [
        [
            name,
            _number(found["step_seconds"], ".1f", 1000),
            _number(found["tokens_per_second"], ",.0f"),
            _number(found["model_flops_utilization"], ".1f", 100),
            _number(found["peak_bytes"], ".1f", 1e-9),
        ]
        for name, found in bench["implementations"].items()
    ]
    large = bench["qlora_7b"]
    step, rate = _number(large["step_seconds"], ".1f", 1000), _number(large["tokens_per_second"], ",.0f")
    rows.append(["Andon, QLoRA of 7b", step, rate, "", _number(large["peak_bytes"], ".1f", 1e-9)])
    header = ["one training step on a GPU", "step ms", "tokens/s", "MFU %", "peak GB"]
    return f"{_table(header, rows)}\n\n{bench['device'] or 'No GPU'}, torch {bench['torch']}; `nox -s bench_gpu`."


def parts() -> str:
    """What a subject can be made of, in the words of its source."""
    source = Path("verify/subject.py").read_text(encoding="utf-8").partition("class Subject:")[2]
    kinds = r"^    (\w+): (?:.*Callable|Adapters|Quantiser).*  # (.+)$"
    return "\n".join(f"- `{name}`: {said}" for name, said in re.findall(kinds, source, re.MULTILINE))


def faults(content: dict[str, Any]) -> str:
    """Planted faults by area, and by how well each is known to have happened, with what found them."""
    header = ["faults planted into our core", "live", "by checks", "only by parity", "only by a unit test", "unfound"]
    return f"{_table(header, matrix.by_area(matrix.from_json(content)))}\n\n`nox -s faults` plants them again."


def selftest(rows: list[dict[str, Any]]) -> str:
    """What turned each measure red, and how many thresholds and budgets were seen red at their edges."""
    measures = [row for row in rows if row["kind"] == "measure"]
    seen = [["measure", "of", "planted in", "seen red"]]
    seen += [[row["name"], row["tier"], row["planted"], "yes" if row["red"] else "NO"] for row in measures]
    counts = []
    for kind in ("measure", "threshold", "budget"):
        found = [row["red"] for row in rows if row["kind"] == kind]
        counts.append(f"{sum(found)} of {len(found)} {kind}s")
    return f"{_table(seen[0], seen[1:])}\n\nSeen red: {', '.join(counts)} (`nox -s selftest`)."


def debt(files: dict[str, Any]) -> str:
    """Files, mean and lowest recorded score, a package a row; the mean of all as the project's."""
    rows = []
    for room in sorted({path.partition("/")[0] for path in files}):
        scores = [files[path]["score"] for path in files if path.partition("/")[0] == room]
        rows.append([room, *_graded(scores)])
    header = ["package", "files", "score", "grade", "lowest file"]
    return _table(header, [*rows, ["project", *_graded([file["score"] for file in files.values()])]])


def _graded(scores: list[float]) -> list[str]:
    mean = sum(scores) / len(scores)
    return [str(len(scores)), f"{mean:.2f}", grade(mean), f"{min(scores):.1f}"]


def mutants(content: dict[str, Any]) -> str:
    """How many mutants of each file a test notices, and how many of the others are excused."""
    excused, rows, total = read_excuses(), [], [0, 0, 0]
    for name, file in content["files"].items():
        states = {row[0]: row[3] for function in file["functions"].values() for row in function["rows"]}
        killed = sum(state == "killed" for state in states.values())
        counts = [len(states), killed, sum(name in excused for name in states)]
        total = [one + more for one, more in zip(total, counts, strict=True)]
        rows.append([name, *_killed(counts)])
    header = ["file", "mutants", "killed", "alive", "of these excused", "score"]
    table = _table(header, [*rows, ["all", *_killed(total)]])
    return f"{table}\n\nEvery survivor with its diff: `andon dev mutation`; run all again: `nox -s mutation`."


def fuzz(content: dict[str, Any]) -> str:
    """What was executed of each format's fuzz target, over all runs on record, and what crashed."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for run in content["runs"]:
        runs.setdefault(run["target"], []).append(run)
    rows = [
        [
            target,
            str(len(some)),
            f"{sum(run['executions'] for run in some):,}",
            f"{sum(run['seconds'] for run in some):,.0f}",
            str(max(run["edges"] for run in some)),
            str(sum(run["crashes"] for run in some)),
        ]
        for target, some in sorted(runs.items())
    ]
    return _table(["target", "runs", "executions", "seconds", "edges", "crashes"], rows)


def _killed(counts: list[int]) -> list[str]:
    count, killed, excused = counts
    return [str(count), str(killed), str(count - killed), str(excused), f"{100 * killed / count:.1f}%"]


def power(content: dict[str, Any]) -> str:
    """What the gradient check finds of what is planted into a backward, beside a common weaker check."""
    header = ["planted into the backward", "plants", "found", "by single entries within 0.2 (eps 1e-3, fp32)"]
    rows = [
        [row["fault"], str(row["plants"]), *(f"{row[key] / row['plants']:.1%}" for key in ("found", "weaker"))]
        for row in content["rows"]
    ]
    return f"{_table(header, rows)}\n\n`nox -s gradients` plants them again."


def nightly(content: dict[str, Any]) -> str:
    """Runs on clean code, and what was found there, by whose code it is."""
    what = ("subjects", "runs", "verdicts", "alarms")
    rows = [[name, *(str(own[each]) for each in what)] for name, own in content["kinds"].items()]
    totals = [sum(own[each] for own in content["kinds"].values()) for each in what]
    header = ["clean code", "subjects", "runs of the suite", "verdicts", "false alarms"]
    return (
        f"{_table(header, [*rows, ['all', *map(str, totals)]])}\n\nWith 95% confidence fewer than "
        f"{content['highest_share']:.1%} of runs on clean code end in an alarm. `nox -s nightly` runs them again."
    )


def strangers(content: dict[str, Any]) -> str:
    """Other people's packages: checked as they are, and what was found of the faults planted into them."""
    rows = content["rows"]
    missed = [f"`{row['fault']}`" for row in rows if not row["finder"]]
    alarms = sum(map(bool, content["subjects"].values()))
    header = ["other people's packages", ""]
    lines = [
        ["subjects as they are, and with a finding", f"{len(content['subjects'])}, {alarms}"],
        ["faults planted, and found", f"{len(rows)}, {len(rows) - len(missed)}"],
        ["different faults found", str(content["different"])],
    ]
    known = ", ".join(f"`{check}` of {name}" for name, checks in content["known"].items() for check in checks)
    return (
        f"{_table(header, lines)}\n\n{', '.join(line.replace('==', ' ') for line in content['packages'])}. "
        f"Not found: {', '.join(missed) or 'none'}.\nLeft out, as reported upstream: {known}. "
        "`nox -s strangers` plants them again."
    )


def wild(content: dict[str, Any]) -> str:
    """Released libraries with a documented bug, and which check finds it from a clean install."""
    rows = [
        [
            f"[{case['package']} {case['wrong']}]({case['source']})",
            case["fault"],
            ", ".join(case["found"]) or "not found",
        ]
        for case in content["cases"]
    ]
    found = sum(bool(case["found"]) for case in content["cases"])
    header = ["found, from a clean install", "the bug", "by"]
    return f"{_table(header, rows)}\n\n{found} of {len(rows)} releases; `nox -s wild` installs and asks them again."


def zoo(content: dict[str, Any]) -> str:
    """What was built of current libraries and asked, and what the red cells are held to be."""
    known = verdicts(TRIAGE.read_text(encoding="utf-8"))
    labels = {
        package: [verdict(known, package, cell["check"], cell["name"]) for cell in found["red"]]
        for package, found in content.items()
    }
    rows = [
        [title, *(str(count(found)) for found in content.values())]
        for title, count in {
            "there are": lambda found: found["animals"],
            "built and checked": lambda found: found["built"],
            "checks that passed": lambda found: found["states"].get("green", 0),
            "not asked": lambda found: found["states"].get("not asked", 0),
            "red": lambda found: len(found["red"]),
        }.items()
    ]
    rows += [
        [f"- {label}", *(str(sum(each is not None and each.label == label for each in own)) for own in labels.values())]
        for label in LABELS
    ]
    rows.append(["- not judged yet", *(str(own.count(None)) for own in labels.values())])
    rows.append(["minutes by one worker", *(_number(found["seconds"], ".1f", 1 / 60) for found in content.values())])
    header = ["`andon zoo`", *(f"{package} {found['version']}" for package, found in content.items())]
    new = [each for each in known if each.label == NEW]
    lines = [f"- {each.package}, {', '.join(each.names)}, `{each.checks[0]}`: {each.measured}." for each in new]
    told = ["Bugs in them of which we know no report, each with a script in `reports/zoo`:", "", *lines, ""]
    return "\n".join([_table(header, rows), "", *(told if new else []), "`nox -s zoo` asks them again."])


def unmeasured(command: str) -> str:
    """What stands where no measurement is committed."""
    return f"Not measured yet: `{command}`."


def tables() -> dict[str, Callable[[], str]]:
    """Every table by its name in README."""
    return {
        "speed": lambda: _from(BENCH, speed, "nox -s bench"),
        "memory": lambda: _from(BENCH, memory, "nox -s bench"),
        "plan": plan,
        "parts": parts,
        "adapters": lambda: _from(BENCH_ADAPTERS, adapters, "nox -s bench -- adapters"),
        "four-bits": lambda: _from(BENCH_ADAPTERS, nf4, "nox -s bench -- adapters"),
        "methods": methods,
        "learned": lambda: _from(LEARN, learned, "nox -s learn -- adapters"),
        "gpu": lambda: _from(BENCH_GPU, gpu, "nox -s bench_gpu"),
        "power": lambda: _from(POWER, power, "nox -s gradients"),
        "faults": lambda: _from(FAULTS, faults, "nox -s faults"),
        "selftest": lambda: _from(SELFTEST, selftest, "nox -s selftest"),
        "debt": lambda: _from(DEBT, debt, "nox -s debt -- --write"),
        "mutants": lambda: _from(MUTANTS, mutants, "nox -s mutation"),
        "fuzz": lambda: _from(FUZZ, fuzz, "nox -s fuzz"),
        "nightly": lambda: _from(NIGHTLY, nightly, "nox -s nightly"),
        "strangers": lambda: _from(STRANGERS, strangers, "nox -s strangers"),
        "wild": lambda: _from(WILD, wild, "nox -s wild"),
        "zoo": lambda: _from(ZOO, zoo, "nox -s zoo"),
    }


def rewrite(text: str, known: dict[str, Callable[[], str]]) -> str:
    """The text with each table rewritten.

    Raises:
        TableError: a mark that is not closed, or of an unknown table.
    """

    def made(match: re.Match[str]) -> str:
        name, old = match.groups()
        if OPENING in old:
            raise TableError(f"<!-- table: {name} --> is not closed; end it with <!-- /table -->")
        if name not in known:
            raise TableError(f"<!-- table: {name} -->: no such table; known are {', '.join(known)}")
        return f"<!-- table: {name} -->\n{known[name]()}\n<!-- /table -->"

    found = BLOCK.sub(made, text)
    if found.count(OPENING) != len(BLOCK.findall(found)):
        raise TableError("a <!-- table: NAME --> is not closed, or not alone on its line; end it with <!-- /table -->")
    return found


def is_current() -> bool:
    """Whether README's tables are what they would be if made now.

    Raises:
        TableError: see `rewrite`.
    """
    text = README.read_text(encoding="utf-8")
    return text == rewrite(text, tables())


def rewrite_readme() -> None:
    """Rewrite README's tables.

    Raises:
        TableError: see `rewrite`; README is left as it is.
    """
    README.write_text(rewrite(README.read_text(encoding="utf-8"), tables()), encoding="utf-8")


def write_baseline(path: Path, content: dict[str, Any]) -> None:
    """Write a committed measurement, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="Compare only.")
def main(check: bool) -> None:
    """Rewrite README's tables, or compare them."""
    try:
        current = is_current()
        if not (current or check):
            rewrite_readme()
    except (TableError, OSError) as error:
        click.echo(f"{README}: {error}", err=True)
        sys.exit(2)
    if check and not current:
        click.echo(f"{README}: a table differs from its measurements; run `python -m tests.bench.tables`", err=True)
        sys.exit(1)
    click.echo(f"{README}: every table is what its measurements say")


def _from(path: Path, render: Callable[[Any], str], command: str) -> str:
    return render(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else unmeasured(command)


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Markdown that reads as a table in a terminal too: columns padded, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (header, rule, *rows):
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _title(bench: dict[str, Any], name: str) -> str:
    return "Andon" if name == OURS else bench["peers"][name].replace("==", " ")


def _where(bench: dict[str, Any]) -> str:
    work, machine = bench["workload"], bench["machine"]
    return (
        f"`124m`, {work['rows']} x {work['length']} tokens, fp32, {work['threads']} threads of "
        f"{machine['processor']}, torch {bench['torch']}, {machine['date']}:\n"
        f"{bench['rounds']} fresh processes each, in turn (`nox -s bench`)."
    )


def _interval(interval: dict[str, float]) -> str:
    return f"{interval['ratio']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _number(value: float | None, form: str, scale: float = 1) -> str:
    return "not measured" if value is None else format(value * scale, form)


def _ms(seconds: float) -> str:
    return _number(seconds, ".0f", 1000)


def _mb(size: float | None) -> str:
    return _number(size, ".0f", 1e-6)


def _gb(size: float) -> str:
    return _number(size, ".3f", 1e-9)


if __name__ == "__main__":
    main()
