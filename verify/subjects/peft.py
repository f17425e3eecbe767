"""PEFT's adapters on any subject: LoRA, or any type of the library's."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
from torch import nn

from andon.verify.subject import Adapters, Subject

NAMES = "default", "second"  # the first is the library's own
APART = re.compile(
    r"[Aa]void initializing [\w ]*zeros|[Ii]nitializing with zeros is avoided|parameters are randomly initialized"
    r"|weights are initialized at random"
)
Configured = Callable[[int, float], Any]  # rank and alpha to a PeftConfig


def adapted(base: Subject, config: Configured | None = None, **options: Any) -> Subject:
    """The subject, with adapters to put on its models: `adapted(huggingface.causal_lm(...))`.

    `config` makes PEFT's configuration of any adapter type from a rank and an alpha, by default LoRA on all linear
    layers, with `options` such as `use_rslora`, `lora_dropout` or `target_modules`.
    """
    make = config or (lambda rank, alpha: lora(rank, alpha, **options))
    kind = make(4, 8.0)
    merges = not kind.is_prompt_learning
    scale = _rooted if getattr(kind, "use_rslora", False) else _plain
    return replace(
        base,
        name=f"{base.name} + {kind.peft_type.value}",
        adapters=Adapters(
            add=lambda model, rank, alpha: peft.get_peft_model(model, make(rank, alpha)),
            merge=_merged if merges else None,
            unmerge=_unmerged if merges else None,
            save=_save,
            load=lambda base, folder: _load(base, folder, trainable=merges),
            second=lambda model, rank, alpha: _second(model, make(rank, alpha)),
            switch=_switched,
            scale=scale if kind.peft_type.value == "LORA" else None,
            targets=_targets(kind),
            identity=not _begins_apart(kind),
        ),
        hyperparameters={**base.hyperparameters, **_dropout(kind)},
    )


def patterned(base: Subject, module: str = "q_proj") -> Subject:
    """LoRA whose patterns halve rank and alpha of one kind of module, so that all keep the scale alpha / rank.

    The two patterns name the module in different words, as both may: by its name, and by the end of its path.
    """

    def configured(rank: int, alpha: float) -> Any:
        patterns = {"rank_pattern": {module: rank}, "alpha_pattern": {f"self_attn.{module}": alpha}}
        return lora(2 * rank, 2 * alpha, **patterns)

    return replace(adapted(base, configured), name=f"{base.name} + LORA with patterns")


def combined(subject: Subject) -> Subject:
    """The subject of `adapted`, merged by `add_weighted_adapter` into an adapter: of one alone, with weight 1."""
    assert subject.adapters is not None
    return replace(
        subject,
        name=f"{subject.name}, combined",
        adapters=subject.adapters._replace(merge=_combined, unmerge=None, save=None, load=None, second=None),
    )


def lora(rank: int, alpha: float, **options: Any) -> peft.LoraConfig:
    """LoRA on every linear layer but the head, no dropout, unless `options` say otherwise."""
    plain: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return peft.LoraConfig(**{"r": rank, "lora_alpha": alpha} | plain | options)


def _merged(model: Any) -> nn.Module:
    model.merge_adapter()
    return model


def _combined(model: Any) -> nn.Module:
    model.add_weighted_adapter(["default"], [1.0], "combined", combination_type="linear")
    model.set_adapter("combined")
    return model


def _unmerged(model: Any) -> nn.Module:
    model.unmerge_adapter()
    return model


def _targets(kind: Any) -> list[str]:
    """The modules that a configuration lists, where it narrows them down no further; a pattern or a word is none."""
    asked = getattr(kind, "target_modules", None)
    narrowed = ("layers_to_transform", "layers_pattern", "exclude_modules", "modules_to_save", "target_parameters")
    if not isinstance(asked, list | tuple | set) or any(getattr(kind, key, None) for key in narrowed):
        return []
    return sorted(asked)


def _begins_apart(kind: Any) -> bool:
    """Whether the library's own text on this type says that a fresh adapter is no identity."""
    home = Path(inspect.getfile(type(kind))).parent
    return any(APART.search(" ".join(file.read_text(encoding="utf-8").split())) for file in home.glob("*.py"))


def _dropout(kind: Any) -> dict[str, float]:
    """What a type drops in training; nothing can be said of one that samples its weights there by design."""
    return {} if hasattr(kind, "sample_at_inference") else {"lora_dropout": getattr(kind, "lora_dropout", 0.0)}


def _plain(rank: int, alpha: float) -> float:
    return alpha / rank


def _rooted(rank: int, alpha: float) -> float:
    return alpha / rank**0.5


def _second(model: Any, config: Any) -> nn.Module:
    model.add_adapter(NAMES[1], config)
    return _switched(model, 1)


def _switched(model: Any, number: int) -> nn.Module:
    model.set_adapter(NAMES[number])
    return model


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(str(folder))


def _load(base: Any, folder: Path, *, trainable: bool) -> nn.Module:
    return peft.PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)
