"""`python drivers.py OUT TOOL,TOOL -m package.train ...`: a program with the lines of tools' READMEs in their places.

The places are found by hooks, so that the program need not be edited: before training (a copy of model and optimizer
with the first batch), before and after each optimizer step, at the end. OUT gets what each tool said, a line an alarm.
Runs in the environment of the detectors, and imports nothing of ours.
"""

import contextlib
import copy
import importlib
import inspect
import io
import json
import os
import pkgutil
import re
import runpy
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

BAD = re.compile(r"\b(FAIL|FAILED|WARN|WARNING|ERROR|CRITICAL)\b|[✗✘⚠❌]")


def bad_lines(text: str) -> list[str]:
    """The lines of a report that are no pass."""
    kept = [" ".join(line.split()) for line in text.splitlines()]
    return [line for line in kept if BAD.search(line)]


class Tool:
    """Does nothing; the tools do something at some of these places."""

    speaks_between = False  # prints within the program's own calls

    def __init__(self) -> None:
        self.alarms: list[str] = []

    def start(self, model: nn.Module, optimizer: Optimizer, first: SimpleNamespace) -> None:
        """Before the first backward pass."""

    def before_step(self, step: int, loss: float, norm: float, rate: float) -> None:
        """With gradients as they go into the step."""

    def after_step(self, step: int, loss: float, norm: float, rate: float) -> None:
        """After the step."""

    def end(self) -> None:
        """When the program has ended."""


class Torchtest2(Tool):
    def start(self, model, optimizer, first):
        import torchtest2

        report = torchtest2.check_model(
            first.model, first.inputs, first.labels, loss_fn=first.loss, optimizer=first.optimizer
        )
        self.alarms += bad_lines(str(report))


class Torchtest(Tool):
    def start(self, model, optimizer, first):
        from torchtest import assert_vars_change, test_suite

        batch = [first.inputs, first.labels]
        for name, check in {
            "parameters change": lambda: assert_vars_change(first.model, first.loss, first.optimizer, batch, "cpu"),
            "suite": lambda: test_suite(
                first.model, first.loss, first.optimizer, batch, test_nan_vals=True, test_inf_vals=True, device="cpu"
            ),
        }.items():
            try:
                check()
            except Exception as error:
                self.alarms.append(f"{name}: {type(error).__name__}: {error}")


class Torcheck(Tool):
    def start(self, model, optimizer, first):
        import torcheck

        torcheck.register(optimizer)
        torcheck.add_module_changing_check(model, module_name="model")
        torcheck.add_module_output_range_check(model, output_range=(0, 1), negate_range=True, module_name="model")
        torcheck.add_module_nan_check(model, module_name="model")
        torcheck.add_module_inf_check(model, module_name="model")


class Guardtower(Tool):
    def start(self, model, optimizer, first):
        import guardtower

        report = guardtower.audit(
            first.model,
            lambda: first.loss(first.forward(), first.labels),
            optimizer=first.optimizer,
            inputs=first.inputs,
        )
        self.alarms += bad_lines(str(report))


class Torchmortem(Tool):
    def start(self, model, optimizer, first):
        from torchmortem import Autopsy

        self.autopsy = Autopsy(model, optimizer=optimizer)
        self.autopsy.__enter__()

    def after_step(self, step, loss, norm, rate):
        self.autopsy.step(loss=loss)

    def end(self):
        self.autopsy.__exit__(None, None, None)
        for finding in self.autopsy.get_report().findings:
            severity = getattr(finding.severity, "name", str(finding.severity))
            if severity.upper() != "INFO":
                self.alarms.append(f"{severity} {finding.title}")


class TorchAudit(Tool):
    def start(self, model, optimizer, first):
        from torch_audit import autopatch

        self.auditor = autopatch(model, optimizer=optimizer, every_n_steps=1, run_static=True, run_init=True)

    def end(self):
        result = self.auditor.finish(report=False)
        for finding in result.findings:
            self.alarms.append(f"{finding.rule_id} {finding.message}")


