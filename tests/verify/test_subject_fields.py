"""What a Subject's fields are called and what is said of each: in help, in errors, in one place."""

import dataclasses
import inspect
import warnings
from typing import Any

import pytest
from torch import nn

from andon.verify.errors import SubjectError
from andon.verify.subject import Subject, documented
from andon.verify.vocabulary import HYPERPARAMETERS, LOGGED, RENAMED, ROLES, keys_of
from tests.verify.small import small

pytestmark = pytest.mark.tier1


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_renamed_field_is_taken_with_a_warning(old: str, new: str) -> None:
    """Behavior: an old name still sets the field, says what it is called now, and is refused beside the new one."""
    names = {each.name: each for each in dataclasses.fields(Subject)}
    assert (True, False) == (new in names, old in names)
    plain = small()
    with pytest.warns(FutureWarning, match=f"Subject.{old} is '{new}' now"):
        changed = small(**{old: getattr(plain, new)})
    assert getattr(plain, new) == getattr(changed, new)
    with pytest.raises(SubjectError, match=f"given '{new}' twice"), warnings.catch_warnings(action="ignore"):
        small(**{old: getattr(plain, new), new: getattr(plain, new)})


def test_a_misspelled_field_is_refused_with_what_is_close() -> None:
    """Behavior: a name that no field has is refused where the subject is made, also where one is changed."""
    with pytest.raises(SubjectError, match="no field 'optimiser'; closest: optimizer"):
        small(optimiser=None)
    changes: dict[str, Any] = {"lossy": None}
    with pytest.raises(SubjectError, match="no field 'lossy'; closest: loss"):
        dataclasses.replace(small(), **changes)


def test_a_decoder_of_logits_is_told_its_new_name() -> None:
    """Behavior: `decode` was a function of model and tokens once; one of ids alone is taken, and a builtin."""

    def old(model: nn.Module, tokens: object) -> object:
        return model, tokens

    with pytest.raises(
        SubjectError, match=r"a function of \(model, tokens\) that returns logits is Subject.cached_log"
    ):
        small(decode=old)
    assert small(decode=lambda ids: " ".join(map(str, ids))).decode
    assert small(decode=bytes).decode is bytes


def test_every_field_says_what_it_is_in_help() -> None:
    """Behavior: help has each field with its call and its sentence, and what its mappings can hold."""
    said = " ".join((inspect.getdoc(Subject) or "").split())
    assert [each.name for each in documented()] == [each.name for each in dataclasses.fields(Subject)]
    for each in documented():
        assert each.call in said, each
        assert each.what in said, each
    for key in (*HYPERPARAMETERS, *LOGGED, *ROLES):
        assert f" {key}: " in said, key
    assert "tokens" in keys_of("loop")
    assert {} == keys_of("loss")
