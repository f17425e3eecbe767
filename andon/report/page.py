"""A run's folder as one HTML file without external resources, readable on a laptop and on a phone.

What was not measured is shown as such and never as a number. Plots are drawn by uPlot, which is in `vendor/uplot` and
inlined together with its license; everything else is rendered here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from andon.files import write_whole
from andon.log import of_kind, read_log, timed_steps
from andon.reading import ReadError, read_bytes, read_json
from andon.report.curves import curves
from andon.report.timeline import read_timeline, shares
from andon.report.times import read_times
from andon.report.trends import trends
from andon.sealing import unseal
from andon.text import without_secrets

HERE = Path(__file__).parent
NOT_MEASURED = "not measured"
LAMPS = {"PASS": "green", "RED": "red", "NOT MEASURED": "amber"}
SHOWN_SAMPLES = 4
ADAPTERS = {"lora": "LoRA", "qlora": "QLoRA, in 4 bits"}
LOSSES = ("loss_before", "loss_after")


class ReportError(ValueError):
    """A run's folder that cannot be reported on; the message names the file and what is wrong with it."""


class Figure(NamedTuple):
    """One key figure: its label, its value or None where nothing was measured, and a short note."""

    label: str
    value: str | None
    note: str = ""


def render_report(run: Path, verdict: Mapping[str, Any] | None) -> Path:
    """Write `report.html` into the run's folder from the files there, and return its path.

    Reads `log.jsonl` (needed), `trace.jsonl`, `result.json` and `config.json` (the report says what is missing).
    `verdict` has the form of the gates' JSON: answer, headline, and checks with name, state, value, unit, operator,
    threshold, command, detail, why, next_step. The report is replaced atomically.

    Raises LogError, ReportError or tracing's TraceError where a file cannot be read as what it should be.
    """
    html = environment().get_template("report.html.j2").render(content(run, verdict))
    path = run / "report.html"
    write_whole(path, html)
    return path


