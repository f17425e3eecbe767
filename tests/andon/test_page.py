"""The report: what it says, that it needs nothing but itself, and that it draws."""

import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from andon.gates.report.render import render_json
from andon.gates.verdict import Check, Verdict
from andon.log import LogError
from andon.report.page import ReportError, duration, milliseconds, number, render_report
from andon.sealing import seal
from andon.tracing.record import open_trace

RESULT = {
    "run": "demo",
    "started": "2026-11-22 18:04",
    "seconds": 161.4,
    "steps": 6,
    "tokens": 7_340_000,
    "parameters": 7_312_640,
    "train_loss": 2.61,
    "validation_loss": 2.664,
    "bits_per_byte": 1.132,
    "tokens_per_second": 45_512.3,
    "skipped_steps": 1,
    "exit": 0,
    "torch": "2.13.0",
    "threads": 2,
    "processor": "a processor",
    "baselines": {"Kneser-Ney bigram": 3.871, "Kneser-Ney trigram": 3.102},
    "samples": ["def f():\n    return 1\n"],
    "command": "andon demo",
}
PASSED = Check(
    "demo.loss", "andon demo", 1.0, 2.664, "nats", "<", 3.871, "below a bigram", "train longer", "pass", "", 0
)
FAILED = Check(
    "demo.copy", "andon demo -x", None, 64, "tokens", "<", 60, "by heart", "more data", "red", "line 7 <b>", 1
)
UNKNOWN = Check("demo.resume", "nox -s tier3", None, None, "", "==", 1, "bit for bit", "nox -s tier3")


