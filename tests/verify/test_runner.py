"""The runner: each check's outcome is counted once, mistakes are explained, and nothing of the caller's changes."""

import contextlib
import inspect
import random
import re
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from andon.verify.access.calls import new_batch, new_model
from andon.verify.checks import CHECKS, Check
from andon.verify.errors import CheckFailed, NotApplicable, SubjectError, UnknownCheckError
from andon.verify.run import docstring, runner, selection
from andon.verify.run.explain import why
from andon.verify.run.report import BUDGET, UNFINISHED, Report
from andon.verify.run.target import load_one, subjects
from andon.verify.subject import Subject
from tests.verify.small import Small, batch, loss, small

pytestmark = pytest.mark.tier2


def passes(subject: Subject) -> None:
    """It holds.

    Silent because nobody looks.

    Look here.
    """


def reads(subject: Subject) -> None:
    """It holds.

    Silent because nobody looks.

    Look here.
    """
    subject.loss(new_model(subject), new_batch(subject))


class Poisoned(Small):
    """A weight is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.mix.weight.data[1] = float("nan")


class Overflows(Small):
    """Its weights are finite, and what they make is not."""

    def __init__(self) -> None:
        super().__init__()
        self.mix.bias.data.fill_(3e38)
        self.mix.weight.data.fill_(3e38)
        self.embed.weight.data.fill_(1.0)
        self.head.weight.data.fill_(3e38)


class Drops(Small):
    """Dropout that eval mode does not end."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits with holes."""
        return nn.functional.dropout(super().forward(tokens), 0.3)


def fails(_: Subject) -> None:
    """It does not hold.

    Silent because the loss falls all the same.

    Look at the mask.
    """
    raise CheckFailed("0.5 where 0.1 is allowed")


def declines(_: Subject) -> None:
    """It cannot be run."""
    raise NotApplicable("labels in the batch: name them")


def run(monkeypatch: pytest.MonkeyPatch, subject: Subject, *checks: Check, **options: Any) -> Report:
    """Run these checks in place of the table's."""
    monkeypatch.setattr(selection, "CHECKS", checks)
    return runner.check(subject, **options)


def test_each_check_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a check passes, is found, does not apply for want of a factory or by its own word, or is ignored."""
    report = run(
        monkeypatch,
        small(),
        Check("a.passes", passes),
        Check("a.fails", fails),
        Check("b.declines", declines),
        Check("b.lacks", passes, needs=("optimizer", "resume")),
        Check("c.ignored", fails),
        ignore={"c.ignored": "known"},
    )
    assert ("a.passes",) == report.passed
    assert ["a.fails"] == [finding.check for finding in report.findings]
    assert {"b.declines": "labels in the batch: name them", "b.lacks": "optimizer and resume"} == report.not_applicable
    assert {"c.ignored": "ignored: known"} == report.not_run
    assert "2 checked, 1 not run (ignored), 2 not applicable: optimizer + resume unlocks 1" == report.headline
    assert (True, 1) == (report.found, report.exit_code)


def test_a_finding_says_all_there_is_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: a finding holds the numbers, what is true of correct code, why it is silent and where to look."""
    finding = run(monkeypatch, small(), Check("a.fails", fails)).findings[0]
    assert finding[:5] == (
        "a.fails",
        "0.5 where 0.1 is allowed",
        "It does not hold.",
        "Silent because the loss falls all the same.",
        "Look at the mask.",
    )
    with pytest.raises(CheckFailed, match=r"0\.5 where 0\.1 is allowed"):
        run(monkeypatch, small(), Check("a.fails", fails)).raise_if_found()