class Torchdiag(Tool):
    def start(self, model, optimizer, first):
        import torchdiag

        self.model = model
        torchdiag.check_dead_neurons(first.model, first.inputs)
        torchdiag.verify_step(first.model, first.optimizer, first.loss, first.inputs, first.labels)

    def before_step(self, step, loss, norm, rate):
        import torchdiag

        if step == 0:
            torchdiag.check_gradients(self.model)


class Trainpulse(Tool):
    def start(self, model, optimizer, first):
        from trainpulse import Monitor

        self.monitor = Monitor()

    def after_step(self, step, loss, norm, rate):
        self.monitor.log("loss", step, loss)
        self.monitor.log("grad_norm", step, norm)
        self.monitor.log("learning_rate", step, rate)

    def end(self):
        self.alarms.extend(str(getattr(alert, "message", alert)) for alert in self.monitor.alerts)


class Traintools(Tool):
    def start(self, model, optimizer, first):
        from traintools import BatchInspector, GradientHealthMonitor

        self.model, self.health = model, GradientHealthMonitor(max_grad_norm=1.0)
        self.told(BatchInspector().inspect(first.inputs, first.labels, step=0))

    def told(self, report):
        if not report.ok:
            self.alarms.append(str(report))

    def before_step(self, step, loss, norm, rate):
        self.told(self.health.inspect(self.model, step=step, lr=rate))


class Gradsnitch(Tool):
    def start(self, model, optimizer, first):
        import gradsnitch

        self.monitor = gradsnitch.watch(model, optimizer)

    def before_step(self, step, loss, norm, rate):
        self.monitor.log(step, loss)

    def end(self):
        found = self.monitor.report()
        self.alarms.extend(map(str, found if isinstance(found, list) else []))


class TrainingDoctor(Tool):
    def start(self, model, optimizer, first):
        from training_doctor import Doctor

        self.doctor = Doctor()

    def after_step(self, step, loss, norm, rate):
        self.doctor.log(step=step, loss=loss, lr=rate, grad_norm=norm)

    def end(self):
        self.alarms.extend(str(getattr(found, "title", found)) for found in self.doctor.diagnoses)


class Nndiagnostics(Tool):
    speaks_between = True

    def start(self, model, optimizer, first):
        from diagnostics import maybe_register_inf_check_hooks

        maybe_register_inf_check_hooks(model)


class AnomalyMode(Tool):
    speaks_between = True

    def start(self, model, optimizer, first):
        torch.autograd.set_detect_anomaly(mode=True)


TOOLS: dict[str, type[Tool]] = {
    "torchtest2": Torchtest2,
    "torchtest": Torchtest,
    "torcheck": Torcheck,
    "guardtower": Guardtower,
    "torchmortem": Torchmortem,
    "torch-audit": TorchAudit,
    "torchdiag": Torchdiag,
    "trainpulse": Trainpulse,
    "traintools": Traintools,
    "gradsnitch": Gradsnitch,
    "training-doctor": TrainingDoctor,
    "nndiagnostics": Nndiagnostics,
    "anomaly mode": AnomalyMode,
}