def verdict(*checks: Check) -> dict[str, Any]:
    """A verdict as the gates print it."""
    return json.loads(render_json(Verdict("demo", checks)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of six steps, one of them skipped, traced, judged by nobody."""
    folder = tmp_path / "demo"
    folder.mkdir()
    records = []
    with open_trace(folder / "trace.jsonl", "demo", {}) as trace:
        for step in range(1, 7):
            with trace.span("train.step", step=step):
                for phase in ("forward", "backward"):
                    with trace.span(phase):
                        sum(range(10_000))
            loss = math.nan if step == 3 else 8 / step
            seconds = {"forward": 0.1, "backward": 0.3}
            record = {"step": step, "loss": loss, "grad_norm": 1 / step, "learning_rate": 1e-3 / step}
            records.append({"kind": "step", **record, "skipped": step == 3, "seconds": seconds})
        with trace.span("validation"):
            records.append({"kind": "validation", "step": 6, "loss": 1.5, "bits_per_byte": 0.9})
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "result.json").write_bytes(seal(RESULT))
    (folder / "config.json").write_text(json.dumps({"model": {"hidden_size": 256, "rope_scaling": None}}))
    return folder


class Page(HTMLParser):
    """Elements with their attributes, and the text that a reader sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = False
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the element."""
        self.elements.append((tag, dict(attrs)))
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        """Text counts again after a script."""
        self._hidden = self._hidden and tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        """Keep what is shown."""
        if not self._hidden:
            self.words.append(data)


def tags(page: Page) -> list[str]:
    """The names of all elements, in order."""
    return [tag for tag, _ in page.elements]


@pytest.mark.tier2
def test_it_shows_the_run(run: Path) -> None:
    """Behavior: key figures, the distance to the best baseline, phases, samples, machine, commands, configuration."""
    path = render_report(run, verdict(PASSED))
    text = Page(path).text
    assert run / "report.html" == path
    for words in (
        "Pass demo PASS: all (1 of 1 checks pass)",
        "validation loss 2.664 0.44 below Kneser-Ney trigram",
        "training loss 2.610",
        "bits per byte 1.132",
        "tokens per second 45.5 k",
        "parameters 7.31 M",
        "duration 2 min 41 s",
        "steps 6 1 skipped",
        "Red ticks: 1 skipped, not finite.",
        "A typical step: number ",
        "forward 0.6 s backward 1.8 s validation 1 times, ",
        "pass demo.loss below a bigram 2.664 nats < 3.871 andon demo",
        "def f(): return 1",
        "This run andon demo",
        f"andon trace replay {run} --otlp http://localhost:4318",
        "processor a processor threads 2 torch 2.13.0",
        "hidden_size 256 rope_scaling null",
    ):
        assert words in text


@pytest.mark.tier2
def test_it_shows_what_was_fine_tuned(run: Path) -> None:
    """Behavior: a row for each adapter: share, memory, losses, and whether the frozen model is what it was."""
    tuned: dict[str, Any] = {"method": "lora", "rank": 8, "base": "demo/checkpoints/step-6", "base_unchanged": True}
    tuned |= {"trained_parameters": 1000, "all_parameters": 50_000, "loss_before": 3.5, "loss_after": 3.25}
    row = {"finetune": tuned, "steps": 60, "peak_bytes": 12_345_678}
    broken: dict[str, Any] = {"finetune": tuned | {"method": "qlora", "base_unchanged": False, "loss_after": None}}
    broken |= {"steps": 3, "peak_bytes": None}
    (run / "result.json").write_bytes(seal(RESULT | {"finetunes": [row, broken]}))
    text = Page(render_report(run, verdict(PASSED))).text
    where = "steps on demo/checkpoints/step-6"
    assert f"LoRA, rank 8 60 {where} 1,000 2.00% 12.3 MB 3.500 3.250 unchanged" in text
    assert f"QLoRA, in 4 bits, rank 8 3 {where} 1,000 2.00% not measured 3.500 not measured CHANGED" in text
    assert "Training the whole model" not in text
    (run / "result.json").write_bytes(seal(RESULT | {"finetunes": [row], "peak_bytes": 59_000_000}))
    assert "Training the full model took 59.0 MB." in Page(render_report(run, None)).text
    (run / "result.json").write_bytes(seal(RESULT | row))
    assert f"60 {where}" in Page(render_report(run, None)).text
    (run / "result.json").write_bytes(seal(RESULT))
    assert "Fine-tuned" not in Page(render_report(run, None)).text


@pytest.mark.tier2
def test_what_was_not_measured_is_never_a_number(run: Path) -> None:
    """Behavior: a run that was killed shows no figure, no typical step and no configuration, and says why."""
    for name in ("result.json", "config.json", "trace.jsonl"):
        (run / name).unlink()
    page = Page(render_report(run, None))
    for label in ("validation loss", "training loss", "bits per byte", "tokens per second", "parameters", "duration"):
        assert f"{label} not measured" in page.text
    assert 8 == tags(page).count("dt") - 3 == page.text.split("Loss")[0].count("not measured")
    assert "Not judged No gate has judged this run. There is no result.json" in page.text
    assert "A step's timeline was not measured: the run was not traced." in page.text
    assert "No sample was generated." in page.text
    assert "torch not recorded" in page.text
    assert "details" not in tags(page)


@pytest.mark.tier2
def test_a_run_without_a_step(tmp_path: Path) -> None:
    """Behavior: nothing is plotted where nothing was logged."""
    (tmp_path / "log.jsonl").touch()
    page = Page(render_report(tmp_path, None))
    assert "Loss No step was logged." in page.text
    assert [] == [attributes for _, attributes in page.elements if "data-plot" in attributes]


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("checks", "lamp", "headline"),
    [
        ((PASSED,), "lamp-green", "Pass demo PASS: all (1 of 1 checks pass)"),
        ((PASSED, FAILED, UNKNOWN), "lamp-red", "Red demo RED: demo.copy (1 of 3 checks pass)"),
        ((PASSED, UNKNOWN), "lamp-amber", "Not measured demo NOT MEASURED: demo.resume (1 of 2 checks pass)"),
    ],
)
def test_the_verdict_of_the_gates(run: Path, checks: tuple[Check, ...], lamp: str, headline: str) -> None:
    """Reference: the gates' JSON. One lamp is lit, and a check that does not pass shows what was found."""
    page = Page(render_report(run, verdict(*checks)))
    assert lamp in [attributes["class"] for tag, attributes in page.elements if tag == "header"]
    assert headline in page.text
    assert (FAILED in checks) == ("red demo.copy by heart 64 tokens < 60 andon demo -x line 7 <b>" in page.text)
    assert (UNKNOWN in checks) == ("not measured demo.resume bit for bit not measured == 1 nox -s tier3" in page.text)


@pytest.mark.tier2
def test_hostile_text_stays_text(run: Path) -> None:
    """Behavior: markup in samples, in a baseline's name, in the configuration or in a check adds no element."""
    plain = tags(Page(render_report(run, verdict(PASSED))))
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    result = RESULT | {
        "samples": [hostile],
        "baselines": {hostile: 3.0, "b": 2.0},
        "command": hostile,
        "started": hostile,
    }
    (run / "result.json").write_bytes(seal(result))
    (run / "config.json").write_text(json.dumps({hostile: {hostile: hostile, "b": 1}}))
    page = Page(render_report(run, verdict(replace(PASSED, name=hostile))))
    assert plain == tags(page)
    assert html.unescape(hostile) in page.text


@pytest.mark.tier2
def test_it_needs_nothing_but_itself(run: Path) -> None:
    """Behavior: no element and no style names another resource, and the browser is told to fetch none."""
    path = render_report(run, verdict(PASSED))
    page = Page(path)
    named = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    policies = [
        attributes["content"] for tag, attributes in page.elements if tag == "meta" and "http-equiv" in attributes
    ]
    assert ["data:,"] == named
    assert ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"] == policies
    assert [] == re.findall(r"@import|url\(", path.read_text())
    assert "Copyright (c) 2022 Leon Sorokin" in path.read_text()


@pytest.mark.tier2
@pytest.mark.parametrize("name", ["result.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_file_is_named_and_the_last_report_stays(run: Path, name: str, content: str) -> None:
    """Behavior: a file that is not a JSON object is one clear error, and the report written before is still whole."""
    before = render_report(run, None).read_bytes()
    (run / name).write_text(content)
    with pytest.raises(ReportError, match=rf"{name}.*remove it to report on the rest"):
        render_report(run, None)
    assert before == (run / "report.html").read_bytes()


@pytest.mark.tier2
def test_a_reader_never_sees_half_a_report(run: Path) -> None:
    """Behavior: whoever has the last report open keeps all of it while the next one is written."""
    path = render_report(run, None)
    before = path.read_text()
    with path.open() as reading:
        render_report(run, verdict(PASSED))
        assert before == reading.read()
    assert before != path.read_text()


@pytest.mark.tier2
def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    """Behavior: the error says that this is not a run's folder, and nothing is written there."""
    with pytest.raises(LogError, match=r"log\.jsonl does not exist, so .* is not a run's folder"):
        render_report(tmp_path, None)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.tier2
def test_figures_read_well() -> None:
    """Behavior: three significant digits with a unit, also where rounding reaches the next one."""
    assert ["9,990", "10 k", "1 M", "12.3 M", "1.24 B"] == [
        number(value) for value in (9_990, 10_000, 999_900, 12_340_000, 1_236_000_000)
    ]
    assert ["3.2 s", "2 min 41 s", "1 h 01 min"] == [duration(value) for value in (3.21, 161.4, 3_671)]
    assert ["0.123 ms", "12.3 ms", "1234 ms"] == [milliseconds(value) for value in (0.1234, 12.34, 1234.4)]


PROBE = """<script>
const problems = [];
for (const kind of ["error", "securitypolicyviolation", "unhandledrejection"])
  addEventListener(kind, (event) => problems.push(String(event.message || event.type)));
addEventListener("load", () => {
  const accent = document.createElement("canvas").getContext("2d");
  accent.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  const wanted = [1, 3, 5].map((at) => parseInt(accent.fillStyle.slice(at, at + 2), 16));
  const colored = [...document.querySelectorAll(".plot canvas")].map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 0; i < data.length; i += 4)
      count += data[i + 3] === 255 && wanted.every((value, k) => Math.abs(data[i + k] - value) < 8);
    return count;
  });
  const wide = document.documentElement.scrollWidth - innerWidth;
  document.body.innerHTML = `<p id="probe">${JSON.stringify({ problems, colored, wide, wanted })}</p>`;
});
</script>
"""
SCHEMES = {"dark": 0, "light": 1}
ACCENTS = {"dark": [0x6C, 0xB0, 0xFF], "light": [0x0B, 0x63, 0xC5]}


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_browser_draws_it(run: Path, tmp_path: Path, scheme: str, width: int) -> None:
    """Behavior: in both palettes three curves are drawn, nothing complains, and nothing overflows the width."""
    long = replace(FAILED, detail="word " * 60, command="andon " + "x" * 200)
    page = render_report(run, verdict(PASSED, long, UNKNOWN))
    page.write_text(page.read_text().replace("<title>", PROBE + "<title>"))
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    looks = [f"--window-size={width},2000", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
    command = ["chromium", *quiet, *looks, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = json.loads(html.unescape(re.findall(r'<p id="probe">(.*)</p>', dumped)[-1]))
    assert ACCENTS[scheme] == found["wanted"]
    assert [] == found["problems"]
    assert 3 == len(found["colored"])
    assert min(found["colored"]) > 50
    assert found["wide"] <= 0