def test_a_check_that_runs_out_of_time_is_not_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: the budget ends a check at its next forward pass, whatever it suppresses; without one, never."""

    def endless(subject: Subject) -> None:
        """It holds."""
        model, data, begun = new_model(subject), new_batch(subject), time.monotonic()
        while time.monotonic() < begun + 0.3:
            with contextlib.suppress(Exception):
                subject.loss(model, data)

    report = run(monkeypatch, small(), Check("a.endless", endless), Check("b.passes", passes), budget=0.1)
    assert {"a.endless": UNFINISHED, "b.passes": BUDGET} == report.not_run
    assert (3, 0) == (report.exit_code, report.checked)
    assert ("a.endless",) == run(monkeypatch, small(), Check("a.endless", endless)).passed


def test_checks_not_begun_in_time_are_not_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what the budget leaves out is said, and the exit code is 3 unless something was found."""
    seconds = iter(range(100))
    monkeypatch.setattr(runner.time, "monotonic", lambda: float(next(seconds)))
    checks = [Check(f"a.{index}", passes) for index in range(4)]
    report = run(monkeypatch, small(), *checks, budget=5.0)
    assert BUDGET in report.not_run.values()
    assert report.passed
    assert 4 == len(report.passed) + len(report.not_run)
    assert 3 == report.exit_code
    assert "not run (budget)" in report.headline
    found = run(monkeypatch, small(), Check("a.fails", fails), *checks, budget=5.0)
    assert (1, True) == (found.exit_code, BUDGET in found.not_run.values())


def test_where_nothing_applies_nothing_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: zero checks are not a pass."""
    assert 3 == run(monkeypatch, small(), Check("a.declines", declines)).exit_code


def test_variants_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: findings of another shape are named with it."""
    subject = small(variants={"wide": small(name="wide")})
    report = run(monkeypatch, subject, Check("a.passes", passes), Check("a.fails", fails))
    assert ["a.fails", "a.fails [wide]"] == [finding.check for finding in report.findings]
    assert ("a.passes", "a.passes [wide]") == report.passed


def test_the_first_finding_can_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: cheap tiers run first, and `first` runs nothing after a finding."""
    checks = Check("a.late", passes, tier=3), Check("a.fails", fails, tier=2), Check("a.early", passes)
    report = run(monkeypatch, small(), *checks, first=True)
    assert (("a.early",), {"a.late": "stopped at the first finding"}) == (report.passed, report.not_run)


def test_only_names_checks_or_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: an area stands for its checks; what is misspelled is refused with what is close; tiers leave out."""
    checks = Check("a.one", passes), Check("a.two", passes, tier=2), Check("b.three", passes)
    assert ("a.one", "a.two") == run(monkeypatch, small(), *checks, only=("a",)).passed
    assert ("b.three",) == run(monkeypatch, small(), *checks, only="b.three").passed
    assert ("a.one", "b.three") == run(monkeypatch, small(), *checks, tier=1).passed
    with pytest.raises(UnknownCheckError, match=r"'b\.thre' is neither a check nor an area; closest: b\.three"):
        run(monkeypatch, small(), *checks, only=("b.thre",))
    with pytest.raises(UnknownCheckError, match="neither a check nor an area"):
        run(monkeypatch, small(), *checks, ignore={"xyz": "never"})


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: before each check that runs its place, the total and its name."""
    told: list[tuple[int, int, str]] = []
    checks = Check("a.one", passes), Check("a.lacks", passes, needs=("loop",)), Check("a.two", passes)
    run(monkeypatch, small(), *checks, progress=lambda *each: told.append(each))
    assert [(0, 3, "a.one"), (2, 3, "a.two")] == told


def raises(*_: object) -> Any:
    """A user's function that fails."""
    raise KeyError("no such column")