def content(run: Path, verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    """All values of the template; None for what is missing."""
    log = read_log(run)
    result = read_object(run / "result.json", sealed=True)
    baselines = {name: nats for name, nats in result.get("baselines", {}).items() if nats is not None}
    totals, columns = shares(timed_steps(log))
    return {
        "run": run.resolve().name,
        "folder": run,
        "ended": bool(result),
        **{key: result.get(key) for key in ("started", "exit")},
        "command": without_secrets(str(result["command"])) if "command" in result else None,
        "machine": {key: result.get(key) for key in ("processor", "threads", "torch")},
        "verdict": verdict,
        "trends": trends(verdict),
        "lamp": LAMPS[verdict["answer"]] if verdict else "off",
        "figures": figures(result, baselines),
        "finetunes": finetunes(result),
        "full_model_peak": None if "finetune" in result else result.get("peak_bytes"),
        "curves": curves(log, baselines),
        "has_validation": bool(of_kind(log, "validation")),
        **of_time(run / "trace.jsonl"),
        "totals": totals,
        "columns": columns,
        "samples": result.get("samples"),
        "shown_samples": SHOWN_SAMPLES,
        "config": {table: keys for table, keys in read_object(run / "config.json").items() if isinstance(keys, dict)},
        "styles": asset("vendor/uplot/uPlot.min.css") + asset("templates/report.css"),
        "uplot": Markup("/*\n{}*/\n{}").format(asset("vendor/uplot/LICENSE"), asset("vendor/uplot/uPlot.iife.min.js")),
        "script": asset("templates/report.js"),
    }


def of_time(trace: Path) -> dict[str, Any]:
    """What the template says of time; None and nothing where the run was not traced."""
    if not trace.exists():
        return {"where": None, "findings": [], "times": None, "step": None, "beside": []}
    step, beside = read_timeline(trace)
    analysis, times = read_times(trace)
    own = {"where": analysis.verdict(), "findings": analysis.findings, "times": times}
    return own | {"step": step, "beside": beside}


def environment() -> Environment:
    """Templates that escape everything, and fail on a name that is not given."""
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (number, duration, bound, milliseconds, megabytes)
    templates.filters |= {function.__name__: function for function in filters}
    return templates


def asset(name: str) -> Markup:
    """A file of this package to go into the page as it is."""
    return Markup((HERE / name).read_text(encoding="utf-8"))  # noqa: S704 - our own files, not a user's


def read_object(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """A JSON object, or an empty one where the file is missing. Raises ReportError where it is anything else."""
    if not path.exists():
        return {}
    try:
        content = unseal(read_bytes(path)) if sealed else read_json(path)
    except ReadError as error:
        raise ReportError(f"{path}: {error}; remove it to report on the rest of the run") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} holds {content!r:.60}, not an object; remove it to report on the rest of the run")
    return content


def figures(result: Mapping[str, Any], baselines: Mapping[str, float]) -> list[Figure]:
    """The key figures, the one that matters most first."""

    def figure(label: str, key: str, form: str = "{:.4g}", note: str = "") -> Figure:
        value = result.get(key)
        return Figure(label, None if value is None else form.format(value), note)

    def count(label: str, key: str, note: str = "") -> Figure:
        value = result.get(key)
        return Figure(label, None if value is None else number(value), note)

    seconds, skipped = result.get("seconds"), result.get("skipped_steps")
    return [
        figure(
            "validation loss",
            "validation_loss",
            "{:.3f}",
            against_baselines(result.get("validation_loss"), baselines) or "nats per token",
        ),
        figure("training loss", "train_loss", "{:.3f}", "nats per token"),
        figure("bits per byte", "bits_per_byte", "{:.3f}", "of the validation text"),
        count("tokens per second", "tokens_per_second"),
        count("parameters", "parameters"),
        Figure("duration", None if seconds is None else duration(seconds)),
        count("steps", "steps", "" if skipped is None else f"{skipped or 'none'} skipped"),
        count("tokens", "tokens"),
    ]


def finetunes(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each adapter that a demo trained, or for the one that a run did; None stands for what is not known."""
    rows = []
    for each in result.get("finetunes") or ([result] if "finetune" in result else []):
        tuned, peak = each["finetune"], each["peak_bytes"]
        before, after = (tuned[key] if tuned[key] is None else f"{tuned[key]:.3f}" for key in LOSSES)
        cells = {
            "trained": f"{tuned['trained_parameters']:,}",
            "of all": f"{tuned['trained_parameters'] / tuned['all_parameters']:.2%}",
            "memory": None if peak is None else megabytes(peak),
            "loss before": before,
            "after": after,
            "frozen model": "unchanged" if tuned["base_unchanged"] else "CHANGED",
        }
        name = f"{ADAPTERS[tuned['method']]}, rank {tuned['rank']}"
        rows.append({"name": name, "where": f"{each['steps']} steps on {tuned['base']}", "cells": cells})
    return rows


def against_baselines(loss: float | None, baselines: Mapping[str, float]) -> str:
    """The validation loss relative to the best baseline; empty where one of them is missing."""
    if loss is None or not baselines:
        return ""
    name = min(baselines, key=baselines.__getitem__)
    distance = baselines[name] - loss
    return f"{abs(distance):.2f} {'below' if distance > 0 else 'above'} {name}"


def number(value: float) -> str:
    """Three significant digits and a unit from ten thousand on: 12.3 M."""
    rounded = float(f"{value:.3g}")
    for least, size, unit in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if rounded >= least:
            return f"{rounded / size:.3g} {unit}"
    return f"{value:,.0f}"


def megabytes(size: int) -> str:
    """Bytes in megabytes."""
    return f"{size / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, to the relevant precision."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def milliseconds(value: float) -> str:
    """Milliseconds with three significant digits."""
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def bound(check: Mapping[str, Any]) -> str:
    """A check's value, or "not measured"."""
    if check["value"] is None:
        return NOT_MEASURED
    return f"{check['value']:.4g} {check['unit']}".strip()
