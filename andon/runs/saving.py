"""What a run keeps: checkpoints where they are due, the loss on held-out data, and how it goes on from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from andon.runs.folder import RunError
from andon.runs.screen import Say
from andon.runs.setup import RunSetup

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.core.training.loop import Span
    from andon.core.training.state import TrainState


def restore(state: "TrainState", config: "Config", folder: Path, say: Say, *, previous: bool) -> None:
    """Continue from a run's newest checkpoint, or with `previous` from the one before; later ones are put aside.

    Raises:
        RunError: there is no such checkpoint.
    """
    from andon.core.checkpoint import load_checkpoint
    from andon.core.files.folders import checkpoints, put_aside_after

    found = checkpoints(folder / "checkpoints")
    if len(found) <= previous:
        which = "no checkpoint before the last one" if previous else "no checkpoint yet"
        raise RunError(f"{folder}: {which}; start a new run with another --out")
    for note in load_checkpoint(found[previous], state, config):
        say(note)
    for aside in put_aside_after(state.step, folder / "checkpoints"):
        say(f"{aside}: put aside, as the run goes on from before it; delete it when it is not wanted")
    say(f"resumed {found[previous]} at step {state.step}")


def validate_and_save(
    setup: RunSetup,
    config: "Config",
    folder: Path,
    span: "Span",
    write: Callable[[str], object],
    say: Say,
    *,
    ended: bool,
    stopped: bool,
) -> None:
    """Validate and save where this step is due: at the end of an epoch or of the run, every so many steps.

    A run that is stopped saves and does not validate: whoever sent the signal may not wait for that. While steps are
    skipped no save is due and none rotates the others: the checkpoints from before are what is gone back to.
    """
    from andon.core.checkpoint import save_checkpoint
    from andon.core.files.folders import rotate

    state, metric = setup.state, None
    skipping = state.skipped_in_a_row > 0
    if ended or _is_due(state.step, config.validation.every_steps):
        metric = validate(setup, config, span, write, say)
    if ended or stopped or (not skipping and _is_due(state.step, config.checkpoint.every_steps)):
        with span("checkpoint"):
            saved = save_checkpoint(
                folder / "checkpoints",
                state,
                config,
                setup.dataset.tokenizer_file,
                metric,
                setup.base,
                setup.dataset.eos_id,
            )
            if not skipping:
                rotate(saved, config.checkpoint.keep_last, config.checkpoint.keep_best)


def validate(setup: RunSetup, config: "Config", span: "Span", write: Callable[[str], object], say: Say) -> float:
    """The loss on held-out data in nats per token, logged and printed."""
    from andon.core.data.dataset import validation_batches
    from andon.core.training import loop

    with span("validation"):
        held_out = validation_batches(setup.dataset, config)
        loss, _ = loop.validate(setup.state.model, held_out, config.training.dtype)
    step, bits = setup.state.step, setup.dataset.validation.bits_per_byte(loss)
    write(json.dumps({"kind": "validation", "step": step, "loss": loss, "bits_per_byte": bits}) + "\n")
    say(f"step {step}: validation loss {loss:.4f}, {bits:.3f} bits per byte")
    return loss


def _is_due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