def test_the_callers_model_and_state_stay_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: given a module and a batch themselves, checks work on copies and no global state moves."""

    def meddles(subject: Subject) -> None:
        model = new_model(subject).train()
        model.get_parameter("mix.weight").data.zero_()
        new_batch(subject)["tokens"].zero_()
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002 - the old state
        torch.manual_seed(5)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)

    model, data = Small(0.5).eval(), batch(torch.Generator().manual_seed(0))
    weights, tokens = {k: v.clone() for k, v in model.state_dict().items()}, data["tokens"].clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist()  # noqa: NPY002 - the old state
    subject = Subject(model=model, batch=data, loss=loss)
    report = run(monkeypatch, subject, Check("a.meddles", meddles))
    assert ("a.meddles",) == report.passed
    assert not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(tokens, data["tokens"])
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state(legacy=False)["state"]["key"].tolist())  # noqa: NPY002 - the old state
    assert torch.is_grad_enabled()
    assert torch.float32 == torch.get_default_dtype()
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_whole_table_leaves_the_callers_objects_alone() -> None:
    """Behavior: every check that applies leaves a given model, its gradients, mode and batch untouched."""
    model, data = Small(0.1).eval(), batch(torch.Generator().manual_seed(0))
    loss(model, data).backward()
    weights = {name: (p.clone(), p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    state = torch.get_rng_state()
    report = runner.check(Subject(model=model, batch=data, loss=loss), tier=1)
    assert [] == [finding for finding in report.findings if finding.mistake]
    assert not model.training
    assert torch.equal(state, torch.get_rng_state())
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert all(torch.equal(*pair) for pair in zip(weights[name], (p, p.grad), strict=True))


class Counts(nn.Module):
    """A model whose output depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = Small(), 0

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, V)."""
        self.calls += 1
        return self.inner(tokens) * self.calls


KEPT = Small()
MISTAKES: dict[str, tuple[Mapping[str, Any], str]] = {
    "no module": ({"model": lambda: {"weights": 1}}, r"Subject\.model\(\) returned dict, not a torch\.nn\.Module"),
    "the same module": ({"model": lambda: KEPT}, r"handed out the same module, or its parameters, twice"),
    "no tensor": ({"loss": lambda model, batch: 3.5}, r"returned float, not a tensor"),
    "no scalar": ({"loss": lambda model, batch: model(batch["tokens"])}, r"shape \(3, 6, 11\), not a scalar"),
    "raises": ({"batch": raises}, r"Subject\.batch raised KeyError: 'no such column'"),
    "lacks a package": ({"model": lambda: __import__("absent_package.part")}, "pip install absent_package"),
    "elsewhere": (
        {"batch": lambda generator: {k: v.to("meta") for k, v in batch(generator).items()}},
        r"puts 'tokens' on meta and the model is on cpu",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(monkeypatch: pytest.MonkeyPatch, mistake: str) -> None:
    """Behavior: what the user got wrong is explained once, however many checks there are, and is not a verdict."""
    parts, message = MISTAKES[mistake]
    checks = Check("a.one", new_model_twice), Check("a.two", passes)
    report = run(monkeypatch, small(**parts), *checks)
    finding, *more = report.findings
    assert finding.mistake
    assert [] == more
    with pytest.raises(SubjectError):
        report.raise_if_found()
    assert re.search(message, finding.message)
    assert 2 == report.exit_code


def new_model_twice(subject: Subject) -> None:
    """Two models are two."""
    first, second = new_model(subject), new_model(subject)
    assert first is not second


def test_the_line_of_the_users_own_code_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: an exception deep in a library is told with the user's line that led there."""

    def wrong(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return cross_entropy(model(batch["tokens"]), batch["labels"])  # the classes are last

    message = run(monkeypatch, small(loss=wrong), Check("a.passes", passes)).findings[0].message
    assert message.startswith("Subject.loss raised RuntimeError: Expected target size")
    assert "test_runner.py" in message
    assert "the classes are last" in message


def test_a_function_of_the_wrong_arguments_is_told_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: where a call does not fit the user's function, the message says what it is called with."""

    def no_argument() -> dict[str, Tensor]:
        return {}

    message = run(monkeypatch, small(batch=no_argument), Check("a.passes", passes)).findings[0].message
    assert "given; it is called as batch(generator: torch.Generator) -> batch" in message


def test_a_syntax_error_names_the_users_line() -> None:
    """Behavior: a module that Python cannot read is told by its own file and line, not by the line that imports it."""
    with pytest.raises(SyntaxError) as caught:
        compile("x = 1\nloss = (\n", "my_checks.py", "exec")
    said = why(caught.value)
    assert "SyntaxError: '(' was never closed" in said
    assert said.endswith("in my_checks.py, line 2: loss = (")


def test_a_model_that_does_not_repeat_itself_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behavior: what no seed makes repeat is a finding of its own, and no check is run that makes a forward pass."""
    report = run(monkeypatch, small(model=Counts), Check("a.passes", passes), Check("a.reads", reads))
    assert ["subject.repeats"] == [finding.check for finding in report.findings]
    assert (1, ("a.passes",), "follows from subject.repeats") == (
        report.exit_code,
        report.passed,
        report.not_run["a.reads"],
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model": Poisoned}, "is nan: mix.weight hold numbers that are not finite"),
        ({"model": Overflows}, "is nan: mix is the first module to return such numbers"),
        ({"loss": lambda model, batch: loss(model, batch) / 0}, "is inf: what the model returns is finite, and"),
    ],
)
def test_a_loss_that_is_not_finite_is_one_finding(parts: dict[str, Any], said: str) -> None:
    """Behavior: it names where the numbers begin, and what rests on forward passes is not measured."""
    report = runner.check(small(**parts), only=("loss", "determinism", "attention"))
    (finding,) = report.findings
    assert "subject.finite" == finding.check
    assert said in finding.message
    assert {"follows from subject.finite"} == set(report.not_run.values())


def test_weights_that_are_not_finite_are_the_cause() -> None:
    """Behavior: the check that names them comes first, though it was not asked, and all else follows."""
    for only in ((), ("attention", "initialization")):
        report = runner.check(small(model=Poisoned), only=only)
        assert [("initialization.finite", ("subject.finite",))] == [
            (each.check, each.follows) for each in report.findings
        ]


def test_randomness_in_eval_mode_is_one_finding() -> None:
    """Behavior: the check that names it comes first, asked or not; others that compare two passes follow."""
    for only in ((), ("attention", "loss")):
        report = runner.check(small(model=Drops), only=only)
        (finding,) = report.findings
        assert "determinism.eval" == finding.check
        assert {"attention.causality", "loss.definition"} <= set(finding.follows)
    ignored = runner.check(small(model=Drops), only=("attention",), ignore={"determinism.eval": "meant"})
    assert {"attention.causality"} == {each.check for each in ignored.findings}


def test_a_docstring_says_which_lights_a_check_can_turn() -> None:
    """Behavior: red; red or yellow with a paragraph that says where; yellow alone where it begins so."""

    def either(_: Subject) -> None:
        """It holds.

        Yellow where two optimizers share a model.
        """

    def alone(_: Subject) -> None:
        """It is usual.

        Yellow alone, as some mean it.
        """

    found = [docstring.lights(Check("a.b", function)) for function in (passes, either, alone)]
    assert [("red",), ("red", "yellow"), ("yellow",)] == found


def test_who_can_turn_yellow_says_so() -> None:
    """Behavior: a check whose source raises Unusual has the paragraph, and one that has it can raise."""
    for each in CHECKS:
        module = inspect.getsource(inspect.getmodule(each.function) or runner)
        if "Unusual(" in inspect.getsource(inspect.unwrap(each.function)):
            assert docstring.explain(each).yellow, each.name
        if docstring.explain(each).yellow:
            assert "Unusual" in module, each.name


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"hyperparameters": {"lr": 1.0}},
            "hyperparameters has an unknown key 'lr'; closest: learning_rate; known are",
        ),
        ({"hyperparameters": {"clip": 1.0}}, "unknown key 'clip'; closest: grad_clip; known are"),
        ({"hyperparameters": {"weight_decays": 1.0}}, "unknown key 'weight_decays'; closest: weight_decay; known are"),
        ({"roles": {"token": "x"}}, "roles has an unknown key 'token'"),
        ({"optimizer": torch.nn.Linear}, ""),
        ({"optimizer": 3}, "optimizer is int, not a function"),
        ({"model": None}, "model is NoneType, not a function"),
    ],
)
def test_a_subject_refuses_what_no_check_can_use(parts: Mapping[str, Any], message: str) -> None:
    """Behavior: misspelled keys and values in place of functions are refused where they are written."""
    if not message:
        small(**parts)
        return
    with pytest.raises(SubjectError, match=message):
        small(**parts)


@pytest.mark.parametrize("value", [Small(), 3, None])
def test_what_is_not_a_subject_is_explained(value: object) -> None:
    """Behavior: a plain model is told what is missing."""
    with pytest.raises(SubjectError, match=r"Subject\(model="):
        runner.check(value)  # ty: ignore[invalid-argument-type]


def test_a_variant_that_is_not_a_subject_is_named() -> None:
    """Behavior: the message says which of the variants it is, and what is missing."""
    with pytest.raises(SubjectError, match=r"variants\['wide'\]: Small is a model; checks also need a batch"):
        runner.check(small(variants={"wide": Small()}))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: small, r"subject\(\) returned function; return a Subject"),
        (lambda: 1 / 0, r"subject\(\) gave no subject: .*ZeroDivisionError"),
        ("tests.verify.small", "does not name a subject; write package.module:subject"),
        ("tests.verify.small:smal", "has no 'smal'; it has .*small"),
    ],
    ids=["function", "failure", "no attribute", "another attribute"],
)
def test_what_gives_no_subject_is_explained(value: Any, said: str) -> None:
    """Behavior: a function that returns none, one that fails, and a name that is none, each in a sentence."""
    with pytest.raises(SubjectError, match=said):
        subjects(value)


def test_a_subject_is_found_by_its_name() -> None:
    """Behavior: text is imported, within a mapping too."""
    assert ["one small"] == [
        f"{name} {each.name}" for name, each in subjects({"one": "tests.verify.small:small"}).items()
    ]


FAMILY = {"x": {"one": small, "two": small(name="other")}, "y": small, 3: {"alone": small}}


def test_a_dict_of_dicts_is_all_their_subjects() -> None:
    """Behavior: each is named by its keys, and each can be had alone, by its name or by a target with keys."""
    assert ["x.one", "x.two", "y", "3"] == list(subjects(FAMILY))
    here = f"{__name__}:FAMILY"
    assert {"x.one": "small", "x.two": "other", "y": "small", "3": "small"} == {
        name: load_one(here, name).name for name in subjects(FAMILY)
    }
    assert ["one", "two"] == list(subjects(f"{here}[x]"))
    assert [["other"], ["small"], ["small"]] == [
        list(subjects(f"{here}{keys}")) for keys in ("[x][two]", "[y]", "[3][alone]")
    ]


PREFIXES = {"a": {"x": small(name="a-x"), "y": small}, "a.b": small(name="a-b"), "b.c": small, "b.c.d": FAMILY}


def several() -> dict[str, Subject]:
    """A factory of two subjects."""
    return {"one": small(name="first"), "two": small(name="second")}


@pytest.mark.parametrize(
    ("target", "name", "expected"),
    [
        ("PREFIXES", "a.x", "a-x"),
        ("PREFIXES", "a.b", "a-b"),
        ("PREFIXES", "b.c.d.x.two", "other"),
        ("several", "two", "second"),
        ("small", "small", "small"),
    ],
)
def test_the_longest_key_names_a_subject(target: str, name: str, expected: str) -> None:
    """Behavior: a key with a dot in it is taken whole, whatever shorter key stands before it."""
    assert expected == load_one(f"{__name__}:{target}", name).name


@pytest.mark.parametrize(
    ("target", "name", "there"),
    [
        ("PREFIXES", "a.z", "x, y"),
        ("PREFIXES", "a", "a.x, a.y"),
        ("FAMILY", "y.more", "y"),
        ("several", "three", "one, two"),
        ("several", "several", "one, two"),
        ("small", "big", "small"),
    ],
)
def test_a_name_that_no_subject_has_is_refused(target: str, name: str, there: str) -> None:
    """Behavior: no other subject is given in its place, not even the only one; the message lists those there are."""
    with pytest.raises(SubjectError, match=f"there is no .*; there are {there}$"):
        load_one(f"{__name__}:{target}", name)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("[z]", r"FAMILY\[z\]: there is no 'z'; there are x, y, 3"),
        ("[x][three]", "there is no 'three'; there are one, two"),
        ("[y][one]", r"FAMILY\[y\]\[one\]: \[one\] is one of a dict, and this is Subject"),
        ("[x", "does not name a subject; write package.module:subject"),
    ],
)
def test_a_key_that_is_not_there_is_refused_with_those_that_are(keys: str, message: str) -> None:
    """Behavior: a wrong key, a key of what is not a dict, and a bracket that is not closed, each in a sentence."""
    with pytest.raises(SubjectError, match=message):
        subjects(f"{__name__}:FAMILY{keys}")


def test_every_check_explains_itself() -> None:
    """Behavior: each line of the table has a name area.what, a sentence, why it is silent, and where to look."""
    names = [each.name for each in CHECKS]
    assert len(set(names)) == len(names)
    for each in CHECKS:
        about = docstring.explain(each)
        assert all((about.title, about.silent, about.look)), each.name
        assert each.name.count(".") == 1
        assert each.tier in (1, 2, 3)
        assert set(each.needs) <= set(Subject.__dataclass_fields__)
        assert each is selection.named(each.name)
