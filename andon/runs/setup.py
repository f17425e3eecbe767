"""What a run trains, before its first step: state, data, and how it is spoken of."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

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
