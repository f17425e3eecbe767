"""Which modules get an adapter, with which rank and scale, by PEFT's rules for names and patterns."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from andon.core.config import LoraConfig, suffix_pattern
from andon.limited import LimitError, matching

ALL_LINEAR = "all-linear"
HEAD = "lm_head"

LinearShape = tuple[int, int]  # inputs and outputs of a linear module


class LoraError(ValueError):
    """An adapter that cannot be made as configured; the message names the module or key, the rule and the next step."""


class Factors(NamedTuple):
    """The factors of one module: A is (rank, inputs), B is (outputs, rank), and their product is times `scale`."""

    rank: int
    inputs: int
    outputs: int
    scale: float


def plan(modules: Mapping[str, LinearShape | None], config: LoraConfig) -> dict[str, Factors]:
    """The factors of each module that `config` targets, by name; `modules` are all, None for one that is not linear.

    The scale is alpha / rank, or alpha / sqrt(rank) with `use_rslora` (Kalajdzievski 2023, arXiv:2312.03732).

    Raises:
        LoraError: a target or pattern that matches nothing, a target that cannot be adapted, or a rank above a
            matrix's smaller side.
    """
    names = _targets(modules, config.target_modules)
    for key in [*config.rank_pattern, *config.alpha_pattern]:
        if not _ends_matching(key, names):
            raise LoraError(f"pattern {key!r} matches none of the targets, which end in {_endings(names)}")
    planned = {}
    for name, (inputs, outputs) in names.items():
        rank = config.rank_pattern.get(_first_matching(config.rank_pattern, name, names), config.rank)
        alpha = config.alpha_pattern.get(_first_matching(config.alpha_pattern, name, names), config.resolved_alpha)
        if rank > min(inputs, outputs):
            raise LoraError(
                f"rank={rank} is above the smaller side of {name} ({outputs} x {inputs}); "
                f"choose at most {min(inputs, outputs)}"
            )
        planned[name] = Factors(rank, inputs, outputs, alpha / (math.sqrt(rank) if config.use_rslora else rank))
    return planned


def _targets(modules: Mapping[str, LinearShape | None], wanted: list[str] | str) -> dict[str, LinearShape]:
    """The targets in the order of `modules`. An entry that matches nothing is an error, as a misspelling."""
    linear = {name: sides for name, sides in modules.items() if sides and not _ends_with(name, HEAD)}
    if wanted == ALL_LINEAR:
        matches = {wanted: list(linear)}
    elif isinstance(wanted, str):
        matches = {wanted: list(_matching(wanted, modules, wanted))}
    else:
        matches = {end: [name for name in modules if _ends_with(name, end)] for end in wanted}
    for target, names in matches.items():
        if not names:
            raise LoraError(f"target_modules: {target!r} matches no module; the linear ones end in {_endings(linear)}")
    chosen = {name for names in matches.values() for name in names}
    for name in sorted(chosen.difference(linear)):
        why = "is computed inside the chunked loss" if modules[name] else "is not a linear module"
        raise LoraError(f"target_modules: {name} {why} and takes no adapter; choose among {_endings(linear)}")
    return {name: sides for name, sides in linear.items() if name in chosen}


def _ends_with(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def _endings(names: Iterable[str]) -> str:
    return ", ".join(sorted({name.rpartition(".")[2] for name in names})) or "nothing"


def _ends_matching(key: str, names: Iterable[str]) -> tuple[str, ...]:
    return _matching(suffix_pattern(key), names, foreign=key)


def _first_matching(pattern: Iterable[str], name: str, names: Iterable[str]) -> str:
    """The first key that matches the module, one of `names`; empty where none does."""
    return next((key for key in pattern if name in _ends_matching(key, names)), "")


def _matching(pattern: str, names: Iterable[str], foreign: str) -> tuple[str, ...]:
    try:
        return matching(pattern, tuple(names), foreign)
    except LimitError as error:
        raise LoraError(f"the expression {foreign!r:.80} {error}; name the modules' endings instead") from error
