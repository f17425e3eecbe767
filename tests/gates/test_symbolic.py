"""The symbolic measure: what is proved, what is not, and contracts that say nothing."""

import os
import signal
from pathlib import Path

import pytest

from andon.gates.evidence import read_evidence
from andon.gates.measures import symbolic

MODULE = "def half(n):\n    return n // 2\n"
CONTRACTS = """
import proved_module
from andon.gates.measures.symbolic import Contract


def a_proof(n: int) -> None:
    assert 0 <= n <= 1 << 40
    assert 0 <= n - 2 * proved_module.half(n) <= 1


def a_mistake(n: int) -> None:
    assert 0 <= n <= 1 << 40
    assert proved_module.half(n) * 2 == n


def for_nobody(n: int) -> None:
    assert n > 10
    assert n < 5
    assert proved_module.half(n) == 3


def of_any_body(n: int) -> None:
    assert 0 <= n <= 1 << 40
    assert isinstance(proved_module.half(n), int)


CONTRACTS = tuple(Contract(each, proved_module, "n // 2", "n // 3") for each in ({}))
"""


def write_contracts(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> str:
    """A package with these of the contracts above; its name."""
    package = folder / f"contracts_{'_'.join(names)}"
    package.mkdir()
    (folder / "proved_module.py").write_text(MODULE)
    (package / "__init__.py").touch()
    (package / "contracts.py").write_text(CONTRACTS.replace("({})", f"({', '.join(names)},)"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    return package.name


@pytest.mark.tier3
@pytest.mark.parametrize(
    ("name", "code", "metric"),
    [
        ("a_proof", 0, "confirmed"),
        ("a_mistake", 1, "refuted"),
        ("for_nobody", 1, "vacuous"),
        ("of_any_body", 1, "vacuous"),
    ],
)
def test_only_what_is_proved_and_can_be_refuted_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, metric: str
) -> None:
    """Behavior: a counterexample, a precondition that nothing meets, and a contract of any body are red."""
    assert code == symbolic.main([write_contracts(tmp_path, monkeypatch, name), "--sources", "proved_module.py"])
    metrics = read_evidence("symbolic", tmp_path / "reports" / "evidence").metrics
    assert 1 == metrics[metric].value == metrics["contracts"].value
    assert code == metrics["unconfirmed"].value


@pytest.mark.tier2
def test_a_mutant_that_no_longer_applies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: text that is gone from the source is named, and never taken for a mutant that was refuted."""
    (contract,) = symbolic.collect(write_contracts(tmp_path, monkeypatch, "a_proof"))
    with pytest.raises(ValueError, match="'n // 5' occurs 0 times in proved_module, and must occur once"):
        symbolic.mutate(contract._replace(before="n // 5"))


@pytest.mark.tier2
def test_without_the_prover_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behavior: exit code 3, and a word that says so."""
    monkeypatch.setattr(symbolic, "find_spec", lambda name: None)
    assert 3 == symbolic.main(["tests.contracts"])
    assert "not measured: crosshair-tool is not installed" in capsys.readouterr().out


def dies() -> None:
    """What no process survives."""
    os._exit(0)


@pytest.mark.tier2
def test_a_process_that_gives_no_answer_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: whether it dies or does not come to an end, the contract is unproved, with the reason."""
    contract = symbolic.Contract(dies, symbolic, "", "")
    monkeypatch.setattr(symbolic, "_verdict", lambda holds, seconds: holds())
    assert ("unproved", "its process died") == symbolic.prove(contract)[1:3]
    monkeypatch.setattr(symbolic, "GRACE", 0.0)
    monkeypatch.setattr(symbolic, "_verdict", lambda holds, seconds: signal.pause())
    assert "no answer in 0 s" == symbolic.prove(contract, 0.0).words


@pytest.mark.tier2
@pytest.mark.parametrize(
    ("names", "state"),
    [
        (("CONFIRMED", "CANNOT_CONFIRM", "POST_FAIL"), "refuted"),
        (("CONFIRMED", "EXEC_ERR"), "refuted"),
        (("CANNOT_CONFIRM", "PRE_UNSAT"), "vacuous"),
        (("CONFIRMED", "CANNOT_CONFIRM"), "unproved"),
        (("CONFIRMED",), "confirmed"),
        ((), "vacuous"),
    ],
)
def test_the_worst_of_its_messages_is_a_contracts_state(names: tuple[str, ...], state: str) -> None:
    """Behavior: whatever is not a state of a proof is a counterexample, and no message at all is not a proof."""
    assert state == symbolic.worst((name, "words") for name in names)[0]
