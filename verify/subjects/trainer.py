"""transformers.Trainer as a training run: its optimizer, schedule, accumulation, evaluation and checkpoints.

The library's own loop runs in a thread and waits where it logs, evaluates and saves; nothing of it is replaced.
"""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.optim import Optimizer

from andon.verify.capturing.driving import driven
from andon.verify.subject import Batch, Documents, Subject
from andon.verify.subjects import huggingface

hf: Any = transformers  # whose types change from version to version
# Trainer's own defaults are for runs of days: short, quiet ones on the CPU instead.
ARGUMENTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "max_steps": 12,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
}
EXAMPLES, SHORTEST, HELD_OUT = 22, 4, 5


def trained(
    source: Any,
    examples: Sequence[Mapping[str, Any]] | None = None,
    *,
    collate: Callable[[Documents], Batch] | None = None,
    augment: Callable[[Sequence[int]], Sequence[int]] | None = None,
    **arguments: Any,
) -> Subject:
    """The subject of `huggingface.causal_lm(source)`, trained by Trainer with these arguments.

    `examples` are mappings with `input_ids`, by default random ones of several lengths; the last few are held out.
    `collate` makes a batch of documents, by default padded ones. `augment` changes a training example's tokens each
    time that it is read; it may draw random numbers, as noise on tokens does.
    """
    subject = huggingface.causal_lm(source)
    config = source if hasattr(source, "to_dict") else subject.model().config
    rows = examples or _examples(config)
    given = ARGUMENTS | arguments
    gather: Any = collate or subject.collate_padded

    def made(model: nn.Module | None = None, *, kind: Any = hf.Trainer, **parts: Any) -> Any:
        folder = tempfile.mkdtemp(prefix="andon-trainer-")
        kept: dict[str, Any] = {
            "model": model or subject.model(),
            "args": hf.TrainingArguments(output_dir=folder, **given | parts.pop("arguments", {})),
            "train_dataset": _Rows(rows[:-HELD_OUT], augment),
            "eval_dataset": list(rows[-HELD_OUT:]),
            "data_collator": lambda chosen: gather([row["input_ids"] for row in chosen]),
        }
        hf.utils.logging.disable_progress_bar()
        trainer = kind(**kept | parts)
        trainer.remove_callback(hf.PrinterCallback)
        weakref.finalize(trainer, shutil.rmtree, folder, ignore_errors=True)
        return trainer

    def begun() -> nn.Module:
        hf.set_seed(arg.seed)
        return subject.model()

    count, arg = len(rows) - HELD_OUT, made().args
    steps = -(-count // arg.per_device_train_batch_size)
    return replace(
        subject,
        name=f"{subject.name} + Trainer",
        random_augmentation=augment is not None,
        optimizer=lambda model: made(model).create_optimizer(),
        train_step=lambda model, optimizer, batches: _step(made, model, optimizer, batches),
        lr_scheduler=lambda optimizer: made().create_scheduler(arg.max_steps, optimizer),
        validate=lambda model, batches: _validate(made, model, batches),
        loop=lambda: Run(made(begun())),
        resume=lambda folder: Run(made(begun()), folder),
        epoch_batches=lambda number: _epoch(made(), number),
        validation_batches=lambda: list(made().get_eval_dataloader()),
        hyperparameters={
            "learning_rate": arg.learning_rate,
            "weight_decay": arg.weight_decay,
            "grad_clip": arg.max_grad_norm,
            "warmup_steps": arg.get_warmup_steps(arg.max_steps),
            "warmup_from": 0.0,  # all of the library's
            "steps": arg.max_steps,
            "epoch_steps": -(-steps // arg.gradient_accumulation_steps),
        },
    )


class Run:
    """A loop that can be driven: `Trainer.train` in a thread of its own, a command at a time."""

    def __init__(self, trainer: Any, checkpoint: Path | None = None) -> None:
        self._trainer = trainer
        self._driven = driven(
            lambda: trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None),
            pause_at=lambda pause: trainer.add_callback(Pauses(trainer, pause)),
        )  # waits where training begins: the optimizer is made and a checkpoint read

    @property
    def model(self) -> nn.Module:
        """The model in training."""
        return self._trainer.model

    @property
    def optimizer(self) -> Optimizer:
        """Its optimizer."""
        return self._trainer.optimizer

    def step(self) -> Mapping[str, float]:
        """One optimizer step; what is logged."""
        return self._driven.proceed("step")

    def save(self, folder: Path) -> None:
        """Copy the checkpoint that Trainer writes after this step."""
        self._driven.proceed("save")
        newest = hf.trainer_utils.get_last_checkpoint(self._trainer.args.output_dir)
        shutil.copytree(newest, folder, dirs_exist_ok=True)

    def validate(self) -> float:
        """The loss that Trainer's evaluation reports at this point."""
        return self._driven.proceed("validate")["eval_loss"]


class InOrder(hf.Trainer):
    """Trainer on batches as they are given, in their order."""

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """What Trainer's documentation says to override for data of one's own."""
        loader = torch.utils.data.DataLoader(self.train_dataset, batch_size=1, collate_fn=_only)
        return self.accelerator.prepare(loader)


class Pauses(hf.TrainerCallback):
    """Holds Trainer's loop where it has logged, evaluated or saved, until it is told what comes next."""

    def __init__(self, trainer: Any, pause: Callable[[Mapping[str, float]], str]) -> None:
        self.trainer, self.pause = weakref.proxy(trainer), pause
        self.evaluating = False  # at a point where the loop itself would not

    def on_train_begin(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """Before the first step."""
        self._hold(control, {}, follows=("step",))

    def on_log(self, _args: Any, _state: Any, control: Any, logs: Mapping[str, float], **_: Any) -> None:
        """After a step; evaluation and the run's end log, too, but no `loss`."""
        if "loss" in logs:
            self._hold(control, logs, follows=("step", "validate", "save"))

    def on_evaluate(self, _args: Any, _state: Any, control: Any, metrics: Mapping[str, float], **_: Any) -> None:
        """After an evaluation; a checkpoint may follow."""
        if not self.evaluating:
            self._hold(control, metrics, follows=("step", "save"))

    def on_save(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
        """After a checkpoint, which another one would repeat."""
        self._hold(control, {}, follows=("step",))

    def _hold(self, control: Any, said: Mapping[str, float], follows: tuple[str, ...]) -> None:
        """Wait for a command; what cannot follow here in the loop itself is done here."""
        command = self.pause(said)
        while command not in follows:
            self.evaluating = True
            said = dict(self.trainer.evaluate()) if command == "validate" else {}
            self.evaluating = False
            command = self.pause(said)
        control.should_evaluate = command == "validate"
        control.should_save = command == "save"


def _step(
    made: Callable[..., Any], model: nn.Module, optimizer: Optimizer, batches: list[Batch]
) -> Mapping[str, float]:
    """One optimizer step over these micro-batches, each a batch of the data set; what is logged."""
    arguments = {"max_steps": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": len(batches)}
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    parts = {"train_dataset": _Rows(batches), "optimizers": (optimizer, constant)}
    trainer = made(model, kind=InOrder, arguments=arguments, **parts)
    trainer.train()
    return next(entry for entry in trainer.state.log_history if "loss" in entry)


def _validate(made: Callable[..., Any], model: nn.Module, batches: list[Batch]) -> float:
    """The loss that `evaluate` reports, with each of these as a batch."""
    arguments = {"per_device_eval_batch_size": 1, "remove_unused_columns": False}
    training = model.training
    trainer = made(model, arguments=arguments, eval_dataset=_Rows(batches), data_collator=_only)
    value = trainer.evaluate()["eval_loss"]
    model.train(training)  # as the library's next step would
    return value


def _epoch(trainer: Any, number: int) -> Iterable[Batch]:
    loader = trainer.get_train_dataloader()
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(number)
    return list(loader)


class _Rows(torch.utils.data.Dataset[Any]):
    """Batches, or examples, as the rows of a data set; with `augment`, whose tokens it changes as they are read."""

    def __init__(self, rows: Sequence[Any], augment: Callable[[Sequence[int]], Sequence[int]] | None = None) -> None:
        self.rows, self.augment = rows, augment

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        return row | {"input_ids": self.augment(row["input_ids"])} if self.augment else row


def _only(rows: Sequence[Batch]) -> Batch:
    return rows[0]


def _examples(config: Any) -> list[dict[str, list[int]]]:
    generator = torch.Generator().manual_seed(0)
    rows = huggingface.random_batch(generator, config, EXAMPLES, 3 * SHORTEST)["input_ids"]
    return [{"input_ids": row[: SHORTEST + index % (2 * SHORTEST)].tolist()} for index, row in enumerate(rows)]
