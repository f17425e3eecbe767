"""What a run trains, before its first step: state, data, and how it is spoken of."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from andon.runs.folder import CACHE
from andon.runs.models import tokenizer_named
from andon.runs.screen import Say

if TYPE_CHECKING:
    from andon.core.config import Config
    from andon.core.data.dataset import Dataset
    from andon.core.training.state import TrainState


class RunSetup(NamedTuple):
    """What a run trains, before its first step."""

    state: "TrainState"
    dataset: "Dataset"
    verb: str = "train"  # of `andon`, with which a stopped run is resumed
    base: str = ""  # of an adapter: its frozen model's path; the loss is then measured before the first step too
    on_finish: Callable[[], dict[str, Any]] = dict  # at the end: more fields for `result.json`


Prepare = Callable[["Config", str, Say], RunSetup]  # from configuration and device


def from_scratch(config: "Config", device: str, say: Say) -> RunSetup:
    """New weights on the corpus that the configuration names."""
    from andon.core.data.dataset import open_dataset
    from andon.core.training.loop import initial_state

    dataset = open_dataset(config, CACHE, *tokenizer_named(config.data.tokenizer))
    say(dataset.note)
    return RunSetup(initial_state(config, device), dataset)
