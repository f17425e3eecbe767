"""What carries a digest is compared before it is used, whichever verb uses it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from andon.core.files.folders import checkpoints
from andon.core.files.sums import SUMS
from andon.core.formats.peft import write_adapter
from andon.gates.evidence import Evidence, EvidenceError, Metric, read_evidence, write_evidence
from andon.runs.models import load_any_model
from tests.andon.test_bad_input import refused
from tests.tuning import andon, tune

pytestmark = pytest.mark.tier3

ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def tuned(trained: Path) -> Path:
    """The same folder, with a fine-tune in `tuned`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(trained)
        result = tune("lora", "--model", "base", "--data", "corpus", "--out", "tuned")
    assert 0 == result.exit_code, result.output
    return trained


@pytest.fixture
def run(tuned: Path, tuning: Path) -> Path:
    """A copy of that fine-tune's run, to be spoilt."""
    shutil.copytree(tuned / "tuned", tuning / "run")
    return tuning / "run"


def flip(path: Path, place: int = -5) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


VERBS = (
    ("generate", "--model", "run", "--max-new-tokens", "2"),
    ("merge", "--model", "run", "--out", "out"),
    ("export", "--model", "run", "--format", "peft", "--out", "out"),
)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_damaged_adapter_is_used_by_no_verb(verb: tuple[str, ...], run: Path) -> None:
    """Behavior: one bit, or another step's adapter in its place, is named before anything is made of it."""
    newest, before = checkpoints(run / "checkpoints")[:2]
    whole = (newest / ADAPTER).read_bytes()
    flip(newest / ADAPTER)
    refused(andon(*verb), f"{ADAPTER}: SHA-256")
    shutil.copyfile(before / ADAPTER, newest / ADAPTER)
    refused(andon(*verb), f"{ADAPTER}: SHA-256")
    assert not Path("out").exists()
    (newest / ADAPTER).write_bytes(whole)
    assert 0 == andon(*verb).exit_code


@pytest.mark.parametrize(
    "verb",
    [
        ("export", "--model", "base", "--out", "out"),
        ("merge", "--model", "run", "--out", "out"),
        ("import", "--model", "base", "--out", "out"),
    ],
    ids=lambda verb: verb[0],
)
def test_what_is_written_is_vouched_for(verb: tuple[str, ...], run: Path) -> None:
    """Behavior: every file stands in SHA256SUMS, a flipped bit is named, and so is a file of weights beside them."""
    assert 0 == andon(*verb).exit_code
    out = run.parent / "out"
    listed = {line.split()[1] for line in (out / SUMS).read_text().splitlines()}
    assert {path.name for path in out.iterdir()} - {SUMS} == listed
    said = andon("generate", "--model", "out", "--max-new-tokens", "2")
    assert 0 == said.exit_code
    assert "vouches" not in said.output
    shutil.copyfile(out / "model.safetensors", out / "more.safetensors")
    refused(andon("generate", "--model", "out"), f"more.safetensors: is not listed in {SUMS}")
    (out / "more.safetensors").unlink()
    flip(out / "model.safetensors")
    refused(andon("generate", "--model", "out"), "model.safetensors: SHA-256", SUMS)
    (out / SUMS).write_text("0" * 64 + "  ../secret\n")
    refused(andon("generate", "--model", "out"), f"{SUMS} line 1: is not")


def test_a_model_without_sums_is_said_once(run: Path) -> None:
    """Behavior: it is used, and one line says that nothing vouches for it."""
    assert 0 == andon("export", "--model", "base", "--out", "out").exit_code
    (run.parent / "out" / SUMS).unlink()
    said = andon("generate", "--model", "out", "--max-new-tokens", "2")
    assert 0 == said.exit_code
    assert 1 == said.output.count(f"nothing vouches for these files: there is no {SUMS}")


def test_an_adapter_of_equal_content_has_equal_bytes(run: Path, tmp_path: Path) -> None:
    """Behavior: however often it is written; the library alone orders its metadata in another way each time."""
    model, _ = load_any_model(run)
    found = set()
    for number in range(12):
        (tmp_path / f"{number}").mkdir()
        write_adapter(model, tmp_path / f"{number}", "default", "base")
        found.add((tmp_path / f"{number}" / ADAPTER).read_bytes())
    assert 1 == len(found)


def test_a_changed_digit_of_evidence_is_no_evidence(tmp_path: Path) -> None:
    """Behavior: what was measured as 71.5 is not believed as 91.5."""
    path = write_evidence(Evidence("cover", "c", 1.0, {}, {"lines": Metric(71.5, "%")}), tmp_path)
    assert 71.5 == read_evidence("cover", tmp_path).metrics["lines"].value
    path.write_text(path.read_text().replace("71.5", "91.5"))
    with pytest.raises(EvidenceError, match=r"cover\.json is not valid evidence \(does not match its own SHA-256"):
        read_evidence("cover", tmp_path)


def test_a_changed_job_or_result_is_named(run: Path) -> None:
    """Behavior: finetune.json decides the base, result.json is reported on: neither is believed once it was edited."""
    job = run / "finetune.json"
    job.write_text(job.read_text().replace('"lora"', '"qlora"'))
    refused(andon("generate", "--model", "run"), "finetune.json: is damaged (does not match its own SHA-256")
    result = run / "result.json"
    result.write_text(result.read_text().replace('"steps": ', '"steps": 1'))
    told = json.loads(andon("doctor", "run", "--json").output)
    assert any("result.json" in each["where"] and "SHA-256" in each["what"] for each in told)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(value: float, run: Path) -> None:
    """Behavior: neither generated from nor exported, but named; so is a cast in which they are not finite."""
    from safetensors.torch import load_file, save_file

    assert 0 == andon("export", "--model", "base", "--out", "out").exit_code
    file = run.parent / "out" / "model.safetensors"
    (file.parent / SUMS).unlink()
    weights = load_file(file)
    weights["model.norm.weight"][1] = 1e30
    save_file(weights, file)
    refused(andon("export", "--model", "out", "--out", "half", "--dtype", "float16"), "model.norm.weight as float16")
    weights["model.norm.weight"][1] = value
    save_file(weights, file)
    for verb in (("generate",), ("export", "--out", "again")):
        refused(andon(*verb, "--model", "out"), "model.norm.weight", "holds NaN or inf")
    assert not Path("again").exists()