class Places:
    """Finds the places in a run, and has each tool do there what its README says."""

    def __init__(self, tools: list[Tool]) -> None:
        self.tools, self.started, self.inside = tools, False, False
        self.model: nn.Module | None = None
        self.inputs: tuple[Any, ...] = ()
        self.optimizer: Optimizer | None = None
        self.losses: list[float] = []
        self.step, self.told = 0, (0.0, 0.0, 0.0)
        self.first: Any = None  # the program's loss function, and the labels of its first batch

    def each(self, place: str, *given: Any) -> None:
        """Have each tool do its part; what it prints or raises is what it says."""
        self.inside = True
        own = [
            self.copies() if place == "start" else given for _ in self.tools
        ]  # before any tool hangs hooks on the model
        for tool, arguments in zip(self.tools, own, strict=True):
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                    getattr(tool, place)(*arguments)
            except Exception as error:
                tool.alarms.append(f"{type(error).__name__}: {error}")
            tool.alarms += bad_lines(printed.getvalue())
        self.inside = False

    def copies(self) -> tuple[Any, ...]:
        """The program's model and optimizer, and copies with the first batch, so that a pre-flight check may train."""
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        loss, labels = self.first
        inputs = self.inputs[0] if len(self.inputs) == 1 else self.inputs
        first = SimpleNamespace(
            model=model,
            optimizer=optimizer,
            inputs=inputs,
            labels=labels,
            loss=lambda output, target: loss(output, target) / (target >= 0).sum(),
            forward=lambda: model(*self.inputs),
        )
        return self.model, self.optimizer, first

    def called(self, module: nn.Module, inputs: tuple[Any, ...], _: Any) -> None:
        """The last module to end is the outermost."""
        if not self.started and not self.inside and torch.is_grad_enabled():
            self.model, self.inputs = module, inputs

    def made(self, optimizer: Optimizer) -> None:
        """An optimizer."""
        self.optimizer = optimizer

    def scored(self, loss: Callable[..., Any], logits: Any, labels: Any) -> None:
        """The program's own loss function is called: at the first time all is there that a pre-flight check wants."""
        if self.started or self.inside or self.model is None or self.optimizer is None or not torch.is_grad_enabled():
            return
        self.started, self.first = True, (loss, labels)
        state = torch.get_rng_state()
        self.each("start")
        torch.set_rng_state(state)

    def before(self, optimizer: Optimizer, *_: Any) -> None:
        """A step is to be taken."""
        if not self.started or self.inside or optimizer is not self.optimizer:
            return
        held = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([grad.norm() for grad in held]).norm().item() if held else 0.0
        self.told = (sum(self.losses), norm, float(optimizer.param_groups[0]["lr"]))
        self.losses.clear()
        self.each("before_step", self.step, *self.told)

    def after(self, optimizer: Optimizer, *_: Any) -> None:
        """A step was taken."""
        if self.started and not self.inside and optimizer is self.optimizer:
            self.each("after_step", self.step, *self.told)
            self.step += 1

    @contextlib.contextmanager
    def found(self) -> Generator[None]:
        """Put the hooks in place; what stays of them ends with the process."""
        nn.modules.module.register_module_forward_hook(self.called)
        register_optimizer_step_pre_hook(self.before)
        register_optimizer_step_post_hook(self.after)
        kept_init, kept_backward, places = Optimizer.__init__, torch.Tensor.backward, self

        def init(self: Optimizer, *arguments: Any, **options: Any) -> None:
            kept_init(self, *arguments, **options)
            if not places.inside:
                places.made(self)

        def backward(self: torch.Tensor, *arguments: Any, **options: Any) -> None:
            kept_backward(self, *arguments, **options)
            if not places.inside:
                places.losses.append(self.item())

        Optimizer.__init__, torch.Tensor.backward = init, backward
        yield
        Optimizer.__init__, torch.Tensor.backward = kept_init, kept_backward


def watched_losses(package: str, places: Places) -> None:
    """Have the package's functions of logits and labels tell that they are called."""
    for found in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if found.name == "train":
            continue
        module = importlib.import_module(f"{package}.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and list(inspect.signature(function).parameters)[:2] == [
                "logits",
                "labels",
            ]:

                def told(logits: Any, labels: Any, *more: Any, own: Callable[..., Any] = function) -> Any:
                    places.scored(own, logits, labels)
                    return own(logits, labels, *more)

                setattr(module, name, told)


def main(out: str, named: list[str], words: list[str]) -> None:
    """Run the program, with the tools in it."""
    os.environ |= {"INF_CHECK": "1"}  # as nndiagnostics is switched on
    tools, printed = {name: TOOLS[name]() for name in named}, io.StringIO()
    places, error = Places(list(tools.values())), ""
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = words[1:]
    watched_losses(words[1].partition(".")[0], places)
    torch.set_num_threads(1)
    try:
        with places.found(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    except Exception as raised:  # a tool speaks by raising, too
        for tool in tools.values():
            tool.alarms.append(f"{type(raised).__name__}: {raised}")
    if places.started:
        places.each("end")
    else:
        error = "the program's model, optimizer and loss were not found"
    for tool in tools.values():
        tool.alarms += bad_lines(printed.getvalue()) if tool.speaks_between else []
    said = {name: {"alarms": list(dict.fromkeys(tool.alarms)), "error": error} for name, tool in tools.items()}
    Path(out).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","), sys.argv[3:])
